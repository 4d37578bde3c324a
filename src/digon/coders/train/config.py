"""How long and how fast to train."""

import math
from dataclasses import dataclass
from typing import get_args

from ...errors import ConfigError, did_you_mean
from ..sparse import Precision

LAST = 0.1
"""Share of the steps, at the end, in which the target itself is aimed at."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train."""

    steps: int = 2000
    """Number of batches."""
    batch: int = 4096
    """Rows per batch, where the batches are drawn from a store."""
    lr: float | None = None
    """Largest learning rate; None: 2e-4 · √(2¹⁴ / width)."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises linearly."""
    decay: float = 0.2
    """Share of the steps, at the end, in which it falls linearly to zero."""
    l0_start: float = 2.0
    """Active latents per row in the first step, relative to the target (at most half of all latents)."""
    l0_fall: float = 0.5
    """Share of the steps in which they fall linearly."""
    l0_low: float = 1.0
    """What they fall to, relative to the target, until a tenth of the steps is left: with too few active, latents for
    mixtures do not pay."""
    robust: bool = False
    """Minimize the mean root of the squared errors of rows, not their mean: a row with something that no latent stands for
    pulls less, and a latent for one feature is better than a latent for two halves."""
    clip: float = 1.0
    """Largest norm of the whole gradient."""
    log_every: int = 50
    """Steps between two lines of metrics; NaN is noticed then."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints that are kept while training; a damaged one is passed over for the one before."""
    seed: int = 0
    """Seed of the data order, where the batches are drawn from a store."""
    device: str | None = None
    """Device to train on; None: the one the batches are on."""
    precision: Precision = "float32"
    """Of the products that decide which latents are active; pre-activations, codes and gradients are float32 anyway."""

    def check(self) -> None:
        """Raises: ConfigError if the settings make no sense."""
        for name in ("steps", "batch", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", expected="at least 1")
        if self.precision not in (known := get_args(Precision)):
            raise ConfigError(
                f"precision = {self.precision!r}",
                expected=f"one of {', '.join(known)}",
                hint=did_you_mean(self.precision, known),
            )
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ConfigError(f"warmup = {self.warmup}, decay = {self.decay}", expected="shares that sum to at most 1")
        if not (self.l0_start >= 1 and 0 <= self.l0_fall <= 1 and 0 < self.l0_low <= 1):
            raise ConfigError(
                f"l0_start = {self.l0_start}, l0_fall = {self.l0_fall}, l0_low = {self.l0_low}",
                expected="at least 1, and two shares",
            )


def budget(step: int, l0: int, width: int, config: TrainConfig) -> float:
    """Active latents per row that the step after `step` steps aims at.

    >>> [budget(s, 2, 100, TrainConfig(steps=100, l0_start=4.0, l0_fall=0.5)) for s in (0, 25, 50, 100)]
    [8.0, 5.0, 2.0, 2.0]
    """
    if config.l0_low < 1 and step >= (1 - LAST) * config.steps:
        return float(l0)
    low = config.l0_low * l0
    first = max(min(config.l0_start * l0, width / 2), l0)
    return low + (first - low) * max(1 - step / max(config.l0_fall * config.steps, 1), 0.0)


def learning_rate(step: int, width: int, config: TrainConfig) -> float:
    """Rate of the step after `step` steps: linear warm-up, plateau, linear decay to zero."""
    top = config.lr if config.lr is not None else 2e-4 * math.sqrt(2**14 / width)
    rise = (step + 1) / max(config.warmup * config.steps, 1)
    fall = (config.steps - step) / max(config.decay * config.steps, 1)
    return top * min(rise, fall, 1.0)
