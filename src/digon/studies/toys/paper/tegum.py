"""Which polytope should equal features form? Theory of tegum products: polytopes in orthogonal subspaces.

Features of different polytopes do not disturb each other, so every polytope stands alone. k features in d dimensions, at
their best size and bias, save (k v(p) − loss) / d per dimension over being ignored, where v(p) is the variance of a
feature. The polytope that saves most should win at density p; where two save the same, features regroup.

Source: Elhage et al. 2022, uniform superposition (tegum products); the calculation is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from ....measures import polytopes
from ....worlds.closed import variance
from ....worlds.descent import minimize
from ....worlds.features import features
from ....worlds.population import expected_loss

LIBRARY: dict[str, tuple[int, Callable[[float], polytopes.Shape]]] = {
    "single": (1, lambda _: polytopes.simplex(1)),
    "digon": (1, lambda _: polytopes.simplex(2)),
    "triangle": (2, lambda _: polytopes.simplex(3)),
    "tetrahedron": (3, lambda _: polytopes.simplex(4)),
    "4-simplex": (4, lambda _: polytopes.simplex(5)),
    "pentagon": (2, lambda _: polytopes.polygon(5)),
    "hexagon": (2, lambda _: polytopes.polygon(6)),
    "square antiprism": (3, lambda height: polytopes.antiprism(4, height)),
}
"""Polytope → dimensions and vertices (the antiprism at a height)."""
HEIGHTS = (0.53, 0.555, 3**-0.5)


@dataclass(frozen=True)
class Gain:
    """A polytope at its best size and bias, at several densities."""

    gain: Float[Tensor, " p"]
    """Loss saved per dimension, in units of the variance of a feature."""
    size: Float[Tensor, " p"]
    """Norm of its features."""
    dimensions_per_feature: Float[Tensor, " p"]


def gain_of(name: str, density: Float[Tensor, " p"]) -> Gain:
    """Gain of a polytope of the library."""
    dimensions, shape = LIBRARY[name]
    heights = HEIGHTS if name == "square antiprism" else (0.0,)
    options = [_gain(torch.from_numpy(shape(h).vertices), dimensions, density) for h in heights]
    best = torch.stack([o.gain for o in options]).argmax(0)
    rows = torch.arange(len(density))
    return Gain(*(torch.stack([getattr(o, f) for o in options])[best, rows] for f in Gain.__dataclass_fields__))


def settled(
    shape: Callable[[Tensor], Tensor], start: Float[Tensor, " q"], density: Float[Tensor, " p"], nodes: int
) -> tuple[Float[Tensor, "p q"], Float[Tensor, " p"]]:
    """Size, bias and what else makes up a polytope, at the least expected loss; and what it saves per dimension.

    `shape` takes those numbers [p q] to vertices [p k d]; the first is the size, the second the bias.
    """
    k, d = shape(start[None]).shape[1:]

    def objective(x: Tensor, which: Tensor) -> Tensor:
        law = features(k, density[which, None].expand(-1, k))
        return expected_loss(shape(x), x[:, 1:2].expand(-1, k), law, nodes=nodes)

    x, loss = minimize(objective, start.repeat(len(density), 1), iterations=60, tolerance=1e-10)
    return x, (k * variance(density) - loss) / d


def _gain(vertices: Float[Tensor, "k d"], dimensions: int, density: Float[Tensor, " p"]) -> Gain:
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x, saved = settled(lambda x: x[:, :1, None] * vertices, start, density, 128)
    return Gain(saved / variance(density), x[:, 0].abs(), dimensions / (len(vertices) * x[:, 0].square()))


def gains(density: Float[Tensor, " p"]) -> dict[str, Gain]:
    """Gains of all polytopes of the library."""
    return {name: gain_of(name, density) for name in LIBRARY}


def regrouping(density: Float[Tensor, " p"], found: dict[str, Gain], before: str, after: str) -> float:
    """Density at which two polytopes gain the same, the lowest such one; NaN if there is none on the grid."""
    order = density.argsort()
    x, difference = density[order].log().numpy(), (found[after].gain - found[before].gain)[order].numpy()
    spline = CubicSpline(x, difference)
    changes = np.flatnonzero((difference[:-1] > 0) & (difference[1:] <= 0))
    if not len(changes):
        return float("nan")
    low, high = x[changes[0]], x[changes[0] + 1]
    roots = spline.roots(extrapolate=False)
    return float(np.exp(roots[(roots >= low) & (roots <= high)][0]))
