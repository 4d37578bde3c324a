"""Is superposition a phase change? Two features on a line and three in a plane, over importance and density.

All features have importance 1 but the last, which has r. Four answers to "what becomes of the last feature?":

    fixed weights   the least of a few hand-picked losses, the theory of the paper
    exact           the minimum over free norms and biases, from all known arrangements
    random starts   the best of ten descents of the exact loss from random weights
    sampled         the best of ten networks trained on fresh samples, as in the paper

1. Compare losses and phases pixel by pixel.
2. Cut along the density at fixed importance: where does the last feature appear, and does its norm jump?
3. Where it appears without a jump the density has a closed form (`closed.onset_importance`).

Source: Elhage et al. 2022, superposition as a phase change; theory panel: M. Wattenberg's notebook linked there.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from ... import rng
from ...measures.geometry import cosines, norms
from ...records import Figure, Frame, Measurement, Panel, Series
from ...worlds.closed import onset_importance
from ...worlds.features import features
from ...worlds.fit import FitConfig, fit
from ...worlds.population import expected_loss
from ...worlds.toys import Toy
from .base import Outcome, Say, StudyConfig, measured
from .diagram import (
    DEDICATED,
    SUPERPOSED,
    Diagram,
    axes,
    descend,
    exact,
    exact_three,
    exact_two,
    fixed_edge,
    fixed_weights,
    last_feature,
    random_starts,
)
from .sketch import line, points, still

SIZES = ((2, 1), (3, 2))
CUTS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Relative importances of the cuts along the density."""
EDGES = (0.1, 0.2, 0.3, 0.5)
"""Cuts where the last feature is known to jump."""
SOURCE = "Elhage et al. 2022, superposition as a phase change"
Note = Callable[[str, float | list[float], str], None]


def problems(density: np.ndarray, importance: np.ndarray) -> tuple[Tensor, Tensor]:
    """Density and importance of every pixel, row by row."""
    p, r = np.meshgrid(density, importance, indexing="ij")
    return torch.from_numpy(p.ravel()), torch.from_numpy(r.ravel())


def pick(W: Tensor, loss: Tensor, starts: int) -> tuple[Tensor, Tensor]:
    """The best of every `starts` neighbors: weights and loss."""
    table = loss.view(-1, starts)
    winner = table.argmin(1) + starts * torch.arange(len(table))
    return W[winner], loss[winner]


def from_random(p: Tensor, r: Tensor, n: int, m: int, starts: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights and losses of the best of `starts` descents of the exact loss from random weights, per problem."""
    W, b = random_starts(len(p) * starts, n, m, seed)
    x = torch.cat([W.flatten(1), b], 1)
    x, loss = descend(x, p.repeat_interleave(starts), r.repeat_interleave(starts), n, m)
    return pick(x[:, : n * m].view(-1, n, m), loss, starts)


def sampled(p: Tensor, r: Tensor, n: int, m: int, starts: int, config: FitConfig) -> tuple[Tensor, Tensor]:
    """Weights [problems × starts] and exact losses of networks trained on fresh samples."""
    importance = torch.ones(len(p) * starts, n, dtype=torch.float64)
    importance[:, -1] = r.repeat_interleave(starts)
    law = features(n, p.repeat_interleave(starts)[:, None].expand(-1, n), importance)
    toy = Toy(n, m, len(importance), seed=config.seed)
    fit(toy, law, config)
    W, b = toy.W.detach().double(), toy.b.detach().double()
    return W, expected_loss(W, b, law)


def picture(density: np.ndarray, importance: np.ndarray, W: Tensor, loss: Tensor) -> Diagram:
    """A diagram from one network per pixel."""
    shape = len(density), len(importance)
    norm, overlap = (v.reshape(shape) for v in last_feature(W))
    return Diagram(density, importance, loss.detach().numpy().reshape(shape), norm, overlap)


def interior(phase: np.ndarray, density: np.ndarray, least: float = 0.03) -> np.ndarray:
    """Pixels whose phase is the same at all densities nearer than `least`, and one pixel to every side."""
    inside = np.ones(phase.shape, bool)
    for axis in (0, 1):
        change = np.diff(phase, axis=axis) != 0
        for at in (slice(0, -1), slice(1, None)):
            index: list[slice] = [slice(None), slice(None)]
            index[axis] = at
            inside[tuple(index)] &= ~change
    for row, p in enumerate(density):
        near = np.abs(density - p) < least
        inside[row] &= (phase[near] == phase[row]).all(0)
    return inside


def agreement(found: Diagram, wanted: Diagram) -> float:
    """Share of pixels with the same phase, away from the wanted diagram's boundaries."""
    inside = interior(wanted.phase, wanted.density)
    return float((found.phase == wanted.phase)[inside].mean())


def appearance(density: np.ndarray, size: np.ndarray, least: float) -> float:
    """Largest density at which the last feature is longer than `least`, midway to the next one; NaN if it never is."""
    order = np.argsort(-density)
    hit = np.flatnonzero(size[order] > least)
    if not len(hit) or hit[0] == 0:
        return float("nan")
    return float(density[order][hit[0] - 1] + density[order][hit[0]]) / 2


def onset(importance: float) -> float:
    """Density under which the second feature appears continuously, from the closed form."""
    return float(brentq(lambda p: float(onset_importance(torch.tensor(p, dtype=torch.float64))) - importance, 0.05, 1.0))


def jump(density: np.ndarray, size: np.ndarray) -> float:
    """Norm of the last feature where it appears: the step of its norm over the first density where it exceeds 0.05."""
    order = np.argsort(-density)
    sizes = size[order]
    first = int(np.flatnonzero(sizes > 0.05)[0])
    return float(sizes[first] - sizes[first - 1])
