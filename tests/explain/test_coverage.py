"""How many explanations a unit needs: right on unions of known size, silent on noise, kinds of context from the text alone."""

import math
from functools import cache

import pytest
import torch

from digon import rng
from digon.errors import NonFiniteError
from digon.explain import coverage, kinds, pieces, senses
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import LookUp
from digon.explain.splits import NAMES
from digon.worlds.units import Recipe, TopicConfig, build, topics

WORLD = TopicConfig(documents=2500)


@cache
def world(seed):
    """Tokens, what is around them, excerpts, contexts."""
    tokens = topics(WORLD, seed)
    rows = (tokens.ids, tokens.documents, tokens.positions)
    site = kinds.Surroundings.of(*rows, tokens.vocabulary)
    return tokens, site, Excerpts.of(*rows[1:], tokens.document_ids), Contexts.of(*rows, tokens.vocabulary)


def covered(seed, recipe, values=None):
    tokens, site, excerpts, contexts = world(seed)
    values = build(tokens, recipe, seed).values if values is None else values
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    simulated = LookUp().fit(contexts, values, fit, select).simulate(contexts)
    found = pieces.take_apart(values, simulated, site, fit | select)
    text = tokens.texts.__getitem__
    return coverage.cover(values, found, excerpts, text, rng.stream(seed, "cover")), values


def union(k):
    return Recipe("union", (1.0,) * k)


@pytest.mark.parametrize(("seed", "sizes"), [(0, (1, 5)), (1, (3,)), (2, (4,))])
def test_balanced_unions_read_their_number_of_parts(seed, sizes):
    for k in sizes:
        found, _ = covered(seed, union(k))
        effective = found.record.effective
        assert effective.value == pytest.approx(k, abs=0.3)
        assert effective.low - 0.1 <= effective.value <= effective.high + 0.1
        assert found.record.entropy.value == pytest.approx(k, abs=0.4)
        assert float(found.shares.sum()) == pytest.approx(1)
        assert len(found.record.names) >= k
        assert found.record.low[-1] < found.record.explained[-1] < found.record.high[-1]


def test_noise_is_not_explained():
    for seed in range(3):
        noise = torch.randn(len(world(seed)[0]), generator=rng.stream(seed, "noise"))
        found, _ = covered(seed, None, noise)
        # one piece by chance is no inflation; several would be
        assert math.isnan(found.record.effective.value) or found.record.effective.value < 1.3
        assert max(found.record.explained, default=0.0) < 0.01


def test_unequal_parts_and_a_place():
    found, values = covered(0, Recipe("union", (0.7, 0.2, 0.1)))
    assert found.record.effective.value == pytest.approx(1 / 0.54, abs=0.3)
    tokens, _, excerpts, _ = world(0)
    told = senses.senses(found, values, excerpts, tokens.texts.__getitem__)
    assert [s.share for s in told] == pytest.approx([0.7, 0.2, 0.1], abs=0.1)
    names = build(tokens, Recipe("union", (0.7, 0.2, 0.1)), 0).rule.clauses
    for sense, clause in zip(told, names, strict=True):
        shown = [tokens.document_ids.index(d) for d in sense.documents]
        assert len(set(shown)) == senses.SHOWN
        assert all(bool(clause.fires(tokens)[tokens.documents == d].any()) for d in shown)
        assert f"“{tokens.texts[clause.here[0]]}”" in sense.text
    place, _ = covered(0, Recipe("positional"))
    assert place.record.names[0] == "depends on the place in the document"
    assert place.record.effective.value == pytest.approx(1, abs=0.1)


def test_exact_parts_of_rare_unions_by_hand():
    """k of K parts of density p score ρ² = k(1 − Kp)/(K(1 − kp)), so N_eff → K as p → 0."""
    n, p = 200_000, 0.002
    owners, places = torch.arange(n) // 500, torch.arange(n) % 500
    excerpts = Excerpts.of(owners, places, [f"d{i}" for i in range(n // 500)])
    for k in (2, 3):
        parts = [pieces.Piece("token", (i,), (places == i).float()) for i in range(k)]
        found = coverage.cover((places < k).float(), parts, excerpts, str, rng.stream(0, "c"))
        expected = [j * (1 - k * p) / (k * (1 - j * p)) for j in range(1, k + 1)]
        assert list(found.record.explained) == pytest.approx(expected, abs=1e-6)
        assert math.sqrt(expected[0]) == pytest.approx({2: 0.7071, 3: 0.5774}[k], abs=0.002)
        assert found.record.effective.value == pytest.approx(k, abs=1e-4)
    # parts that fill half of the text, as the docstring of the module says
    gains = torch.diff(torch.tensor([0.0, *(j * 0.5 / (5 * (1 - j * 0.1)) for j in range(1, 6))]))
    assert float(1 / gains.square().sum()) == pytest.approx(4.32, abs=0.01)


def test_greedy_takes_what_explains_most_and_weighs_as_least_squares_does():
    g = rng.stream(0, "greedy")
    for _ in range(5):
        x = torch.randn(300, 5, generator=g)
        y = x @ torch.tensor([2.0, 1.0, 0.5, 0.3, -1.0]) + torch.randn(300, generator=g)
        order, weights = coverage.greedy(y, x)
        assert 4 not in order  # no weight is below 0
        x0, y0 = (x - x.mean(0)).double(), (y - y.mean()).double()

        def left(chosen, x0=x0, y0=y0):
            part = x0[:, list(chosen)]
            return float((y0 - part @ torch.linalg.lstsq(part, y0).solution).square().sum())

        assert order[0] == min(order, key=lambda i: left([i]))
        assert order[1] == min(order[1:], key=lambda i: left([order[0], i]))
        best = torch.linalg.lstsq(x0[:, order], y0).solution
        torch.testing.assert_close(weights[:, -1], best, rtol=1e-5, atol=1e-6)
        assert not weights.tril(-1).any()


def test_copies_are_not_counted_twice():
    n = 20_000
    owners, places = torch.arange(n) // 50, torch.arange(n) % 50
    excerpts = Excerpts.of(owners, places, [f"d{i}" for i in range(n // 50)])
    g = rng.stream(0, "copies")
    part = (torch.rand(n, generator=g) < 0.05).float()
    values = part + 0.3 * torch.randn(n, generator=g)
    twice = [pieces.Piece("token", (i,), part * scale) for i, scale in enumerate((1.0, 2.0, 0.5))]
    found = coverage.cover(values, twice, excerpts, str, rng.stream(0, "c"))
    assert found.record.names == ("“0”",)
    assert found.record.effective.value == 1


def test_unseen_rows_teach_nothing():
    tokens, site, excerpts, contexts = world(1)
    values = build(tokens, union(2), 1).values
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    seen = fit | select
    changed = torch.where(seen, values, 100 * torch.randn(len(values), generator=rng.stream(0, "x")))
    simulated = LookUp().fit(contexts, values, fit, select).simulate(contexts)
    first, again = (pieces.take_apart(v, simulated, site, seen) for v in (values, changed))
    assert [p.tokens for p in first] == [p.tokens for p in again]
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a.values, b.values)
    assert coverage.greedy(values[seen], torch.stack([p.values[seen] for p in first], 1))[0]


def test_tokens_of_a_topic_are_one_kind_and_topics_are_not():
    for seed in range(3):
        tokens, site, _, _ = world(seed)
        some = [tokens.concepts[t][:6] for t in range(8)]
        chosen = torch.tensor([t for words in zip(*some, strict=True) for t in words])
        groups = kinds.group_tokens(torch.ones(len(tokens)), tokens.ids, site, chosen)
        assert sorted(sorted(group) for group in groups) == sorted(sorted(words) for words in some)
        # as the unit falls on half of them, no group holds both
        signs = torch.ones(len(tokens))
        signs[tokens.is_in([w for words in some for w in words[:3]])] = -1
        assert len(kinds.group_tokens(signs, tokens.ids, site, chosen)) == 16


def test_spellings_of_a_word_are_one_whatever_stands_around():
    tokens, _, excerpts, _ = world(0)
    parts = [tokens.concepts[t][0] for t in range(3)]
    texts = list(tokens.texts)
    texts[parts[0]], texts[parts[1]] = " Word", "word"
    site = kinds.Surroundings.of(tokens.ids, tokens.documents, tokens.positions, tokens.vocabulary, texts=texts)
    values = tokens.is_in(parts).float()
    seen = excerpts.row_split("fit") | excerpts.row_split("select")
    found = pieces.take_apart(values, values, site, seen)
    told = coverage.cover(values, found, excerpts, texts.__getitem__, rng.stream(0, "c")).record
    assert len(told.names) == 2
    assert set(told.names) & {"“ Word”, “word”", "“word”, “ Word”"}


def test_two_words_of_one_kind_of_context_cannot_be_told_apart():
    tokens = world(0)[0]
    first, second = tokens.concepts[0][:2]
    values = tokens.is_in([first, second]).float()
    assert covered(0, None, values)[0].record.effective.value == pytest.approx(1, abs=0.05)


def test_around_leaves_out_the_token_itself_and_other_documents(monkeypatch):
    tokens, site, _, _ = world(2)
    documents = tokens.documents
    other = tokens.ids.clone()
    other[0] = (other[0] + 1) % tokens.vocabulary
    run = documents.clone()
    vectors = torch.randn(tokens.vocabulary, 4, generator=rng.stream(0, "v"))
    monkeypatch.setattr(kinds, "_token_vectors", lambda *_: vectors)
    monkeypatch.setattr(kinds, "whitened", lambda rows: rows)
    a, b = (kinds.Surroundings.of(t, documents, tokens.positions, tokens.vocabulary) for t in (tokens.ids, other))
    moved = ((a.around - b.around).abs().sum(1) > 1e-2).nonzero()[:, 0].tolist()
    assert moved == list(range(1, kinds.WINDOW + 1))
    assert site.before()[:2].tolist() == [0, int(tokens.ids[0]) + 1]
    assert int(site.before()[int((run == 1).nonzero()[0])]) == 0


def test_little_to_go_by():
    owners, places = torch.zeros(30).long(), torch.arange(30)
    excerpts = Excerpts.of(owners, places, ["alone"])
    tokens = torch.arange(30) % 3
    site = kinds.Surroundings.of(tokens, owners, places, 3)
    assert site.around.isfinite().all()
    values = (tokens == 1).float()
    found = pieces.take_apart(values, values, site, torch.ones(30, dtype=torch.bool))
    one = coverage.cover(values, found, excerpts, str, rng.stream(0, "c"))
    assert math.isnan(one.record.effective.value)
    assert senses.senses(one, values, excerpts, str) == ()
    assert "nothing" in senses.summary(())
    flat = torch.zeros(30)
    assert pieces.take_apart(flat, flat, site, torch.ones(30, dtype=torch.bool)) == []
    assert math.isnan(coverage.cover(flat, [], excerpts, str, rng.stream(0, "c")).record.effective.value)
    wide = Excerpts.of(torch.arange(30), torch.zeros(30).long(), [f"d{i}" for i in range(30)])
    with pytest.raises(NonFiniteError):
        coverage.cover(values / 0, found, wide, str, rng.stream(0, "c"))


def test_why_there_is_no_number_is_said():
    owners, places = torch.arange(6000) // 100, torch.arange(6000) % 100
    whole = Excerpts.of(owners, places, [f"d{i}" for i in range(60)])
    values = (torch.arange(6000) % 7 == 3).float()
    part = pieces.Piece("token", (3,), values)

    def why(excerpts, column):
        return coverage.cover(column, [part], excerpts, str, rng.stream(0, "c")).record.effective.method

    def without(name):
        splits = torch.where(whole.in_split(name), NAMES.index("fit"), whole.splits)
        return Excerpts(whole.starts, whole.lengths, whole.documents, splits, whole.document_ids)

    assert "1 pieces in greedy order" in why(whole, values)
    assert why(without("test"), values) == "0 documents in the test split"
    assert why(without("calibrate"), values) == "0 documents in the calibrate split"
    assert why(whole, torch.randn(6000, generator=rng.stream(0, "v"))) == "no piece explains anything"
