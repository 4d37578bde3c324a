"""The best of several explanations, their sum, or one of them gated by another; the select rows decide.

    sum    rest + Σ w_i · explanation_i, w ≥ 0 by least squares on the select rows, at most `PARTS` parts
    gate   where the formula is true, a look-up fitted on those rows; the mean elsewhere

A part is added, or a gate chosen, only if ρ² on the select rows grows by `WORTH`.
Bits: those of the parts, and 8 for every weight; for the gate those of the formula and the look-up.

Source: stacking after Wolpert 1992, with non-negative weights after Breiman 1996.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from ..exemplars import Contexts
from .base import VALUE_BITS, Fitted
from .formula import Formula
from .lookup import LookUp
from .shared import Shared

NAME = "hybrid"
PARTS = 3
WORTH = 0.005
"""Share of the variance that a further part must explain."""
FEWEST = 50
"""Rows on which a formula must be true, in each split, to be a gate."""


@dataclass(frozen=True)
class Sum:
    """A weighted sum of explanations."""

    rest: float
    parts: tuple[tuple[Fitted, float], ...]
    name: str = NAME

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        total = torch.full(contexts.keys[0].shape, self.rest, device=contexts.keys[0].device)
        for part, weight in self.parts:
            total = total + weight * part.simulate(contexts)
        return total

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        return float(VALUE_BITS) + sum(VALUE_BITS + part.bits for part, _ in self.parts)

    def render(self, token_text: Callable[[int], str]) -> str:
        """Its parts in words."""
        return " plus ".join(f"{weight:.2g} × ({part.render(token_text)})" for part, weight in self.parts)


@dataclass(frozen=True)
class Gate:
    """An explanation where a formula is true, its resting value elsewhere."""

    formula: Formula
    inside: Fitted
    name: str = NAME

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        holds = self.formula.holds(contexts)
        return torch.where(holds, self.inside.simulate(contexts), self.formula.rest)

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        return self.formula.bits + self.inside.bits

    def render(self, token_text: Callable[[int], str]) -> str:
        """Formula and look-up in words."""
        return f"{self.formula.render(token_text)}; there it {self.inside.render(token_text)}"


@dataclass(frozen=True)
class Alone:
    """One explanation under the name of the hybrid."""

    part: Fitted
    name: str = NAME

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        return self.part.simulate(contexts)

    @property
    def bits(self) -> float:
        """Those of the explanation."""
        return float(self.part.bits)

    def render(self, token_text: Callable[[int], str]) -> str:
        """The explanation in words."""
        return self.part.render(token_text)


def hybrid(shared: Shared, values: Float[Tensor, " n"], parts: Mapping[str, Fitted]) -> Fitted:
    """The hybrid of one unit's explanations, by name."""
    held = shared.contexts.take(shared.select)
    truth = values[shared.select].double().numpy()
    candidates = {**parts, **_gates(shared, values, parts)}
    columns = {name: part.simulate(held).double().numpy() for name, part in candidates.items()}
    chosen = [max(columns, key=lambda name: (_explained(truth, [columns[name]])[0], -candidates[name].bits))]
    reached = _explained(truth, [columns[chosen[0]]])[0]
    while len(chosen) < PARTS:
        further = {
            name: _explained(truth, [columns[c] for c in [*chosen, name]])[0] for name in columns if name not in chosen
        }
        name = max(further, key=lambda name: further[name], default=None)
        if name is None or further[name] < reached + WORTH:
            break
        chosen, reached = [*chosen, name], further[name]
    if len(chosen) == 1:
        single = candidates[chosen[0]]
        return single if isinstance(single, Gate) else Alone(single)
    _, weights, rest = _explained(truth, [columns[c] for c in chosen])
    return Sum(rest, tuple((candidates[c], w) for c, w in zip(chosen, weights, strict=True) if w > 0))


def _gates(shared: Shared, values: Float[Tensor, " n"], parts: Mapping[str, Fitted]) -> dict[str, Fitted]:
    """A look-up behind each formula that is true on enough rows."""
    found: dict[str, Fitted] = {}
    for name, part in parts.items():
        if isinstance(part, Formula) and part.steps:
            true = part.holds(shared.contexts)
            fit, select = shared.fit & true, shared.select & true
            if min(int(fit.sum()), int(select.sum())) >= FEWEST:
                inside = LookUp().fit(shared.contexts, values, fit, select)
                if inside.levels[0].keys.numel():
                    found[f"{name} as gate"] = Gate(part, inside)
    return found


def _explained(truth: NDArray[np.float64], columns: Sequence[NDArray[np.float64]]) -> tuple[float, list[float], float]:
    """Share of the variance that a non-negative combination explains, its weights, its resting value."""
    centered = np.stack([column - column.mean() for column in columns], 1)
    target = truth - truth.mean()
    power = float(target @ target)
    if power == 0:
        return 0.0, [0.0] * len(columns), float(truth.mean())
    # the normal equations hold all that least squares needs, and are small
    gram = centered.T @ centered
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-12 * power))
    left = np.linalg.cholesky(gram / np.outer(scale, scale) + 1e-9 * np.eye(len(columns)))
    weights = nnls(left.T, np.linalg.solve(left, centered.T @ target / scale))[0] / scale
    residual = target - centered @ weights
    rest = float(truth.mean() - sum(w * c.mean() for w, c in zip(weights, columns, strict=True)))
    return 1 - float(residual @ residual) / power, weights.tolist(), rest
