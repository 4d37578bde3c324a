"""A logical formula of concepts: one value where it is true, another where it is not.

    (a₁ or a₂) and (b₁ or b₂) and not c, or else d and …        a₁, a₂: tokens that are asked for in the same way

Beam search (`formula_search`): a formula grows by one token at a time, as long as its description gets shorter. Of the
winner's prefixes, the one with the largest ρ² on the select rows is kept; none if it does not beat chance.
Bits: 8 for each of two values; for every token the operation (log2 5: "or", "and", "and not", "or also", or the end) and
its price (`concepts`; log2(vocabulary) alone if it joins another one).

Source: compositional explanations after Mu & Andreas 2020, with description length in place of intersection over union.
"""

import math
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
from .concepts import Concept, Scene
from .formula_search import STEP_BITS, WIDEN, Search, masks
from .lookup import CHANCE
from .shared import Shared

Operation = Literal["or", "and", "and not"]
OPERATIONS: tuple[Operation, ...] = ("or", "and", "and not")
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
            + sum(STEP_BITS + concept.bits(self.vocabulary) for _, concept in self.steps)
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


class FormulaSearch:
    """Fits logical formulas."""

    name = "formula"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Formula:
        """The formula with the shortest description of the fit rows, cut where the select rows say so."""
        return FormulaSearch.fit_many(contexts, values[:, None], fit, select)[0]

    @staticmethod
    def fit_many(
        contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Formula]:
        """The same for many units of a site, which share the concepts.

        Raises: NonFiniteError if a unit is not finite.
        """
        return FormulaSearch.fit_shared(Shared(contexts, fit, select), values)

    @staticmethod
    def fit_shared(shared: Shared, values: Float[Tensor, "n units"]) -> list[Formula]:
        """The same with the tables at hand."""
        found = []
        for a, b in zip(*shared.columns(values), strict=True):
            mean = float(a.mean())
            steps = _cut(shared.held, b, Search(shared.scene, a - mean, shared.contexts.vocabulary).run())
            true = masks(shared.scene, steps)[-1]
            number, total = int(true.sum()), float((a[true] - mean).sum())
            rest = mean - total / max(len(a) - number, 1)
            value = rest + (total - number * (rest - mean)) / (number + SHRINK)
            words = _words(shared.scene, steps)
            found.append(Formula(FormulaSearch.name, rest, value, words, shared.contexts.vocabulary))
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
    return tuple(found)


def _cut(held: Scene, values: NDArray[np.float64], steps: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The prefix that correlates best, up or down, with the values of other rows; the empty one if none beats chance."""
    n = len(values)
    if n < 3 or not steps:
        return ()
    shift = values - values.mean()
    sizes = np.array([mask.sum() for mask in masks(held, steps)], dtype=float)
    sums = np.array([shift[mask].sum() for mask in masks(held, steps)])
    inside = np.clip(sizes, 1, n - 1)
    share = sums**2 / (inside * (1 - inside / n)) / max(float(shift @ shift), 1e-300)
    if share.max() * (n - 2 + CHANCE**2) <= CHANCE**2 or not math.isfinite(share.max()):
        return ()
    return steps[: int(share.argmax())]
