"""The look-up: the value of the token itself, whatever came before. Its ceiling is η².

Tokens are ranked by n·(mean − rest)²; the first k are kept: k is given, or has the best correlation on the select split, of
all numbers or of those whose description fits a budget. Values are means over the rows, shrunk toward the resting value:
(n·mean + κ·rest)/(n + κ). No token at all is the constant.
Bits: that of `base` for patterns of one token.

Source: look-up and its ceiling after Bills et al. 2023; shrinkage after Jelinek & Mercer 1980.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import ConfigError
from .base import SHRINK, VALUE_BITS, finite_mean, integer_bits, pattern_bits
from .patterns import Level, Patterns
from .rung import Rung
from .shared import Shared

CHANCE = 4.0
"""Standard errors (Student's t) by which the best correlation on the select rows must differ from none."""


class Constant(Rung[Patterns]):
    """Fits the mean, whatever the token: what an explanation that says nothing costs and reaches."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "constant"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Patterns]:
        """Means over the fit rows; the select rows are not looked at."""
        means = finite_mean(values[shared.fit].double()).tolist()
        return [Patterns(self.name, mean, (), shared.contexts.vocabulary) for mean in means]


@dataclass(frozen=True)
class LookUp(Rung[Patterns]):
    """Fits the look-up of single tokens."""

    k: int | None = None
    """So many tokens."""
    bits: float | None = None
    """At most so many bits; neither given: as many tokens as predict the select rows best."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        if self.k is None and self.bits is None:
            return "token look-up"
        return f"look-up of {f'{self.bits:g} bits' if self.k is None else self.k}"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Patterns]:
        """Shrunk mean of every token on the fit rows.

        Raises: ConfigError if not even the resting value fits the budget.
        """
        contexts, fit, select = shared.contexts, shared.fit, shared.select
        tokens = contexts.keys[0]
        known, truth = values[fit].double(), values[select].double()
        rest = finite_mean(known)
        seen, index, counts = tokens[fit].unique(return_inverse=True, return_counts=True)
        sums = known.new_zeros(len(seen), values.shape[1]).index_add_(0, index, known)
        means = (sums + SHRINK * rest) / (counts[:, None] + SHRINK)
        order = (counts[:, None] * (means - rest).square()).argsort(dim=0, descending=True, stable=True)
        most = len(seen) if self.bits is None else min(len(seen), affordable(self.bits, contexts.vocabulary))
        if self.k is None:
            sizes = _best_sizes(means - rest, order[:most], seen, tokens[select], truth)
        else:
            sizes = torch.full_like(order[0], min(self.k, most))
        found, order, means = [], order.T.contiguous(), means.T.contiguous()
        for unit, size in enumerate(sizes.tolist()):
            kept = order[unit, :size].sort().values
            level = Level(seen[kept], means[unit, kept].float())
            found.append(Patterns(self.name, float(rest[unit]), (level,), contexts.vocabulary))
        return found


def affordable(bits: float, vocabulary: int) -> int:
    """Most tokens whose look-up costs at most so many bits.

    >>> affordable(100.0, 256), affordable(30.0, 256)
    (5, 1)
    >>> affordable(1e9, 256)
    256

    Raises: ConfigError if not even the resting value fits.
    """
    if bits < VALUE_BITS + integer_bits(1):
        raise ConfigError(
            f"{bits:g} bits do not hold a resting value", expected=f"at least {VALUE_BITS + integer_bits(1):.4g} bits"
        )
    size = 0
    while size < vocabulary and VALUE_BITS + integer_bits(size + 2) + (size + 1) * pattern_bits(1, vocabulary) <= bits:
        size += 1
    return size


def _best_sizes(
    rise: Float[Tensor, "seen units"],
    order: Int[Tensor, "ranked units"],
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
    if len(order) == 0:
        return torch.zeros_like(order[:0].sum(0))
    rise, s, n = rise.gather(0, order), s.gather(0, order), n[order]
    covariance = (rise * s).cumsum(0)
    variance = (rise.square() * n).cumsum(0) - (rise * n).cumsum(0).square() / max(len(tokens), 1)
    # the variance of the truth is the same for every size and left out
    score = torch.where(variance > 1e-12 * variance.amax(0), covariance / variance.clamp_min(1e-300).sqrt(), -math.inf)
    score = torch.where(score.isfinite(), score, -math.inf)
    best = score.amax(0)
    first = (score >= best).to(torch.uint8).argmax(0) + 1
    # t² = r²(m − 2)/(1 − r²), solved for r
    chance = CHANCE * centered_norm(truth) / math.sqrt(max(len(tokens) - 2 + CHANCE**2, 1))
    return torch.where(best.isfinite(), torch.where(best > chance, first, 0), len(order))


def centered_norm(values: Float[Tensor, "m units"]) -> Float[Tensor, " units"]:
    """Length of every column about its mean."""
    return (values - values.mean(0)).square().sum(0).sqrt()
