"""Three ways to avoid superposition, and dropout: what do they do to the phase boundary, and at what price?

    L1 on activations       + λ E‖h‖₁                    makes every represented feature cost something
    interference penalty    + μ Σ_{i≠j} (Wᵢ·Wⱼ)²         makes sharing cost something, however rare the features are
    more units, few in use  top-k units or experts       the neurons are there, but an input pays for some of them only
    dropout                 units vanish at random       for comparison: nothing in it names superposition

1. Alone on an axis (bias 0) a feature of importance I costs I p (1 − w²)²/3 + λ p w/2: kept if λ < 0.7258 I, w² = 2/3
   at the threshold.
2. Two features in one dimension: exact minima over the plane of density and relative importance, for every way.
3. Twenty features in five dimensions, importance 0.7ⁱ, density 0.03: trained networks, best of several.
4. Forty features, importance 0.9ⁱ: five units, four experts of five of which one is used, five of twenty units (top-k),
   and twenty units without routing: the control that has the capacity and pays for it.

Source: Elhage et al. 2022, "The strategic picture of superposition"; the exact diagrams are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...measures.geometry import feature_dimensionality, interference, norms
from ...records import Figure, Frame, Measurement, Panel
from ...worlds.closed import linear_loss, own_error, small_loss, variance
from ...worlds.descent import minimize
from . import penalties
from .base import Outcome, Say, StudyConfig, measured
from .diagram import TWO, Diagram, last_feature, phases
from .penalties import Pressure, Strata, plain
from .sketch import grid, line, points, still

N, M, DENSITY, DECAY = 20, 5, 0.03, 0.7
L1 = (0.0, 0.003, 0.01, 0.03, 0.07, 0.1, 0.15, 0.2, 0.3)
OVERLAP = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DROPOUT = (0.0, 0.1, 0.3, 0.5)
ALONE = (2 / 3) ** 0.5 * 8 / 9
"""λ / I up to which a feature alone on an axis is kept: the largest (2/3)(2w − w³), at w² = 2/3."""
EXPECTED_SUPERPOSED = {0.0: 10, 0.01: 8, 0.03: 4, 0.1: 2, 0.15: 0}
"""Features in superposition by λ in an earlier calculation of ours, from three starts."""
SHARING = 0.2
"""Interference from which a feature counts as superposed."""
SOURCE = "Elhage et al. 2022, strategic section"
Energy = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Loss and penalty from weights [a 2 1], biases [a 2], densities [a] and relative importances [a]."""



@dataclass(frozen=True)
class Found:
    """The best of several networks of one kind and strength."""

    W: Float[Tensor, "n m"]
    loss: float
    """Squared error without penalty and without dropout."""
    energy: float
    """With penalty: what decided which network is the best."""
    norm: Float[Tensor, " n"]
    shared: Float[Tensor, " n"]
    """Interference within the expert that holds the feature."""

    @property
    def represented(self) -> int:
        """Features longer than 0.5."""
        return int((self.norm > 0.5).sum())

    @property
    def superposed(self) -> int:
        """Represented features that share their direction."""
        return int(((self.norm > 0.5) & (self.shared > SHARING)).sum())

    @property
    def alignment(self) -> np.ndarray:
        """Largest weight over the sum of weights, of every hidden unit in use: 1 alone, 1/2 for a pair."""
        size = self.W.abs()
        return (size.amax(0) / size.sum(0))[size.amax(0) > 0.5].numpy()


def best(m: int, importance: Tensor, pressure: Pressure, size: "Size", seed: int) -> list[Found]:
    """Train `size.starts` networks per strength; the best of each by energy."""
    wide = Pressure(
        pressure.l1.repeat_interleave(size.starts), pressure.overlap.repeat_interleave(size.starts),
        pressure.dropout, pressure.blocks, pressure.active,
    )  # fmt: skip
    n = len(importance)
    batch = Strata(n, DENSITY, 160 // n, 100, 60)
    W, b = penalties.train(m, importance, wide, batch, steps=size.steps, seed=seed)
    rows = Strata(n, DENSITY, 100, 12_000, 6_000)
    loss, activity = penalties.reconstruction(W, b, importance, wide, rows, seed)
    energy = (loss + wide.l1 * activity + wide.overlap * penalties.overlaps(W)).view(-1, size.starts)
    picked = (energy.argmin(1) + size.starts * torch.arange(len(energy))).tolist()
    parts = W.unflatten(-1, (wide.blocks if wide.active == 1 else 1, -1)).movedim(2, 1)  # [i, experts, n, units]
    norm, shared = norms(parts), interference(parts)
    home = norm.argmax(1, keepdim=True)
    norm, shared = norm.gather(1, home)[:, 0], shared.gather(1, home)[:, 0]
    return [Found(W[k], float(loss[k]), float(energy.flatten()[k]), norm[k], shared[k]) for k in picked]


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    steps: int
    starts: int
    seeds: int
    pixels: int


Runs = list[list[Found]]
"""[seeds][strengths]"""


def gather(runs: Runs, what: Callable[[Found], float]) -> np.ndarray:
    """A number of every network, [seeds, strengths]."""
    return np.array([[what(found) for found in run] for run in runs])


def under_penalties(size: Size, seed: int) -> tuple[Runs, Runs, Runs]:
    """Twenty features in five dimensions under L1, interference penalty and dropout."""
    importance = DECAY ** torch.arange(N).float()
    l1, overlap = torch.tensor(L1), torch.tensor(OVERLAP)
    strengths = Pressure(torch.cat([l1, 0 * overlap]), torch.cat([0 * l1, overlap]))
    both = [best(M, importance, strengths, size, seed + s) for s in range(size.seeds)]
    dropped = [
        [best(M, importance, plain(1, dropout=q), size, seed + s)[0] for q in DROPOUT] for s in range(size.seeds)
    ]
    return [run[: len(L1)] for run in both], [run[len(L1) :] for run in both], dropped


EXPERTS: dict[str, tuple[int, Pressure]] = {
    "5 units": (5, plain(1)),
    "4 experts of 5 units, 1 in use": (20, plain(1, blocks=4)),
    "20 units, 5 in use": (20, plain(1, blocks=20, active=5)),
    "20 units": (20, plain(1)),
}
