"""The value of what a row ends with, of every pattern that the fit rows hold, shrunk toward that of the shorter pattern.

    value(t₁ … tₙ) = (c·mean + κ·value(t₂ … tₙ)) / (c + κ)        c: fit rows that end so; κ = `SHRINK`

Order 1 is the full look-up, whose ceiling is η²; orders 2 and 3 back off from longer patterns to shorter ones. Nothing is
pruned: this is the far end of the rate–distortion curve, a table rather than an explanation.
Bits: that of `base`, for all patterns.

Source: back-off shrinkage after Jelinek & Mercer 1980; the look-up of tokens after Bills et al. 2023.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..exemplars import ORDERS, Contexts
from .base import SHRINK, finite_mean
from .patterns import Level, Patterns

LEAST = 2
"""Rows that a pattern of more than one token needs."""
NAMES = ("full look-up", "full 2-grams", "full 3-grams")


@dataclass(frozen=True)
class BackOff:
    """Fits tables of all patterns of up to `order` tokens."""

    order: int = 1
    shrink: float = SHRINK

    def __post_init__(self) -> None:
        assert 1 <= self.order <= ORDERS, f"patterns of {self.order} tokens; contexts know 1 to {ORDERS}"

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return NAMES[self.order - 1]

    def fit(
        self, contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """All patterns of the fit rows; `select` is not looked at."""
        return self.fit_many(contexts, values[:, None], fit, select)[0]

    def fit_many(
        self,
        contexts: Contexts,
        values: Float[Tensor, "n units"],
        fit: Bool[Tensor, " n"],
        select: Bool[Tensor, " n"],
    ) -> list[Patterns]:
        """The same for many units at once.

        Raises: NonFiniteError if a unit is not finite.
        """
        known = values[fit].double()
        rest = finite_mean(known)
        shorter = rest.expand_as(known)
        tables = []
        for order, column in enumerate(contexts.keys[: self.order], 1):
            keys, index, counts = column[fit].unique(return_inverse=True, return_counts=True)
            kept = counts >= (LEAST if order > 1 else 1)
            place, often = (kept.cumsum(0) - 1)[index], kept[index]
            first = torch.empty_like(keys[kept])
            first[place[often]] = often.nonzero().squeeze(1)
            total = known.new_zeros(len(first), known.shape[1]).index_add_(0, place[often], known[often])
            table = (total + self.shrink * shorter[first]) / (counts[kept].double()[:, None] + self.shrink)
            tables.append((keys[kept], table.float().T.contiguous()))
            if order < self.order:
                shorter = torch.where(often[:, None], table[place.clamp_min(0)], shorter)
        return [
            Patterns(self.name, float(level), tuple(Level(k, t[u]) for k, t in tables), contexts.vocabulary)
            for u, level in enumerate(rest)
        ]
