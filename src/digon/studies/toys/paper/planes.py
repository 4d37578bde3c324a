"""Two features in one dimension under a penalty: the exact phase boundary.

The loss is the closed form of `worlds/closed`; every penalty has one too. With importances 1 and r and weights w:

    L1         λ E|w₁x₁ + w₂x₂|    in the sparse limit the last feature stays if λ < 0.7258 r, whatever the density
    overlap    2 μ (w₁w₂)²         in the sparse limit equal features share if the density is above 3 μ
    dropout    the unit is gone with probability q, and scaled up by 1/(1 − q) where it stays
    one of two units in use        a unit for each feature loses the smaller one where both are active; but a unit for the
                                   difference and one for the sum lose less, since the choice of unit tells them apart

Source: the loss of Elhage et al. 2022, "Toy Models of Superposition"; penalties and limits are derived here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....worlds.closed import own_error, small_loss, variance
from ....worlds.descent import minimize
from ..diagram import SUPERPOSED, TWO, Diagram, last_feature, phases
from ..threads import one_thread

ALONE = (2 / 3) ** 0.5 * 8 / 9
"""λ / I up to which a feature alone on an axis is kept: the largest (2/3)(2w − w³), at w² = 2/3."""
Energy = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Loss and penalty from weights [a 2 1], biases [a 2], densities, relative importances and strengths [a]."""
POOL = 12
"""Features, from the most important one, among which `aligned` chooses."""


def pair_loss(W: Tensor, b: Tensor, p: Tensor, r: Tensor) -> Tensor:
    """Expected loss of two features of importance 1 and r."""
    density = p[:, None].expand(-1, 2)
    return small_loss(W, b, density, torch.stack([torch.ones_like(r), r], 1))


def mean_activation(W: Tensor, p: Tensor) -> Float[Tensor, " a"]:
    """E|w₁x₁ + w₂x₂| for sparse uniform features, in closed form."""
    size = W[..., 0].abs()
    more, less = size.amax(-1), size.amin(-1)
    safe = torch.where(more > 0, more, 1.0)
    apart = more / 2 - less / 2 + less.square() / (3 * safe)
    both = torch.where(W[:, 0, 0] * W[:, 1, 0] < 0, apart, size.sum(-1) / 2)
    return p * (1 - p) * size.sum(-1) / 2 + p.square() * both


def with_l1(W: Tensor, b: Tensor, p: Tensor, r: Tensor, strength: Tensor) -> Tensor:
    """Loss plus λ E|h|."""
    return pair_loss(W, b, p, r) + strength * mean_activation(W, p)


def with_overlap(W: Tensor, b: Tensor, p: Tensor, r: Tensor, strength: Tensor) -> Tensor:
    """Loss plus 2 μ (w₁w₂)²."""
    return pair_loss(W, b, p, r) + 2 * strength * W.square().prod(1)[:, 0]


def with_dropout(W: Tensor, b: Tensor, p: Tensor, r: Tensor, rate: Tensor) -> Tensor:
    """Loss when the unit is dropped with this probability and else scaled up."""
    keep = 1 - rate
    lost = p[:, None] * own_error(torch.zeros_like(b), b) + (1 - p)[:, None] * b.relu().square()
    return keep * pair_loss(W / keep[:, None, None].sqrt(), b, p, r) + rate * (lost[:, 0] + r * lost[:, 1])


def minima(energy: Energy, p: Tensor, r: Tensor, strength: float | Tensor) -> tuple[Tensor, Tensor]:
    """Best weights [i 2 1] and energy of two features in one dimension, over all arrangements.

    Weights that are 0 are held there, because |w| has a kink: ignoring the last, the first and both are starts.
    """
    starts = torch.tensor([*TWO, (0.0, 0.0)], dtype=torch.float64)
    count, tries = len(p), len(starts)
    free = torch.cat([starts != 0, torch.ones(tries, 2, dtype=torch.bool)], 1).repeat(count, 1)
    tilt = 0.01 * torch.randn(4, generator=rng.stream(0, "tilt"), dtype=torch.float64)
    bias = (p / 4)[:, None, None].expand(-1, tries, 2)
    x = (torch.cat([starts.expand(count, -1, -1), bias], -1).flatten(0, 1) + tilt) * free
    p, r = p.repeat_interleave(tries), r.repeat_interleave(tries)
    strength = torch.as_tensor(strength, dtype=p.dtype).expand(count).repeat_interleave(tries)

    def objective(rows: Tensor, which: Tensor) -> Tensor:
        held = torch.where(free[which], rows, 0.0)
        return energy(held[:, :2, None], held[:, 2:], p[which], r[which], strength[which])

    with one_thread():
        x, value = minimize(objective, x, iterations=80, tolerance=1e-10)
    value = value.view(count, tries)
    best = x.view(count, tries, 4)[torch.arange(count), value.argmin(1)]
    return best[:, :2, None], value.min(1).values


def plane(energy: Energy, strength: float, density: np.ndarray, importance: np.ndarray) -> Diagram:
    """The phase diagram under a penalty."""
    p, r = (torch.as_tensor(v.ravel()) for v in np.meshgrid(density, importance, indexing="ij"))
    W, value = minima(energy, p, r, strength)
    shape = (len(density), len(importance))
    norm, overlap = (v.reshape(shape) for v in last_feature(W))
    return Diagram(density, importance, value.numpy().reshape(shape), norm, overlap)


def difference_and_sum() -> float:
    """Squared error, over p² (1 + r), of units x₁ − x₂ and (x₁ + x₂)/√2, of which the larger one is used; no bias.

    A feature alone is read from the difference without error. Of two active features with ratio t, the sum is in use
    above t = (√2 − 1)², where both are read as their mean; below it the smaller one is lost from both outputs.
    """
    turn = (2**0.5 - 1) ** 2
    return (2 * turn**3 / 3 + (1 - turn) ** 3 / 6) / 4


def one_of_two(density: np.ndarray, importance: np.ndarray) -> Diagram:
    """Two units of which the larger one is used, bias 0: the best of three codes with fixed weights.

    The last or the first feature ignored; a unit for each feature, which loses p² (1 + r)/12; or their difference and
    sum, which loses `difference_and_sum` p² (1 + r). Interference is that within the unit in use: 1 for the last code.
    """
    p, r = np.meshgrid(density, importance, indexing="ij")
    v = p / 3 - p**2 / 4
    losses = np.stack([r * v, v, (1 + r) * p**2 / 12, (1 + r) * p**2 * difference_and_sum()])
    code = losses.argmin(0)
    norm, shared = np.array([0.0, 1.0, 1.0, 1.5**0.5])[code], np.array([0.0, 0.0, 0.0, 1.0])[code]
    return Diagram(density, importance, losses.min(0), norm, shared)


def threshold_alone() -> float:
    """λ at which a feature of importance 1, alone on an axis with bias 0, is given up: by minimizing, not by formula."""
    strength = torch.linspace(0.6, 0.85, 251, dtype=torch.float64)
    x, value = minimize(
        lambda x, which: (
            own_error(x[:, 0].square(), torch.zeros(len(x), dtype=x.dtype)) + strength[which] * x[:, 0] / 2
        ),
        torch.full((251, 1), 0.95, dtype=torch.float64),
    )
    kept = (x[:, 0] > 0.5) & (value < 1 / 3)
    return float(strength[kept].max())


def least_kept(strength: float, p: float = 0.01) -> float:
    """Relative importance from which the last of two features is represented under L1, among rare features."""
    r = torch.linspace(0.8, 1.2, 81, dtype=torch.float64) * strength / ALONE
    W, _ = minima(with_l1, torch.full_like(r, p), r, strength)
    return float(r[W[:, 1, 0].abs() > 0.5].min())


def shared(strength: float, density: np.ndarray) -> np.ndarray:
    """At which densities two equal features are in superposition under the interference penalty."""
    p = torch.as_tensor(density)
    W, _ = minima(with_overlap, p, torch.ones_like(p), strength)
    return phases(*last_feature(W)) == SUPERPOSED


def least_shared(strength: float) -> float:
    """Density from which two equal features share their dimension under the interference penalty."""
    density = 3 * strength * np.linspace(0.8, 1.5, 141)
    return float(density[shared(strength, density)].min())


@dataclass(frozen=True)
class Aligned:
    """The best network whose hidden units hold one or two features each."""

    represented: int
    superposed: int
    loss: float
    """Squared error."""
    energy: float
    """With the penalty."""
    shares: tuple[float, ...]
    """Largest weight over the sum of weights of every unit."""


def aligned(strength: float, importance: Float[Tensor, " n"], density: float, m: int) -> Aligned:
    """Exact best network under L1 with features on the axes, at most two on each.

    Units do not disturb each other, so energies add: exact pairs, then the best choice of at most m of them. Features
    must be in order of importance; only the first `POOL` may be represented.
    """
    n = min(POOL, len(importance))
    value, p = importance.double(), torch.tensor(density, dtype=torch.float64)
    left = torch.tensor([(i, j) for i in range(n) for j in range(i, n)])
    first, last = value[left[:, 0]], torch.where(left[:, 0] == left[:, 1], 0.0, value[left[:, 1]])
    W, energy = minima(with_l1, p.expand(len(left)), last / first, strength / first)
    loss = first * (energy - strength / first * mean_activation(W, p))
    lost = variance(p) * value
    gain = (lost[left[:, 0]] + variance(p) * last - first * energy).tolist()
    options = [[] for _ in range(n)]
    for k, (i, j) in enumerate(left.tolist()):
        options[i].append((j, k))

    @cache
    def best(i: int, used: int, free: int) -> tuple[float, tuple[int, ...]]:
        if i == n or not free:
            return 0.0, ()
        found = best(i + 1, used, free)
        if not used >> i & 1:
            for j, k in options[i]:
                if i == j or not used >> j & 1:
                    more, rest = best(i + 1, used | 1 << j, free - 1)
                    found = max(found, (more + gain[k], (k, *rest)))
        return found

    total, chosen = best(0, 0, m)
    size = W[list(chosen), :, 0].abs()
    kept, shares = size > 0.5, (size.amax(1) / size.sum(1)).tolist()
    unit_loss = loss[list(chosen)].sum() + lost.sum() - (first[list(chosen)] + last[list(chosen)]).sum() * variance(p)
    both = int(kept.all(1).sum())
    return Aligned(int(kept.sum()), 2 * both, float(unit_loss), float(lost.sum()) - total, tuple(shares))
