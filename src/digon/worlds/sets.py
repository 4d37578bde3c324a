"""How may sparse features depend on each other? Sets of features: correlated, anticorrelated, hierarchies, copulas.

`worlds/features` says what each kind means. Here are the rules that a set must obey, the masks of its members, dense and
sparse, and how often two members are active together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .sparse import positions

Kind = Literal["correlated", "anticorrelated", "hierarchy", "copula"]
KINDS: tuple[Kind, ...] = ("correlated", "anticorrelated", "hierarchy", "copula")
SLACK = 1e-9
"""Rounding that sums and ratios of densities may show."""
PIECE = 2**22
"""Normal variables of a copula that are drawn at once."""


@dataclass(frozen=True)
class FeatureSet:
    """Features that depend on each other.

    >>> family = FeatureSet((0, 1, 2, 3), "hierarchy", parents=(-1, 0, 0, 1))  # 3 under 1, 1 and 2 under 0
    """

    members: tuple[int, ...]
    kind: Kind
    parents: tuple[int, ...] = ()
    """hierarchy: for every member the feature it hangs on, or −1 for a root; parents stand before their children."""
    correlation: float | tuple[tuple[float, ...], ...] = 0.0
    """copula: correlation of the normal variables, one for all pairs or a matrix [members, members]."""

    @cached_property
    def correlations(self) -> Float[Tensor, "k k"]:
        """copula: the matrix of correlations, float64."""
        k = len(self.members)
        if isinstance(self.correlation, tuple):
            return torch.tensor(self.correlation, dtype=torch.float64)
        one = torch.full((k, k), float(self.correlation), dtype=torch.float64)
        return one.fill_diagonal_(1.0)

    @cached_property
    def mixing(self) -> Float[Tensor, "k k"]:
        """copula: M with M Mᵀ = correlations."""
        values, axes = torch.linalg.eigh(self.correlations)
        return axes * values.clamp(min=0).sqrt()


def wrong(group: FeatureSet, density: Float[Tensor, "i k"]) -> str:
    """What was expected of a set that contradicts itself or its densities; empty if all is well."""
    if group.kind not in KINDS:
        return f"a set that is {' | '.join(KINDS)}"
    if not group.members:
        return "at least one member"
    if group.kind == "correlated" and (density.amax(1) - density.amin(1) > SLACK).any():
        return "one density for all members, because they are active together"
    if group.kind == "anticorrelated" and (density.sum(1) > 1 + SLACK).any():
        return "densities that add up to at most 1, because one member is active at a time"
    if group.kind == "hierarchy":
        place = {feature: i for i, feature in enumerate(group.members)}
        if len(group.parents) != len(group.members) or any(
            up != -1 and place.get(up, i) >= i for i, up in enumerate(group.parents)
        ):
            return "a parent for every member, −1 or a member that stands before it"
        above = [(i, place[up]) for i, up in enumerate(group.parents) if up >= 0]
        if any((density[:, i] > density[:, up] + SLACK).any() for i, up in above):
            return "children that are at most as dense as their parents"
    if group.kind == "copula":
        k = len(group.members)
        if isinstance(group.correlation, tuple) and [len(row) for row in group.correlation] != [k] * k:
            return f"one correlation for all pairs, or {k} rows of {k} correlations"
        c = group.correlations
        if not c.isfinite().all() or (c - c.mT).abs().max() > SLACK or (c.diagonal() - 1).abs().max() > SLACK:
            return "a symmetric matrix of correlations with ones on its diagonal, or one number for all pairs"
        if torch.linalg.eigvalsh(c).min() < -1e-6:
            return "correlations that can hold at once (no negative eigenvalue)"
    return ""


def masks(group: FeatureSet, density: Tensor, draw: Tensor, generator: torch.Generator) -> Tensor:
    """Which members are active [i rows k]."""
    members = list(group.members)
    first, share = draw[..., members[:1]], density[:, None, members]
    if group.kind == "correlated":
        return first < share
    if group.kind == "anticorrelated":
        # The whole set is active with the sum of its members' densities, and then exactly one member, in proportion.
        edges = share.cumsum(-1)
        return (first < edges) & (first >= edges - share)
    if group.kind == "copula":
        shape = (*draw.shape[:-1], len(members))
        normal = torch.randn(shape, generator=generator, device=draw.device) @ group.mixing.mT.to(draw)
        return normal < torch.special.ndtri(share)
    active, place = draw[..., members] < share, {feature: i for i, feature in enumerate(members)}
    for i, parent in enumerate(group.parents):
        if parent >= 0:
            above = place[parent]
            active[..., i] = active[..., above] & (draw[..., members[i]] * share[..., above] < share[..., i])
    return active


def sparse_masks(
    group: FeatureSet, density: Tensor, rows: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and numbers of active features of a set."""
    members = torch.tensor(group.members, device=density.device)
    p = density[members]
    if group.kind == "correlated":
        row = positions(rows, float(p[0]), generator)
        yield row.repeat_interleave(len(members)), members.repeat(len(row))
    elif group.kind == "anticorrelated":
        edges = p.cumsum(0)
        row = positions(rows, float(edges[-1]), generator)
        draw = torch.rand(len(row), generator=generator, device=row.device, dtype=torch.float64) * edges[-1]
        yield row, members[torch.searchsorted(edges, draw, right=True).clamp(max=len(members) - 1)]
    elif group.kind == "hierarchy":
        found: dict[int, Tensor] = {}
        place = {feature: i for i, feature in enumerate(group.members)}
        for i, (feature, parent) in enumerate(zip(group.members, group.parents, strict=True)):
            if parent < 0:
                row = positions(rows, float(p[i]), generator)
            else:
                above = found[parent]
                draw = torch.rand(len(above), generator=generator, device=above.device, dtype=torch.float64)
                row = above[draw * p[place[parent]] < p[i]]
            found[feature] = row
            yield row, torch.full_like(row, feature)
    else:
        size = max(1, PIECE // len(members))
        edge, mixing = torch.special.ndtri(p), group.mixing.mT.to(p.device)
        for start in range(0, rows, size):
            shape = (min(size, rows - start), len(members))
            normal = torch.randn(shape, generator=generator, device=p.device, dtype=torch.float64) @ mixing
            row, place_ = (normal < edge).nonzero(as_tuple=True)
            yield start + row, members[place_]


def together(group: FeatureSet, p: Tensor) -> Tensor:
    """P(both active) [..., k, k] of the members of a set with densities p [..., k]; the diagonal is not used."""
    if group.kind == "correlated":
        return torch.minimum(p[..., :, None], p[..., None, :])
    if group.kind == "anticorrelated":
        return torch.zeros(*p.shape, p.shape[-1], dtype=p.dtype)
    both = p[..., :, None] * p[..., None, :]
    if group.kind == "hierarchy":
        lines = _ancestry(group)
        for i, up in enumerate(lines):
            for j, other in enumerate(lines):
                shared = [a for a in up if a in other]
                if shared:  # the nearest common ancestor must be active, and below it the two are independent
                    both[..., i, j] /= p[..., shared[0]]
        return both
    return _orthant(torch.special.ndtri(p.clamp(max=1 - 1e-16)), group.correlations)


def _orthant(edge: Tensor, correlation: Tensor) -> Tensor:
    """P(g_i < edge_i, g_j < edge_j) of correlated normal variables: ∂/∂ρ of it is their density, integrated from ρ = 0."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(48))
    h, k = edge[..., :, None, None], edge[..., None, :, None]
    width = correlation.clamp(-1, 1).asin()[..., None]
    angle = width * (nodes + 1) / 2
    exponent = -(h.square() + k.square() - 2 * h * k * angle.sin()) / (2 * angle.cos().square().clamp(min=1e-300))
    independent = torch.special.ndtr(edge)[..., :, None] * torch.special.ndtr(edge)[..., None, :]
    return independent + (exponent.exp() * weights * width / 2).sum(-1) / (2 * math.pi)


def _ancestry(group: FeatureSet) -> list[list[int]]:
    """Of every member: itself, its parent, its grandparent and so on, as places in `members`."""
    place = {feature: i for i, feature in enumerate(group.members)}
    lines: list[list[int]] = []
    for i, parent in enumerate(group.parents):
        lines.append([i, *(lines[place[parent]] if parent >= 0 else [])])
    return lines
