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

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..exemplars import ORDERS, Contexts
from .base import SHRINK, VALUE_BITS, finite_mean, integer_bits, pattern_bits
from .patterns import Level, Patterns
from .shared import Shared
from .trie import Trie

ROUNDS = 8
"""Rounds of pruning; a handful suffices on networks and worlds alike."""


class NGrams:
    """Fits patterns of up to three tokens."""

    name = "n-grams"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Patterns on the fit rows, each kept if it pays for its bits; `select` is not looked at."""
        return NGrams.fit_many(contexts, values[:, None], fit, select)[0]

    @staticmethod
    def fit_many(
        contexts: Contexts,
        values: Float[Tensor, "n units"],
        fit: Bool[Tensor, " n"],
        select: Bool[Tensor, " n"],
        order: int = ORDERS,
    ) -> list[Patterns]:
        """The same for many units at once; patterns of up to `order` tokens."""
        return NGrams.fit_shared(Shared(contexts, fit, select), values, order)

    @staticmethod
    def fit_shared(shared: Shared, values: Float[Tensor, "n units"], order: int = ORDERS) -> list[Patterns]:
        """The same with the tables at hand."""
        trie, known = shared.trie.up_to(order), values[shared.fit].T.contiguous()
        return [NGrams.prune(trie, column) for column in known]

    @staticmethod
    def prune(trie: Trie, values: Float[Tensor, " n"]) -> Patterns:
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
        name = NGrams.name if len(levels) == ORDERS else f"{len(levels)}-grams"
        return Patterns(name, float(shrunk[0]) + mean, levels, trie.vocabulary)


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
