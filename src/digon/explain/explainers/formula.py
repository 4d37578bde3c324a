"""A logical formula of concepts: one value where it is true, another where it is not.

    (a₁ or a₂) and (b₁ or b₂) and not c, or else d and …        a₁, a₂: tokens that are asked for in the same way

Beam search (`formula_search`): a formula grows by one token at a time, as long as its description gets shorter. Of the
winner's prefixes, the one with the largest ρ² on the select rows is kept; none if it does not beat chance.
Bits: 8 for each of two values; for every token the operation (log2 5: "or", "and", "and not", "or also", or the end) and
its price (`concepts`; log2(vocabulary) alone if it joins another one).

Source: compositional explanations after Mu & Andreas 2020, with description length in place of intersection over union.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts
from .base import SHRINK, VALUE_BITS
from .concepts import BEYOND, Concept
from .formula_search import STEP_BITS, WIDEN, Search, masks
from .lookup import CHANCE
from .rung import Rung
from .scene import Scene
from .shared import Shared

Operation = Literal["or", "and", "and not"]
OPERATIONS: tuple[Operation, ...] = ("or", "and", "and not")
CLIP = 4.0
"""Standard deviations beyond which activations count as this many, where chance is to be excluded."""

Step = tuple[Operation, Concept]


@dataclass(frozen=True)
class Formula:
    """Concepts joined from left to right; `or` begins a new clause."""

    name: str
    rest: float
    value: float
    """Where the formula is true."""
    steps: tuple[Step, ...]
    vocabulary: int

    @property
    def clauses(self) -> list[list[Step]]:
        """The steps, a list for every clause."""
        found: list[list[Step]] = []
        for step in self.steps:
            if step[0] == "or":
                found.append([step])
            else:
                found[-1].append(step)
        return found

    def holds(self, contexts: Contexts) -> Bool[Tensor, " n"]:
        """Rows on which it is true."""
        true = torch.zeros_like(contexts.keys[0], dtype=torch.bool)
        for clause in self.clauses:
            mine = torch.ones_like(true)
            for operation, concept in clause:
                holds = concept.holds(contexts)
                mine &= ~holds if operation == "and not" else holds
            true |= mine
        return true

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        value = torch.tensor([self.rest, self.value], device=contexts.keys[0].device)
        return value[self.holds(contexts).long()]

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        return (
            (1 + bool(self.steps)) * VALUE_BITS
            + STEP_BITS
            + sum(STEP_BITS * (1 + len(concept.also)) + concept.bits(self.vocabulary) for _, concept in self.steps)
        )

    def render(self, token_text: Callable[[int], str]) -> str:
        """The formula in words."""
        if not self.steps:
            return f"always {self.rest:.3g}"
        texts = []
        for clause in self.clauses:
            words = [concept.render(token_text) if k == 0 else f"{operation} {concept.render(token_text)}"
                     for k, (operation, concept) in enumerate(clause)]  # fmt: skip
            texts.append(" ".join(words))
        text = texts[0] if len(texts) == 1 else " or ".join(f"({t})" if " and " in t else t for t in texts)
        return f"{self.value:.3g} on {text}; otherwise {self.rest:.3g}"


class FormulaSearch(Rung[Formula]):
    """Fits logical formulas."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "formula"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Formula]:
        """The formulas with the shortest description of the fit rows, cut where the select rows say so."""
        found = []
        for a, b in zip(*shared.columns(values), strict=True):
            mean = float(a.mean())
            search = Search(shared.scene, a - mean)
            steps = search.run()
            steps = _cut(shared.held, b, steps, search.sound(steps))
            true = masks(shared.scene, steps)[-1]
            number, total = int(true.sum()), float((a[true] - mean).sum())
            rest = mean - total / max(len(a) - number, 1)
            value = rest + (total - number * (rest - mean)) / (number + SHRINK)
            words = _words(shared.scene, steps)
            found.append(Formula(self.name, rest, value, words, shared.contexts.vocabulary))
        return found


def _words(scene: Scene, steps: Sequence[tuple[int, int]]) -> tuple[Step, ...]:
    """Steps with their concepts; tokens that are asked for in the same way become one."""
    found: list[Step] = []
    for operation, c in steps:
        concept = scene.concept(c)
        if operation == WIDEN:
            last, first = found[-1]
            found[-1] = (last, replace(first, also=(*first.also, concept.token)))
        else:
            found.append((OPERATIONS[operation], concept))
    return _merged(found)


def _sorted(concept: Concept) -> tuple[int, tuple[int, ...]]:
    first, *more = sorted((concept.token, *concept.also))
    return first, tuple(more)


def _merged(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The same with clauses joined that differ in the tokens of their first concept only: (a and u) or (b and u)."""
    clauses: dict[tuple[int, frozenset[Step]], list[Step]] = {}
    for start in [i for i, step in enumerate(steps) if step[0] == "or"]:
        stop = next((i for i in range(start + 1, len(steps)) if steps[i][0] == "or"), len(steps))
        (_, first), *rest = steps[start:stop]
        alike: list[Step] = [(operation, Concept(c.window, *_sorted(c))) for operation, c in rest]
        key = (first.window if first.window != BEYOND else -start - 10, frozenset(alike))
        if key in clauses:
            known = clauses[key][0][1]
            more = [t for t in (first.token, *first.also) if t not in (known.token, *known.also)]
            clauses[key][0] = ("or", replace(known, also=(*known.also, *more)))
        else:
            clauses[key] = list(steps[start:stop])
    return tuple(step for clause in clauses.values() for step in clause)


def _cut(
    held: Scene, values: NDArray[np.float64], steps: tuple[tuple[int, int], ...], sound: NDArray[np.bool_]
) -> tuple[tuple[int, int], ...]:
    """The sound prefix that correlates best, up or down, with the values of other rows; the empty one if none beats chance."""
    n = len(values)
    if n < 3 or not steps:
        return ()
    true = masks(held, steps)
    # a few outliers make a correlation, not a pattern
    spread = float(values.std())
    tame = np.clip(values - values.mean(), -CLIP * spread, CLIP * spread)
    steps = steps[: int((_shares(values, true) * sound).argmax())]
    share = float(_shares(tame, true)[len(steps)])
    return steps if share * (n - 2 + CHANCE**2) > CHANCE**2 else ()


def _shares(values: NDArray[np.float64], true: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Share of the variance that each set of rows explains."""
    n, shift = len(values), values - values.mean()
    inside = np.clip(np.array([mask.sum() for mask in true], dtype=float), 1, n - 1)
    sums = np.array([shift[mask].sum() for mask in true])
    return sums**2 / (inside * (1 - inside / n)) / max(float(shift @ shift), 1e-300)
