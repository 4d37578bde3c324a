"""A sum of concepts: the token here, tokens within the last w, how far into the text.

    value = rest + Σ_j w_j · [concept j holds]

1. Every concept's gain on the residual of the fit rows costs one pass for all of them (`scene.Scene`).
2. Those that save more bits than they cost enter, at most one per token and `BATCH` in a round; the weights of all are
   fitted together by ridge regression; those that have ceased to pay leave.
3. When no other one pays, those leave whose absence does not raise the error on the select rows.
Bits: 8 for rest and for every weight, the price of every concept (`concepts`), log* of their number.

Source: sparse linear probes over bags of context after Gurnee et al. 2023; two-part code after Rissanen 1978.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts
from .base import SHRINK, VALUE_BITS, integer_bits
from .concepts import BEYOND, HERE, Concept
from .patterns import SHOWN
from .rung import Rung
from .scene import Scene
from .shared import Shared

BATCH = (4, 8, 16, 32, 64, 128)
"""Concepts that may enter in each round."""
SWEEPS = 12
"""Most rounds of coordinate descent."""
EARLY, LATE = 1e-4, 1e-8
"""Share of the sum of squares that no step exceeds when they end, while concepts still enter and after that."""


@dataclass(frozen=True)
class Additive:
    """A weighted sum of concepts."""

    name: str
    rest: float
    """Value where none holds."""
    terms: tuple[tuple[Concept, float], ...]
    vocabulary: int

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        stream, rows = contexts.text
        value = torch.full(rows.shape, self.rest, dtype=torch.float64, device=rows.device)
        edges = torch.zeros(len(stream.tokens) + 1, dtype=torch.float64, device=rows.device)
        for window in {concept.window for concept, _ in self.terms}:
            mine = [(concept.token, weight) for concept, weight in self.terms if concept.window == window]
            if window == BEYOND:
                value += sum(weight * (contexts.depth >= depth).double() for depth, weight in mine)
                continue
            table = torch.zeros(self.vocabulary, dtype=torch.float64, device=rows.device)
            table[[token for token, _ in mine]] = table.new_tensor([weight for _, weight in mine])
            if window == HERE:
                value += table[contexts.keys[0]]
                continue
            at = (table[stream.tokens] != 0).nonzero().squeeze(1)
            weights = table[stream.tokens[at]]
            edges.index_add_(0, at + 1, weights).index_add_(0, stream.until(window)[at], -weights)
        return (value + edges.cumsum(0)[rows]).float()

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        price = sum(VALUE_BITS + concept.bits(self.vocabulary) for concept, _ in self.terms)
        return VALUE_BITS + integer_bits(len(self.terms) + 1) + price

    def render(self, token_text: Callable[[int], str]) -> str:
        """The heaviest terms in words."""
        if not self.terms:
            return f"always {self.rest:.3g}"
        terms = sorted(self.terms, key=lambda term: -abs(term[1]))
        shown = "; ".join(f"{weight:+.3g} on {concept.render(token_text)}" for concept, weight in terms[:SHOWN])
        more = f" and {len(terms) - SHOWN} more" if len(terms) > SHOWN else ""
        return f"{self.rest:.3g}; {shown}{more}"


class LinearProbe(Rung[Additive]):
    """Fits sparse sums of concepts."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        return "linear probe"

    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> list[Additive]:
        """Concepts that pay on the fit rows and are not refuted by the select rows."""
        scene, found = shared.scene, []
        for a, b in zip(*shared.columns(values), strict=True):
            rest, chosen, weights = _fitted(scene, shared.held, a, b)
            terms = tuple((scene.concept(c), w) for c, w in zip(chosen.tolist(), weights.tolist(), strict=True))
            found.append(Additive(self.name, rest, terms, shared.contexts.vocabulary))
        return found


def _fitted(
    scene: Scene, held: Scene, a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """Rest, chosen concepts, weights."""
    mean = float(a.mean())
    floor = len(a) * (float(a.max() - a.min()) / 2**VALUE_BITS) ** 2 / 12
    residual, chosen, weights = a - mean, np.zeros(0, dtype=np.int64), np.zeros(0)
    rest, price = mean, scene.bits + VALUE_BITS
    if floor == 0:
        return rest, chosen, weights
    for batch in BATCH:
        new = _entering(scene, residual, floor, chosen, price, batch)
        if len(new) == 0:
            break
        chosen, weights = np.concatenate([chosen, new]), np.concatenate([weights, np.zeros(len(new))])
        shift, chosen, weights = _pruned(scene, residual, floor, chosen, weights, EARLY)
        rest += shift
    shift, chosen, weights = _pruned(scene, residual, floor, chosen, weights, LATE)
    rest += shift
    kept = _upheld(held, b, rest, chosen, weights)
    if not kept.all():
        chosen, weights = _without(scene, residual, chosen, weights, kept)
        rest += _settle(scene, residual, chosen, weights, LATE)
    return rest, chosen, weights


def _pruned(
    scene: Scene,
    residual: NDArray[np.float64],
    floor: float,
    chosen: NDArray[np.int64],
    weights: NDArray[np.float64],
    tolerance: float,
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """Weights fitted together, of those concepts that then pay; first what is added to the resting value."""
    shift = _settle(scene, residual, chosen, weights, tolerance)
    kept = _paying(scene, residual, floor, chosen, weights)
    if not kept.all():
        chosen, weights = _without(scene, residual, chosen, weights, kept)
        shift += _settle(scene, residual, chosen, weights, tolerance)
    return shift, chosen, weights


def _paying(
    scene: Scene,
    residual: NDArray[np.float64],
    floor: float,
    chosen: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Concepts that save more bits than they cost."""
    n, counts = len(residual), scene.counts[chosen]
    share = weights**2 * counts * (1 - counts / n) / (residual @ residual + floor)
    return n / 2 * np.log2(1 + share) > scene.bits[chosen] + VALUE_BITS


def _without(
    scene: Scene,
    residual: NDArray[np.float64],
    chosen: NDArray[np.int64],
    weights: NDArray[np.float64],
    kept: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The kept concepts and their weights; what the others explained is in the residual again."""
    for c, w in zip(chosen[~kept].tolist(), weights[~kept].tolist(), strict=True):
        scene.add(residual, c, w)
    return chosen[kept], weights[kept]


def _settle(
    scene: Scene,
    residual: NDArray[np.float64],
    chosen: NDArray[np.int64],
    weights: NDArray[np.float64],
    tolerance: float,
) -> float:
    """Fit the weights together; what is added to the resting value."""
    from .scene_kernel import settle

    intervals = (scene.offsets, scene.starts, scene.stops)
    return float(settle(residual, intervals, scene.counts, chosen, weights, SHRINK, SWEEPS, tolerance))


def _entering(
    scene: Scene,
    residual: NDArray[np.float64],
    floor: float,
    chosen: NDArray[np.int64],
    price: NDArray[np.float64],
    batch: int,
) -> NDArray[np.int64]:
    """The concepts that save most beyond their price, one per token."""
    residual = residual - residual.mean()
    share = scene.gains(residual) / (residual @ residual + floor)
    profit = -len(residual) / 2 * np.log2(1 - np.minimum(share, 1 - 1e-12)) - price
    profit[chosen] = -math.inf
    paying = np.flatnonzero(profit > 0)
    paying = paying[np.argsort(-profit[paying], kind="stable")]
    owner = np.where(scene.windows[paying] == BEYOND, -1, scene.tokens[paying])
    first = np.sort(np.unique(owner, return_index=True)[1])
    return paying[first[:batch]]


def _upheld(
    held: Scene, values: NDArray[np.float64], rest: float, chosen: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Terms without which the error on other rows would be larger, the smallest tried first."""
    residual = values - rest
    for c, w in zip(chosen.tolist(), weights.tolist(), strict=True):
        held.add(residual, c, -w)
    kept = np.ones(len(chosen), dtype=bool)
    for k in np.argsort(np.abs(weights) * np.sqrt(held.counts[chosen]), kind="stable"):
        c, w = int(chosen[k]), float(weights[k])
        total = held.add(residual, c, 0.0)
        if 2 * w * total + w * w * held.counts[c] <= 0:
            held.add(residual, c, w)
            kept[k] = False
    return kept
