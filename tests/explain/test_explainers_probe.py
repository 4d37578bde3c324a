import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import ConfigError
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import (
    LADDER,
    BackOff,
    Concept,
    LinearProbe,
    LookUp,
    NGrams,
    Point,
    Scene,
    best,
    fit_all,
    mean_curve,
    rate_distortion,
    squared_correlations,
)
from digon.explain.explainers.concepts import BEYOND, HERE, WINDOWS


def corpus(seed, documents=200, length=64, vocabulary=30):
    g = rng.stream(seed, "corpus")
    n = documents * length
    tokens = torch.randint(vocabulary, (n,), generator=g)
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    excerpts = Excerpts.of(owners, positions, [f"doc{seed}-{i}" for i in range(documents)])
    return Contexts.of(tokens, owners, positions, vocabulary), excerpts, g


def splits(excerpts):
    return tuple(excerpts.row_split(name) for name in ("fit", "select", "test"))


def before(tokens, starts, row, window):
    first = starts[row] if window == 0 else max(starts[row], row - window)
    return tokens[first:row]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), window=st.sampled_from(WINDOWS), token=st.integers(0, 4))
def test_concepts_equal_a_look_at_every_row(seed, window, token):
    g = rng.stream(seed, "text")
    tokens = torch.randint(5, (60,), generator=g)
    documents = torch.sort(torch.randint(4, (60,), generator=g)).values
    positions = torch.arange(60) + (torch.arange(60) >= 37)
    contexts = Contexts.of(tokens, documents, positions, 5)
    stream, rows = contexts.text
    shuffled = contexts.take(torch.randperm(60, generator=g))
    text, starts = tokens.tolist(), stream.starts.tolist()
    for some in (contexts, shuffled):
        places = some.text[1].tolist()
        found = Concept(window, token).holds(some).tolist()
        assert found == [token in before(text, starts, row, window) for row in places]
        assert Concept(HERE, token).holds(some).tolist() == [text[row] == token for row in places]
        assert Concept(BEYOND, 3).holds(some).tolist() == [row - starts[row] >= 3 for row in places]
        assert some.back(2).tolist() == [text[row - 2] if row - starts[row] >= 2 else -1 for row in places]
    assert rows.tolist() == list(range(60))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_scene_holds_the_rows_of_its_concepts(seed):
    contexts, _, g = corpus(seed, 20)
    contexts = contexts.take(torch.randperm(len(contexts.keys[0]), generator=g))
    fit = torch.rand(len(contexts.keys[0]), generator=g) < 0.5
    scene = Scene.of(contexts, fit)
    other = Scene.of(contexts, ~fit, scene)
    values = torch.randn(len(fit), generator=g).double()
    assert len(scene.counts) > 200
    for part, rows in ((scene, fit), (other, ~fit)):
        sums = part.sums(values[rows][part.order].numpy())
        for c in torch.randperm(len(scene.counts), generator=g)[:40].tolist():
            holds = scene.concept(c).holds(contexts)[rows]
            assert part.counts[c] == holds.sum()
            assert sums[c] == pytest.approx(float(values[rows][holds].sum()), abs=1e-9)
    assert (scene.counts >= 4).all()
    assert (scene.counts <= int(fit.sum()) - 4).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_probe_finds_planted_sums(seed):
    contexts, excerpts, g = corpus(seed)
    fit, select, test = splits(excerpts)
    terms = {Concept(HERE, 3): 2.0, Concept(4, 7): 1.0, Concept(BEYOND, 20): -0.5, Concept(0, 9): 0.4}
    clean = 1 + sum(w * concept.holds(contexts) for concept, w in terms.items())
    values = (clean + 0.1 * torch.randn(len(clean), generator=g)).double()
    found = LinearProbe().fit(contexts, values, fit, select)
    assert dict(found.terms).keys() == terms.keys()
    assert dict(found.terms) == pytest.approx(terms, abs=0.03)
    assert found.rest == pytest.approx(1, abs=0.03)
    reachable = float(torch.corrcoef(torch.stack([clean[test].double(), values[test]]))[0, 1] ** 2)
    assert squared_correlations(values, [found], contexts, test)[0] == pytest.approx(reachable, abs=1e-3)
    assert "“3”" in found.render(str)


@pytest.mark.parametrize("heavy", [1, 3])
def test_noise_leaves_every_pruned_rung_empty(heavy):
    for seed in range(3):
        contexts, excerpts, g = corpus(seed)
        fit, select, _ = splits(excerpts)
        values = torch.randn(len(fit), 8, generator=g) ** heavy
        probes = LinearProbe().fit_many(contexts, values, fit, select)
        looks = LookUp().fit_many(contexts, values, fit, select)
        assert sum(len(p.terms) for p in probes) <= 1
        assert sum(len(p.levels[0].keys) for p in looks) <= 1
        assert min(p.bits for p in probes) == pytest.approx(8 + 1.519, abs=1e-3)


def test_ridge_weights_equal_the_normal_equations():
    contexts, excerpts, g = corpus(5)
    fit, select, _ = splits(excerpts)
    concepts = [Concept(HERE, 3), Concept(8, 3), Concept(1, 4)]
    x = torch.stack([c.holds(contexts) for c in concepts], 1).double()
    values = x @ torch.tensor([2.0, 1, 1], dtype=torch.float64) + 0.2 * torch.randn(len(fit), generator=g).double()
    found = LinearProbe().fit(contexts, values, fit, select)
    assert dict(found.terms).keys() == set(concepts)
    a = torch.cat([x, torch.ones(len(x), 1)], 1)[fit]
    ridge = 3 * torch.eye(4, dtype=torch.float64)
    ridge[3, 3] = 0
    exact = torch.linalg.solve(a.T @ a + ridge, a.T @ values[fit])
    np.testing.assert_allclose([dict(found.terms)[c] for c in concepts], exact[:3], atol=1e-3)
    assert found.rest == pytest.approx(float(exact[3]), abs=1e-3)


def test_the_full_look_up_reaches_the_correlation_ratio_exactly():
    contexts, excerpts, g = corpus(1)
    fit, select, _ = splits(excerpts)
    tokens = contexts.keys[0]
    values = (torch.randn(30, generator=g)[tokens] + torch.randn(len(fit), generator=g)).double()
    found = BackOff(1, shrink=0.0).fit(contexts, values, fit, select)
    means = torch.stack([values[fit & (tokens == t)].mean() for t in range(30)])[tokens[fit]]
    ratio = float(means.var(correction=0) / values[fit].var(correction=0))
    assert squared_correlations(values, [found], contexts, fit)[0] == pytest.approx(ratio, rel=1e-5)


def test_back_off_by_hand():
    contexts = Contexts.of(torch.tensor([0, 1, 0, 1, 0, 1]), torch.zeros(6).long(), torch.arange(6), 2)
    values = torch.tensor([0.0, 6, 0, 3, 0, 3])
    everything = torch.ones(6, dtype=torch.bool)
    found = BackOff(2).fit(contexts, values, everything, everything)
    one = (12 + 3 * 2) / 6
    two = (12 + 3 * one) / 6
    zero = 3 * 2 / 6
    assert found.simulate(contexts).tolist() == pytest.approx(
        [zero, two, (0 + 3 * zero) / 5, two, (0 + 3 * zero) / 5, two]
    )


def test_budgets_bind():
    contexts, excerpts, g = corpus(2)
    fit, select, _ = splits(excerpts)
    values = torch.randn(30, 4, generator=g)[contexts.keys[0]]
    everything = LookUp().fit_many(contexts, values, fit, select)
    for bits in (30.0, 60.0, 100.0):
        found = LookUp(bits=bits).fit_many(contexts, values, fit, select)
        assert all(bits - 16 < f.bits <= bits for f in found)
    assert all(f.bits > 100 for f in everything)
    for k, f in zip((1, 5), (LookUp(k=k).fit_many(contexts, values, fit, select) for k in (1, 5)), strict=True):
        assert [len(x.levels[0].keys) for x in f] == [k] * 4
    with pytest.raises(ConfigError, match="5 bits do not hold a resting value"):
        LookUp(bits=5.0).fit_many(contexts, values, fit, select)


def test_every_rung_on_many_units_equals_one_by_one():
    contexts, excerpts, g = corpus(3, 60)
    fit, select, _ = splits(excerpts)
    values = torch.randn(30, 3, generator=g)[contexts.keys[0]] + torch.randn(len(fit), 3, generator=g)
    values += 2 * Concept(4, 7).holds(contexts)[:, None]
    together = fit_all(values, contexts, fit, select)
    assert [f.name for f in together[0]] == [*LADDER, "hybrid"]
    for unit in range(3):
        for a, b in zip(together[unit], fit_all(values[:, unit : unit + 1], contexts, fit, select)[0], strict=True):
            assert a.bits == b.bits
            torch.testing.assert_close(a.simulate(contexts), b.simulate(contexts), rtol=0, atol=1e-6)


def test_order_of_rows_does_not_matter():
    contexts, excerpts, g = corpus(4, 60)
    fit, select, _ = splits(excerpts)
    values = (Concept(HERE, 3).holds(contexts) + Concept(4, 7).holds(contexts) * 1.0).double()
    values += 0.2 * torch.randn(len(fit), generator=g)
    order = torch.randperm(len(fit), generator=g)
    moved = contexts.take(order)
    plain = fit_all(values[:, None], contexts, fit, select)[0]
    again = fit_all(values[order][:, None], moved, fit[order], select[order])[0]
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a.simulate(moved), b.simulate(moved), rtol=0, atol=1e-5)
        torch.testing.assert_close(a.simulate(contexts)[order], a.simulate(moved))


def test_two_tokens_suffice_for_a_pair():
    contexts, excerpts, _ = corpus(6)
    fit, select, _ = splits(excerpts)
    values = (contexts.back(1) == 3) & (contexts.back(0) == 5)
    short = NGrams(2).fit_many(contexts, values.float()[:, None], fit, select)[0]
    assert short.name == "2-grams"
    assert [len(level.keys) for level in short.levels] == [0, 1]
    assert contexts.tokens_of(int(short.levels[1].keys[0]), 2) == [3, 5]


def test_the_best_rung_and_the_curve():
    contexts, excerpts, g = corpus(7)
    fit, select, test = splits(excerpts)
    values = Concept(HERE, 3).holds(contexts) + 2.0 * Concept(16, 7).holds(contexts)
    values = values + 0.1 * torch.randn(len(fit), generator=g)
    fitted = fit_all(values[:, None], contexts, fit, select)[0]
    assert best(values, fitted, contexts, select).name == "linear probe"
    curve = rate_distortion(values, fitted, contexts, test)
    assert curve[-1].name == "linear probe"
    assert [p.bits for p in curve] == sorted(p.bits for p in curve)
    assert [p.explained for p in curve] == sorted(p.explained for p in curve)
    assert rate_distortion(torch.zeros(len(fit)), fitted, contexts, test) == ()


def test_mean_curve_by_hand():
    a, b = [Point("x", 10.0, 0.2), Point("y", 20.0, 0.6)], [Point("x", 15.0, 0.4)]
    assert mean_curve([a, b, []], [5, 10, 15, 20]).tolist() == pytest.approx([0, 0.1, 0.3, 0.5])
