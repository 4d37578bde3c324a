"""N2G+: an automaton that is fitted to all rows, not copied from the loudest ones.

1. Grow. A path is extended by a literal at any lag up to `REACH`, with gaps, where that saves more bits than it costs: one pass
   over the rows of a path gives what every literal would select from them. A literal may lower the value as well as raise
   it, so false positives found anywhere in the corpus revise the explanation. Tokens enriched among the rows that stay
   unexplained are looked behind even if they do not pay themselves.
2. Match all rows with the automaton (most specific path), and set every value to the mean of the rows that it decides,
   shrunk toward the value of the path that it extends: the ridge solution, as no row is decided twice.
3. Prune: a path stays if without it, and without its most extreme row, its rows cost more bits than it does; and if its
   absence raises the error on the select rows. Matching and pruning are repeated until nothing leaves.
Bits: those of `automaton`.

Sources: n-gram graphs after Foote et al. 2023 and Gao et al. 2024; all-token fitting, gaps, exceptions and pruning are ours.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts
from .automaton import ANY, START, Automaton, Path, path_bits, shape_bits
from .base import SHRINK, VALUE_BITS
from .rung import Rung
from .scene import LEAST, Scene
from .shared import Shared

REACH = 9
"""Tokens that a path may span."""
NODES, ROUNDS, SEEDS = 96, 4, 4
"""Most paths that are grown; rounds of pruning; tokens that are looked behind though they do not pay."""
TOP = 0.002
"""Share of the rows that counts as the largest activations."""


@dataclass
class _Node:
    path: Path
    rows: NDArray[np.int64]
    """Rows of the fit split that match it and nothing grown from it."""
    value: float
    """What is predicted on them."""


@dataclass
class _Growth:
    """A unit's paths while they grow, on the fit rows in the order of the text."""

    scene: Scene
    shift: NDArray[np.float64]
    floor: float
    vocabulary: int
    names: NDArray[np.int64]
    """Token behind every number of the scene; the start comes last."""
    error: float = 0.0
    """Sum of squares left."""
    nodes: list[_Node] = field(default_factory=list)

    def run(self, scratch: NDArray[np.float64]) -> list[Path]:
        """All paths that pay when they are grown."""
        self.error = float(self.shift @ self.shift)
        root = _Node((), np.arange(len(self.shift)), 0.0)
        queue = self._extended(root, scratch)
        for _ in range(2):
            while queue and len(self.nodes) < NODES:
                node = queue.pop(0)
                self.nodes.append(node)
                if len(node.rows) >= 2 * LEAST:
                    queue += self._extended(node, scratch)
            queue = queue or self._opened()
        return [node.path for node in self.nodes]

    def _opened(self) -> list[_Node]:
        """Tokens enriched among the rows that exceed most what is predicted so far."""
        left = self.shift.copy()
        for node in self.nodes:
            left[node.rows] -= node.value
        most = max(int(TOP * len(left)), 2)
        loud = left >= np.partition(left, -most)[-most]
        own = self.scene.text.tokens[self.scene.text.places]
        counts, shown = np.bincount(own, minlength=len(self.names)), np.bincount(own[loud], minlength=len(self.names))
        excess = shown - counts * loud.mean()
        score = np.where((excess > 0) & (shown >= LEAST), excess**2 / np.maximum(counts, 1), 0.0)
        known = {node.path for node in self.nodes}
        best = [int(t) for t in np.argsort(-score, kind="stable")[:SEEDS] if score[t] > 0]
        return [
            _Node((int(self.names[t]),), self.scene.rows_behind(t, 0), 0.0)
            for t in best
            if (int(self.names[t]),) not in known
        ]

    def _extended(self, node: _Node, scratch: NDArray[np.float64]) -> list[_Node]:
        """Children that pay, best first; their rows leave the node."""
        from .automaton_kernel import extensions

        text = self.scene.text
        found = extensions(self.shift, node.rows, text.tokens, text.places, text.begins, scratch, LEAST)
        free = np.array([self._free(node.path, lag) for lag in range(REACH)])
        found = found[free[found[:, 0].astype(np.int64)]]
        lag, number, n, total, low, high = found.T
        profit = self._saved(n, total, low, high, node.value) - self._prices(node.path)[lag.astype(np.int64)]
        children: list[_Node] = []
        taken = np.zeros(len(self.shift), dtype=bool)
        for k in np.argsort(-profit, kind="stable"):
            if profit[k] <= 0 or len(children) + len(self.nodes) >= NODES:
                break
            rows = self._selected(node, int(lag[k]), int(number[k]))
            left = rows[~taken[rows]]
            if len(left) < max(LEAST, 0.8 * len(rows)):
                continue
            path = _joined(node.path, int(lag[k]), int(self.names[int(number[k])]))
            values = self.shift[left]
            gain = float(((values - node.value) ** 2).sum() - ((values - values.mean()) ** 2).sum())
            self.error -= gain
            taken[left] = True
            children.append(_Node(path, left, float(values.mean())))
        node.rows = node.rows[~taken[node.rows]]
        return children

    def _free(self, path: Path, lag: int) -> bool:
        return lag >= len(path) or path[lag] == ANY

    def _selected(self, node: _Node, lag: int, number: int) -> NDArray[np.int64]:
        """Rows of a node that have a token so far back."""
        text, rows = self.scene.text, node.rows
        if number == len(self.names) - 1:
            return rows[text.places[rows] - lag == text.begins[rows] - 1]
        if not node.path:  # all rows: those behind the token's places are fewer
            return self.scene.rows_behind(number, lag)
        at = text.places[rows] - lag
        return rows[(at >= text.begins[rows]) & (text.tokens[np.maximum(at, 0)] == number)]

    def _prices(self, path: Path) -> NDArray[np.float64]:
        """Of the path with one more literal, by its lag."""
        lags = {lag for lag, step in enumerate(path) if step != ANY}
        return np.array([shape_bits(tuple(sorted({*lags, lag})), self.vocabulary) for lag in range(REACH)])

    def _saved(
        self,
        n: NDArray[np.float64],
        total: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        without: float | NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Bits saved by a value of its own, even without the most extreme row."""
        noise = (max(self.error, 0.0) + self.floor) / len(self.shift)
        return saved(n, total, low, high, without) / (2 * noise * math.log(2))


def saved(
    n: NDArray[np.float64],
    total: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    without: float | NDArray[np.float64],
) -> NDArray[np.float64]:
    """Drop of the sum of squares of n rows that get their mean in place of another value, one extreme row left out."""
    rest = (n - 1) * without
    excess = np.where(total > n * without, total - high - rest, rest - total + low)
    return np.maximum(excess, 0.0) ** 2 / np.maximum(n - 1, 1)


def _joined(path: Path, lag: int, token: int) -> Path:
    """A path with one more literal."""
    longer = list(path) + [ANY] * (lag + 1 - len(path))
    longer[lag] = token
    return tuple(longer)


class GrownAutomaton(Rung[Automaton]):
    """Fits automata to all rows (N2G+)."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "N2G+"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Automaton]:
        """Automata grown on the fit rows, and pruned by both splits."""
        scene, vocabulary = shared.scene, shared.contexts.vocabulary
        names = np.append(np.unique(shared.contexts.text[0].tokens.numpy()), START)
        scratch = np.zeros((REACH, len(names), 4))
        sides = (shared.contexts.take(shared.fit), shared.contexts.take(shared.select))
        ordered = tuple(side.take(s.order) for side, s in zip(sides, (scene, shared.held), strict=True))
        found = []
        for a, b in zip(*shared.columns(values), strict=True):
            mean = float(a.mean())
            floor = len(a) * (float(a.max() - a.min()) / 2**VALUE_BITS) ** 2 / 12
            paths = _Growth(scene, a - mean, floor, vocabulary, names).run(scratch) if floor else []
            blank = Automaton(self.name, 0.0, tuple(dict.fromkeys(paths)), (0.0,) * len(set(paths)), vocabulary)
            pruned = _pruned(blank, ordered, (a - mean, b - mean), floor)
            found.append(replace(pruned, rest=pruned.rest + mean, values=tuple(v + mean for v in pruned.values)))
        return found


def _pruned(
    automaton: Automaton,
    sides: tuple[Contexts, ...],
    shifts: tuple[NDArray[np.float64], NDArray[np.float64]],
    floor: float,
) -> Automaton:
    """Values from the rows that each path decides; paths that do not pay leave."""
    if not automaton.paths:
        return replace(automaton, rest=float(shifts[0].mean()))
    decided = [automaton.matches(side) for side in sides]
    for _ in range(ROUNDS):
        automaton, parents = _valued(automaton, decided[0], shifts[0])
        keep = _paying(automaton, parents, decided, shifts, floor)
        if keep.all():
            return automaton
        kept = np.flatnonzero(keep).tolist()
        paths, values = ([of[i] for i in kept] for of in (automaton.paths, automaton.values))
        automaton = replace(automaton, paths=tuple(paths), values=tuple(values))
        decided = [_decided_without(automaton, side, keep, before) for side, before in zip(sides, decided, strict=True)]
    return _valued(automaton, decided[0], shifts[0])[0]


def _decided_without(
    automaton: Automaton, side: Contexts, keep: NDArray[np.bool_], decided: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which path decides every row when some are gone: the same one as before, but for the rows of those that are gone."""
    numbers = np.append(np.where(keep, keep.cumsum() - 1, -1), -1)
    lost = np.flatnonzero(~np.append(keep, True)[decided])
    found = numbers[decided]
    if automaton.paths:
        found[lost] = automaton.matches(side.take(torch.from_numpy(lost)))
    return found


def _valued(
    automaton: Automaton, decided: NDArray[np.int64], shift: NDArray[np.float64]
) -> tuple[Automaton, NDArray[np.int64]]:
    """Shrunk means of the rows that each path decides, and the path that each one extends (−1: none)."""
    count = len(automaton.paths)
    n = np.bincount(decided + 1, minlength=count + 1).astype(float)
    s = np.bincount(decided + 1, weights=shift, minlength=count + 1)
    rest = s[0] / max(n[0], 1)
    parents = _parents(automaton.paths)
    values = np.full(count, rest)
    for i in sorted(range(count), key=lambda i: sum(step != ANY for step in automaton.paths[i])):
        above = values[parents[i]] if parents[i] >= 0 else rest
        values[i] = (s[i + 1] + SHRINK * above) / (n[i + 1] + SHRINK)
    return replace(automaton, rest=float(rest), values=tuple(values.tolist())), parents


def _parents(paths: tuple[Path, ...]) -> NDArray[np.int64]:
    """The path with most literals that each path contains; −1 for none."""
    by_literals = {frozenset((lag, s) for lag, s in enumerate(p) if s != ANY): i for i, p in enumerate(paths)}
    found = np.full(len(paths), -1)
    for mine, i in by_literals.items():
        inside = [(len(other), j) for other, j in by_literals.items() if other < mine]
        found[i] = max(inside, default=(0, -1))[1]
    return found


def _paying(
    automaton: Automaton,
    parents: NDArray[np.int64],
    decided: list[NDArray[np.int64]],
    shifts: tuple[NDArray[np.float64], NDArray[np.float64]],
    floor: float,
) -> NDArray[np.bool_]:
    """Paths that save more bits than they cost on the fit rows and lower the error on the select rows."""
    count, shift = len(automaton.paths), shifts[0]
    values = np.array([*automaton.values, automaton.rest])
    without = values[parents]
    error = float(((shift - values[decided[0]]) ** 2).sum()) + floor
    n = np.bincount(decided[0] + 1, minlength=count + 1)[1:].astype(float)
    total = np.bincount(decided[0] + 1, weights=shift, minlength=count + 1)[1:].astype(np.float64)
    low, high = np.full(count + 1, math.inf), np.full(count + 1, -math.inf)
    np.minimum.at(low, decided[0], shift)
    np.maximum.at(high, decided[0], shift)
    bits = saved(n, total, low[:-1], high[:-1], without) * len(shift) / (2 * error * math.log(2))
    price = np.array([path_bits(path, automaton.vocabulary) for path in automaton.paths])
    m = np.bincount(decided[1] + 1, minlength=count + 1)[1:]
    t = np.bincount(decided[1] + 1, weights=shifts[1], minlength=count + 1)[1:]
    rise = values[:-1] - without
    upheld = (m == 0) | (rise * (2 * (t - m * without) - m * rise) > 0)
    return (n > 1) & (bits > price) & upheld
