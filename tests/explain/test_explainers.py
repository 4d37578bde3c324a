import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import NonFiniteError
from digon.explain.exemplars import Contexts, Excerpts
from digon.explain.explainers import SHRINK, Explainer, Fitted, LookUp, NGrams, Trie
from digon.explain.scorers import correlation


def corpus(seed, documents=300, length=128, vocabulary=40):
    g = rng.stream(seed, "corpus")
    n = documents * length
    tokens = torch.randint(vocabulary, (n,), generator=g)
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    excerpts = Excerpts.of(owners, positions, [f"doc{seed}-{i}" for i in range(documents)])
    return tokens, Contexts.of(tokens, owners, positions, vocabulary), excerpts, g


def fit(kind, contexts, values, excerpts):
    return kind.fit(contexts, values, excerpts.row_split("fit"), excerpts.row_split("select"))


def follows(tokens, *pattern, length=128):
    """Rows that end in the pattern, within their document."""
    hit = torch.arange(len(tokens)) % length >= len(pattern) - 1
    for back, token in enumerate(reversed(pattern)):
        hit &= tokens.roll(back) == token
    return hit


def book(found, contexts):
    """Kept patterns as a dictionary from tuples of tokens, longest last."""
    return {
        tuple(contexts.tokens_of(key, order)): value
        for order, level in enumerate(found.levels, 1)
        for key, value in zip(level.keys.tolist(), level.values.tolist(), strict=True)
    }


def endings(tokens, row, length):
    place = row % length
    return [tuple(int(tokens[row - k]) if place >= k else -1 for k in range(n - 1, -1, -1)) for n in (3, 2, 1)]


def test_look_up_reaches_eta_squared_on_unseen_documents():
    errors = []
    for documents in (30, 300, 1500):
        tokens, contexts, excerpts, g = corpus(2, documents)
        f = torch.randn(40, generator=rng.stream(9, "f"))
        values = f[tokens] + torch.randn(len(tokens), generator=g)
        eta2 = float(f.var(correction=0) / (f.var(correction=0) + 1))
        test = excerpts.row_split("test")
        found = fit(LookUp(), contexts, values, excerpts)
        errors.append(abs(correlation(found.simulate(contexts)[test], values[test]) ** 2 - eta2))
    assert errors[-1] < 0.01
    assert errors[-1] < errors[0]


def test_a_bigram_unit_needs_two_tokens():
    tokens, contexts, excerpts, _ = corpus(3, 600)
    values = follows(tokens, 3, 5).float()
    test = excerpts.row_split("test")
    grams, single = (fit(kind, contexts, values, excerpts) for kind in (NGrams(), LookUp()))
    assert correlation(grams.simulate(contexts)[test], values[test]) > 0.99
    assert list(book(grams, contexts)) == [(3, 5)]
    assert grams.render(str).startswith("fires on: “35” 0.8")
    held_out, last = values[test], tokens[test] == 5
    eta = math.sqrt(float(last.float().var() * held_out[last].mean().square() / held_out.var()))
    assert correlation(single.simulate(contexts)[test], held_out) == pytest.approx(eta, abs=1e-3)
    assert list(book(single, contexts)) == [(5,)]


def test_a_trigram_with_a_louder_token_inside_is_found():
    tokens, contexts, excerpts, g = corpus(8, 1500, vocabulary=12)
    values = 2.0 * (tokens == 7).float() + 5.0 * follows(tokens, 1, 2, 7).float() - 3.0 * follows(tokens, 4, 9).float()
    values += 0.3 * torch.randn(len(tokens), generator=g)
    found = book(fit(NGrams(), contexts, values, excerpts), contexts)
    assert set(found) == {(7,), (4, 9), (1, 2, 7)}
    assert found[(7,)] == pytest.approx(2, abs=0.05)
    assert found[(1, 2, 7)] == pytest.approx(7, abs=0.3)
    assert found[(4, 9)] == pytest.approx(-3, abs=0.1)


@pytest.mark.parametrize("heavy", [False, True])
def test_noise_has_no_patterns(heavy):
    tokens, contexts, excerpts, g = corpus(4)
    values = torch.randn(len(tokens), generator=g)
    found = fit(NGrams(), contexts, values**3 if heavy else values, excerpts)
    assert len(book(found, contexts)) <= 1


def test_scale_and_offset_pass_through():
    tokens, contexts, excerpts, g = corpus(5)
    values = (2 * (tokens == 7) + follows(tokens, 1, 7) + 0.1 * torch.randn(len(tokens), generator=g)).double()
    for kind in (LookUp(), NGrams()):
        plain, moved = (fit(kind, contexts, v, excerpts) for v in (values, 1e-4 * values - 3))
        assert [x.keys.tolist() for x in plain.levels] == [x.keys.tolist() for x in moved.levels]
        assert plain.bits == moved.bits
        expected = 1e-4 * plain.simulate(contexts) - 3
        torch.testing.assert_close(moved.simulate(contexts), expected, rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_n_grams_equal_a_dictionary_with_back_off(seed):
    tokens, contexts, _, g = corpus(seed, 12, 40, 6)
    values = 6 * follows(tokens, 1, 3, length=40).float() + 3 * (tokens == 2).float()
    values += torch.where(follows(tokens, 0, 2, 2, length=40), 5.0, 0.0) + torch.rand(len(tokens), generator=g)
    found = NGrams().prune(Trie.of(contexts), values)
    kept = book(found, contexts)
    deciding = {}
    for row in range(len(tokens)):
        pattern = next((e for e in endings(tokens, row, 40) if e in kept), ())
        deciding.setdefault(pattern, []).append(float(values[row]))
    rest = deciding.get((), values.tolist())
    expected = {(): sum(rest) / len(rest)}
    for pattern in sorted(kept, key=len):
        shorter = next(expected[pattern[cut:]] for cut in range(1, len(pattern) + 1) if pattern[cut:] in expected)
        rows = deciding.get(pattern, [])
        expected[pattern] = (sum(rows) + SHRINK * shorter) / (len(rows) + SHRINK)
    assert kept
    assert kept == pytest.approx({p: v for p, v in expected.items() if p}, abs=1e-5)
    assert found.rest == pytest.approx(expected[()], abs=1e-5)
    simulated = found.simulate(contexts).tolist()
    for row, value in enumerate(simulated):
        pattern = next((e for e in endings(tokens, row, 40) if e in kept), ())
        assert value == pytest.approx(expected[pattern], abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_size_of_the_look_up_is_the_best_of_all(seed):
    tokens, contexts, _, g = corpus(seed, 20, 64, 30)
    values = torch.randn(30, generator=g)[tokens] * 0.6 + torch.randn(len(tokens), generator=g)
    fitted = torch.arange(len(tokens)) < 640
    found = LookUp().fit(contexts, values, fitted, ~fitted)
    rest = values[fitted].mean()
    means = {
        t: float((values[fitted & (tokens == t)].sum() + SHRINK * rest) / ((fitted & (tokens == t)).sum() + SHRINK))
        for t in tokens[fitted].unique().tolist()
    }
    gain = {t: int((fitted & (tokens == t)).sum()) * (m - float(rest)) ** 2 for t, m in means.items()}
    order = sorted(means, key=lambda t: -gain[t])
    table = torch.full((30,), float(rest))
    scores = []
    for token in order:
        table[token] = means[token]
        scores.append(correlation(table[tokens[~fitted]], values[~fitted]))
    best = correlation(found.simulate(contexts)[~fitted], values[~fitted])
    assert best == pytest.approx(max(scores), abs=1e-5)
    assert {t for (t,) in book(found, contexts)} == set(order[: len(found.levels[0].keys)])


def test_many_units_at_once_equal_one_by_one():
    tokens, contexts, excerpts, g = corpus(6)
    values = torch.randn(40, 5, generator=g)[tokens] + torch.randn(len(tokens), 5, generator=g)
    rows = (excerpts.row_split("fit"), excerpts.row_split("select"))
    for unit, found in enumerate(LookUp().fit_many(contexts, values, *rows)):
        alone = LookUp().fit(contexts, values[:, unit], *rows)
        assert torch.equal(found.simulate(contexts), alone.simulate(contexts))


def test_order_of_documents_does_not_matter():
    tokens, contexts, excerpts, g = corpus(10, 100)
    values = (follows(tokens, 3, 5) + 0.1 * torch.randn(len(tokens), generator=g)).double()
    order = torch.randperm(100, generator=g)
    rows = (order[:, None] * 128 + torch.arange(128)).flatten()
    moved = Excerpts.of(torch.arange(len(rows)) // 128, rows % 128, [excerpts.document_ids[i] for i in order])
    again = Contexts.of(tokens[rows], torch.arange(len(rows)) // 128, rows % 128, 40)
    for kind in (LookUp(), NGrams()):
        a, b = fit(kind, contexts, values, excerpts), fit(kind, again, values[rows], moved)
        torch.testing.assert_close(a.simulate(contexts)[rows], b.simulate(again), rtol=0, atol=1e-6)


def test_shrinkage_and_bits_by_hand():
    contexts = Contexts.of(torch.tensor([1, 1, 1, 0]), torch.zeros(4).long(), torch.arange(4), 2)
    everything = torch.ones(4, dtype=torch.bool)
    found = LookUp().fit(contexts, torch.tensor([4.0, 4, 4, 0]), everything, everything)
    assert book(found, contexts)[(1,)] == pytest.approx((3 * 4 + SHRINK * 3) / (3 + SHRINK))
    # rest 8, one or two patterns of 8 + log2 2 each, log*(2) = 2.519, log*(3) = 3.768
    assert found.bits == pytest.approx({1: 8 + 9 + 2.519, 2: 8 + 18 + 3.768}[len(book(found, contexts))], abs=2e-3)


def test_text_is_one_plain_line():
    tokens, contexts, excerpts, _ = corpus(11, 100)
    values = (tokens == 3).float() - (tokens == 4).float()
    text = fit(LookUp(), contexts, values, excerpts).render(lambda t: {3: "a\n", 4: "\tb"}.get(t, str(t)))
    assert text.startswith("fires on: “a↵” 0.9")
    assert "; low on: “⇥b” -0.9" in text
    assert "otherwise" in text


def test_explainers_keep_their_protocols():
    tokens, contexts, excerpts, _ = corpus(12, 30)
    for kind in (LookUp(), NGrams()):
        assert isinstance(kind, Explainer)
        assert isinstance(fit(kind, contexts, (tokens == 3).float(), excerpts), Fitted)


def test_a_dead_unit_is_always_at_rest():
    tokens, contexts, excerpts, _ = corpus(13, 30)
    found = fit(NGrams(), contexts, torch.full((len(tokens),), 0.25), excerpts)
    assert found.render(str) == "always 0.25"
    assert torch.equal(found.simulate(contexts), torch.full((len(tokens),), 0.25))


@pytest.mark.parametrize("kind", [LookUp(), NGrams()])
def test_nan_is_refused(kind):
    tokens, contexts, excerpts, _ = corpus(7, 30)
    with pytest.raises(NonFiniteError, match="cannot explain 1 of 1 units"):
        fit(kind, contexts, torch.where(torch.arange(len(tokens)) % 50 == 0, math.nan, 1.0), excerpts)
