"""Train toy networks.

    sampled     Adam, AdamW or SGD on fresh samples, as in the papers: for learning dynamics and for any toy
    exact       minimizes the expected loss itself, where `worlds/population` knows it

Instances are independent: every instance has its own data, loss and optimum; `Fit.best` names the best one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..errors import ConfigError, NonFiniteError
from .features import Features
from .toys import Toy, loss

Engine = Literal["sampled", "exact"]
Penalty = Callable[[Toy, Float[Tensor, "i b m"]], Float[Tensor, " i"]]
"""Extra loss per instance from the network and its hidden activations."""
Perturbation = Callable[[Toy, Float[Tensor, "i b n"], torch.Generator], Float[Tensor, "i b n"]]
"""Changed inputs (the target stays that of the clean ones): adversarial training, noise."""


@dataclass(frozen=True)
class FitConfig:
    """How to train."""

    engine: Engine = "sampled"
    steps: int = 10_000
    batch: int = 1024
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    leak: float = 0.0
    """Slope of the output's negative side at the start, annealed to 0 over the first half of training."""
    init_scale: float = 1.0
    """Factor on the initial weights."""
    device: str = "cpu"


@dataclass(frozen=True)
class Snapshot:
    """A network on its way."""

    step: int
    W: Float[Tensor, "i n m"]
    b: Float[Tensor, "i n"]
    loss: Float[Tensor, " i"]
    """Loss on the batch of that step."""


@dataclass(frozen=True)
class Fit:
    """Trained networks."""

    toy: Toy
    loss: Float[Tensor, " i"]
    """Final loss of every instance, summed over features: exact where it is known, else on 160,000 fresh rows."""
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The instance with the lowest loss."""
        return int(self.loss.argmin())


def fit(
    toy: Toy,
    law: Features,
    config: FitConfig | None = None,
    *,
    penalty: Penalty | None = None,
    perturb: Perturbation | None = None,
    snapshots: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Train `toy` in place on features of the given law; `snapshots` are the steps to remember (0 = before the first).

    Raises: ConfigError; NonFiniteError if the loss is not finite.
    """
    config = config or FitConfig()
    if config.engine == "exact":
        raise ConfigError("the exact engine is not there yet")
    data, wanted, kept = rng.stream(config.seed, "data", device=config.device), set(snapshots), list[Snapshot]()
    with torch.no_grad():
        for p in {toy.W, toy.V}:
            p.mul_(config.init_scale)
    optimizer = _optimizer(toy, config)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    count = len(toy.b)
    for step in range(config.steps + 1):
        x = law.sample(config.batch, data, count)
        h = toy.embed(x if perturb is None else perturb(toy, x, data))
        each = loss(_leaky(toy, h, config, step), toy.target(x), law.importance)
        if step in wanted:
            kept.append(Snapshot(step, toy.W.detach().clone(), toy.b.detach().clone(), each.detach()))
        if step == config.steps:
            break
        total = each.sum() if penalty is None else (each + penalty(toy, h)).sum()
        if not total.isfinite():
            raise NonFiniteError(f"the loss became {total.item()} at step {step}", hint="lower the learning rate")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if config.schedule == "cosine":
            scheduler.step()
        if progress is not None:
            progress(step + 1, config.steps)
    return Fit(toy, sampled_loss(toy, law, 160_000, config.seed), kept)


@torch.no_grad()
def sampled_loss(toy: Toy, law: Features, rows: int, seed: int) -> Float[Tensor, " i"]:
    """Loss on fresh rows, the same for equal seeds."""
    data, count, piece = rng.stream(seed, "evaluation"), len(toy.b), 8192
    total = torch.zeros(count, dtype=torch.float64)
    for start in range(0, rows, piece):
        x = law.sample(min(piece, rows - start), data, count)
        total += x.shape[1] * loss(toy(x), toy.target(x), law.importance)
    return total / rows


def _optimizer(toy: Toy, config: FitConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(toy.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(toy.parameters(), config.learning_rate, weight_decay=config.weight_decay)


def _leaky(toy: Toy, h: Tensor, config: FitConfig, step: int) -> Tensor:
    slope = config.leak * max(0.0, 1 - 2 * step / config.steps)
    if slope == 0:
        return toy.read(h)
    return torch.nn.functional.leaky_relu(h @ toy.W.mT + toy.b[:, None], slope)
