"""One trained network in four panels: directions, inner products, norms, dimensionalities."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...measures import geometry
from ...records import Panel
from .sketch import grid, line, rounded, series

FRACTIONS = (1.0, 3 / 4, 2 / 3, 1 / 2, 2 / 5, 3 / 8)
"""Dimensionalities of features alone, in a tetrahedron, triangle, digon, pentagon, square antiprism."""
SPATIAL = 3


def portrait(W: Float[Tensor, "n m"]) -> tuple[Panel, ...]:
    """Panels of the weights of one network; directions only in two or three dimensions."""
    W = W.detach().double().cpu()
    panels = (_inner(W), _norms(W), _dimensionalities(W))
    return (_directions(W), *panels) if W.shape[1] in (2, SPATIAL) else panels


def _directions(W: Tensor) -> Panel:
    arrows = series("arrows", "feature", W[:, 0], W[:, 1], color=geometry.interference(W))
    if W.shape[1] == SPATIAL:
        arrows = arrows.__class__("arrows", "feature", arrows.x, arrows.y, rounded(W[:, 2]), arrows.color)
    return Panel("directions", "h₁", "h₂", (arrows,), square=True, color_range=_reach(W))


def _inner(W: Tensor) -> Panel:
    index = torch.arange(len(W))
    matrix = grid(index, index, geometry.gram(W), diverging=True)
    return Panel("inner products WWᵀ", "feature", "feature", grid=matrix, square=True, color_range=(-1.0, 1.0))


def _norms(W: Tensor) -> Panel:
    bars = series("bars", "norm", torch.arange(len(W)), geometry.norms(W), color=geometry.interference(W))
    return Panel("norms", "feature", "‖W‖", (bars,), color_label="interference", color_range=_reach(W))


def _dimensionalities(W: Tensor) -> Panel:
    index, ends = torch.arange(len(W)), [0, max(1, len(W) - 1)]
    guides = tuple(line("", ends, [value, value], role="guide") for value in FRACTIONS)
    dots = series("points", "dimensionality", index, geometry.feature_dimensionality(W))
    return Panel("dimensionalities", "feature", "D", (*guides, dots))


def _reach(W: Tensor) -> tuple[float, float]:
    """Colors of interference: at least up to that of an antipodal pair."""
    return 0.0, max(1.0, float(geometry.interference(W).max()))
