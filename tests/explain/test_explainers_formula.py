import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import SHRINK, Concept, Formula, FormulaSearch, Scene, fit_all, squared_correlations
from digon.explain.explainers.concepts import BEYOND, DEPTHS, HERE
from digon.explain.explainers.formula_search import AND, BUT_NOT, OR, STEP_BITS, WIDEN, Search, masks
from digon.explain.explainers.hybrid import Gate, Sum

SEEDS = [0, 1, 2]


def corpus(seed, documents=300, length=64, vocabulary=30):
    g = rng.stream(seed, "corpus")
    n = documents * length
    tokens = torch.randint(vocabulary, (n,), generator=g)
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    excerpts = Excerpts.of(owners, positions, [f"doc{seed}-{i}" for i in range(documents)])
    splits = tuple(excerpts.row_split(name) for name in ("fit", "select", "test"))
    return Contexts.of(tokens, owners, positions, vocabulary), splits, g


PLANTED = {
    "conjunction": [("or", Concept(HERE, 3)), ("and", Concept(1, 7))],
    "gated": [("or", Concept(HERE, 3, (5,))), ("and", Concept(8, 7, (9,)))],
    "negated": [("or", Concept(HERE, 3)), ("and not", Concept(4, 7))],
    "positional": [("or", Concept(BEYOND, 50))],
    "long-range": [("or", Concept(HERE, 3)), ("and", Concept(0, 7))],
    "union": [("or", Concept(HERE, 3)), ("or", Concept(4, 8)), ("and", Concept(HERE, 6))],
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", list(PLANTED))
def test_each_planted_kind_is_found_exactly(kind, seed):
    contexts, (fit, select, test), g = corpus(seed)
    truth = Formula("truth", 0.0, 1.0, tuple(PLANTED[kind]), 30).holds(contexts)
    values = (0.5 + 2 * truth + 0.2 * torch.randn(len(fit), generator=g)).double()
    found = FormulaSearch().fit(contexts, values, fit, select)
    assert torch.equal(found.holds(contexts), truth) or torch.equal(~found.holds(contexts), truth)
    rows = min(int(truth[fit].sum()), int((~truth)[fit].sum()))
    assert abs(found.value - found.rest) == pytest.approx(2 * rows / (rows + SHRINK), abs=0.1)
    ceiling = squared_correlations(values, [Formula("", 0.0, 1.0, tuple(PLANTED[kind]), 30)], contexts, test)[0]
    assert squared_correlations(values, [found], contexts, test)[0] == pytest.approx(ceiling, abs=1e-6)


@pytest.mark.parametrize("heavy", [1, 3])
def test_noise_has_no_formula(heavy):
    for seed in SEEDS:
        contexts, (fit, select, _), g = corpus(seed, 100)
        values = torch.randn(len(fit), 5, generator=g) ** heavy
        found = FormulaSearch().fit_many(contexts, values, fit, select)
        assert sum(len(f.steps) for f in found) <= 1
        assert min(f.bits for f in found) == 8 + STEP_BITS


def test_bits_and_words_by_hand():
    steps = (("or", Concept(HERE, 1, (2,))), ("and not", Concept(4, 0)), ("or", Concept(BEYOND, 3)))
    found = Formula("formula", 0.0, 1.0, steps, 256)
    assert found.bits == pytest.approx(2 * 8 + 5 * math.log2(5) + 3 * math.log2(9) + 3 * 8 + math.log2(len(DEPTHS)))
    expected = "1 on (“b”/“c” and not “a” in the 4 before) or after 3 tokens or more; otherwise 0"
    assert (
        found.render(lambda t: "abc"[t]) == expected.replace("(", "").replace(")", "")
        or found.render(lambda t: "abc"[t]) == expected
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500))
def test_states_hold_the_rows_and_sums_of_their_formulas(seed):
    contexts, _, g = corpus(seed, 6, 40, 4)
    everything = torch.ones(240, dtype=torch.bool)
    scene = Scene.of(contexts, everything)
    shift = torch.randn(240, generator=g).double().numpy()
    search = Search(scene, shift - shift.mean())
    search.run()
    state = search.start()
    for _ in range(5):
        operation = int(torch.randint(4, (1,), generator=g))
        if state.steps and operation == WIDEN and state.joining == (0, 0):
            operation = AND
        operation = operation if state.steps else OR
        alike = np.arange(*state.joining) if operation == WIDEN else np.arange(len(scene.counts))
        concept = int(alike[int(torch.randint(len(alike), (1,), generator=g))])
        state = search.child(state, operation, concept, 0.0)
        union = masks(scene, state.steps)[-1]
        assert np.array_equal(state.before | state.clause, union)
        assert not (state.before & state.clause).any()
        for sums, mask in ((state.rest_sums, ~state.before), (state.clause_sums, state.clause)):
            np.testing.assert_allclose(sums, masked(scene, search.shift, mask), atol=1e-9)
        pool = masked(scene, search.shift, state.pool)[:, slice(*state.joining)]
        np.testing.assert_allclose(state.pool_sums, pool, atol=1e-9)
    assert {AND, BUT_NOT, OR, WIDEN} == set(range(4))


def masked(scene, values, mask):
    kept = [mask & scene.mark(c) for c in range(len(scene.counts))] + [mask]
    return np.array([[values[k].sum() for k in kept], [k.sum() for k in kept]])


@pytest.mark.parametrize("seed", SEEDS)
def test_looking_back_and_passing_over_intervals_give_the_same_sums(seed):
    from digon.explain.explainers import scene_kernel
    from digon.explain.explainers.scene import _bands

    contexts, (fit, _, _), g = corpus(seed, 30)
    scene = Scene.of(contexts, fit)
    values = torch.randn(int(fit.sum()), generator=g).double().numpy()
    mask = torch.rand(len(values), generator=g).numpy() < 0.1
    slow = scene_kernel.masked(values, mask, scene.offsets, scene.starts, scene.stops)
    text = (scene.text.tokens, scene.text.again, scene.text.places, scene.text.begins)
    rows = np.flatnonzero(mask)
    fast = scene_kernel.walked(values, rows, text, scene.index, _bands(), scene.depths, len(scene.counts))
    np.testing.assert_allclose(fast, slow, atol=1e-9)
    np.testing.assert_allclose(slow, masked(scene, values, mask), atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_hybrids_join_what_one_rung_cannot_say(seed):
    contexts, (fit, select, test), g = corpus(seed)
    inside = (Concept(HERE, 3).holds(contexts) | Concept(HERE, 5).holds(contexts)) & Concept(8, 7).holds(contexts)
    tokens = contexts.keys[0]
    gated = inside * (1.0 + 1.0 * (tokens == 5))
    joined = inside + torch.linspace(-0.7, 0.7, 30)[tokens]
    values = torch.stack([gated, joined], 1) + 0.2 * torch.randn(len(fit), 2, generator=g)
    for unit, fitted in enumerate(fit_all(values, contexts, fit, select)):
        *rungs, last = fitted
        assert last.name == "hybrid"
        scores = squared_correlations(values[:, unit], [*rungs, last], contexts, test)
        assert scores[-1] > max(scores[:-1]) - 0.01
        truth = (gated, joined)[unit]
        best = float(torch.corrcoef(torch.stack([truth[test], values[test, unit]]))[0, 1] ** 2)
        assert scores[-1] > 0.9 * best
        assert last.bits > 8
        assert isinstance(last, Gate | Sum) or unit == 0
        assert last.render(str)
