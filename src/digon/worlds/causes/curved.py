"""Features that are not directions: circles, tori, spheres and arcs, and the polygons that look like sampled circles."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from .base import Truth, World, check_size, world
from .dictionaries import random

DIMENSIONS: dict[str, int] = {"circle": 2, "arc": 2, "torus": 4, "sphere": 3}
"""Coordinates that one manifold takes."""


def manifold(
    n_rows: int,
    d: int,
    seed: int,
    kind: str = "circle",
    *,
    count: int | None = None,
    density: float = 0.1,
    spread: float = 0.1,
) -> World:
    """Gated manifolds: each is active with probability `density`, and then a point on it with a radius near 1.

    `count` manifolds (default: as many as fit side by side); more lie in random directions, in superposition. `spread`:
    standard deviation of the radius.

    Raises: ConfigError for an unknown kind, or if one manifold needs more units than there are.
    """
    check_size(n_rows, d)
    if kind not in DIMENSIONS or DIMENSIONS[kind] > d:
        raise ConfigError(
            f"a {kind} in {d} units", expected=f"one of {', '.join(DIMENSIONS)} with at least as many units"
        )
    r, g = DIMENSIONS[kind], rng.stream(seed, "manifold")
    blocks = d // r if count is None else count
    points = _points(kind, n_rows * blocks, g).view(n_rows, blocks, r)
    radius = (1 + spread * torch.randn(n_rows, blocks, 1, generator=g)).clamp(min=0)
    gate = torch.rand(n_rows, blocks, 1, generator=g) < density
    f = (gate * radius * points).flatten(1)
    atoms = haar(d, g)[: blocks * r] if blocks * r <= d else random(blocks * r, d, g)
    return world(f @ atoms, Truth("manifold", blocks, min(d, blocks * r), atoms, f))


def polygon(
    n_rows: int, d: int, seed: int, corners: int = 6, *, count: int | None = None, density: float = 0.1
) -> World:
    """Gated polygons: mutually exclusive features at the corners, which is also a circle that is sampled at few points.

    Raises: ConfigError with fewer than three corners or two units.
    """
    check_size(n_rows, d)
    if corners < 3 or d < 2:
        raise ConfigError(f"a polygon of {corners} corners in {d} units", expected="at least 3 corners and 2 units")
    g = rng.stream(seed, "polygon")
    planes = d // 2 if count is None else count
    corner = torch.randint(corners, (n_rows, planes), generator=g)
    gate = torch.rand(n_rows, planes, generator=g) < density
    f = torch.zeros(n_rows, planes, corners).scatter_(2, corner[..., None], gate[..., None].float()).flatten(1)
    angle = 2 * torch.pi * torch.arange(corners) / corners
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    frame = haar(d, g)[: 2 * planes] if 2 * planes <= d else random(2 * planes, d, g)
    atoms = torch.block_diag(*[ring] * planes) @ frame
    truth = Truth(
        "superposition",
        planes * corners,
        min(d, 2 * planes),
        atoms,
        f,
        frozenset({"superposition", "manifold", "lookup"}),
    )
    return world(f @ atoms, truth)


def _points(kind: str, count: int, g: torch.Generator) -> Float[Tensor, "count r"]:
    if kind == "sphere":
        return torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1)
    turns = torch.rand(count, 2, generator=g) * (0.25 if kind == "arc" else 1.0) * 2 * torch.pi
    rings = torch.stack([turns.cos(), turns.sin()], -1)
    return rings.flatten(1) / 2**0.5 if kind == "torus" else rings[:, 0]
