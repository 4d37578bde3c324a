"""Fixed sets of sparse examples, and the network with two hidden dimensions that fits them without error.

T orthonormal examples on a regular T-gon are fitted exactly: with ρ² = 1/(1 − cos(2π/T)) and u_a the corners of the unit
T-gon,

    W = ρ Σ_a x_a u_aᵀ,   b = −cos(2π/T) ρ² Σ_a x_a,   ‖W‖²_F = T ρ².

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent"; formulas own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....errors import ConfigError

M = 2
"""Hidden dimensions."""


@dataclass(frozen=True)
class Examples:
    """T examples of n features in sparse form, padded with value 0."""

    index: Int[Tensor, "T k"]
    value: Float[Tensor, "T k"]
    n: int

    def dense(self) -> Float[Tensor, "T n"]:
        """The examples as a matrix."""
        return torch.zeros(len(self.index), self.n, dtype=self.value.dtype).scatter_add_(1, self.index, self.value)


def draw(n: int, density: float, count: int, generator: torch.Generator) -> Examples:
    """`count` examples with uniform values at random features, none empty, each of length 1."""
    piece = max(2**24 // n, 1)
    sizes = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    active = torch.from_numpy(np.maximum(sizes.binomial(n, density, count), 1))
    width = int(active.max())
    # The places of the largest of n random numbers are distinct features, drawn evenly.
    keys = (torch.rand(min(piece, count - start), n, generator=generator) for start in range(0, count, piece))
    index = torch.cat([key.topk(width, dim=1).indices for key in keys])
    value = torch.rand(count, width, generator=generator) * (torch.arange(width) < active[:, None])
    return Examples(index, value / value.norm(dim=1, keepdim=True), n)


def draw_disjoint(n: int, density: float, count: int, generator: torch.Generator) -> Examples:
    """The first `count` of many examples that share no feature.

    Raises: ConfigError if so many do not fit.
    """
    pool = draw(n, density, 100 * count, generator)
    used, kept = set[int](), list[int]()
    for row, (index, value) in enumerate(zip(pool.index, pool.value, strict=True)):
        own = set(index[value > 0].tolist())
        if len(kept) < count and not own & used:
            kept.append(row)
            used |= own
    if len(kept) < count:
        raise ConfigError(f"{count} examples without a common feature", expected=f"at most {len(kept)} of {n} features")
    return Examples(pool.index[kept], pool.value[kept], n)


def polygon(corners: int) -> Float[Tensor, "T 2"]:
    """Corners of the regular polygon on the unit circle."""
    angle = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    return torch.stack([angle.cos(), angle.sin()], 1)


def radius(corners: int) -> float:
    """Length ρ of the hidden vectors of a T-gon that fits T orthonormal examples."""
    return (1 - math.cos(2 * math.pi / corners)) ** -0.5


def memorizer(x: Float[Tensor, "T n"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Weights and biases that fit T orthonormal, nonnegative examples exactly.

    Raises: ConfigError if the examples are not orthonormal or fewer than three.
    Source: own; the T-gon that Henighan et al. 2023 observe.
    """
    if len(x) < 3 or not torch.allclose(x @ x.T, torch.eye(len(x), dtype=x.dtype), atol=1e-6):
        raise ConfigError("the examples are not orthonormal", expected="three or more orthogonal rows of length 1")
    rho = radius(len(x))
    return rho * x.T @ polygon(len(x)).to(x), -math.cos(2 * math.pi / len(x)) * rho**2 * x.sum(0)


def loss(W: Float[Tensor, "n 2"], b: Float[Tensor, " n"], x: Float[Tensor, "T n"]) -> Float[Tensor, ""]:
    """Mean over examples of Σ_j (x_j − ReLU(h·W_j + b_j))²: what the kernel computes."""
    return (x - torch.relu(x @ W @ W.T + b)).square().sum(1).mean()


def dimensionality(rows: Float[Tensor, "k 2"]) -> Float[Tensor, " k"]:
    """‖h‖² / Σ_c (ĥ·h_c)² of every row, through the frame operator, so that many rows cost no more; 0 for zero rows."""
    square = rows.square().sum(1)
    return square**2 / ((rows @ (rows.T @ rows)) * rows).sum(1).clamp(min=1e-12)
