"""Active features of the tree world in torch, on any device: the readable form of the compiled sampler.

Roots and lone features are decided for all rows; from there on only children of active features are looked at.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..sparse import Active
from .law import Law

CELLS = 2**23
"""Rows × top features that are decided at once."""


def draw(law: Law, rows: int, scale_children: bool, generator: torch.Generator) -> Active:
    """Active features of independent rows and their strengths, by row. The law lies on the generator's device."""
    size = max(1, CELLS // max(len(law.tops), 1))
    parts = [_piece(law, min(size, rows - start), start, scale_children, generator) for start in range(0, rows, size)]
    row, feature, strength = (torch.cat(v) for v in zip(*parts, strict=True))
    order = (row * len(law.wish) + feature).argsort()
    return Active(row[order], feature[order], strength[order])


def _piece(law: Law, rows: int, start: int, scale_children: bool, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    shared = torch.randn(rows, law.mixing.shape[1], generator=g, device=g.device, dtype=torch.float32)
    tops = law.tops
    level = shared @ law.mixing[tops].T.to(shared) - law.threshold[tops].to(shared)
    noise = torch.randn(level.shape, generator=g, device=g.device) * law.residue[tops].to(shared)
    row, place = (level + noise > 0).nonzero(as_tuple=True)
    feature = tops[place]
    strength = _strengths(law, feature, g)
    found = [(row[strength > 0], feature[strength > 0], strength[strength > 0])]
    while (law.children[found[-1][1]] > 0).any():
        found.append(_children(law, *found[-1], shared, scale_children, g))
    row, feature, strength = (torch.cat(v) for v in zip(*found, strict=True))
    return row + start, feature, strength


def _children(
    law: Law,
    row: Int[Tensor, " a"],
    feature: Int[Tensor, " a"],
    strength: Float[Tensor, " a"],
    shared: Float[Tensor, "rows r"],
    scale_children: bool,
    g: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """The active child of every active feature that has one: a random one of those that fire."""
    has = law.children[feature] > 0
    row, feature, strength = row[has], feature[has], strength[has]
    place = torch.arange(int(law.children.max()), device=feature.device)
    real = place < law.children[feature, None]
    child = torch.where(real, law.first_child[feature, None] + place, 0)
    level = (law.mixing[child].to(shared) * shared[row, None]).sum(-1) - law.threshold[child].to(shared)
    noise = torch.randn(level.shape, generator=g, device=g.device) * law.residue[child].to(shared)
    own = _strengths(law, child, g)
    fires = real & (level + noise > 0) & (own > 0)
    lots = torch.rand(level.shape, generator=g, device=g.device).masked_fill_(~fires, -1)
    chosen = lots.argmax(1, keepdim=True)
    any_fires = fires.any(1)
    child, own = child.gather(1, chosen).squeeze(1), own.gather(1, chosen).squeeze(1)
    if scale_children:
        own = own * strength / law.mean[feature].to(own)
    return row[any_fires], child[any_fires], own[any_fires]


def _strengths(law: Law, feature: Tensor, g: torch.Generator) -> Tensor:
    normal = torch.randn(feature.shape, generator=g, device=g.device)
    return (law.mean[feature] + law.spread[feature] * normal).to(torch.float32)
