"""The network that theory expects at a density: copies of one polytope, at its best norm and bias.

Features of equal importance settle in tegum products, polytopes in orthogonal subspaces. The polytope that saves most
loss per dimension against ignoring its features is the one to expect; its norm, its bias and an antiprism's height are
at the minimum of the expected loss.

Source: geometry of uniform superposition in Elhage et al. 2022, "Toy Models of Superposition"; the optimization is own.
"""

from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from ....measures.polytopes import polygon, simplex
from ....worlds.toys import Toy
from .tegum import settled

TIE = 0.005
"""Relative difference of gains that counts as none."""
NODES = 1024
"""Nodes of the expected loss, per output."""
POLYTOPES = ("dedicated", "digon", "triangle", "tetrahedron", "pentagon", "square antiprism")


@dataclass(frozen=True)
class Block:
    """A polytope at the norm and bias of least expected loss."""

    name: str
    W: Float[Tensor, "k d"]
    bias: float
    gain: float
    """Loss that it saves against ignoring its features, per dimension."""


@cache
def blocks(densities: tuple[float, ...]) -> dict[float, tuple[Block, ...]]:
    """Every polytope at its best for these densities: the largest gain per dimension first.

    Dedicated dimensions come first if they are within `TIE` of the largest gain: dense features prefer a simplex with
    many vertices, which is nearly the same as no superposition, by a few tenths of a percent.
    """
    p = torch.tensor(densities, dtype=torch.float64)
    found = dict[float, list[Block]]()
    for name in POLYTOPES:
        start = torch.tensor([1.0, 0.0, 0.56] if name == "square antiprism" else [1.0, 0.0], dtype=torch.float64)
        best, gains = settled(partial(shape, name), start, p, NODES)
        for density, x, gain in zip(densities, best, gains.tolist(), strict=True):
            found.setdefault(density, []).append(Block(name, shape(name, x[None])[0], float(x[1]), gain))
    return {density: _ranked(rows) for density, rows in found.items()}


def _ranked(rows: list[Block]) -> tuple[Block, ...]:
    most = max(block.gain for block in rows)
    tied = [block for block in rows if block.name == "dedicated" and block.gain > (1 - TIE) * most]
    return (*tied, *sorted((block for block in rows if block not in tied), key=lambda block: -block.gain))


def shape(name: str, x: Float[Tensor, "i p"]) -> Float[Tensor, "i k d"]:
    """Vertices of a polytope, scaled by x₀; an antiprism's height is x₂."""
    if name == "square antiprism":
        angle = torch.pi / 4 * torch.arange(8, dtype=x.dtype)
        level = x[:, 2:3] * torch.tensor([1.0, -1.0] * 4, dtype=x.dtype)
        radius = (1 - level.square()).clamp(min=0).sqrt()
        return x[:, :1, None] * torch.stack([radius * angle.cos(), radius * angle.sin(), level], -1)
    corners = {"dedicated": 1, "digon": 2, "triangle": 3, "tetrahedron": 4}
    vertices = simplex(corners[name]) if name in corners else polygon(5)
    return x[:, :1, None] * torch.from_numpy(vertices.vertices)


def ideal(ranked: tuple[Block, ...], density: float, n: int, m: int) -> Toy:
    """The best polytope as often as it fits into m dimensions, digons in what is left; other features ignored."""
    best = ranked[0]
    rest = best if len(best.W) == 1 else next(block for block in ranked if block.name == "digon")
    copies = min(m // best.W.shape[1], n // len(best.W))
    used = [best] * copies + [rest] * min(m - copies * best.W.shape[1], (n - copies * len(best.W)) // len(rest.W))
    W, bias = torch.block_diag(*(block.W for block in used)), [block.bias for block in used for _ in block.W]
    toy = Toy(n, m)
    with torch.no_grad():
        toy.W.zero_()
        toy.W[0, : W.shape[0], : W.shape[1]] = W.float()
        toy.b.fill_(density / 2)
        toy.b[0, : len(bias)] = torch.tensor(bias)
    return toy
