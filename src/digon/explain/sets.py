"""On which excerpts is a unit scored? Only on documents of the test split, each excerpt from a document of its own.

    top       the excerpts with the largest activations
    beside    random ones that are scored together with the top ones: none shares a document with them
    random    random ones that are scored alone, whatever the unit does on them

Top and random ones together estimate what a simulation of the whole test split would score: a top excerpt stands for itself,
the random ones for all the others, each token equally often, as all were drawn with the same probability (poststratified).

Source: Bills et al. 2023 (top and random); weights after Horvitz & Thompson 1952, made to add up after Holt & Smith 1979.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import rng
from .draws import compact, first_of_documents, is_exact, systematic
from .exemplars import Excerpts
from .splits import assert_disjoint

TOP, RANDOM, MANY = 5, 5, 40


@dataclass(frozen=True)
class ScoringSet:
    """The excerpts on which a unit is scored, by number; with a leading axis, those of many units, −1 for none."""

    top: Int[Tensor, "*units a"]
    beside: Int[Tensor, "*units b"]
    random: Int[Tensor, "*units c"]

    def many(self) -> "ScoringSet":
        """The set of one unit as that of many."""
        return ScoringSet(*(part if part.ndim == 2 else part[None] for part in (self.top, self.beside, self.random)))

    def of(self, unit: int) -> "ScoringSet":
        """The set of one unit of many."""
        return ScoringSet(*(part[unit][part[unit] >= 0] for part in (self.top, self.beside, self.random)))


def assert_unseen(excerpts: Excerpts, chosen: Int[Tensor, "*m"]) -> None:
    """Raises: RunError that names the documents of these excerpts that explanations have seen."""
    numbers = excerpts.documents[chosen[chosen >= 0]].unique()
    assert_disjoint(excerpts.seen, [excerpts.document_ids[int(d)] for d in numbers.tolist()])


def scoring_set(excerpts: Excerpts, maxima: Float[Tensor, " excerpts"], generator: torch.Generator) -> ScoringSet:
    """Choose the excerpts of one unit. Raises: RunError if any document is both in the test split and in another."""
    count = int(excerpts.in_split("test").sum()) + 1
    return _chosen(excerpts, maxima[:, None], torch.rand(1, count, generator=generator, dtype=torch.float64)).of(0)


def scoring_sets(
    excerpts: Excerpts, maxima: Float[Tensor, "excerpts units"], seed: int = 0, first: int = 0
) -> ScoringSet:
    """Choose those of units `first`, `first` + 1, …; what a unit gets does not depend on which ones come together.

    Raises: RunError if any document is both in the test split and in another.
    """
    count = int(excerpts.in_split("test").sum()) + 1
    draw = lambda u: torch.rand(count, generator=rng.stream(seed, "scoring", first + u), dtype=torch.float64)  # noqa: E731
    keys = [draw(u) for u in range(maxima.shape[1])]
    return _chosen(excerpts, maxima, torch.stack(keys) if keys else maxima.new_zeros(0, count).double())


def weights(excerpts: Excerpts, chosen: ScoringSet) -> tuple[Int[Tensor, "units m"], Float[Tensor, "units m"]]:
    """Top and random excerpts of many units, each once, and how often each one's tokens count to make up the test split.

    A top excerpt stands for itself, the random ones together for the tokens of all others. Weights are NaN where documents
    are too large for excerpts to be drawn equally often; 0 with −1 for none.
    """
    own = chosen.many()
    test = excerpts.in_split("test")
    twice = (own.random[:, :, None] == own.top[:, None, :]).any(2)
    rest = compact(own.random, ~twice)
    top_tokens, rest_tokens = (_tokens(excerpts, part) for part in (own.top, rest))
    rate = (int(excerpts.lengths[test].sum()) - top_tokens) / rest_tokens.clamp_min(1)
    if not is_exact(excerpts.documents[test], MANY + TOP):
        rate = torch.full_like(rate, torch.nan)
    both = torch.cat([own.top, rest], 1)
    weight = torch.cat([torch.ones_like(own.top, dtype=torch.float64), rate.expand(rest.shape)], 1)
    return both, torch.where(both >= 0, weight, 0.0)


def _tokens(excerpts: Excerpts, chosen: Int[Tensor, "units m"]) -> Float[Tensor, "units 1"]:
    there = (chosen >= 0).double()
    return (excerpts.lengths[chosen.clamp_min(0)] * there).sum(1, keepdim=True)


def grid(
    excerpts: Excerpts, chosen: Int[Tensor, "units m"]
) -> tuple[Int[Tensor, "units m t"], Bool[Tensor, "units m t"]]:
    """Rows of excerpts, and which of them are there: excerpts may be shorter than the longest one, or none (−1)."""
    if not len(excerpts):
        return chosen.new_zeros(*chosen.shape, 0), chosen.new_zeros(*chosen.shape, 0).bool()
    step = torch.arange(int(excerpts.lengths.max()), device=chosen.device)
    place = chosen.clamp_min(0)
    there = (step < excerpts.lengths[place][..., None]) & (chosen >= 0)[..., None]
    return torch.where(there, excerpts.starts[place][..., None] + step, 0), there


def _chosen(
    excerpts: Excerpts, maxima: Float[Tensor, "excerpts units"], uniform: Float[Tensor, "units x1"]
) -> ScoringSet:
    test = excerpts.in_split("test").nonzero().squeeze(1)
    assert_unseen(excerpts, test)
    owners = excerpts.documents[test]
    order = maxima[test].T.argsort(dim=1, descending=True, stable=True)
    number = torch.cat([test, test.new_tensor([-1])])  # place −1, none, is number −1
    best = number[first_of_documents(owners, order, TOP)]
    random = number[systematic(owners, uniform.to(maxima.device), MANY + TOP)]
    document = torch.cat([excerpts.documents, excerpts.documents.new_tensor([-1])])
    shared = (document[random][:, :, None] == document[best][:, None, :]).any(2)
    return ScoringSet(
        compact(best, best >= 0), compact(random, ~shared)[:, :RANDOM], compact(random[:, :MANY], random[:, :MANY] >= 0)
    )
