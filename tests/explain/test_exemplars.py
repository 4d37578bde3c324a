import pytest
import torch

from digon import rng
from digon.explain import exemplars as ex
from digon.explain.splits import NAMES

N, LENGTH = 300 * 128, 128


@pytest.fixture
def corpus():
    owners, positions = torch.arange(N) // LENGTH, torch.arange(N) % LENGTH
    tokens = torch.randint(40, (N,), generator=rng.stream(0, "tokens"))
    return tokens, positions, ex.Excerpts.of(owners, positions, [f"doc{i}" for i in range(300)])


def planted(tokens):
    """Fires on token 7, except in every fifth stretch of 64 tokens."""
    loud = (tokens == 7) & (torch.arange(N) // 64 % 5 != 0)
    return torch.where(loud, 5.0, 0.1) * (0.8 + 0.2 * torch.rand(N, generator=rng.stream(1, "v")))


def test_excerpts_never_cross_documents_or_gaps():
    documents = torch.tensor([0] * 70 + [1] * 10 + [1] * 5)
    positions = torch.tensor([*range(70), *range(10), *range(40, 45)])
    found = ex.Excerpts.of(documents, positions, ["a", "b"])
    assert found.starts.tolist() == [0, 64, 70, 80]
    assert found.lengths.tolist() == [64, 6, 10, 5]
    assert found.documents.tolist() == [0, 0, 1, 1]
    values = torch.rand(85, 2, generator=rng.stream(0, "v"))
    expected = [values[s : s + n].amax(0) for s, n in zip(found.starts, found.lengths, strict=True)]
    assert torch.equal(found.maxima(values), torch.stack(expected))
    assert found.rows(torch.tensor([3, 1])).tolist() == [80, 81, 82, 83, 84, 64, 65, 66, 67, 68, 69]


def test_every_stratum_shows_each_document_once(corpus):
    tokens, _, excerpts = corpus
    values = planted(tokens)
    found = ex.strata(excerpts, values, tokens, excerpts.maxima(values[:, None])[:, 0], rng.stream(0, "s"))
    assert {name: len(members) for name, members in found.items()} == {
        "top": 8, "quantile": 4, "random": 4, "near miss": 3
    }  # fmt: skip
    for members in found.values():
        assert len(excerpts.documents[members].unique()) == len(members)


def test_top_excerpts_are_taken_within_every_split(corpus):
    tokens, _, excerpts = corpus
    values = planted(tokens)
    maxima = excerpts.maxima(values[:, None])[:, 0]
    found = ex.strata(excerpts, values, tokens, maxima, rng.stream(0, "s"))["top"]
    assert maxima[found].tolist() == sorted(maxima[found].tolist(), reverse=True)
    for index, name in enumerate(NAMES):
        members = found[excerpts.splits[found] == index]
        assert len(members) == ex.TOP_PER_SPLIT
        assert maxima[members].max() == maxima[excerpts.in_split(name)].max()


def test_quantiles_are_those_of_the_maxima(corpus):
    _, _, excerpts = corpus
    maxima = torch.randperm(len(excerpts), generator=rng.stream(2, "m")).float()
    found = maxima[ex.quantiles(excerpts, maxima)]
    assert found.tolist() == pytest.approx([q * len(excerpts) for q in ex.QUANTILES], abs=5)


def test_near_misses_hold_the_token_and_stay_quiet(corpus):
    tokens, _, excerpts = corpus
    values = planted(tokens)
    maxima = excerpts.maxima(values[:, None])[:, 0]
    found = ex.near_misses(excerpts, values, tokens, maxima, 20)
    holds = torch.zeros(N, dtype=torch.bool).index_fill_(0, (tokens == 7).nonzero().squeeze(1), True)
    silent = [e for e in range(len(excerpts)) if e % 5 == 0 and holds[64 * e : 64 * e + 64].any()]
    assert len(found) == 20
    assert set(found.tolist()) <= set(silent)


def test_choices_do_not_depend_on_scale_or_offset(corpus):
    tokens, _, excerpts = corpus
    values = planted(tokens).double()
    a, b = (
        ex.strata(excerpts, v, tokens, excerpts.maxima(v[:, None])[:, 0], rng.stream(0, "s"))
        for v in (values, 3 * values - 40)
    )
    assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_a_constant_unit_has_no_near_misses(corpus):
    tokens, _, excerpts = corpus
    values = torch.zeros(N)
    assert len(ex.near_misses(excerpts, values, tokens, excerpts.maxima(values[:, None])[:, 0], 3)) == 0


def test_records_hold_the_rows_they_name(corpus):
    tokens, positions, excerpts = corpus
    values = planted(tokens)
    maxima = excerpts.maxima(values[:, None])[:, 0]
    cards = ex.exemplars(excerpts, (values, tokens, positions), maxima, str, {"x": -values}, rng.stream(0, "s"))
    for card in cards:
        start = int(card.document[3:]) * LENGTH + card.start
        assert card.tokens == tuple(map(str, tokens[start : start + 64].tolist()))
        assert card.activations == pytest.approx(values[start : start + 64].tolist(), abs=1e-4)
        assert card.simulated == {"x": tuple(-v for v in card.activations)}
    assert max(cards[0].activations) == pytest.approx(float(values.max()), abs=1e-4)
