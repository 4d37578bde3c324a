"""Patterns of tokens with gaps, read from a row's own token backward and compiled into one automaton.

    a ← any ← b        fires where the token is a and the one two before it is b

Every path from the root is a pattern: a literal token, any token, or the start of the run at each step; its end holds a value.
A row takes the value of its most specific path: most literals, then longest, then those nearest to the row. Matching tries
literal and any, so no path is missed; `greedy` matching, as published, prefers the literal, never turns back, and stops at the
first end.
Bits: 8 for rest and for every value; log2(vocabulary) for the first literal of a path and log* of the gap plus
log2(vocabulary + 1) for each further one (it may be the start); log* of the number of literals and of paths.

Source: n-gram graphs after Foote et al. 2023 (N2G) and their simpler form after Gao et al. 2024.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ... import records
from ..exemplars import Contexts
from .base import VALUE_BITS, integer_bits
from .patterns import SHOWN, spell

ANY, START = -2, -1
"""Steps of a path that are no tokens."""

Path = tuple[int, ...]
"""From the row's own token backward; it ends in a literal or the start."""


class _Tables(NamedTuple):
    table: NDArray[np.int32]
    """[lags, vocabulary + 1]: state after "any" so many times and then a token, from the start (−1) on; −1 for none."""
    first: NDArray[np.int64]
    """Where the literal edges of every state begin; one more than states."""
    labels: NDArray[np.int64]
    targets: NDArray[np.int64]
    anys: NDArray[np.int64]
    """State behind "any"; −1 for none."""
    ends: NDArray[np.int64]
    """Number of the path that ends here; −1 for none."""


@dataclass(frozen=True)
class Automaton:
    """Paths with their values."""

    name: str
    rest: float
    """Value where no path matches."""
    paths: tuple[Path, ...]
    values: tuple[float, ...]
    vocabulary: int
    greedy: bool = False

    @cached_property
    def _edges(self) -> list[dict[int, int]]:
        """For every state, what leads where."""
        edges: list[dict[int, int]] = [{}]
        for path in self.paths:
            node = 0
            for step in path:
                if step not in edges[node]:
                    edges[node][step] = len(edges)
                    edges.append({})
                node = edges[node][step]
        return edges

    @cached_property
    def _ends(self) -> dict[int, int]:
        """Path by the state in which it ends."""
        found = {}
        for number, path in enumerate(self.paths):
            node = 0
            for step in path:
                node = self._edges[node][step]
            found[node] = number
        return found

    def _tables(self) -> _Tables:
        literal = [sorted((k, v) for k, v in edges.items() if k != ANY) for edges in self._edges]
        flat = np.array([pair for pairs in literal for pair in pairs], dtype=np.int64).reshape(-1, 2)
        first = np.concatenate([[0], np.cumsum([len(pairs) for pairs in literal])])
        anys = np.array([edges.get(ANY, -1) for edges in self._edges])
        ends = np.array([self._ends.get(node, -1) for node in range(len(self._edges))])
        alone, node = [0], self._edges[0].get(ANY)
        while node is not None:  # states that nothing but "any" leads to
            alone.append(node)
            node = self._edges[node].get(ANY)
        table = np.full((len(alone), self.vocabulary + 1), -1, np.int32)
        for lag, node in enumerate(alone):
            for step, target in literal[node]:
                table[lag, step + 1] = target
        return _Tables(table, first, flat[:, 0].copy(), flat[:, 1].copy(), anys, ends)

    def matches(self, contexts: Contexts) -> NDArray[np.int64]:
        """Number of the path that decides each row; −1 for none."""
        from .automaton_kernel import match, match_first

        stream, rows = contexts.text
        search = match_first if self.greedy else match
        return search(stream.tokens.numpy(), rows.numpy(), stream.starts[rows].numpy(), *self._tables())

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        values = np.array([*self.values, self.rest], dtype=np.float32)
        return torch.from_numpy(values[self.matches(contexts)])

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        return VALUE_BITS + integer_bits(len(self.paths) + 1) + sum(path_bits(p, self.vocabulary) for p in self.paths)

    def render(self, token_text: Callable[[int], str]) -> str:
        """The paths that differ most from rest, as text in reading order."""
        if not self.paths:
            return f"always {self.rest:.3g}"
        order = sorted(range(len(self.paths)), key=lambda i: -abs(self.values[i] - self.rest))
        parts = []
        for verb, sign in (("fires on", 1), ("low on", -1)):
            side = [i for i in order[:SHOWN] if sign * (self.values[i] - self.rest) > 0]
            texts = [f"“{path_text(self.paths[i], token_text)}” {self.values[i]:.3g}" for i in side]
            if texts:
                parts.append(f"{verb}: " + ", ".join(texts))
        more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
        return f"{'; '.join(parts)}{more}; otherwise {self.rest:.3g}"

    def arcs(self, token_text: Callable[[int], str]) -> tuple[records.Arc, ...]:
        """The automaton as records, from the root on; edges that end in the same value with nothing behind are one."""
        found: list[records.Arc] = []
        for node, edges in enumerate(self._edges):
            leaves: dict[float, list[tuple[int, int]]] = {}
            for step, target in edges.items():
                value = self.values[self._ends[target]] if target in self._ends else math.nan
                if self._edges[target] or math.isnan(value):
                    found.append(records.Arc(node, target, _label((step,), token_text), round(value, 4)))
                else:
                    leaves.setdefault(round(value, 4), []).append((step, target))
            for value, members in leaves.items():
                found.append(records.Arc(node, members[0][1], _label([s for s, _ in members], token_text), value))
        return tuple(found)

    def components(self) -> tuple["Automaton", ...]:
        """Parts that share neither their own token nor a literal behind it, the largest |value − rest| first."""
        owner = list(range(len(self.paths)))

        def root(i: int) -> int:
            while owner[i] != i:
                i = owner[i]
            return i

        seen: dict[tuple[int, int], int] = {}
        for number, path in enumerate(self.paths):
            for lag, step in enumerate(path):
                if step >= 0:
                    owner[root(number)] = root(seen.setdefault((lag, step), number))
        groups: dict[int, list[int]] = {}
        for number in range(len(self.paths)):
            groups.setdefault(root(number), []).append(number)
        parts = [
            replace(self, paths=tuple(self.paths[i] for i in g), values=tuple(self.values[i] for i in g))
            for g in groups.values()
        ]
        return tuple(sorted(parts, key=lambda part: -max(abs(v - self.rest) for v in part.values)))


def path_bits(path: Path, vocabulary: int) -> float:
    """Bits of a path and its value.

    >>> round(path_bits((7, ANY, 3), 255) - path_bits((7,), 255), 3)
    11.519
    """
    return shape_bits(tuple(lag for lag, step in enumerate(path) if step != ANY), vocabulary)


@lru_cache(maxsize=4096)
def shape_bits(lags: tuple[int, ...], vocabulary: int) -> float:
    """The same for any path with literals at these lags."""
    # the first literal may stand further back than the row's own token
    gaps = sum(integer_bits(b - a) for a, b in zip([-1, *lags], lags, strict=False)) - integer_bits(1)
    names = math.log2(vocabulary) + (len(lags) - 1) * math.log2(vocabulary + 1)
    return VALUE_BITS + names + gaps + integer_bits(len(lags)) - integer_bits(1)


def path_text(path: Path, token_text: Callable[[int], str]) -> str:
    """A path in reading order; gaps are dots.

    >>> path_text((1, ANY, 0), lambda t: "ab"[t])
    'a⋯b'
    """
    parts = ["⋯" if step == ANY else spell([step], token_text) for step in reversed(path)]
    return "".join(parts)


def _label(steps: Sequence[int], token_text: Callable[[int], str]) -> str:
    return ", ".join("any" if step == ANY else spell([step], token_text) for step in steps)
