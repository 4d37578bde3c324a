"""All patterns of up to three tokens that occur more than once: built once for a site, shared by its units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..exemplars import Contexts


@dataclass(frozen=True)
class Trie:
    """Every pattern that occurs more than once, by length, the empty one first; all units of a site share it."""

    keys: tuple[Int[Tensor, " _"], ...]
    parents: tuple[Int[Tensor, " _"], ...]
    """The shorter pattern inside each pattern."""
    found: Int[Tensor, " n"]
    """The longest pattern of every row, numbered over all lengths."""
    counts: tuple[Float[Tensor, " _"], ...]
    """Rows of which each pattern is the longest."""
    vocabulary: int

    @classmethod
    def of(cls, contexts: Contexts) -> "Trie":
        """Tables of all patterns in these rows."""
        found = shorter = torch.zeros_like(contexts.keys[0])
        keys, parents, start = [found.new_zeros(1)], [found.new_zeros(1)], 1
        for column in contexts.keys:
            patterns, index, count = column.unique(return_inverse=True, return_counts=True)
            number, rows = (count > 1).cumsum(0) - 1, count[index] > 1
            keys.append(patterns[count > 1])
            place = number[index]
            parents.append(torch.empty_like(keys[-1]).scatter_(0, place[rows], shorter[rows]))
            found = torch.where(rows, place + start, found)
            shorter, start = place, start + len(keys[-1])
        sizes = [len(k) for k in keys]
        counts = torch.bincount(found, minlength=start).double().split(sizes)
        return cls(tuple(keys), tuple(parents), found, tuple(counts), contexts.vocabulary)

    def up_to(self, order: int) -> "Trie":
        """The same rows with patterns of at most so many tokens."""
        if order >= len(self.keys) - 1:
            return self
        counts, found = list(self.counts), self.found
        for longer in range(len(self.keys) - 1, order, -1):
            start = sum(len(k) for k in self.keys[:longer])
            above = start - len(self.keys[longer - 1])
            found = torch.where(found >= start, self.parents[longer][(found - start).clamp_min(0)] + above, found)
            counts[longer - 1] = counts[longer - 1].index_add(0, self.parents[longer], counts[longer])
        end = order + 1
        return Trie(self.keys[:end], self.parents[:end], found, tuple(counts[:end]), self.vocabulary)

    def sums(self, values: Float[Tensor, " n"]) -> tuple[Float[Tensor, " _"], ...]:
        """Sum of the activations over the rows of which each pattern is the longest."""
        sizes = [len(k) for k in self.keys]
        return torch.bincount(self.found, weights=values, minlength=sum(sizes)).split(sizes)

    def extremes(self, values: Float[Tensor, " n"]) -> list[tuple[Float[Tensor, " _"], ...]]:
        """Smallest and largest activation on these rows."""
        sizes = [len(k) for k in self.keys]
        blank = values.new_zeros(sum(sizes))
        return [
            (blank + worst).scatter_reduce(0, self.found, values, how).split(sizes)
            for worst, how in ((math.inf, "amin"), (-math.inf, "amax"))
        ]

    def decided(self, sums: Sequence[Tensor], kept: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Number and sum of the rows that every pattern decides, or would if it were kept."""
        n, s = list(self.counts), list(sums)
        for order in range(len(self.keys) - 1, 0, -1):
            up, passed = self.parents[order], ~kept[order]
            n[order - 1] = n[order - 1].index_add(0, up, n[order] * passed)
            s[order - 1] = s[order - 1].index_add(0, up, s[order] * passed)
        return n, s

    def values(self, sums: Sequence[Tensor], kept: list[Tensor], shrink: float) -> list[Tensor]:
        """What is predicted at every pattern: its own value if it is kept, else that of the longest kept one inside."""
        n, s = self.decided(sums, kept)
        # where longer patterns decide all rows nothing is left to average; 0 is the mean of the centered activations
        out = [s[0] / n[0].clamp_min(1)]
        for order in range(1, len(self.keys)):
            shorter = out[-1][self.parents[order]]
            weight = n[order] + shrink
            own = torch.where(weight > 0, (s[order] + shrink * shorter) / weight.clamp_min(1e-9), shorter)
            out.append(torch.where(kept[order], own, shorter))
        return out

    def medians(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Median, over the rows of every pattern, of the mean of the next longer one; the mean where there is none."""
        counts, totals = self.decided(sums, self.nothing())
        out = [s / n for s, n in zip(totals, counts, strict=True)]
        for order in range(len(self.keys) - 1, 0, -1):
            up, n, means = self.parents[order], counts[order], totals[order] / counts[order]
            by_mean = means.argsort(stable=True)
            sort = by_mean[up[by_mean].argsort(stable=True)]
            owner = up[sort]
            total = torch.zeros_like(out[order - 1]).index_add_(0, up, n)
            half = (total.cumsum(0) - total / 2)[owner]
            place = torch.arange(len(sort), device=sort.device).where(n[sort].cumsum(0) >= half, len(sort))
            first = torch.full_like(self.keys[order - 1], len(sort)).scatter_reduce(0, owner, place, "amin")
            has = total > 0
            out[order - 1][has] = means[sort[first[has]]]
        return out

    def nothing(self) -> list[Bool[Tensor, " _"]]:
        """No pattern kept."""
        return [torch.zeros_like(k, dtype=torch.bool) for k in self.keys]
