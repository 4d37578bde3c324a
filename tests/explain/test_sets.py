import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import RunError
from digon.explain import draws, scorers, sets
from digon.explain.exemplars import Excerpts
from digon.explain.llm import explainers
from digon.records import Excerpt


def corpus(sizes, length=8, seed=0):
    """Documents of so many excerpts."""
    owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes) * length)
    positions = torch.cat([torch.arange(n * length) for n in sizes])
    return Excerpts.of(owners, positions, [f"doc{i}" for i in range(len(sizes))], seed, length)


def test_systematic_sampling_draws_every_member_equally_often_and_no_document_twice():
    documents = torch.arange(12).repeat_interleave(torch.tensor([1, 2, 3] * 4))
    uniform = torch.rand(6000, len(documents) + 1, generator=rng.stream(0, "u"))
    found = draws.systematic(documents, uniform, 8)
    assert draws.is_exact(documents, 8)
    assert not draws.is_exact(documents, 9)
    often = torch.bincount(found.flatten(), minlength=len(documents)) / 6000
    expected, error = 8 / 24, (8 / 24 * 16 / 24 / 6000) ** 0.5
    assert (often - expected).abs().max() < 4 * error
    assert all(len(documents[row].unique()) == 8 for row in found[:200])


def test_too_few_documents_give_what_there_is():
    documents = torch.tensor([5, 5, 5, 9])
    found = draws.systematic(documents, torch.rand(50, 5, generator=rng.stream(0, "u")), 3)
    assert (found[:, 2] == -1).all()
    assert all(set(documents[row[:2]].tolist()) == {5, 9} for row in found)
    assert draws.systematic(documents[:0], torch.rand(2, 1, generator=rng.stream(0, "u")), 3).tolist() == [[-1] * 3] * 2


def test_a_unit_is_scored_on_the_same_excerpts_whoever_comes_with_it():
    excerpts = corpus([2] * 300)
    maxima = torch.rand(len(excerpts), 5, generator=rng.stream(0, "m"))
    every, later = sets.scoring_sets(excerpts, maxima), sets.scoring_sets(excerpts, maxima[:, 2:], first=2)
    for part in ("top", "beside", "random"):
        assert torch.equal(getattr(every, part)[2:], getattr(later, part))
    test = excerpts.in_split("test").nonzero().squeeze(1)
    for unit in range(5):
        best = sets.ScoringSet(every.top, every.beside, every.random).of(unit)
        naive = test[maxima[test, unit].argsort(descending=True, stable=True)]
        kept, seen = [], set()
        for excerpt in naive.tolist():
            if int(excerpts.documents[excerpt]) not in seen:
                seen.add(int(excerpts.documents[excerpt]))
                kept.append(excerpt)
        assert best.top.tolist() == kept[: sets.TOP]
        assert not set(excerpts.documents[best.beside].tolist()) & set(excerpts.documents[best.top].tolist())


def test_weighted_sums_are_unbiased_for_the_whole_test_split():
    excerpts = corpus([1, 2, 3] * 300)
    values = torch.randn(len(excerpts), generator=rng.stream(0, "v")).exp()
    test = excerpts.in_split("test")
    found = []
    for seed in range(400):
        chosen = sets.scoring_sets(excerpts, values[:, None], seed)
        which, weight = sets.weights(excerpts, chosen)
        found.append(float((values[which[0]] * weight[0])[which[0] >= 0].sum()))
    found = torch.tensor(found)
    assert abs(float(found.mean()) - float(values[test].sum())) < 4 * float(found.std()) / 20
    # without weights, the same excerpts say something else
    assert float(values[which[0]].mean()) > 1.3 * float(values[test].mean())


def test_weights_are_missing_where_a_document_is_too_large():
    tried = (corpus([1] * 300 + [400], seed=seed) for seed in range(100))
    excerpts = next(found for found in tried if found.in_split("test")[-1])
    _, weight = sets.weights(
        excerpts, sets.scoring_sets(excerpts, torch.rand(len(excerpts), 1, generator=rng.stream(0, "m")))
    )
    assert weight[0, sets.TOP :].isnan().any()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    seed=st.integers(0, 10_000),
    shuffled=st.booleans(),
)
def test_no_document_is_both_explained_and_scored(sizes, seed, shuffled):
    excerpts = corpus(sizes, 4, seed)
    if shuffled:  # stretches of one document need not stand together
        order = torch.randperm(len(excerpts), generator=rng.stream(seed, "o"))
        excerpts = Excerpts(
            excerpts.starts[order], excerpts.lengths[order], excerpts.documents[order], excerpts.splits[order],
            excerpts.document_ids,
        )  # fmt: skip
    chosen = sets.scoring_sets(excerpts, torch.rand(len(excerpts), 2, generator=rng.stream(seed, "m")), seed)
    fitted = ~excerpts.in_split("test")
    for part in (chosen.top, chosen.beside, chosen.random):
        picked = part[part >= 0]
        assert not set(excerpts.documents[picked].tolist()) & set(excerpts.documents[fitted].tolist())
        sets.assert_unseen(excerpts, part)
    if fitted.any() and (chosen.random >= 0).any():
        planted = chosen.random.clone()
        planted[0, 0] = fitted.nonzero()[seed % int(fitted.sum()), 0]
        with pytest.raises(RunError, match="both explained and scored"):
            sets.assert_unseen(excerpts, planted)


@settings(max_examples=30, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=8, unique=True), data=st.data())
def test_language_models_are_not_asked_where_a_document_is_on_both_sides(names, data):
    cut = data.draw(st.integers(1, len(names) - 1))
    excerpt = lambda name: Excerpt(name, 0, ("a",), (1.0,), "top")  # noqa: E731
    shown, judged = [excerpt(n) for n in names[:cut]], [excerpt(n) for n in names[cut:]]
    leak = [*judged, data.draw(st.sampled_from(shown))]
    first = explainers.Judged("text", scorers.records.Measurement("rho", 0.5))

    class Silent:
        async def ask(self, call):
            raise AssertionError("a call was paid for")

    for attempt in (
        lambda: explainers.best_of(Silent(), None, shown, leak),  # type: ignore[arg-type]
        lambda: explainers.revise(Silent(), None, first, shown, leak, lambda texts: []),  # type: ignore[arg-type]
    ):
        with pytest.raises(RunError, match="both explained and scored"):
            asyncio.run(attempt())
    explainers._apart(shown, judged)
