import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import NonFiniteError, RunError
from digon.explain import exemplars as ex
from digon.explain import scorers, splits
from digon.explain.explainers import SHRINK, Contexts, LookUp, NGrams, correlation


def corpus(seed, documents=300, length=128, vocabulary=40):
    g = rng.stream(seed, "corpus")
    n = documents * length
    tokens = torch.randint(vocabulary, (n,), generator=g)
    owners, positions = torch.arange(n) // length, torch.arange(n) % length
    names = [f"doc{seed}-{i}" for i in range(documents)]
    excerpts = ex.Excerpts.of(owners, positions, names)
    return tokens, Contexts.of(tokens, owners, positions, vocabulary), excerpts, g


def fit(kind, contexts, values, excerpts):
    return kind.fit(contexts, values, excerpts.row_split("fit"), excerpts.row_split("select"))


def test_splits_are_stable_and_balanced():
    names = [f"{i:032x}" for i in range(4000)]
    counts = {s: sum(splits.split_of(n) == s for n in names) / 4000 for s in splits.NAMES}
    assert counts == pytest.approx({"fit": 0.5, "select": 0.2, "calibrate": 0.1, "test": 0.2}, abs=0.03)
    assert splits.split_of("a", 0) == splits.split_of("a", 0)


def test_a_shared_document_is_refused_by_name():
    with pytest.raises(RunError, match="1 documents are both explained and scored, such as b"):
        splits.assert_disjoint(["a", "b"], ["b", "c"])


def test_scoring_refuses_leaks():
    _, _, excerpts, g = corpus(0, 40)
    leaky = ex.Excerpts(
        excerpts.starts, excerpts.lengths, excerpts.documents, excerpts.splits.clone(), excerpts.document_ids
    )
    leaky.splits[0] = splits.NAMES.index("test" if leaky.splits[1] != 3 else "fit")
    with pytest.raises(RunError, match="doc0-0"):
        scorers.scoring_set(leaky, torch.rand(len(leaky)), g)


def test_excerpts_never_cross_documents_or_gaps():
    documents = torch.tensor([0] * 70 + [1] * 10 + [1] * 5)
    positions = torch.tensor([*range(70), *range(10), *range(40, 45)])
    found = ex.Excerpts.of(documents, positions, ["a", "b"])
    assert found.starts.tolist() == [0, 64, 70, 80]
    assert found.lengths.tolist() == [64, 6, 10, 5]
    values = torch.rand(85, 2, generator=rng.stream(0, "v"))
    expected = [values[s : s + n].amax(0) for s, n in zip(found.starts, found.lengths, strict=True)]
    assert torch.equal(found.maxima(values), torch.stack(expected))


def test_strata_hold_what_they_say():
    tokens, _, excerpts, g = corpus(1)
    values = torch.where(tokens == 7, 5.0, 0.1) * torch.rand(len(tokens), generator=g)
    maxima = excerpts.maxima(values[:, None])[:, 0]
    found = ex.strata(excerpts, values, tokens, maxima, g)
    assert maxima[found["top"]].min() >= maxima.sort(descending=True).values[:12].min()
    assert len(excerpts.documents[found["top"]].unique()) == 6
    assert len(excerpts.documents[found["random"]].unique()) == 4
    for e in found["near miss"].tolist():
        assert 7 in tokens[excerpts.rows(torch.tensor([e]))]
        assert maxima[e] < 0.1 * values.max()
    card = ex.record(
        excerpts, int(found["top"][0]), "top", (values, tokens, torch.arange(len(tokens)) % 128), str, {"x": values}
    )
    assert max(card.activations) == pytest.approx(float(maxima[found["top"][0]]), abs=1e-3)
    assert card.simulated == {"x": card.activations}


def test_look_up_reaches_eta_squared_on_unseen_documents():
    errors = []
    for documents in (30, 300, 1500):
        tokens, contexts, excerpts, g = corpus(2, documents)
        f = torch.randn(40, generator=rng.stream(9, "f"))
        values = f[tokens] + torch.randn(len(tokens), generator=g)
        eta = float(f[tokens].var() / values.var())
        found = fit(LookUp, contexts, values, excerpts)
        test = excerpts.row_split("test")
        errors.append(abs(correlation(found.simulate(contexts)[test], values[test]) ** 2 - eta))
    assert errors[-1] < 0.01
    assert errors[-1] < errors[0]


def test_a_bigram_unit_needs_two_tokens():
    tokens, contexts, excerpts, _ = corpus(3, 600)
    fires = torch.zeros(len(tokens), dtype=torch.bool)
    fires[1:] = (tokens[1:] == 5) & (tokens[:-1] == 3) & (torch.arange(1, len(tokens)) % 128 != 0)
    values = fires.float()
    test = excerpts.row_split("test")
    grams, single = (fit(kind, contexts, values, excerpts) for kind in (NGrams, LookUp))
    assert correlation(grams.simulate(contexts)[test], values[test]) > 0.99
    share = values[tokens == 5].mean()
    eta = math.sqrt(float((tokens == 5).float().mean() * share**2 / values.var()))
    assert correlation(single.simulate(contexts)[test], values[test]) == pytest.approx(eta, abs=0.05)
    assert "“35”" in grams.render(str)
    assert grams.bits < 200


def test_noise_is_not_explained():
    tokens, contexts, excerpts, g = corpus(4)
    values = torch.randn(len(tokens), generator=g)
    found = fit(NGrams, contexts, values, excerpts)
    chosen = scorers.scoring_set(excerpts, excerpts.maxima(values[:, None])[:, 0], g)
    others = [torch.randn(len(tokens), generator=g) for _ in range(3)]
    look = fit(LookUp, contexts, values, excerpts).simulate(contexts)
    score = scorers.score(values, look, excerpts, chosen, g, others)
    assert score.random_only.low < 0 < score.random_only.high
    assert abs(score.baseline.value) < 0.1
    constant = scorers.score(values, torch.zeros(len(tokens)), excerpts, chosen, g)
    assert math.isnan(constant.top_and_random.value)
    assert "undefined" in constant.flags[0]
    assert len(found.levels[2].keys) <= 3


def test_half_of_a_union_scores_one_over_root_two():
    g = rng.stream(5, "union")
    a, b = (torch.rand(200_000, generator=g) < 0.005 for _ in range(2))
    assert correlation((a | b).float(), a.float()) == pytest.approx(2**-0.5, abs=0.03)


def test_correlation_is_pooled_not_averaged():
    real, simulated = torch.tensor([0.0, 1, 10, 11]), torch.tensor([1.0, 0, 11, 10])
    excerpts = ex.Excerpts.of(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), ["a", "b"])
    found = scorers.pooled("rho", real, simulated, excerpts, torch.tensor([0, 1]), rng.stream(0, "p"), draws=0)
    assert found.value == pytest.approx(99 / 101)
    assert math.isnan(scorers.pooled("rho", real, simulated, excerpts, torch.tensor([0]), rng.stream(0, "p")).value)


def test_best_linear_map_explains_rho_squared():
    g = rng.stream(6, "map")
    m = torch.randn(500, generator=g).double()
    a = 0.6 * m + torch.randn(500, generator=g).double()
    rho = correlation(a, m)
    mapped = a.mean() + rho * a.std() / m.std() * (m - m.mean())
    assert float(1 - (a - mapped).var() / a.var()) == pytest.approx(rho**2, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_patterns_equal_a_dictionary_walk(seed):
    tokens, contexts, excerpts, _ = corpus(seed, 12, 40, 6)
    values = ((tokens == 2).float() + 2 * ((tokens == 3) & (tokens.roll(1) == 1)).float()) * 3
    found = NGrams.fit(contexts, values, excerpts.row_split("fit"), excerpts.row_split("select"))
    book = {
        tuple(contexts.tokens_of(key, order)): value
        for order, level in enumerate(found.levels, 1)
        for key, value in zip(level.keys.tolist(), level.values.tolist(), strict=True)
    }
    simulated = found.simulate(contexts)
    for row in range(len(tokens)):
        place, value = row % 40, found.rest
        for order in (1, 2, 3):
            ending = tuple(int(tokens[row - k]) if place >= k else -1 for k in range(order - 1, -1, -1))
            value = book.get(ending, value)
        assert float(simulated[row]) == pytest.approx(value)


def test_shrinkage_by_hand():
    contexts = Contexts.of(torch.tensor([1, 1, 1, 0]), torch.zeros(4).long(), torch.arange(4), 2)
    mask = torch.ones(4, dtype=torch.bool)
    found = LookUp.fit(contexts, torch.tensor([4.0, 4, 4, 0]), mask, mask)
    table = dict(zip(found.levels[0].keys.tolist(), found.levels[0].values.tolist(), strict=True))
    assert table[1] == pytest.approx((3 * 4 + SHRINK * 3) / (3 + SHRINK))


def test_nan_is_refused():
    tokens, contexts, excerpts, _ = corpus(7, 30)
    with pytest.raises(NonFiniteError, match="cannot explain a unit"):
        fit(LookUp, contexts, torch.full((len(tokens),), math.nan), excerpts)
