"""Classes of explanations that directions may be fitted to, with or without a budget in bits.

look-up     values of single tokens; their number by the select split
n-grams     values of patterns of up to three tokens, pruned by description length on the fit split alone: here the select
            split judges directions, so an explanation must not have seen it

A budget keeps the n-grams that explain most, n·(value − rest)² per bit, until the next would exceed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import ConfigError
from ..exemplars import Contexts
from ..explainers import Level, LookUp, NGrams, Patterns, Trie
from ..explainers.base import VALUE_BITS, integer_bits, pattern_bits


@dataclass(frozen=True)
class Words:
    """Look-ups of single tokens."""

    bits: float | None = None
    """Most bits of one explanation; None: as many as the select split wants."""

    @property
    def name(self) -> str:
        """Name of what it fits."""
        return _name(LookUp().name, self.bits)

    def check(self, vocabulary: int) -> None:
        """Raises: ConfigError if the budget holds not even one token."""
        check_budget(self.bits, vocabulary)

    def fit_many(
        self, contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Patterns]:
        """One look-up per column; of no token where none helps. Raises: ConfigError if the budget holds not even one token."""
        if self.bits is None:
            return list(LookUp().fit_many(contexts, values, fit, select))
        self.check(contexts.vocabulary)
        seen = len(contexts.keys[0].unique())  # beyond all of them a budget buys nothing
        whole = VALUE_BITS + integer_bits(seen + 1) + seen * pattern_bits(1, contexts.vocabulary)
        found = LookUp(bits=min(self.bits, whole)).fit_many(contexts, values, fit, select)
        return [replace(p, name=self.name) for p in found]


@dataclass(frozen=True)
class Phrases:
    """Patterns of up to three tokens."""

    bits: float | None = None
    _tries: dict[int, tuple[Contexts, Trie]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of what it fits."""
        return _name(NGrams().name, self.bits)

    def check(self, vocabulary: int) -> None:
        """Raises: ConfigError if the budget holds not even one token."""
        check_budget(self.bits, vocabulary)

    def fit_many(
        self, contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Patterns]:
        """One explanation per column. Raises: ConfigError if the budget holds not even one token."""
        self.check(contexts.vocabulary)
        if id(contexts) not in self._tries:  # the contexts are kept, so no other object takes their id
            self._tries[id(contexts)] = (contexts, Trie.of(contexts.take(fit)))
        trie = self._tries[id(contexts)][1]
        found = [NGrams().prune(trie, column) for column in values[fit].T]
        if self.bits is None:
            return found
        return [replace(p, name=self.name) for p in shorten(found, contexts.take(fit), self.bits)]


def _name(name: str, bits: float | None) -> str:
    return name if bits is None else f"{name} of {bits:g} bits"


def check_budget(bits: float | None, vocabulary: int) -> None:
    """Raises: ConfigError if a budget does not hold a single token with its value."""
    if bits is None:
        return
    least = VALUE_BITS + integer_bits(2) + pattern_bits(1, vocabulary)
    if bits < least:
        raise ConfigError(
            f"{bits:g} bits do not hold a single token with its value",
            expected=f"at least {least:.1f} bits with {vocabulary:,} tokens",
        )


def shorten(found: Sequence[Patterns], contexts: Contexts, budget: float) -> list[Patterns]:
    """Explanations of at most `budget` bits each, from the patterns that explain most on these rows."""
    counts = [_Counts.of(keys) for keys in contexts.keys]
    return [p if p.bits <= budget else _shortened(p, counts, budget) for p in found]


@dataclass(frozen=True)
class _Counts:
    """How often every key occurs."""

    keys: Tensor
    counts: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> "_Counts":
        return cls(*keys.unique(return_counts=True))

    def at(self, keys: Tensor) -> Tensor:
        """Occurrences of sorted keys, 0 for unknown ones."""
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.counts[place], 0).double()


def _shortened(patterns: Patterns, counts: Sequence[_Counts], budget: float) -> Patterns:
    prices = [pattern_bits(order, patterns.vocabulary) for order in range(1, len(patterns.levels) + 1)]
    worth = [
        count.at(level.keys) * (level.values.double() - patterns.rest).square() / price
        for level, count, price in zip(patterns.levels, counts, prices, strict=False)
    ]
    order = torch.cat(worth).argsort(descending=True, stable=True)
    owner = torch.cat([torch.full((len(w),), i) for i, w in enumerate(worth)])
    kept, numbers = torch.zeros(len(order), dtype=torch.bool), [0] * len(worth)
    for place in order.tolist():
        level = int(owner[place])
        numbers[level] += 1
        bits = VALUE_BITS + sum(integer_bits(n + 1) + n * price for n, price in zip(numbers, prices, strict=True))
        if bits > budget:
            numbers[level] -= 1
            break
        kept[place] = True
    masks = kept.split([len(w) for w in worth])
    levels = tuple(Level(v.keys[m], v.values[m]) for v, m in zip(patterns.levels, masks, strict=True))
    return replace(patterns, levels=levels)
