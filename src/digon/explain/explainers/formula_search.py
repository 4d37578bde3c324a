"""Beam search for a formula of concepts that describes the activations of one unit in few bits.

1. A formula grows by one concept: "or" begins a new clause, "and" and "and not" narrow the last one, "or also" lets another
   token do for the last concept. What each would do to the sum of squares follows from the sums of all concepts over the
   rows of the last clause: one pass over them for every formula that is followed (`concepts.Scene.masked`).
2. Description length: the price of the concepts and the two values, and n/2·log2 of the mean square error of the best two
   values. The `WIDTH` shortest formulas are followed, one after `WIDE` steps, each shorter than the one that it grew from.
3. A clause may be opened by a concept that does not pay: those that gain most and those most enriched among the largest
   activations that the formula so far does not explain. When nothing grows, new clauses are opened beside the best formula,
   until that does not help either.
4. A formula must pay even without the row that speaks most for it: one large activation is no pattern.

Source: compositional explanations after Mu & Andreas 2020, with description length in place of intersection over union.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .base import VALUE_BITS
from .concepts import BEYOND, KINDS, LEAST, Scene

OR, AND, BUT_NOT, WIDEN = range(4)
STEP_BITS = math.log2(5)
"""For one of the four operations or the end."""
WIDTH, WIDE, SEEDS, LONGEST = 4, 6, 3, 20
"""Formulas that are followed for so many steps, one from then on; concepts of each kind that open a clause; most steps."""
TOP = 0.002
"""Share of the rows that counts as the largest activations."""


@dataclass(frozen=True)
class State:
    """A formula on the fit rows, with what its children are calculated from."""

    steps: tuple[tuple[int, int], ...]
    """Numbers of operation and concept."""
    before: NDArray[np.bool_]
    """Rows of the finished clauses."""
    clause: NDArray[np.bool_]
    """Rows that only the last clause adds."""
    pool: NDArray[np.bool_]
    """Rows that it would add but for its last concept."""
    all_sums: NDArray[np.float64]
    clause_sums: NDArray[np.float64]
    pool_sums: NDArray[np.float64]
    """[2, concepts + 1]: sums and numbers of rows, of all clauses, of what the last one adds, and of the pool."""
    window: int | None
    """Of the last concept, if others may join it."""
    price: float
    score: float
    """Description length."""


class Search:
    """Beam search for one unit; `shift` are its activations on the rows of the scene, with mean 0."""

    def __init__(self, scene: Scene, shift: NDArray[np.float64]) -> None:
        self.scene, self.shift, self.n = scene, shift, len(shift)
        self.price = scene.bits + STEP_BITS
        self.discount = math.log2(KINDS)
        self.floor = self.n * (float(shift.max() - shift.min()) / 2**VALUE_BITS) ** 2 / 12
        self.power = float(shift @ shift) + self.floor

    def run(self) -> tuple[tuple[int, int], ...]:
        """Steps of the best formula."""
        if self.floor == 0 or len(self.scene.counts) == 0:
            return ()
        best = self.start()
        while True:
            before, beam = best, self._opened(best)
            while beam:
                best = min([best, *beam], key=lambda state: state.score)
                beam = self._grown(beam) if len(beam[0].steps) < LONGEST else []
            if best is before:
                return best.steps

    def sound(self, steps: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """Whether every prefix, the empty one first, pays even without the row that speaks most for it."""
        found, price = [True], float(VALUE_BITS)
        for (operation, concept), mask in zip(steps, masks(self.scene, steps)[1:], strict=True):
            price += float(self.price[concept]) - (self.discount if operation == WIDEN else 0.0)
            inside = self.shift[mask]
            total, n = float(inside.sum()), max(len(inside) - 1, 1)
            total -= float(inside.max() if total > 0 else inside.min())
            share = min(total**2 / (n * (1 - n / self.n)) / self.power, 1 - 1e-12)
            found.append(self.n / 2 * math.log2(1 - share) + price < 0)
        return np.array(found)

    def start(self) -> State:
        """No formula: false everywhere."""
        everything = np.ones(self.n, dtype=bool)
        none, zero = ~everything, np.zeros_like(self.everywhere)
        return State((), none, none, everything, zero, zero, self.everywhere, None, 0.0, 0.0)

    @cached_property
    def everywhere(self) -> NDArray[np.float64]:
        """[2, concepts + 1]: sums and numbers of all rows."""
        return self.scene.masked(self.shift, np.ones(self.n, dtype=bool))

    def _lengths(self, sums: NDArray[np.float64], numbers: NDArray[np.float64], price: float) -> NDArray[np.float64]:
        """Bits beyond those of a constant, if the formula were true on rows with these sums of activations."""
        inside = np.clip(numbers, 1, self.n - 1)
        share = np.minimum(sums**2 / (inside * (1 - inside / self.n)) / self.power, 1 - 1e-12)
        length = self.n / 2 * np.log2(1 - share) + VALUE_BITS + price + self.price
        return np.where((numbers < LEAST) | (numbers > self.n - LEAST), np.inf, length)

    def _opened(self, state: State) -> list[State]:
        """New clauses of one concept: those with the largest gain, and those most enriched where activations are left."""
        left = ~(state.before | state.clause)
        if len(state.steps) >= LONGEST or not left.any():
            return []
        sums, numbers = self.everywhere - state.all_sums
        union = state.all_sums[:, -1]
        lengths = self._lengths(union[0] + sums[:-1], union[1] + numbers[:-1], state.price)
        among = self.shift[left]
        most = min(max(int(TOP * len(among)), 2), len(among))
        loud = (self.shift >= np.partition(among, -most)[-most]) & left
        shown = self.scene.sums(loud - loud.sum() / len(among) * left)
        enriched = np.where(shown > 0, shown**2 / np.maximum(numbers[:-1], 1), 0.0)
        seeds = [*np.argsort(lengths, kind="stable")[:SEEDS], *np.argsort(-enriched, kind="stable")[:SEEDS]]
        return [self.child(state, OR, c, float(lengths[c])) for c in dict.fromkeys(int(s) for s in seeds)]

    def _grown(self, beam: Sequence[State]) -> list[State]:
        """The shortest children of all states that are shorter than their parents."""
        from .scene_kernel import offers

        children: list[tuple[float, int, int, int]] = []
        for k, state in enumerate(beam):
            base = VALUE_BITS + state.price
            alike = self.scene.windows == (math.inf if state.window is None else state.window)
            lengths, chosen = offers(
                self.everywhere, state.all_sums, state.clause_sums, state.pool_sums, self.price, alike,
                self.discount, self.power, self.n, state.score - base, LEAST, WIDTH,
            )  # fmt: skip
            found = [(float(lengths[o, j]) + base, k, o, int(chosen[o, j])) for o in range(4) for j in range(WIDTH)]
            children += [child for child in found if math.isfinite(child[0])]
        grown: dict[tuple[float, float], State] = {}
        for length, k, operation, c in sorted(children):
            if len(grown) == (WIDTH if len(beam[k].steps) < WIDE else 1):
                break
            state = self.child(beam[k], operation, c, length)
            total, number = state.all_sums[:, -1].tolist()
            grown.setdefault((round(total, 9), number), state)
        return list(grown.values())

    def child(self, state: State, operation: int, concept: int, score: float) -> State:
        """A formula with one more step."""
        holds = self.scene.mark(concept)
        before, clause, pool, window = state.before, state.clause, state.pool, int(self.scene.windows[concept])
        kept, shut = state.all_sums - state.clause_sums, state.pool_sums
        if operation == OR:
            before = before | clause
            pool, shut, kept = ~before, self.everywhere - state.all_sums, state.all_sums
            clause = pool & holds
        elif operation == WIDEN:
            added = pool & holds
            clause, pool = clause | added, pool & ~holds
        else:
            pool, shut = clause, state.clause_sums
            clause = clause & (holds if operation == AND else ~holds)
        sums = self.scene.masked(self.shift, clause)
        if operation == WIDEN:
            shut, pool = state.pool_sums - (sums - state.clause_sums), pool
        else:
            shut, pool = shut - sums, pool & ~clause
        joinable = None if operation == BUT_NOT or window == BEYOND else window
        price = state.price + float(self.price[concept]) - (self.discount if operation == WIDEN else 0.0)
        steps = (*state.steps, (operation, concept))
        return State(steps, before, clause, pool, kept + sums, sums, shut, joinable, price, score)


def masks(scene: Scene, steps: Sequence[tuple[int, int]]) -> list[NDArray[np.bool_]]:
    """Rows on which every prefix of a formula is true, the empty one first."""
    before = clause = np.zeros(len(scene.order), dtype=bool)
    pool = ~before
    found = [before]
    for operation, concept in steps:
        holds = scene.mark(concept)
        if operation == OR:
            before, pool = before | clause, np.ones_like(before)
            clause = holds
        elif operation == WIDEN:
            clause = clause | (pool & holds)
        else:
            pool, clause = clause, clause & (holds if operation == AND else ~holds)
        found.append(before | clause)
    return found
