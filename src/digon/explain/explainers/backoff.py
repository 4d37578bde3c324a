"""The value of what a row ends with, of every pattern that the fit rows hold, shrunk toward that of the shorter pattern.

    value(t₁ … tₙ) = (c·mean + κ·value(t₂ … tₙ)) / (c + κ)        c: fit rows that end so; κ = `SHRINK`

Order 1 is the full look-up, whose ceiling is η²; orders 2 and 3 back off from longer patterns to shorter ones. Nothing is
pruned: this is the far end of the rate–distortion curve, a table rather than an explanation.
Bits: that of `base`, for all patterns.

Source: back-off shrinkage after Jelinek & Mercer 1980; the look-up of tokens after Bills et al. 2023.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..exemplars import ORDERS
from .base import SHRINK, finite_mean
from .patterns import Level, Patterns
from .rung import Rung
from .shared import Shared

LEAST = 2
"""Rows that a pattern of more than one token needs."""
NAMES = ("full look-up", "full 2-grams", "full 3-grams")


@dataclass(frozen=True)
class BackOff(Rung[Patterns]):
    """Fits tables of all patterns of up to `order` tokens."""

    order: int = 1
    shrink: float = SHRINK

    def __post_init__(self) -> None:
        assert 1 <= self.order <= ORDERS, f"patterns of {self.order} tokens; contexts know 1 to {ORDERS}"

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return NAMES[self.order - 1]

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Patterns]:
        """All patterns of the fit rows; the select rows are not looked at."""
        contexts, fit = shared.contexts, shared.fit
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
