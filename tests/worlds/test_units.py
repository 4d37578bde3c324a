"""Constructed units: exact simulation, closed forms of what can be reached, foils that are worse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import ConfigError
from digon.worlds.units import KINDS, Clause, Recipe, Rule, Tokens, TopicConfig, build, topics
from digon.worlds.units.build import GATES, OPEN
from digon.worlds.units.rules import ANYWHERE

SMALL = TopicConfig(documents=800)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def naive(clause, tokens):
    """The condition, row by row."""
    found = []
    for row, token in enumerate(tokens.ids.tolist()):
        place = int(tokens.positions[row])
        before = tokens.ids[row - min(place, clause.reach) : row].tolist()
        hit = not clause.here or token in clause.here
        if clause.gate:
            hit &= any(t in clause.gate for t in before) != clause.negated
        found.append(hit and (not clause.below or place < clause.below))
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rules_are_simulated_as_they_read(data):
    some = st.lists(st.integers(0, 4), max_size=2).map(tuple)
    clause = Clause(
        data.draw(some), data.draw(some), data.draw(st.sampled_from([1, 2, 3, ANYWHERE])), data.draw(st.booleans()),
        data.draw(st.sampled_from([0, 1, 3])), 0.5,
    )  # fmt: skip
    documents = data.draw(st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1).filter(any))
    tokens = Tokens.of([torch.tensor(d, dtype=torch.int64) for d in documents], [str(i) for i in range(5)], [])
    expected = [0.5 * hit for hit in naive(clause, tokens)]
    assert Rule((clause,)).simulate(tokens).tolist() == expected
    assert Rule((clause, clause)).simulate(tokens).tolist() == [2 * e for e in expected]


def test_documents_are_joined_once_each():
    one, two = torch.tensor([1, 2]), torch.tensor([0])
    tokens = Tokens.of([one, two, one, one[:0]], ["a", "b", "c"], [[1, 2]])
    assert tokens.ids.tolist() == [1, 2, 0]
    assert tokens.documents.tolist() == [0, 0, 1]
    assert tokens.positions.tolist() == [0, 1, 0]
    assert len(set(tokens.document_ids)) == 2


def test_documents_stay_on_a_few_topics():
    config = TopicConfig(documents=400)
    for seed in range(3):
        tokens = topics(config, seed)
        content = tokens.ids >= config.function_words
        assert float((~content).double().mean()) == pytest.approx(config.function, abs=0.01)
        topic = (tokens.ids - config.function_words) // config.words
        found = [topic[content & (tokens.documents == d)].unique().numel() for d in range(50)]
        assert 1 < sum(found) / 50 <= max(found) <= config.about
        assert torch.equal(tokens.ids, topics(config, seed).ids)


def test_what_can_be_reached_is_reached():
    for seed in range(3):
        tokens = topics(SMALL, seed)
        for kind in KINDS:
            unit = build(tokens, Recipe(kind, noise=0.5, leak=0.3), seed)
            if kind == "noise":
                assert math.isnan(unit.reachable)
                assert not unit.rule.clauses
                continue
            clean = unit.rule.simulate(tokens)
            assert correlation(clean, unit.values) == pytest.approx(unit.stated, abs=0.01)
            # the leak is orthogonal to the noise: what is left after the rule's best fit and the leak is the noise alone
            assert unit.stated < unit.reachable == pytest.approx(math.sqrt(1.09 / 1.34), abs=0.02)
            quiet = build(tokens, Recipe(kind, noise=0.0, leak=0.0), seed)
            assert quiet.reachable == pytest.approx(1)
            assert torch.equal(quiet.values, quiet.rule.simulate(tokens))


def test_foils_are_worse_than_the_truth():
    tokens = topics(SMALL, 0)
    for kind in KINDS:
        unit = build(tokens, Recipe(kind, (0.6, 0.4) if kind == "union" else (1.0,)), 1)
        for name, foil in unit.foils.items():
            assert correlation(foil.simulate(tokens), unit.values) < unit.stated - 0.05, (kind, name)
        assert kind == "noise" or len(unit.foils) >= 3


def test_gates_are_open_on_a_fair_share():
    for seed in range(3):
        tokens = topics(SMALL, seed)
        for kind, reach in GATES.items():
            (clause,) = build(tokens, Recipe(kind), seed).rule.clauses
            assert clause.reach == reach
            here = tokens.is_in(clause.here)
            opened = float(Rule((clause,)).simulate(tokens)[here].double().mean())
            opened = 1 - opened if clause.negated else opened
            assert OPEN[0] - 0.03 <= opened <= OPEN[1] + 0.03


@pytest.mark.parametrize(("shares", "expected"), [((1.0,), 1), ((1, 1), 2), ((0.5, 0.3, 0.2), 1 / 0.38)])
def test_shares_of_a_union_are_those_that_were_asked_for(shares, expected):
    tokens = topics(SMALL, 2)
    unit = build(tokens, Recipe("union", tuple(map(float, shares)), 0.0, 0.0), 0)
    assert unit.recipe.effective == pytest.approx(expected)
    energy = [float((c.strength * c.fires(tokens)).square().sum()) for c in unit.rule.clauses]
    assert [e / sum(energy) for e in energy] == pytest.approx([s / sum(shares) for s in shares], abs=1e-5)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_one_part_of_a_balanced_union_scores_one_over_root_k(k):
    p, n = 0.002, 400_000
    g = rng.stream(k, "union")
    tokens = Tokens.of([(torch.rand(n, generator=g) / p).long().clamp_max(k)], [str(i) for i in range(k + 1)], [])
    whole = Rule(tuple(Clause((t,)) for t in range(k))).simulate(tokens)
    rho = correlation(Clause((0,)).fires(tokens), whole)
    assert rho == pytest.approx(math.sqrt((1 - k * p) / (k * (1 - p))), abs=0.03)
    assert math.sqrt((1 - k * p) / (k * (1 - p))) == pytest.approx({2: 0.7071, 3: 0.5774, 5: 0.4472}[k], abs=0.003)


def test_rules_read_well():
    rule = Rule((Clause((0,), (1, 2), 8, True, 5), Clause((3,), strength=2.0)))
    assert rule.describe("abcd") == (
        "“d”; “a” but not within 8 tokens after “b”, “c” among the first 5 tokens of a document"
    )
    assert Clause(tuple(range(8))).describe("abcdefgh").endswith("“f” and 2 like them")
    assert Rule(()).describe("") == "nothing in the text"


def test_bad_requests():
    tokens = topics(TopicConfig(documents=5), 0)
    for wrong in (
        lambda: Recipe("single", (0.5, 0.5)),
        lambda: Recipe("union", ()),
        lambda: Recipe("union", (1.0, -1.0)),
        lambda: Recipe("single", noise=-1.0),
        lambda: TopicConfig(topics=2),
        lambda: TopicConfig(stay=2.0),
        lambda: TopicConfig(words=1),
        lambda: Tokens.of([], [], []),
        lambda: Tokens.of([torch.tensor([7])], ["a"], []),
        lambda: Tokens.of([torch.tensor([0])], ["a", "b"], [[0], [0, 1]]),
        lambda: build(tokens, Recipe("union", (1.0,) * 40), 0),
        lambda: build(Tokens.of([torch.tensor([0, 1])], ["a", "b"], [[0], [1]]), Recipe("gated"), 0),
    ):
        with pytest.raises(ConfigError):
            wrong()
