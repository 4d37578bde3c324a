"""When does a network memorize its examples, and when does it learn the features?

The tied ReLU-output network with m = 2 is trained on a fixed set of T examples (n features, density 1 − S, every example
scaled to length 1), full batch. Few examples become the corners of a regular T-gon; many make it embed five features as
a pentagon; in between, the test loss is worst (double descent).

T orthonormal examples on a T-gon are fitted without error: with ρ² = 1/(1 − cos(2π/T)),

    W = ρ Σ_a x_a u_aᵀ  (u_a the corners of the unit T-gon),   b = −cos(2π/T) ρ² Σ_a x_a,   ‖W‖²_F = T ρ².

Each example has the dimensionality D_X = ‖h_a‖² / Σ_c (ĥ_a·h_c)² = 2/T. Other polygons, not regular, may fit too.

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent" (n = 10,000, S = 0.999, 50,000 steps; here
1,000, 0.99 and fewer steps unless `full`). T-gon formulas: own.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.geometry import feature_dimensionality
from ...records import Figure, Frame, Panel
from .base import Outcome, Say, StudyConfig, measured
from .loops import rate
from .sketch import across, line, points, series, still

M = 2
SOURCE = "Henighan et al. 2023, Superposition, Memorization, and Double Descent"


@dataclass(frozen=True)
class Examples:
    """T examples of n features in sparse form, padded with value 0."""

    index: Int[Tensor, "T k"]
    value: Float[Tensor, "T k"]
    n: int

    def dense(self) -> Float[Tensor, "T n"]:
        """The examples as a matrix."""
        return torch.zeros(len(self.index), self.n, dtype=self.value.dtype).scatter_add_(1, self.index, self.value)


@dataclass(frozen=True)
class Memory:
    """A network trained on fixed examples."""

    examples: Examples
    W: Float[Tensor, "n 2"]
    b: Float[Tensor, " n"]
    train: float
    """Mean loss over the examples, summed over features."""
    test: float
    """The same over fresh examples."""

    def hidden(self) -> Float[Tensor, "T 2"]:
        """Where the examples lie."""
        return (self.W[self.examples.index] * self.examples.value[..., None]).sum(1)


@dataclass(frozen=True)
class Plan:
    """Sizes of the study."""

    n: int
    density: float
    counts: tuple[int, ...]
    """Numbers of examples T."""
    many: int
    """A number of examples from which the features must be learned."""
    steps: int
    peak: float
    few_steps: int
    """Steps for `many` examples."""
    seeds: int


SMOKE = Plan(200, 0.05, (3, 6, 30, 60, 120, 400), 1500, 2500, 5e-3, 1500, 3)
PAPER = Plan(
    1000, 0.01, (3, 5, 8, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000), 20_000, 6000, 3e-3, 2500, 8
)
FULL = Plan(
    10_000, 0.001, (3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 700, 1000, 2000, 5000, 10_000, 30_000), 100_000, 50_000,
    1e-3, 50_000, 8,
)  # fmt: skip


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


def memorize(examples: Examples, test: Examples, plan: Plan, steps: int, weight_decay: float, seed: int) -> Memory:
    """Full-batch AdamW from one random start, with warm-up and cosine decay."""
    from .memorization_kernel import gradient, train

    std = (2 / (examples.n + M)) ** 0.5
    start = std * torch.randn(M, examples.n, generator=rng.stream(seed, "memorize"))
    p = np.concatenate([start.numpy(), np.zeros((1, examples.n), np.float32)])
    rates = np.array([rate(step, steps, plan.peak, 0.05) for step in range(steps)])
    train(p, *_arrays(examples), rates, weight_decay)
    losses = [float(gradient(*p, *_arrays(some), *np.zeros_like(p))) for some in (examples, test)]
    return Memory(examples, torch.from_numpy(p[:2].T.copy()), torch.from_numpy(p[2]), *losses)


def _arrays(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    return examples.index.numpy().astype(np.int32), examples.value.numpy()


def sweep(plan: Plan, counts: tuple[int, ...], seeds: range, weight_decay: float, test: Examples) -> list[list[Memory]]:
    """Networks [count][seed] on data sets of their own, on as many threads as torch may use."""

    def one(job: tuple[int, int]) -> Memory:
        count, seed = job
        examples = draw(plan.n, plan.density, count, rng.stream(seed, "memorization", count))
        steps = plan.few_steps if count == plan.many else plan.steps
        return memorize(examples, test, plan, steps, weight_decay, seed)

    jobs = [(count, seed) for count in sorted(counts, reverse=True) for seed in seeds]  # the longest first
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return [[found[count, seed] for seed in seeds] for count in counts]


def memorizers(plan: Plan, counts: tuple[int, ...], starts: int, steps: int, seed: int) -> list[Memory]:
    """For each number of disjoint examples, of the starts that fit them the one with the smallest weights."""

    def one(job: tuple[Examples, int]) -> Memory:
        return memorize(job[0], job[0], Plan(plan.n, plan.density, (), 0, steps, 5e-3, 0, 1), steps, 0.01, job[1])

    sets = [draw_disjoint(plan.n, plan.density, count, rng.stream(seed, "disjoint", count)) for count in counts]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = [list(pool.map(one, [(some, start) for start in range(seed, seed + starts)])) for some in sets]
    return [min(tries, key=lambda m: (m.train > 1e-3, float(m.W.norm()))) for tries in found]


def data_dimensionality(memory: Memory) -> Float[Tensor, " T"]:
    """D_X of every example."""
    return feature_dimensionality(memory.hidden()[None])[0]
