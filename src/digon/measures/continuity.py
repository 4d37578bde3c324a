"""Does a network read a plane of its activations smoothly, or does it snap from corner to corner?

Corners of a polygon and points of a circle make the same activations; what the network makes of the points between them
tells which. Walk around the plane at the typical radius and watch the output.

    evenness    (sum l)^2 / m sum l^2 of the m steps l of the output: 1 if it moves evenly, jumps / m if it snaps
    harmonics   share of the output's variance in its first three turns of sine and cosine
    radius      change of the output with the radius, over its change around the plane: a reader of angles reads 0

A linear reader moves evenly too, but with the radius; it says nothing about what the features are.

Planes. Two of the directions given, and the rows that lie in the plane they span. Two features in one plane leave gaps of
more than half a turn; a circle, a polygon from the triangle on, surrounds the origin.

Source: intervention on circular features after Engels et al. 2024, "Not All Language Model Features Are
One-Dimensionally Linear"; the statistics are derived here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError

STEPS = 180
HARMONICS = 3
RADII = (0.8, 1.25)
IN_PLANE = 0.05
"""Squared length outside the plane, relative to the row, up to which a row lies in it."""
SHORTEST = 0.3
"""Length, relative to the typical row that is active, from which a row has a direction."""
FEWEST = 30
"""Rows that a plane must hold."""
WIDEST_GAP = math.radians(150)
NEIGHBORS = 4
"""Directions that each is paired with, the nearest first."""
MOST_DIRECTIONS = 64
SAME = 0.95
"""Cosine, up to sign, from which two directions span no plane."""
SQUARE = 0.2
"""Cosine, up to sign, that two directions of a plane have at least: squares look like two signed features."""
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Plane:
    """A plane in which rows surround the origin."""

    basis: Float[Tensor, "2 d"]
    """Orthonormal rows."""
    radius: float
    """Median length of the rows in it."""
    rows: int


@dataclass(frozen=True)
class Walk:
    """The output on the way around a plane."""

    evenness: float
    """Range: (0, 1]; NaN if the output does not move."""
    harmonics: float
    """Range: [0, 1]."""
    radius: float
    moved: float
    """Standard deviation of the output around the plane, relative to that over data."""


def planes(values: Float[Tensor, "n d"], directions: Float[Tensor, "k d"]) -> list[Plane]:
    """Planes of two directions in which rows surround the origin, the fullest first; no plane twice.

    Rows relative to where nothing is active.
    """
    x = values[:MOST_ROWS].double()
    length = x.norm(dim=1)
    away = length > 1e-3 * length.amax().clamp(min=1e-300)
    if not bool(away.any()) or len(directions) < 2:
        return []
    x, length = (t[length >= SHORTEST * float(length[away].median())] for t in (x, length))
    w = torch.nn.functional.normalize(directions[:MOST_DIRECTIONS].double(), dim=1)
    cosine = (w @ w.T).abs()
    near = torch.where((cosine < SAME) & (cosine > SQUARE), cosine, -1.0).topk(min(NEIGHBORS, len(w) - 1), dim=1)
    found: list[Plane] = []
    for i in range(len(w)):
        for value, j in zip(near.values[i].tolist(), near.indices[i].tolist(), strict=True):
            if value < 0:
                continue
            basis = torch.linalg.qr(torch.stack([w[i], w[j]]).T).Q.T
            if any(float((basis @ other.basis.T).square().sum()) > 1.9 for other in found):
                continue
            at = x @ basis.T
            inside = at.square().sum(1) > (1 - IN_PLANE) * length.square()
            if int(inside.sum()) < FEWEST or _gap(at[inside]) > WIDEST_GAP:
                continue
            found.append(Plane(basis, float(length[inside].median()), int(inside.sum())))
    return sorted(found, key=lambda plane: -plane.rows)


def _gap(at: Float[Tensor, "n 2"]) -> float:
    """Widest angle without rows."""
    angle = torch.atan2(at[:, 1], at[:, 0]).sort().values
    return float(torch.cat([angle.diff(), angle[:1] + 2 * math.pi - angle[-1:]]).amax())


def walk(
    network: Callable[[Tensor], Tensor], values: Float[Tensor, "n d"], plane: Plane, origin: Float[Tensor, " d"]
) -> Walk:
    """The output around a plane through `origin`. Unit of the spread: that of the output over `values`.

    Raises: ConfigError if the network does not return one finite row per row.
    """
    turn = 2 * math.pi * torch.arange(STEPS, dtype=torch.float64, device=values.device) / STEPS
    ring = torch.stack([turn.cos(), turn.sin()], 1) @ plane.basis
    runs = [_output(network, (origin + plane.radius * r * ring).to(values.dtype)) for r in (1.0, *RADII)]
    data = _output(network, values[:1000])
    spread = float(data.var(0, correction=0).sum().sqrt())
    out = runs[0]
    centered = out - out.mean(0)
    around = float(centered.square().sum(1).mean().sqrt())
    steps = (out - out.roll(1, 0)).norm(dim=1)
    evenness = (
        float(steps.sum() ** 2 / (STEPS * steps.square().sum())) if around > 1e-9 * max(spread, 1e-300) else math.nan
    )
    waves = torch.cat([torch.stack([(k * turn).cos(), (k * turn).sin()], 1) for k in range(1, HARMONICS + 1)], 1)
    waves = waves * (2 / STEPS) ** 0.5
    share = float((waves.T @ centered).square().sum() / centered.square().sum().clamp(min=1e-300))
    changes = [(run - out).square().sum(1).mean().sqrt() for run in runs[1:]]
    radius = float(torch.stack(changes).mean()) / around if around > 0 else math.nan
    return Walk(evenness, share, radius, around / spread if spread > 0 else 0.0)


def _output(network: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"]) -> Float[Tensor, "n o"]:
    with torch.no_grad():
        out = network(x)
    if out.ndim != 2 or len(out) != len(x) or not bool(out.isfinite().all()):
        raise ConfigError(f"the network made {tuple(out.shape)} of {len(x)} rows", expected="one finite row per row")
    return out.double()
