import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import Ridge as RidgeRegression

from digon import rng
from digon.errors import ConfigError, NonFiniteError
from digon.explain.directions import (
    Explainers,
    Ground,
    OneByOne,
    Phrases,
    SearchConfig,
    Space,
    Words,
    judge,
    search,
)
from digon.explain.directions.objective import Moments, Ridge, adam, covariance
from digon.explain.exemplars import LENGTH, Contexts, Excerpts
from digon.explain.explainers import Level, LookUp, NGrams, Patterns
from digon.explain.scorers import correlation

VOCABULARY, DOCUMENTS, LENGTH_OF_DOCUMENT = 60, 120, 100


@dataclass
class World:
    """Rows whose directions are known: sources that tokens decide, among noise, behind a random rotation."""

    rows: torch.Tensor
    tokens: torch.Tensor
    contexts: Contexts
    excerpts: Excerpts
    rotation: torch.Tensor

    def split(self, name: str) -> torch.Tensor:
        return self.excerpts.row_split(name)

    def ground(self, space: Space) -> Ground:
        return Ground.of(space.white(self.rows), self.contexts, self.split("fit"), self.split("select"))


def world(seed: int, concepts=((1, 2, 3),), d=12, noise=0.3, scales=None) -> World:
    n = DOCUMENTS * LENGTH_OF_DOCUMENT
    draw = rng.stream(seed, "directions test")
    tokens = torch.randint(VOCABULARY, (n,), generator=draw)
    sources = torch.randn(n, d, generator=draw)
    for i, concept in enumerate(concepts):
        hit = torch.isin(tokens, torch.tensor(concept)).float()
        sources[:, i] = (hit - hit.mean()) / hit.std() + noise * sources[:, i]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=draw))[0]
    rows = (sources @ rotation) * (torch.ones(d) if scales is None else scales) + 5.0
    documents, positions = torch.arange(n) // LENGTH_OF_DOCUMENT, torch.arange(n) % LENGTH_OF_DOCUMENT
    excerpts = Excerpts.of(documents, positions, [f"{seed}/{i}" for i in range(DOCUMENTS)])
    return World(rows, tokens, Contexts.of(tokens, documents, positions, VOCABULARY), excerpts, rotation)


def problem(seed: int, r=7, n=400):
    draw = rng.stream(seed, "problem")
    z = torch.randn(n, r, generator=draw, dtype=torch.float64) @ torch.randn(r, r, generator=draw, dtype=torch.float64)
    s = z[:, :2] + 0.7 * torch.randn(n, 2, generator=draw, dtype=torch.float64)
    theta = torch.nn.functional.normalize(torch.randn(2, r, generator=draw, dtype=torch.float64), dim=1)
    return z, s, theta


NOTHING = torch.zeros(0, 7, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- space


def test_shrinkage_is_that_of_scikit_learn():
    for seed, n in enumerate((40, 400)):
        x = torch.randn(n, 9, generator=rng.stream(seed, "x")) @ torch.randn(9, 9, generator=rng.stream(seed, "mix"))
        space = Space.of(x)
        scaled = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
        assert space.shrinkage == pytest.approx(ledoit_wolf_shrinkage(scaled, assume_centered=True), rel=1e-5)
        assert space.floor == pytest.approx(space.shrinkage, rel=1e-6)  # units have variance 1


def test_white_coordinates_are_white_up_to_the_shrinkage_and_lead_back():
    x = world(0).rows
    space = Space.of(x)
    found = torch.linalg.eigvalsh(covariance(space.white(x)))
    expected = space.spectrum / ((1 - space.shrinkage) * space.spectrum + space.floor)
    assert torch.allclose(found, expected.sort().values, atol=1e-4)
    theta = torch.nn.functional.normalize(torch.randn(3, 12, generator=rng.stream(0, "t"), dtype=torch.float64), dim=1)
    a = (x.double() - space.mean) @ space.reads(theta).T
    assert torch.allclose(a, space.white(x.double()) @ theta.T, atol=1e-9)
    assert torch.allclose(space.toward(space.reads(theta)), theta, atol=1e-9)
    # what a direction writes is the regression of the rows on its activation
    centered = x.double() - space.mean
    slope = (centered.T @ a / a.square().sum(0)).T
    assert torch.allclose(space.writes(theta), slope, atol=0.02)


def test_scale_of_a_unit_changes_nothing_and_constant_units_are_left_out():
    x = world(1).rows
    scales = torch.logspace(-3, 3, 12)
    one, other = Space.of(x), Space.of(x * scales)
    assert other.shrinkage == pytest.approx(one.shrinkage, rel=1e-4)
    assert torch.allclose(one.spectrum, other.spectrum, rtol=1e-4, atol=1e-6)
    a, b = one.white(x[:300]), other.white(x[:300] * scales)
    assert (a @ a.T - b @ b.T).abs().max() < 1e-2  # inner products, so whatever signs the axes have
    padded = torch.cat([x, torch.full((len(x), 1), 0.1), torch.zeros(len(x), 1)], 1)
    with_dead = Space.of(padded)
    assert with_dead.rank == 12
    assert (with_dead.into[12:] == 0).all()
    assert with_dead.effective_rank == pytest.approx(one.effective_rank, rel=1e-6)


def test_rows_that_do_not_do_are_refused():
    with pytest.raises(ConfigError, match="1 of 3 units vary"):
        Space.of(torch.cat([torch.randn(50, 1, generator=rng.stream(0, "x")), torch.ones(50, 2)], 1))
    with pytest.raises(ConfigError, match="0 rows"):
        Space.of(torch.zeros(0, 3))
    bad = torch.randn(50, 3, generator=rng.stream(0, "x"))
    bad[7, 1] = math.nan
    with pytest.raises(NonFiniteError, match="1 of 3 units"):
        Space.of(bad)


# --------------------------------------------------------------------------------------------------------- objective


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_against_finite_differences_and_rows(seed):
    z, s, theta = problem(seed)
    moments = Moments.of(z, s)
    found, step = moments.gradient(theta), 1e-6
    for j in range(z.shape[1]):
        shift = torch.zeros_like(theta)
        shift[:, j] = step
        slope = (moments.score(theta + shift) - moments.score(theta - shift)) / (2 * step)
        assert (slope - found[:, j]).abs().max() < 1e-6
    v = (z - z.mean(0)) @ theta.T
    unit_s, unit_v = ((x - x.mean(0)) / (x - x.mean(0)).norm(dim=0) for x in (s, v))
    rho = (unit_s * unit_v).sum(0)
    assert torch.allclose(moments.score(theta), rho, atol=1e-12)
    rows = ((z - z.mean(0)).T @ (unit_s - rho * unit_v) / v.norm(dim=0)).T
    assert torch.allclose(found, rows, atol=1e-12)
    assert (found * theta).sum(1).abs().max() < 1e-12  # tangent to the sphere


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("held", [0, 2])
def test_closed_form_beats_every_iterate_of_adam_on_the_fit_split(seed, held):
    z, s, theta = problem(seed)
    fit = Moments.of(z, s)
    apart = torch.linalg.qr(torch.randn(7, 7, generator=rng.stream(seed, "q"), dtype=torch.float64))[0][:held]
    best = Ridge.of(fit.gram).path(fit.cross, apart, (0.0,))[0]
    iterates = adam(theta, fit, apart, 200)
    for found in (best, *iterates):
        assert (found @ apart.T).abs().max() < 1e-9 if held else True
        assert torch.allclose(found.norm(dim=1), torch.ones(2, dtype=torch.float64))
    scores = fit.score(iterates)
    assert (scores <= fit.score(best) + 1e-12).all()
    assert (scores[-1] > scores[0]).all()  # and Adam does climb
    assert (scores[-1] > fit.score(best) - 0.1).all()


def test_closed_form_is_ridge_regression():
    z, s, _ = problem(3)
    fit = Moments.of(z, s)
    for penalty in (0.0, 0.5):
        found = Ridge.of(fit.gram).path(fit.cross, NOTHING, (penalty,))[0]
        slopes = RidgeRegression(alpha=penalty * len(z)).fit(z.numpy(), s.numpy()).coef_
        expected = torch.nn.functional.normalize(torch.from_numpy(slopes), dim=1)
        assert torch.allclose(found, expected, atol=1e-9)
    multiple = RidgeRegression(alpha=0.0).fit(z.numpy(), s.numpy()).predict(z.numpy())
    best = Ridge.of(fit.gram).path(fit.cross, NOTHING, (0.0,))[0]
    for i in range(2):
        assert float(fit.score(best)[i]) == pytest.approx(np.corrcoef(multiple[:, i], s[:, i].numpy())[0, 1], abs=1e-9)


def test_constant_explanations_score_nothing():
    z, s, theta = problem(4)
    flat = Moments.of(z, torch.full_like(s, 0.1))
    assert (flat.cross == 0).all()
    assert (flat.table(theta) == 0).all()


# ------------------------------------------------------------------------------------------------------------ search


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("update", ["ridge", "adam"])
def test_planted_direction_is_recovered(seed, update):
    made = world(seed)
    space = Space.of(made.rows[made.split("fit")])
    config = SearchConfig(count=2, starts=2, update=update, steps=200, seed=seed)
    first, second = search(made.ground(space), Words(bits=100.0), config)
    planted = space.toward(made.rotation[:1])  # x = sources · rotation, so this reads the first source
    assert abs(float(planted[0] @ first.theta)) > 0.99
    assert set(first.explanation.levels[0].keys.tolist()) >= {1, 2, 3}
    assert abs(float(first.theta @ second.theta)) < 1e-9
    test, white = made.split("test"), space.white(made.rows)
    rho = [
        correlation((white @ f.theta.float())[test], f.explanation.simulate(made.contexts)[test])
        for f in (first, second)
    ]
    assert rho[0] == pytest.approx(1 / math.sqrt(1 + 0.3**2), abs=0.01)  # the noise that was planted
    assert math.isnan(rho[1]) or abs(rho[1]) < 0.08  # nothing else is there


def test_noise_scores_nothing_on_the_test_split():
    for seed in range(3):
        made = world(seed, concepts=())
        space = Space.of(made.rows[made.split("fit")])
        found = search(made.ground(space), Words(), SearchConfig(count=3, starts=2, seed=seed))
        test, white = made.split("test"), space.white(made.rows)
        for f in found:
            rho = correlation((white @ f.theta.float())[test], f.explanation.simulate(made.contexts)[test])
            assert math.isnan(rho) or abs(rho) < 0.06  # no token is kept, or it says nothing


def test_full_look_up_finds_what_discriminant_analysis_finds():
    """Second implementation: the largest share of variance between tokens, as a generalized eigenvalue problem."""
    made = world(5, concepts=((1, 2, 3), (4, 9), (7,)), noise=1.0)
    fit = made.split("fit")
    space = Space.of(made.rows[fit])
    config = SearchConfig(count=1, starts=1, iterations=60, seed=5)
    found = search(made.ground(space), Words(), config)[0]
    z = space.white(made.rows)[fit].double().numpy()
    z -= z.mean(0)
    index = made.tokens[fit].numpy()
    means = np.stack([z[index == t].mean(0) * math.sqrt((index == t).sum()) for t in range(VOCABULARY)])
    values, vectors = scipy.linalg.eigh(means.T @ means, z.T @ z)
    assert found.fitted == pytest.approx(math.sqrt(values[-1]), abs=0.03)
    assert values[-4] < 0.05 < values[-3]
    assert np.linalg.norm(np.linalg.qr(vectors[:, -3:])[0].T @ found.theta.numpy()) > 0.99


def test_select_score_never_falls_and_a_search_goes_on_where_it_was():
    made = world(2, concepts=((1, 2, 3), (4, 5), (6, 7, 8, 9)), noise=0.6)
    space = Space.of(made.rows[made.split("fit")])
    ground, config = made.ground(space), SearchConfig(count=4, starts=3, seed=2)
    seen = []
    whole = search(ground, Words(bits=80.0), config, progress=seen.append)
    assert [f.selected for f in seen] == [f.selected for f in whole]
    for f in whole:
        assert len(f.trace) >= 3
        assert all(a <= b + 1e-12 for a, b in zip(f.trace, f.trace[1:], strict=False))
        assert f.trace[-1] == f.selected
        assert f.explanation.bits <= 80
        assert float(f.theta.norm()) == pytest.approx(1)
    rest = search(ground, Words(bits=80.0), config, found=whole[:2])
    assert all(torch.equal(a.theta, b.theta) for a, b in zip(rest, whole, strict=True))
    assert judge.cosines(torch.stack([f.theta for f in whole])).fill_diagonal_(0).abs().max() < 1e-9
    free = search(ground, Words(bits=80.0), replace(config, deflate=False))
    assert judge.cosines(torch.stack([f.theta for f in free])).fill_diagonal_(0).abs().max() > 0.9  # found twice


def test_unseen_rows_change_nothing():
    made = world(3)
    fit = made.split("fit")
    space = Space.of(made.rows[fit])
    config = SearchConfig(count=1, starts=1, iterations=3)
    before = search(made.ground(space), Words(bits=60.0), config)[0]
    unseen = made.split("test") | made.split("calibrate")
    changed = made.rows.clone()
    changed[unseen] = 1e3
    tokens = torch.where(unseen, 0, made.tokens)
    other = replace(made, rows=changed, contexts=Contexts((tokens, *made.contexts.keys[1:]), VOCABULARY))
    after = search(other.ground(Space.of(changed[fit])), Words(bits=60.0), config)[0]
    assert torch.equal(before.theta, after.theta)


class Asked:
    """Stands for a language model: it looks at top excerpts, names their loudest token, and simulates few documents."""

    name = "asked"

    def __init__(self, excerpts: Excerpts) -> None:
        self.excerpts, self.calls = excerpts, 0

    def fit(self, contexts, values, fit, select):
        self.calls += 1
        maxima = self.excerpts.maxima(values[:, None])[:, 0]
        shown = self.excerpts.rows(maxima[fit[self.excerpts.starts]].argsort(descending=True)[:20])
        tokens = contexts.keys[0][shown]
        sums = torch.zeros(VOCABULARY).index_add_(0, tokens, values[shown])
        told = (sums / torch.bincount(tokens, minlength=VOCABULARY).clamp_min(1)).topk(3).indices.sort().values
        return Told(Patterns(self.name, 0.0, (Level(told, torch.ones(3)),), VOCABULARY), len(contexts.keys[0]))


@dataclass
class Told:
    patterns: Patterns
    known: int
    """Number of rows of the corpus that the search sees; of these every third one is simulated."""

    name = "asked"
    bits = 70.0

    def simulate(self, contexts):
        found = self.patterns.simulate(contexts)
        if len(found) == self.known:
            found[torch.arange(self.known) % 3 > 0] = math.nan
        return found

    def render(self, token_text):
        return self.patterns.render(token_text)


def test_any_explainer_may_be_plugged_in_and_may_simulate_a_part_of_the_rows():
    made = world(4)
    space = Space.of(made.rows[made.split("fit")])
    ground = made.ground(space)
    run = torch.arange(len(ground.white)) // LENGTH_OF_DOCUMENT
    model = Asked(
        Excerpts.of(
            run, torch.arange(len(run)) % LENGTH_OF_DOCUMENT, [f"d{i}" for i in range(int(run[-1]) + 1)], length=LENGTH
        )
    )
    explainer = OneByOne(model)
    assert isinstance(explainer, Explainers)
    found = search(ground, explainer, SearchConfig(count=1, starts=4, iterations=8, seed=4))[0]
    assert abs(float(space.toward(made.rotation[:1])[0] @ found.theta)) > 0.98
    assert model.calls >= 8
    assert found.explanation.simulate(made.contexts).isfinite().all()


def test_searches_that_make_no_sense_are_refused():
    made = world(0, d=3)
    space = Space.of(made.rows)
    with pytest.raises(ConfigError, match="4 directions of a site that varies in 3 dimensions"):
        search(made.ground(space), Words(), SearchConfig(count=4))
    ground = made.ground(space)
    one = replace(ground, white=ground.white[:, :1])
    with pytest.raises(ConfigError, match="1 dimension"):
        search(one, Words(), SearchConfig(count=1, deflate=False))
    with pytest.raises(ConfigError, match="'starts': 0"):
        SearchConfig(starts=0)
    nothing = torch.zeros(len(made.rows), dtype=torch.bool)
    with pytest.raises(ConfigError, match="0 rows in the select split"):
        Ground.of(space.white(made.rows), made.contexts, made.split("fit"), nothing)


# ----------------------------------------------------------------------------------------------------------- classes


def test_budgets_keep_what_explains_most():
    made = world(6, concepts=((1, 2, 3), (4, 5)), noise=0.5)
    fit, select = made.split("fit"), made.split("select")
    values = (made.rows @ made.rotation.T)[:, :2]
    for kind, full in ((Words, LookUp()), (Phrases, NGrams())):
        whole = kind().fit_many(made.contexts, values, fit, select)
        assert [p.name for p in whole] == [full.name] * 2 == [kind().name] * 2
        for bits in (40.0, 60.0, 1e9):
            brief = kind(bits).fit_many(made.contexts, values, fit, select)
            assert all(p.bits <= bits for p in brief)
            assert all(
                set(p.levels[0].keys.tolist()) <= set(w.levels[0].keys.tolist())
                for p, w in zip(brief, whole, strict=True)
            )
        two = kind(50.0).fit_many(made.contexts, values, fit, select)[1]
        assert two.levels[0].keys.tolist() == [4, 5]
        with pytest.raises(ConfigError, match="20 bits do not hold a single token"):
            kind(20.0).fit_many(made.contexts, values, fit, select)


def test_phrases_do_not_learn_from_the_split_that_judges():
    made = world(7)
    fit, select = made.split("fit"), made.split("select")
    values = (made.rows @ made.rotation.T)[:, :1]
    before = Phrases().fit_many(made.contexts, values, fit, select)[0]
    after = Phrases().fit_many(made.contexts, torch.where(select[:, None], 9.0, values), fit, select)[0]
    assert torch.equal(before.levels[0].values, after.levels[0].values)


# ------------------------------------------------------------------------------------------------------------- judge


def test_controls_are_silent_where_explanations_are_not():
    made = world(8, concepts=((1, 2, 3), (4, 5), (6, 7)), noise=0.5)
    fit, select, test = (made.split(name) for name in ("fit", "select", "test"))
    values = (made.rows @ made.rotation.T)[:, :3]
    explained = Words(100.0).fit_many(made.contexts, values, fit, select)
    simulated = torch.stack([e.simulate(made.contexts) for e in explained], 1)
    own = [correlation(values[test, i], simulated[test, i]) for i in range(3)]
    assert own == pytest.approx([1 / math.sqrt(1 + 0.5**2)] * 3, abs=0.04)
    cross = judge.crossed(values, simulated, test)
    table = [[correlation(values[test, i], simulated[test, j]) for j in range(3)] for i in range(3)]
    assert cross.tolist() == pytest.approx([(sum(row) - row[i]) / 2 for i, row in enumerate(table)], abs=1e-5)
    assert cross.abs().max() < 0.08  # concepts that exclude each other
    moved = judge.displaced(made.excerpts, rng.stream(0, "d"))
    space = Space.of(made.rows[fit])
    ground = Ground.of(space.white(made.rows), made.contexts.take(moved), fit, select)
    for f in search(ground, Words(100.0), SearchConfig(count=2, starts=2)):
        a = space.white(made.rows) @ f.theta.float()
        rho = correlation(a[test], f.explanation.simulate(made.contexts.take(moved))[test])
        assert math.isnan(rho) or abs(rho) < 0.08


def test_displaced_rows_stay_in_their_split():
    made = world(9)
    moved = judge.displaced(made.excerpts, rng.stream(0, "d"))
    assert torch.equal(moved.sort().values, torch.arange(len(moved)))
    split = made.excerpts.splits.repeat_interleave(made.excerpts.lengths)
    assert torch.equal(split[moved], split)
    documents = torch.arange(len(moved)) // LENGTH_OF_DOCUMENT
    assert (documents[moved] == documents).double().mean() < 0.1


def test_bare_tokens_are_recognized():
    made = world(10, concepts=((1,), (2, 3)), noise=0.2)
    fit, test = made.split("fit"), made.split("test")
    space = Space.of(made.rows[fit])
    white = space.white(made.rows)
    bare = judge.Tokens.of(white[fit], made.tokens[fit], covariance(white[fit]))
    cosine, token = bare.nearest(space.toward(made.rotation[:3]))
    assert cosine[0] > 0.99
    assert token[0] == 1
    assert cosine[1] > 0.99  # to read one of two tokens is to read both
    assert token[1] in (2, 3)
    assert cosine[2] < 0.8  # noise
    assert bare.most_frequent(5).shape == (5, 12)
    values = (made.rows @ made.rotation.T)[:, :3]
    shares = judge.token_shares(values, made.tokens, fit, test)
    eta2 = 1 / (1 + 0.2**2)
    assert shares.table[:2].tolist() == pytest.approx([eta2, eta2], abs=0.03)
    assert shares.one.tolist() == pytest.approx([eta2, eta2 * 0.49, 0], abs=0.05)
    assert shares.table[2] < 0.05


def test_truncation_and_participation():
    made = world(11, concepts=((1, 2, 3),), noise=0.3)
    fit, test = made.split("fit"), made.split("test")
    space = Space.of(made.rows[fit])
    theta = space.toward(torch.cat([made.rotation[:1], torch.eye(12)[:1]]))
    simulated = torch.isin(made.tokens, torch.tensor([1, 2, 3])).float()[:, None].expand(-1, 2)
    curve = judge.truncation(space, theta, made.rows, simulated, fit, test)
    assert list(curve) == [1, 3, 10, 12]
    whole = [correlation((space.white(made.rows) @ t.float())[test], simulated[test, 0]) for t in theta]
    assert curve[12].tolist() == pytest.approx(whole, abs=1e-5)
    assert curve[1][0] < curve[3][0] < curve[10][0] < curve[12][0]
    kept = sorted(range(12), key=lambda i: -abs(correlation(made.rows[fit][:, i], simulated[fit, 0])))[:3]
    cut = (made.rows[test][:, kept].double() @ space.reads(theta)[0, kept]).float()
    assert float(curve[3][0]) == pytest.approx(correlation(cut, simulated[test, 0]), abs=1e-5)
    found = judge.participation(space, theta)
    assert float(found[1]) == pytest.approx(1.0)
    power = (made.rotation[0] * made.rows.std(0)).square()
    assert float(found[0]) == pytest.approx(float(power.sum() ** 2 / power.square().sum()), rel=0.05)
