"""One desk for many units: explanations together, each with its scores; what cannot be explained stops nobody."""

import math

import pytest
import torch

from digon import rng
from digon.explain.explainers import LookUp, NGrams
from digon.explain.splits import NAMES
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from digon.studies.explaining.desk import Desk
from digon.studies.sources import Directions, Latents, Neurons, columns

RUNGS = (LookUp().name, NGrams().name)


def desk(path, tokens, length, seed=0):
    """A desk over documents of equal length, without a network."""
    n = len(tokens)
    writer = ShardWriter(path, HarvestPlan({"site": 1}, "float32", "world", "text", {}))
    row = torch.arange(n)
    names = [f"doc{i}" for i in range(n // length)]
    writer.append(Rows({"site": torch.zeros(n, 1)}, tokens, row // length, row % length), names, 1)
    writer.finish()
    return Desk.of("world", ActivationStore.open(path), None, seed)


def random_tokens(n, vocabulary):
    return torch.randint(vocabulary, (n,), generator=rng.stream(0, "t"))


def test_units_are_explained_and_scored_together(tmp_path):
    n = 300 * 128
    tokens, positions = random_tokens(n, 40), torch.arange(n) % 128
    bigram = (tokens == 5) & (tokens.roll(1) == 3) & (positions > 0)
    noise = torch.randn(n, generator=rng.stream(0, "v"))
    values = torch.stack([(tokens == 9).float(), bigram.float(), noise], 1)
    ours = desk(tmp_path / "s", tokens, 128)
    single, pair, none = ours.explain(values, RUNGS)
    rho = {e.explainer: e.score.top_and_random.value for e in pair.explanations}
    assert rho["n-grams"] > 0.99
    (faint,) = ours.explain(1e-6 * values[:, 1:2], RUNGS, first=1)
    assert faint.select == pytest.approx(pair.select, abs=1e-3)
    assert rho["token look-up"] < 0.6
    first = {e.explainer: e.score for e in single.explanations}
    assert first["token look-up"].population.value == pytest.approx(1)
    assert abs(first["token look-up"].baseline.value) < 0.2
    chance = {e.explainer: e.score for e in none.explanations}["n-grams"].population.value
    assert math.isnan(chance) or abs(chance) < 0.05
    assert pair.select["n-grams"] > 0.99
    (alone,) = ours.explain(values[:, 1:2], RUNGS, first=1)
    assert [e.text for e in alone.explanations] == [e.text for e in pair.explanations]
    assert torch.equal(alone.simulated["n-grams"], pair.simulated["n-grams"])
    assert math.isnan(alone.explanations[0].score.baseline.value)


def test_silent_and_damaged_units_do_not_stop_the_others(tmp_path):
    n = 200 * 128
    tokens = random_tokens(n, 20)
    values = torch.zeros(n, 4)
    values[:, 1] = torch.randn(n, generator=rng.stream(0, "v"))
    values[:, 2] = torch.nan
    values[:, 3] = (tokens == 7).float()
    silent, noise, damaged, good = desk(tmp_path / "s", tokens, 128).explain(values, RUNGS)
    assert damaged.explanations == ()
    for found in silent.explanations:
        assert "real or simulated values are constant" in found.score.flags[0]
        assert math.isnan(found.score.population.value)
        assert math.isnan(found.score.permuted.value)
    for found in noise.explanations:  # noise has no tokens of its own, and nothing is said
        assert found.text.startswith("always")
        assert math.isnan(found.score.random_only.value)
    assert good.explanations[0].score.top_and_random.value == pytest.approx(1)
    assert good.explanations[0].score.permuted.p == pytest.approx(1 / 201)


def test_a_corpus_of_one_document_is_flagged_not_refused(tmp_path):
    values, seen, explained = torch.rand(24, 2, generator=rng.stream(0, "v")), set(), 0
    for seed in range(12):  # the document falls into every split
        ours = desk(tmp_path / str(seed), random_tokens(24, 20), 24, seed)
        seen.add(NAMES[int(ours.excerpts.splits[0])])
        for unit in ours.explain(values, RUNGS):
            for found in unit.explanations:
                explained += 1
                assert "documents in the test split" in found.score.flags[0]
                assert math.isnan(found.score.top_and_random.value)
    assert seen >= {"fit", "select", "test"}
    assert explained


def test_any_units_are_read_in_the_order_asked_for(tmp_path):
    writer = ShardWriter(tmp_path / "s", HarvestPlan({"site": 5}, "float32", "world", "text", {}))
    values = torch.randn(40, 5, generator=rng.stream(0, "v")).clamp_min(0)
    row = torch.arange(40)
    writer.append(Rows({"site": values}, row, row // 20, row % 20), ["a", "b"], 1)
    writer.finish()
    store = ActivationStore.open(tmp_path / "s")
    latent, active = values.T.nonzero().unbind(1)
    starts = torch.cat([torch.zeros(1).long(), latent.bincount(minlength=5).cumsum(0)])
    sources = (
        Neurons(store, "site"),
        Directions(store, "site", "site.axes", torch.eye(5)),
        Latents("site.sae", active, values[active, latent], starts, 40, torch.eye(5)),
    )
    for source in sources:
        for units in ([3, 4, 0, 2, 1], [4], [1, 1, 2], []):
            assert torch.equal(columns(source, units), values[:, units])
