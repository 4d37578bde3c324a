"""The value of the longest known pattern of up to three tokens that ends here, backing off to shorter ones.

A pattern is kept if it pays for itself, that is if the bits it saves in coding the activations, n·Δ²/(2σ² ln 2), exceed the
bits that it costs, and do so even without its most extreme row: one large activation is no pattern. Δ is taken first from
the median of the siblings, so that a rule is found rather than all its exceptions. What is kept changes Δ and σ² of the
others, so this is repeated; the round with the fewest bits in all wins. σ² is never finer than the precision of a coded
value.

Sources: back-off shrinkage after Jelinek & Mercer 1980; n-gram graphs after Foote et al. 2023 (N2G).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..exemplars import ORDERS
from .base import SHRINK, VALUE_BITS, finite_mean, integer_bits, pattern_bits
from .patterns import Level, Patterns
from .rung import Rung
from .shared import Shared
from .trie import Trie

ROUNDS = 8
"""Rounds of pruning; a handful suffices on networks and worlds alike."""


@dataclass(frozen=True)
class NGrams(Rung[Patterns]):
    """Fits patterns of up to `order` tokens."""

    order: int = ORDERS

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "n-grams" if self.order == ORDERS else f"{self.order}-grams"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Patterns]:
        """Patterns on the fit rows, each kept if it pays for its bits; the select rows are not looked at."""
        trie, known = shared.trie.up_to(self.order), values[shared.fit].T.contiguous()
        return [self.prune(trie, column) for column in known]

    def prune(self, trie: Trie, values: Float[Tensor, " n"]) -> Patterns:
        """The same for one unit on the rows of a trie."""
        truth = values.double()
        mean = float(finite_mean(truth[:, None]))
        shift = truth - mean
        sums, extremes, power = trie.sums(shift), trie.extremes(shift), float(shift @ shift)
        step = float(shift.max() - shift.min()) / 2**VALUE_BITS
        kept, predicted = trie.nothing(), trie.medians(sums)
        best, fewest = kept, math.inf
        for _ in range(ROUNDS):
            fitted = trie.values(sums, kept, 0.0)
            parts = zip(fitted, trie.counts, sums, strict=True)
            error = power + sum(float((v * (v * n - 2 * s)).sum()) for v, n, s in parts)
            noise = max(error, 0.0) / len(shift) + step**2 / 12
            if noise == 0:
                break
            bits = _kept_bits(kept, trie.vocabulary) + 0.5 * len(shift) * math.log2(noise)
            if bits < fewest:
                best, fewest = kept, bits
            chosen = _paying(trie, sums, extremes, fitted if any(k.any() for k in kept) else predicted, noise)
            if all(torch.equal(a, b) for a, b in zip(chosen, kept, strict=True)):
                break
            kept = chosen
        shrunk = trie.values(sums, best, SHRINK)
        tables = zip(trie.keys[1:], best[1:], shrunk[1:], strict=True)
        levels = tuple(Level(keys[b], (value[b] + mean).float()) for keys, b, value in tables)
        return Patterns(self.name, float(shrunk[0]) + mean, levels, trie.vocabulary)


def _paying(
    trie: Trie,
    sums: Sequence[Tensor],
    extremes: Sequence[Sequence[Tensor]],
    predicted: list[Tensor],
    noise: float,
) -> list[Tensor]:
    """Patterns that save more than they cost, longest first, against what is predicted without them."""
    kept, counts, totals = trie.nothing(), list(trie.counts), list(sums)
    lows, highs = (list(side) for side in extremes)
    for order in range(len(trie.keys) - 1, 0, -1):
        up, n, s = trie.parents[order], counts[order], totals[order]
        without = predicted[order - 1][up]
        rest = (n - 1) * without
        excess = torch.where(s > n * without, s - highs[order] - rest, rest - s + lows[order])
        saved = excess.clamp_min(0).square() / (n - 1).clamp_min(1) / (2 * noise * math.log(2))
        kept[order] = (n > 1) & (saved > pattern_bits(order, trie.vocabulary))
        passed = (~kept[order]).nonzero().squeeze(1)
        up, below = up[passed], order - 1
        counts[below] = counts[below].index_add(0, up, n[passed])
        totals[below] = totals[below].index_add(0, up, s[passed])
        lows[below] = lows[below].scatter_reduce(0, up, lows[order][passed], "amin")
        highs[below] = highs[below].scatter_reduce(0, up, highs[order][passed], "amax")
    return kept


def _kept_bits(kept: list[Tensor], vocabulary: int) -> float:
    numbers = [(order, int(k.sum())) for order, k in enumerate(kept)][1:]
    return sum(integer_bits(count + 1) + count * pattern_bits(order, vocabulary) for order, count in numbers)
