"""Beam search for a formula of concepts that describes the activations of one unit in few bits.

1. A formula grows by one concept: "or" begins a new clause, "and" and "and not" narrow the last one, "or also" lets another
   token do for the last concept. What each would do to the sum of squares follows from the sums of all concepts over the
   rows of the last clause: one pass over them for every formula that is followed (`scene.Scene.masked`).
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

from .base import VALUE_BITS, smallest
from .concepts import BEYOND, KINDS
from .scene import LEAST, Scene

OR, AND, BUT_NOT, WIDEN = range(4)
STEP_BITS = math.log2(5)
"""For one of the four operations or the end."""
WIDTH, WIDE, SEEDS, LONGEST = 4, 6, 3, 20
"""Formulas that are followed for so many steps, one from then on; concepts of each kind that open a clause; most steps."""
VAST = 1e18
"""Bits; longer than any description."""
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
    rest_sums: NDArray[np.float64]
    clause_sums: NDArray[np.float64]
    """[2, concepts + 1]: sums and numbers of the rows that the finished clauses leave, and of those that the last one adds."""
    pool_sums: NDArray[np.float64]
    """[2, concepts of `joining`]: those of the pool."""
    joining: tuple[int, int]
    """First of the concepts that may join the last one, and the one after them: those with its window."""
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
        return State((), none, none, everything, self.everywhere, zero, zero[:, :0], (0, 0), 0.0, 0.0)

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
        total, number = self._totals(state)
        sums, numbers = state.rest_sums - state.clause_sums
        lengths = self._lengths(total + sums[:-1], number + numbers[:-1], state.price)
        among = self.shift[left]
        most = min(max(int(TOP * len(among)), 2), len(among))
        loud = (self.shift >= np.partition(among, -most)[-most]) & left
        shown = self.scene.masked(self.shift, loud)[1] - loud.sum() / len(among) * numbers
        enriched = np.where(shown > 0, shown**2 / np.maximum(numbers, 1), 0.0)[:-1]
        seeds = [*smallest(lengths, SEEDS).tolist(), *smallest(-enriched, SEEDS).tolist()]
        return [self.child(state, OR, c, float(lengths[c])) for c in dict.fromkeys(seeds)]

    def _grown(self, beam: Sequence[State]) -> list[State]:
        """The shortest children of all states that are shorter than their parents."""
        from .formula_kernel import offers

        children: list[tuple[float, int, int, int]] = []
        for k, state in enumerate(beam):
            base = VALUE_BITS + state.price
            lengths, chosen = offers(
                (state.rest_sums, state.clause_sums, state.pool_sums), self.everywhere[:, -1] - state.rest_sums[:, -1],
                state.joining[0], self.price, self.discount, self.power, self.n,
                min(state.score - base, VAST), (LEAST, WIDTH),
            )  # fmt: skip
            found = [(float(lengths[o, j]) + base, k, o, int(chosen[o, j])) for o in range(4) for j in range(WIDTH)]
            children += [child for child in found if math.isfinite(child[0])]
        grown: dict[tuple[float, float], State] = {}
        for length, k, operation, c in sorted(children):
            if len(grown) == (WIDTH if len(beam[k].steps) < WIDE else 1):
                break
            state = self.child(beam[k], operation, c, length)
            total, number = self._totals(state)
            grown.setdefault((round(total, 9), number), state)
        return list(grown.values())

    def child(self, state: State, operation: int, concept: int, score: float) -> State:
        """A formula with one more step."""
        holds, joining = self.scene.mark(concept), self._joining(operation, concept)
        before, clause, pool, rest = state.before, state.clause, state.pool, state.rest_sums
        if operation == OR:
            before, rest = before | clause, rest - state.clause_sums
            pool, clause = ~before, holds & ~before
        elif operation == WIDEN:
            clause = clause | (pool & holds)
        else:
            pool, clause = clause, clause & (holds if operation == AND else ~holds)
        own = self._of_clause(state, operation, clause)
        alike = slice(*joining)
        among = rest if operation == OR else state.clause_sums
        shut = among[:, alike] + (state.pool_sums if operation == WIDEN else 0.0)
        price = state.price + float(self.price[concept]) - (self.discount if operation == WIDEN else 0.0)
        steps = (*state.steps, (operation, concept))
        return State(steps, before, clause, pool & ~clause, rest, own, shut - own[:, alike], joining, price, score)

    def _totals(self, state: State) -> tuple[float, float]:
        """Sum and number of the rows on which a formula is true."""
        total, number = (self.everywhere[:, -1] - state.rest_sums[:, -1] + state.clause_sums[:, -1]).tolist()
        return total, number

    def _joining(self, operation: int, concept: int) -> tuple[int, int]:
        """The concepts that may join this one, as a range."""
        window = int(self.scene.windows[concept])
        return (0, 0) if operation == BUT_NOT or window == BEYOND else self.scene.spans[window]

    def _of_clause(self, state: State, operation: int, clause: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sums of the last clause after one more literal: of its rows, or of those by which it differs from before."""
        if operation != OR:
            changed = clause ^ state.clause
            if np.count_nonzero(changed) < np.count_nonzero(clause):
                by = self.scene.masked(self.shift, changed)
                return state.clause_sums + by if operation == WIDEN else state.clause_sums - by
        return self.scene.masked(self.shift, clause)


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
