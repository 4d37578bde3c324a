"""The look-up: the value of the token itself, whatever came before. Its ceiling is η².

Tokens are ranked by n·(mean − rest)²; the first k are kept, k with the best correlation on the select split. Values are
means over the rows, shrunk toward the resting value: (n·mean + κ·rest)/(n + κ).

Source: look-up and its ceiling after Bills et al. 2023; shrinkage after Jelinek & Mercer 1980.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..exemplars import Contexts
from .base import SHRINK, finite_mean
from .patterns import Level, Patterns


class LookUp:
    """Fits the look-up of single tokens."""

    name = "token look-up"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Shrunk mean of every token on the fit rows; as many tokens as predict the select rows best."""
        return LookUp.fit_many(contexts, values[:, None], fit, select)[0]

    @staticmethod
    def fit_many(
        contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Patterns]:
        """The same for many units at once."""
        tokens = contexts.keys[0]
        known, truth = values[fit].double(), values[select].double()
        rest = finite_mean(known)
        seen, index, counts = tokens[fit].unique(return_inverse=True, return_counts=True)
        sums = known.new_zeros(len(seen), values.shape[1]).index_add_(0, index, known)
        means = (sums + SHRINK * rest) / (counts[:, None] + SHRINK)
        order = (counts[:, None] * (means - rest).square()).argsort(dim=0, descending=True, stable=True)
        sizes = _best_sizes(means - rest, order, seen, tokens[select], truth)
        found = []
        for unit, size in enumerate(sizes.tolist()):
            kept = order[:size, unit].sort().values
            level = Level(seen[kept], means[kept, unit].float())
            found.append(Patterns(LookUp.name, float(rest[unit]), (level,), contexts.vocabulary))
        return found


def _best_sizes(
    rise: Float[Tensor, "seen units"],
    order: Int[Tensor, "seen units"],
    seen: Int[Tensor, " seen"],
    tokens: Int[Tensor, " m"],
    truth: Float[Tensor, "m units"],
) -> Int[Tensor, " units"]:
    """How many tokens of `order` correlate best with the truth on held-out rows; every number is tried."""
    place = torch.searchsorted(seen, tokens).clamp_max(len(seen) - 1)
    hit = seen[place] == tokens
    centered = (truth - truth.mean(0))[hit]
    n = torch.bincount(place[hit], minlength=len(seen)).double()
    s = torch.zeros_like(rise).index_add_(0, place[hit], centered)
    rise, s, n = rise.gather(0, order), s.gather(0, order), n[order]
    covariance = (rise * s).cumsum(0)
    variance = (rise.square() * n).cumsum(0) - (rise * n).cumsum(0).square() / max(len(tokens), 1)
    # the variance of the truth is the same for every size and left out
    score = torch.where(variance > 1e-12 * variance.amax(0), covariance / variance.clamp_min(1e-300).sqrt(), -math.inf)
    score = torch.where(score.isfinite(), score, -math.inf)
    first = (score >= score.amax(0)).to(torch.uint8).argmax(0) + 1
    return torch.where(score.amax(0).isfinite(), first, len(seen))
