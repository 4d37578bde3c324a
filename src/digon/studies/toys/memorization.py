"""When does a network memorize its examples, and when does it learn the features?

The tied ReLU-output network with m = 2 is trained on a fixed set of T examples (n features, density 1 − S, every example
scaled to length 1), full batch. Few examples become the corners of a regular T-gon; many make it embed five features as
a pentagon; in between, the test loss is worst (double descent).

T orthonormal examples on a T-gon are fitted without error: with ρ² = 1/(1 − cos(2π/T)),

    W = ρ Σ_a x_a u_aᵀ  (u_a the corners of the unit T-gon),   b = −cos(2π/T) ρ² Σ_a x_a,   ‖W‖²_F = T ρ².

Each example has the dimensionality D_X = ‖h_a‖² / Σ_c (ĥ_a·h_c)² = 2/T.

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent" (n = 10,000, S = 0.999; here 1,000 and
0.99 unless `full`). T-gon formulas: own.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from .loops import rate

M = 2
SOURCE = "Henighan et al. 2023, Superposition, Memorization, and Double Descent"
CHUNK = 2**19
"""Outputs computed at once: what a core's cache holds."""
BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class Examples:
    """T examples of n features in sparse form, padded with value 0; an axis of instances leads."""

    index: Int[Tensor, "i T k"]
    value: Float[Tensor, "i T k"]
    n: int

    def dense(self) -> Float[Tensor, "i T n"]:
        """The examples as matrices."""
        shape = (*self.index.shape[:2], self.n)
        return torch.zeros(shape, dtype=self.value.dtype).scatter_add_(2, self.index, self.value)


@dataclass(frozen=True)
class Memory:
    """Networks trained on fixed examples."""

    examples: Examples
    W: Float[Tensor, "i n 2"]
    b: Float[Tensor, "i n"]
    train: Float[Tensor, " i"]
    """Mean loss over the examples, summed over features."""

    def hidden(self) -> Float[Tensor, "i T 2"]:
        """Where the examples lie."""
        return embed(self.W, self.examples.index, self.examples.value)


def draw(n: int, density: float, count: int, instances: int, generator: torch.Generator) -> Examples:
    """`count` examples per instance, uniform values at random features, none empty, each of length 1."""
    rows, piece = instances * count, max(2**24 // n, 1)
    sizes = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    active = torch.from_numpy(np.maximum(sizes.binomial(n, density, rows), 1))
    width = int(active.max())
    # The places of the largest of n random numbers are distinct features, drawn evenly.
    keys = (torch.rand(min(piece, rows - start), n, generator=generator) for start in range(0, rows, piece))
    index = torch.cat([key.topk(width, dim=1).indices for key in keys])
    value = torch.rand(rows, width, generator=generator) * (torch.arange(width) < active[:, None])
    value /= value.norm(dim=1, keepdim=True)
    return Examples(index.view(instances, count, width), value.view(instances, count, width), n)


def embed(W: Float[Tensor, "i n m"], index: Int[Tensor, "i T k"], value: Float[Tensor, "i T k"]) -> Tensor:
    """Hidden activations [i, T, m] of sparse rows."""
    rows = torch.stack([w[at] for w, at in zip(W, index, strict=True)])
    return (rows * value[..., None]).sum(2)


def polygon(corners: int) -> Float[Tensor, "T 2"]:
    """Corners of the regular polygon on the unit circle."""
    angle = 2 * math.pi * torch.arange(corners, dtype=torch.float64) / corners
    return torch.stack([angle.cos(), angle.sin()], 1)


def memorizer(x: Float[Tensor, "T n"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Weights and biases that fit T orthonormal, nonnegative examples exactly.

    Raises: ConfigError if the examples are not orthonormal or fewer than three.
    Source: own; the T-gon that Henighan et al. 2023 observe.
    """
    if len(x) < 3 or not torch.allclose(x @ x.T, torch.eye(len(x), dtype=x.dtype), atol=1e-6):
        raise ConfigError("the examples are not orthonormal", expected="three or more orthogonal rows of length 1")
    square = 1 / (1 - math.cos(2 * math.pi / len(x)))
    b = -math.cos(2 * math.pi / len(x)) * square * x.sum(0)
    return math.sqrt(square) * x.T @ polygon(len(x)).to(x), b


def loss_and_gradient(
    W: Float[Tensor, "i n m"], b: Float[Tensor, "i n"], index: Int[Tensor, "i T k"], value: Float[Tensor, "i T k"]
) -> tuple[Float[Tensor, " i"], Float[Tensor, "i n m"], Float[Tensor, "i n"]]:
    """Mean over examples of Σ_j (x_j − ReLU(h·W_j + b_j))², and its gradient, in row blocks that stay in cache."""
    instances, count, width = index.shape
    n, m = W.shape[1:]
    grad_W, grad_b, total = torch.zeros_like(W), torch.zeros_like(b), W.new_zeros(instances)
    size = max(CHUNK // (instances * n), 16)
    for start in range(0, count, size):
        at, x = index[:, start : start + size], value[:, start : start + size]
        rows = at.shape[1]
        flat = at.reshape(instances, rows * width)
        near = W.gather(1, flat[..., None].expand(-1, -1, m)).view(instances, rows, width, m)
        h = (near * x[..., None]).sum(2)
        error = torch.baddbmm(b[:, None], h, W.mT).relu_()
        on = error.gather(2, at)
        # An output that is off passes no gradient: there the error is left at zero and only its loss is counted.
        total += torch.where(on > 0, 0, x * x).sum((1, 2))
        error.scatter_add_(2, at, torch.where(on > 0, -x, 0))
        total += error.square().sum((1, 2))
        grad_W += error.mT @ h
        grad_b += error.sum(1)
        back = (error @ W)[:, :, None] * x[..., None]
        grad_W.scatter_add_(1, flat[..., None].expand(-1, -1, m), back.view(instances, rows * width, m))
    return total / count, 2 / count * grad_W, 2 / count * grad_b


def memorize(
    examples: Examples, steps: int, peak: float, weight_decay: float, seed: int, start: Tensor | None = None
) -> Memory:
    """Full-batch AdamW with warm-up and cosine decay, all instances side by side."""
    instances, n = len(examples.index), examples.n
    std = (2 / (n + M)) ** 0.5
    W = std * torch.randn(instances, n, M, generator=rng.stream(seed, "memorize")) if start is None else start.clone()
    b = torch.zeros(instances, n)
    first, second = [torch.zeros_like(p) for p in (W, b)], [torch.zeros_like(p) for p in (W, b)]
    for step in range(steps):
        now = rate(step, steps, peak, 0.05)
        _, *gradients = loss_and_gradient(W, b, examples.index, examples.value)
        correction = math.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
        for p, g, u, v in zip((W, b), gradients, first, second, strict=True):
            u.lerp_(g, 1 - BETAS[0])
            v.lerp_(g.square(), 1 - BETAS[1])
            p.mul_(1 - now * weight_decay).addcdiv_(u, v.sqrt().add_(1e-8), value=-now * correction)
    return Memory(examples, W, b, loss_and_gradient(W, b, examples.index, examples.value)[0])
