"""Toy networks under pressure: with L1 on activations, a penalty on interference, dropout, or only some units in use.

Many networks train side by side on one batch. The batch is stratified by how many features are active: none is done in
closed form, one takes every feature at evenly spread values, two and more are drawn; rows carry their probability.

    loss(network) + λ E‖h‖₁ + μ Σ_{i≠j} (Wᵢ·Wⱼ)²        h = mask(x W),  x' = ReLU(h Wᵀ + b)

The mask drops units at random (their survivors scaled up), or keeps only the blocks of units that respond most to an
input: blocks of one unit are a top-k layer, larger ones are experts, each with a router that reads its own response.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from .... import rng
from ....measures.geometry import interference, norms
from ....worlds.loops import minimize
from ..threads import one_thread

SHARING = 0.2
"""Interference from which a feature counts as superposed."""


@dataclass(frozen=True)
class Pressure:
    """What a group of networks trains under; strengths are one number per network."""

    l1: Float[Tensor, " i"]
    """λ: weight of the summed absolute activations."""
    overlap: Float[Tensor, " i"]
    """μ: weight of the squared inner products of different features."""
    dropout: float = 0.0
    """Probability that a hidden unit is dropped."""
    blocks: int = 1
    """Blocks of hidden units."""
    active: int = 1
    """Blocks that an input may use."""

    def __len__(self) -> int:
        return len(self.l1)


def plain(instances: int, *, dropout: float = 0.0, blocks: int = 1, active: int = 1) -> Pressure:
    """No penalty."""
    return Pressure(torch.zeros(instances), torch.zeros(instances), dropout, blocks, active)


@dataclass(frozen=True)
class Strata:
    """Rows of n sparse uniform features, stratified by the number of active ones."""

    n: int
    density: float
    each: int
    """Rows in which one given feature is active alone."""
    pairs: int
    """Rows with two active features."""
    more: int
    """Rows with three or more; 0 where there are only two features."""

    @property
    def chances(self) -> np.ndarray:
        """Probability of 0 … n active features."""
        return stats.binom.pmf(np.arange(self.n + 1), self.n, self.density)

    @property
    def weights(self) -> Float[Tensor, " rows"]:
        """Probability that a row stands for; with that of no active feature they sum to 1."""
        chances, alone = self.chances, self.n * self.each
        parts = [(alone, chances[1]), (self.pairs, chances[2]), (self.more, chances[3:].sum())]
        return torch.cat([torch.full((rows,), float(total) / max(rows, 1)) for rows, total in parts])

    def draw(self, generator: torch.Generator) -> Float[Tensor, "rows n"]:
        """Fresh rows."""
        n, each, many = self.n, self.each, self.pairs + self.more
        step = torch.arange(each).repeat(n) + torch.rand(n * each, generator=generator)
        alone = torch.eye(n).repeat_interleave(each, 0) * (step / each)[:, None]
        tail = torch.tensor([*self.chances[3:], 0.0])
        three = torch.multinomial(tail, self.more, True, generator=generator) if self.more else torch.zeros(0)
        active = torch.cat([torch.full((self.pairs,), 2), 3 + three])
        rank = torch.rand(many, n, generator=generator).argsort(1).argsort(1)
        return torch.cat([alone, torch.rand(many, n, generator=generator) * (rank < active[:, None])])


def routed(h: Float[Tensor, "i rows m"], blocks: int, active: int) -> Float[Tensor, "i rows m"]:
    """Activations of the `active` blocks with the largest norms; the others are 0."""
    if active >= blocks:
        return h
    parts = h.unflatten(-1, (blocks, -1))
    size = parts.detach().square().sum(-1)
    # by place, not by size: among equals a threshold would let all pass, and training finds and uses such ties
    used = torch.zeros_like(size).scatter_(-1, size.topk(active, -1).indices, 1.0)
    return (parts * used[..., None]).flatten(-2)


def outputs(
    x: Float[Tensor, "rows n"], W: Float[Tensor, "i n m"], b: Float[Tensor, "i n"], pressure: Pressure
) -> tuple[Float[Tensor, "i rows n"], Float[Tensor, "i rows m"]]:
    """Outputs without dropout, and hidden activations."""
    h = routed(torch.matmul(x, W), pressure.blocks, pressure.active)
    return torch.baddbmm(b[:, None], h, W.mT).relu(), h


def reconstruction(
    W: Float[Tensor, "i n m"],
    b: Float[Tensor, "i n"],
    importance: Float[Tensor, " n"],
    pressure: Pressure,
    strata: Strata,
    seed: int,
) -> tuple[Float[Tensor, " i"], Float[Tensor, " i"]]:
    """Squared error summed over features, and E‖h‖₁, on many rows, the same for equal seeds; no dropout."""
    x, weight = strata.draw(rng.stream(seed, "penalties evaluation")), strata.weights
    errors, sizes = [], []
    for k in range(len(W)):
        y, h = outputs(x, W[k : k + 1], b[k : k + 1], pressure)
        silent = strata.chances[0] * (importance * b[k].relu().square()).sum()
        errors.append(weight @ ((y[0] - x).square() @ importance) + silent)
        sizes.append(weight @ h[0].abs().sum(-1))
    return torch.stack(errors), torch.stack(sizes)


def overlaps(W: Float[Tensor, "i n m"]) -> Float[Tensor, " i"]:
    """Σ_{i≠j} (Wᵢ·Wⱼ)²."""
    return (W.mT @ W).square().sum((1, 2)) - W.square().sum(-1).square().sum(-1)


def train(
    m: int,
    importance: Float[Tensor, " n"],
    pressure: Pressure,
    strata: Strata,
    *,
    steps: int,
    seed: int,
    peak: float = 2e-2,
) -> tuple[Float[Tensor, "i n m"], Float[Tensor, "i n"]]:
    """Weights and biases of networks with m hidden units, one per strength, trained side by side."""
    g = rng.stream(seed, "penalties")
    n, instances = strata.n, len(pressure)
    width = m // pressure.blocks * pressure.active
    W = (2 / (n + width)) ** 0.5 * torch.randn(instances, n, m, generator=g)
    b, weight = torch.zeros(instances, n), strata.weights
    keep, none = 1 - pressure.dropout, float(strata.chances[0])

    def loss(_: int) -> Tensor:
        x = strata.draw(g)
        h = routed(torch.matmul(x, W), pressure.blocks, pressure.active)
        used = h if keep == 1 else h * (torch.rand(h.shape, generator=g) < keep) / keep
        y = torch.baddbmm(b[:, None], used, W.mT).relu()
        error = ((y - x).square() @ importance) @ weight + none * (importance * b.relu().square()).sum(-1)
        return error + pressure.l1 * (h.abs().sum(-1) @ weight) + pressure.overlap * overlaps(W)

    minimize([W, b], loss, steps=steps, peak=peak)
    return W.detach(), b.detach()


@dataclass(frozen=True)
class Size:
    """How much is trained, and how fine diagrams are."""

    steps: int
    starts: int
    """Networks per strength and seed, of which the best is kept."""
    seeds: int
    pixels: int
    rows: int = 12_000
    """Rows with two active features behind every loss; half as many have more."""


@dataclass(frozen=True)
class Found:
    """The best of several networks of one kind and strength."""

    W: Float[Tensor, "n m"]
    loss: float
    """Squared error without penalty and without dropout."""
    energy: float
    """With penalty: what decided which network is the best."""
    norm: Float[Tensor, " n"]
    shared: Float[Tensor, " n"]
    """Interference; within the expert that holds the feature if only one expert is used."""

    @property
    def represented(self) -> int:
        """Features longer than 0.5."""
        return int((self.norm > 0.5).sum())

    @property
    def superposed(self) -> int:
        """Represented features that share their direction."""
        return int(((self.norm > 0.5) & (self.shared > SHARING)).sum())

    @property
    def alignment(self) -> np.ndarray:
        """Largest weight over the sum of weights, of every hidden unit in use: 1 alone, 1/2 for a pair."""
        size = self.W.abs()
        return (size.amax(0) / size.sum(0))[size.amax(0) > 0.5].numpy()


def best(
    m: int, importance: Float[Tensor, " n"], density: float, pressure: Pressure, size: Size, seed: int
) -> list[Found]:
    """Train `size.starts` networks per strength; the best of each by energy."""
    wide = Pressure(
        pressure.l1.repeat_interleave(size.starts), pressure.overlap.repeat_interleave(size.starts),
        pressure.dropout, pressure.blocks, pressure.active,
    )  # fmt: skip
    n = len(importance)
    batch, rows = (
        Strata(n, density, 160 // n, 100, 60 * (n > 2)),
        Strata(n, density, 100, size.rows, size.rows // 2 * (n > 2)),
    )
    with one_thread():
        W, b = train(m, importance, wide, batch, steps=size.steps, seed=seed)
        loss, activity = reconstruction(W, b, importance, wide, rows, 0)
    energy = (loss + wide.l1 * activity + wide.overlap * overlaps(W)).view(-1, size.starts)
    picked = (energy.argmin(1) + size.starts * torch.arange(len(energy))).tolist()
    parts = W.unflatten(-1, (wide.blocks if wide.active == 1 else 1, -1)).movedim(2, 1)  # [i, experts, n, units]
    norm, shared = norms(parts), interference(parts)
    home = norm.argmax(1, keepdim=True)
    norm, shared = norm.gather(1, home)[:, 0], shared.gather(1, home)[:, 0]
    return [Found(W[k], float(loss[k]), float(energy.flatten()[k]), norm[k], shared[k]) for k in picked]
