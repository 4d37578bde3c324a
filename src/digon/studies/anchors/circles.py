"""Anchor: do circles stand out among clusters of latents by (1 − M) · S?

A cluster of latents of a sparse autoencoder reconstructs a cloud of points with a few dimensions. Of its leading planes
(principal components 1–2 and 2–3) take

    S   separability: the least mutual information of two coordinates over rotations
    M   mixture: the largest share of points within a narrow strip, max over directions v and offsets c of
        P(|v·f + c| < ε √E(v·f + c)²), ε = 0.1

and rank clusters by (1 − M) · S. In GPT-2 the circles of days, years and months rank 9, 15 and 28 among 1,000 clusters.

Here the clouds are planted: one circle of 7, one of 12 and one of 100 noisy points among hundreds of clouds of other
kinds, of random sizes: independent features of which some are active, features that exclude each other, a parent with
children, correlated Gaussians, single features. Directions within a cloud have positive cosines, as clusters have.

Source: Engels et al. 2024, "Not All Language Model Features Are One-Dimensionally Linear".
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...measures.blocks import separability
from ..toys.base import Outcome, Say
from ..toys.threads import one_thread
from .base import Table, seeds

POINTS = {"days": 7, "months": 12, "years": 100}
CLOUDS, ROWS, UNITS = 400, 3000, 5
NOISE, SCATTER = 0.05, 0.1
"""Noise of every coordinate, and standard deviation of a circle's radius, relative to the typical length."""
EPSILON = 0.1
DIRECTIONS, OFFSETS = 60, 100
KINDS = ("independent", "exclusive", "family", "gaussian", "single")


def mixture(plane: Float[Tensor, "n 2"]) -> float:
    """M: the largest share of points in a strip that is narrow relative to its distance and to the spread.

    Range: from about 0.08, a Gaussian cloud, to near 1, nearly all points in one spot of some direction. Strips are tried
    at quantiles of the points.
    """
    x = plane.double() - plane.double().mean(0)
    turn = math.pi * torch.arange(DIRECTIONS, dtype=torch.float64) / DIRECTIONS
    along = torch.from_numpy(np.sort((torch.stack([turn.cos(), turn.sin()], 1) @ x.T).float().numpy(), axis=1))
    size = along.square().mean(1, keepdim=True)
    center = along[:, torch.linspace(0, along.shape[1] - 1, OFFSETS).long()]
    half = EPSILON * (size + center.square()).sqrt()
    low, high = (torch.searchsorted(along, edge.contiguous()) for edge in (center - half, center + half))
    return float((high - low).max()) / len(x)


def score(cloud: Float[Tensor, "n d"], generator: torch.Generator) -> float:
    """(1 − M) · S of the better one of the two leading planes."""
    x = cloud - cloud.mean(0)
    _, axes = torch.linalg.eigh(x.T @ x)
    x = x @ axes.flip(1)
    planes = (x[:, :2], x[:, 1:3])
    return max((1 - mixture(p)) * separability(p, generator, angles=24, permutations=1) for p in planes)


def circle(points: int, g: torch.Generator) -> Float[Tensor, "n d"]:
    """Points of a circle that lies beside a common direction, with a radius that scatters."""
    angle = 2 * math.pi * torch.randint(points, (ROWS,), generator=g) / points
    radius = 1 + SCATTER * torch.randn(ROWS, generator=g)
    flat = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.ones(ROWS)], 1)
    return _placed(flat, torch.eye(3, UNITS), g)


def other(kind: str, g: torch.Generator) -> Float[Tensor, "n d"]:
    """A cloud without a circle: rows in which at least one of 2 to 6 features is active."""
    k = 1 if kind == "single" else int(torch.randint(2, 7, (1,), generator=g))
    if kind == "gaussian":
        return torch.randn(ROWS, UNITS, generator=g) @ torch.randn(UNITS, UNITS, generator=g)
    common = 0.8 * float(torch.rand(1, generator=g))
    shared = torch.nn.functional.normalize(torch.randn(1, UNITS, generator=g), dim=1)
    own = torch.nn.functional.normalize(torch.randn(k, UNITS, generator=g), dim=1)
    atoms = torch.nn.functional.normalize(common * shared + (1 - common) * own, dim=1)
    values = _magnitudes(k, g)
    if kind in ("exclusive", "single"):
        on = torch.nn.functional.one_hot(torch.randint(k, (ROWS,), generator=g), k).bool()
    else:
        share = 0.1 + 0.4 * float(torch.rand(1, generator=g))
        on = torch.rand(ROWS, k, generator=g) < share
        if kind == "family":
            on[:, 0] = True
        idle = ~on.any(1)
        on[idle, torch.randint(k, (int(idle.sum()),), generator=g)] = True
    return _placed(values * on, atoms, g)


def _magnitudes(k: int, g: torch.Generator) -> Float[Tensor, "n k"]:
    law = int(torch.randint(3, (1,), generator=g))
    if law == 0:
        return torch.rand(ROWS, k, generator=g)
    normal = torch.randn(ROWS, k, generator=g)
    return normal.abs() if law == 1 else (0.5 * normal).exp()


def _placed(f: Float[Tensor, "n k"], atoms: Float[Tensor, "k d"], g: torch.Generator) -> Float[Tensor, "n d"]:
    x = f @ atoms
    return x + NOISE * x.square().sum(1).mean().sqrt() * torch.randn(x.shape, generator=g)


def ranks(seed: int) -> dict[str, int]:
    """Place of every circle among all clouds, from 1."""
    g = rng.stream(seed, "anchor circles")
    clouds = [circle(points, g) for points in POINTS.values()]
    clouds += [other(KINDS[i % len(KINDS)], g) for i in range(CLOUDS - len(clouds))]
    scores = torch.tensor([score(cloud, g) for cloud in clouds])
    order = scores.argsort(descending=True).argsort() + 1
    return {name: int(order[i]) for i, name in enumerate(POINTS)}


def circles(seed: int, say: Say) -> Outcome:
    """Ranks of the three circles."""
    table = Table(seed)
    say(f"{len(POINTS)} circles among {CLOUDS} clouds")
    with one_thread():
        found = [ranks(s) for s in seeds(seed, "circles")]
    for name, points in POINTS.items():
        text = f"rank over {CLOUDS} clouds, circle of {points} points, {ROWS:,} rows each"
        table.note(f"rank_{name}", [row[name] / CLOUDS for row in found], text)
    return table.outcome()
