import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import Automaton, CopiedAutomaton, GrownAutomaton, squared_correlations
from digon.explain.explainers.automaton import ANY, START, path_bits

SEEDS = [0, 1, 2]


def corpus(seed, documents=300, length=64, vocabulary=30):
    g = rng.stream(seed, "corpus")
    n = documents * length
    tokens = torch.randint(vocabulary, (n,), generator=g)
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    excerpts = Excerpts.of(owners, positions, [f"doc{seed}-{i}" for i in range(documents)])
    splits = tuple(excerpts.row_split(name) for name in ("fit", "select", "test"))
    return Contexts.of(tokens, owners, positions, vocabulary), splits, g


def fits(path, text, row):
    """Whether the text up to a row of its run ends in a path."""
    for lag, step in enumerate(path):
        at = row - lag
        token = text[at] if at >= 0 else START if at == -1 else None
        if token is None or (token == START and step == ANY) or (step != ANY and token != step):
            return False
    return True


paths = st.lists(st.sampled_from([ANY, 0, 1, 2]), min_size=0, max_size=5).flatmap(
    lambda body: st.sampled_from([(*body, 0), (*body, 1), (*body, START)])
)


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.lists(paths, min_size=1, max_size=8, unique=True),
    runs=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=4),
)
def test_matching_equals_a_look_at_every_path(chosen, runs):
    tokens = torch.tensor([t for run in runs for t in run])
    owners = torch.tensor([i for i, run in enumerate(runs) for _ in run])
    positions = torch.tensor([i for run in runs for i in range(len(run))])
    values = tuple(float(i + 1) for i in range(len(chosen)))
    automaton = Automaton("x", 0.0, tuple(chosen), values, 3)
    expected, first_end = [], []
    for run in runs:
        for row in range(len(run)):
            hits = [p for p in chosen if fits(p, run, row)]
            best = max(hits, key=lambda p: (sum(s != ANY for s in p), len(p), [s != ANY for s in p]), default=None)
            expected.append(values[chosen.index(best)] if best else 0.0)
            first_end.append(greedy(chosen, values, run, row))
    contexts = Contexts.of(tokens, owners, positions, 3)
    assert automaton.simulate(contexts).tolist() == expected
    order = torch.randperm(len(tokens), generator=rng.stream(len(tokens), "order"))
    assert automaton.simulate(contexts.take(order)).tolist() == [expected[i] for i in order]
    assert Automaton("x", 0.0, tuple(chosen), values, 3, greedy=True).simulate(contexts).tolist() == first_end


def greedy(chosen, values, run, row):
    """The published walk: literal if there is one, else any; the first end counts."""
    prefix = ()
    while True:
        if prefix in chosen:
            return values[chosen.index(prefix)]
        at = row - len(prefix)
        token = run[at] if at >= 0 else START if at == -1 else None
        further = ([] if token is None else [token]) + ([ANY] if at >= 0 else [])
        step = next((s for s in further if any(p[: len(prefix) + 1] == (*prefix, s) for p in chosen)), None)
        if step is None:
            return 0.0
        prefix = (*prefix, step)


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_paths_are_found_exactly(seed):
    contexts, (fit, select, test), g = corpus(seed, 900)
    back = contexts.back
    values = 2.0 * (back(0) == 3) * (back(3) == 7) + 1.5 * (back(0) == 5) - 1.5 * (back(0) == 5) * (back(1) == 9)
    values = (values + 3.0 * (back(2) == START) + 0.2 * torch.randn(len(fit), generator=g)).double()
    found = GrownAutomaton().fit(contexts, values, fit, select)
    planted = {(3, ANY, ANY, 7): 2, (5,): 1.5, (5, 9): 0, (ANY, ANY, START): 3}
    assert planted.keys() <= set(found.paths)
    assert {p: found.values[found.paths.index(p)] for p in planted} == pytest.approx(planted, abs=0.35)
    clean = 2.0 * (back(0) == 3) * (back(3) == 7) + 1.5 * (back(0) == 5) * (back(1) != 9) + 3.0 * (back(2) == START)
    ceiling = float(torch.corrcoef(torch.stack([clean[test].double(), values[test]]))[0, 1] ** 2)
    assert squared_correlations(values, [found], contexts, test)[0] > ceiling - 0.04


@pytest.mark.parametrize("heavy", [1, 3])
def test_noise_grows_nothing(heavy):
    for seed in SEEDS:
        contexts, (fit, select, _), g = corpus(seed, 100)
        values = torch.randn(len(fit), 5, generator=g) ** heavy
        found = GrownAutomaton().fit_many(contexts, values, fit, select)
        assert sum(len(f.paths) for f in found) <= 1
        assert min(f.bits for f in found) == pytest.approx(8 + 1.519, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_copied_paths_with_and_without_the_network(seed):
    contexts, (fit, select, test), g = corpus(seed, vocabulary=10)

    def network(texts):
        """2 where the last token is 3 and the one two before it is 7."""
        return torch.tensor([2.0 * (len(t) > 2 and t[-1] == 3 and t[-3] == 7) for t in texts])

    values = 2.0 * (contexts.back(0) == 3) * (contexts.back(2) == 7) + 0.01 * torch.randn(len(fit), generator=g)
    with_it = CopiedAutomaton(probe=network, pad=9).fit(contexts, values, fit, select)
    without = CopiedAutomaton().fit(contexts, values, fit, select)
    assert set(with_it.paths) == {(3, ANY, 7)}
    assert (3, ANY, 7) in without.paths
    assert with_it.values == pytest.approx((2.0,))
    for found in (with_it, without):
        assert squared_correlations(values, [found], contexts, test)[0] > 0.95


def test_a_path_that_needs_the_start():
    contexts, (fit, select, _), _ = corpus(4)

    def network(texts):
        return torch.tensor([1.0 * (t == [3]) for t in texts])

    values = ((contexts.back(0) == 3) & (contexts.depth == 0)).float()
    found = CopiedAutomaton(probe=network).fit(contexts, values, fit, select)
    assert found.paths == ((3, START),)
    assert torch.equal(found.simulate(contexts) > 0.5, values > 0.5)


def test_bits_words_and_arcs_by_hand():
    automaton = Automaton("x", 0.5, ((0, ANY, 1), (0,), (2,), (3, START)), (3.0, 1.0, 1.0, -2.0), 4)
    log_star = {1: 1.5185, 2: 2.5185}
    single = 8 + 2
    gap = 8 + 2 + math.log2(5) + log_star[2] + log_star[2] - log_star[1]
    start = 8 + 2 + math.log2(5) + log_star[1] + log_star[2] - log_star[1]
    assert path_bits((0, ANY, 1), 4) == pytest.approx(gap, abs=1e-3)
    number = 1.5185 + math.log2(5) + math.log2(math.log2(5)) + math.log2(math.log2(math.log2(5)))
    assert automaton.bits == pytest.approx(8 + number + 2 * single + gap + start, abs=1e-3)
    text = automaton.render(lambda t: "abcd"[t])
    assert text == "fires on: “b⋯a” 3, “a” 1, “c” 1; low on: “⟨start⟩d” -2; otherwise 0.5"
    arcs = {(a.start, a.end, a.label): a.value for a in automaton.arcs(lambda t: "abcd"[t])}
    assert arcs[(0, 1, "a")] == 1
    assert math.isnan(arcs[(1, 2, "any")])
    assert arcs[(2, 3, "b")] == 3
    assert arcs[(0, 4, "c")] == 1
    assert len(arcs) == 6


def test_components_share_no_literal():
    paths = ((0, 1), (2, 1), (3,), (4, ANY, 5), (4,))
    parts = Automaton("x", 0.0, paths, (1.0, 2.0, 3.0, 0.5, 0.25), 6).components()
    assert [set(p.paths) for p in parts] == [{(3,)}, {(0, 1), (2, 1)}, {(4, ANY, 5), (4,)}]
