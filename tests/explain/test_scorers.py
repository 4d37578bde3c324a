import math
from dataclasses import replace

import pytest
import torch

from digon import rng
from digon.errors import RunError
from digon.explain import scorers
from digon.explain.exemplars import Excerpts
from digon.explain.scorers import correlation
from digon.explain.splits import NAMES, split_of


def corpus(documents=300, length=128):
    n = documents * length
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    return Excerpts.of(owners, positions, [f"doc{i}" for i in range(documents)])


def noise(n, *names):
    return torch.randn(n, generator=rng.stream(0, *names))


def peaks(excerpts, values):
    return excerpts.maxima(values[:, None])[:, 0]


def test_correlation_is_pooled_not_averaged():
    names = [name for name in map(str, range(100)) if split_of(name) == "test"][:2]
    excerpts = Excerpts.of(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), names)
    real, simulated = torch.tensor([0.0, 1, 10, 11]), torch.tensor([1.0, 0, 11, 10])
    assert [correlation(real[r], simulated[r]) for r in (slice(2), slice(2, 4))] == pytest.approx([-1, -1])
    chosen = lambda *e: scorers.ScoringSet(torch.tensor(e), torch.tensor([]).long(), torch.tensor(e))  # noqa: E731
    found = scorers.score(real, simulated, excerpts, chosen(0, 1), rng.stream(0, "p"))
    assert found.top_and_random.value == pytest.approx(99 / 101)
    assert found.population.value == pytest.approx(99 / 101)
    single = scorers.score(real, simulated, excerpts, chosen(0), rng.stream(0, "p"))
    assert math.isnan(single.top_and_random.value)
    assert "1 documents" in single.top_and_random.method


def test_planting_a_seen_document_is_refused():
    excerpts = corpus(40)
    values = noise(40 * 128, "v")
    chosen = scorers.scoring_set(excerpts, peaks(excerpts, values), rng.stream(0, "s"))
    fitted = excerpts.in_split("fit").nonzero()[:1, 0]
    name = excerpts.document_ids[int(excerpts.documents[fitted])]
    leak = replace(chosen, random=torch.cat([chosen.random, fitted]))
    with pytest.raises(RunError, match=f"1 documents are both explained and scored, such as {name}\n"):
        scorers.score(values, values, excerpts, leak, rng.stream(0, "s"))
    # one document on two sides: its first excerpt was fitted, its second is claimed to be unseen
    splits = excerpts.splits.clone()
    splits[int(fitted) + 1] = NAMES.index("test")
    leaky = Excerpts(excerpts.starts, excerpts.lengths, excerpts.documents, splits, excerpts.document_ids)
    with pytest.raises(RunError, match=name):
        scorers.population(values, values, leaky, rng.stream(0, "s"))
    with pytest.raises(RunError, match=name):
        scorers.scoring_set(leaky, peaks(excerpts, values), rng.stream(0, "s"))


def test_scoring_sets_keep_documents_apart():
    excerpts = corpus()
    maxima = peaks(excerpts, noise(300 * 128, "v"))
    chosen = scorers.scoring_set(excerpts, maxima, rng.stream(0, "s"))
    for part, size in ((torch.cat([chosen.top, chosen.beside]), 10), (chosen.random, 40)):
        assert len(excerpts.documents[part].unique()) == len(part) == size
        assert (excerpts.splits[part] == NAMES.index("test")).all()
    assert maxima[chosen.top].max() == maxima[excerpts.in_split("test")].max()


def test_intervals_of_noise_cover_zero():
    excerpts = corpus()
    covered, baselines = 0, []
    for unit in range(60):
        real, mine, *others = (noise(300 * 128, unit, i) for i in range(5))
        draw = rng.stream(unit, "s")
        chosen = scorers.scoring_set(excerpts, peaks(excerpts, real), draw)
        found = scorers.score(real, mine, excerpts, chosen, draw, others)
        covered += found.random_only.low < 0 < found.random_only.high
        baselines.append(found.baseline.value)
        assert found.baseline.low < found.baseline.value < found.baseline.high
    assert 0.85 <= covered / 60 <= 1
    assert sum(baselines) / 60 == pytest.approx(0, abs=0.01)


def test_interval_of_a_known_correlation_covers_it():
    excerpts = corpus(600)
    covered = 0
    for unit in range(60):
        a = noise(600 * 128, unit, "a")
        m = 0.6 * a + 0.8 * noise(600 * 128, unit, "b")
        found = scorers.population(a, m, excerpts, rng.stream(unit, "s"))
        covered += found.low < 0.6 < found.high
    assert 0.85 <= covered / 60 <= 1


def test_a_unit_explained_by_itself_scores_one_at_any_scale():
    excerpts = corpus()
    real = noise(300 * 128, "v")
    chosen = scorers.scoring_set(excerpts, peaks(excerpts, real), rng.stream(0, "s"))
    for scale, offset in ((1.0, 0.0), (1e-7, 0.0), (1e6, 5e6)):
        found = scorers.score(real, scale * real + offset, excerpts, chosen, rng.stream(0, "s"))
        assert found.top_and_random.value == pytest.approx(1, abs=1e-3)
        assert found.random_only.n == 40 * 64
        assert "40 excerpts" in found.random_only.method
        assert "5 + 5 excerpts" in found.top_and_random.method


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_constants_are_undefined_and_flagged(constant):
    excerpts = corpus()
    real, flat = noise(300 * 128, "v"), torch.full((300 * 128,), constant)
    chosen = scorers.scoring_set(excerpts, peaks(excerpts, real), rng.stream(0, "s"))
    found = scorers.score(real, flat, excerpts, chosen, rng.stream(0, "s"), [flat, real])
    assert math.isnan(found.top_and_random.value)
    assert math.isnan(found.random_only.low)
    assert found.baseline.value == pytest.approx(1)
    assert "mean of 1 explanations" in found.baseline.method
    assert "1 undefined" in found.baseline.method
    assert [flag.split(" is undefined")[0] for flag in found.flags] == ["rho_top_and_random", "rho_random_only"]


def test_half_of_a_union_scores_one_over_root_two():
    p = 0.005
    a, b = (torch.rand(400_000, generator=rng.stream(5, name)) < p for name in "ab")
    either, k = (a | b).float(), 2
    # disjoint up to p²: √((1 − Kp)/(K(1 − p))) → 1/√K
    assert correlation(either, a.float()) == pytest.approx(math.sqrt((1 - k * p) / (k * (1 - p))), abs=0.015)
    assert math.sqrt((1 - k * p) / (k * (1 - p))) == pytest.approx(2**-0.5, abs=0.003)


def test_best_linear_map_explains_rho_squared():
    m = noise(500, "m").double()
    a = 0.6 * m + noise(500, "e").double()
    rho = correlation(a, m)
    assert rho == pytest.approx(float(torch.corrcoef(torch.stack([a, m]))[0, 1]), abs=1e-12)
    mapped = a.mean() + rho * a.std() / m.std() * (m - m.mean())
    assert float(1 - (a - mapped).var() / a.var()) == pytest.approx(rho**2, abs=1e-12)


def test_order_of_documents_does_not_change_the_population_score():
    excerpts = corpus(100)
    real = noise(12_800, "v")
    simulated = real + noise(12_800, "w")
    order = torch.randperm(100, generator=rng.stream(0, "o"))
    rows = (order[:, None] * 128 + torch.arange(128)).flatten()
    moved = Excerpts.of(torch.arange(12_800) // 128, rows % 128, [excerpts.document_ids[i] for i in order])
    first = scorers.population(real, simulated, excerpts, rng.stream(0, "s"))
    again = scorers.population(real[rows], simulated[rows], moved, rng.stream(0, "s"))
    assert again.value == pytest.approx(first.value, abs=1e-12)
    chosen = scorers.scoring_set(excerpts, peaks(excerpts, real), rng.stream(0, "s"))
    # the same excerpts, found at their new places
    place = torch.empty_like(order).scatter_(0, order, torch.arange(100))
    shift = lambda e: 2 * place[e // 2] + e % 2  # noqa: E731
    same = scorers.ScoringSet(shift(chosen.top), shift(chosen.beside), shift(chosen.random))
    a = scorers.score(real, simulated, excerpts, chosen, rng.stream(0, "s"))
    b = scorers.score(real[rows], simulated[rows], moved, same, rng.stream(0, "s"))
    assert b.top_and_random.value == pytest.approx(a.top_and_random.value, abs=1e-12)
    assert b.random_only.value == pytest.approx(a.random_only.value, abs=1e-12)
