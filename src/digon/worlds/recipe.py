"""What every way of training toys on samples shares: rates and leaks step by step, and checkpoints."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .features import Features
from .toys import Toy

OPTIMIZERS, SCHEDULES = ("sgd", "adam", "adamw"), ("constant", "cosine")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Raises: ConfigError for settings that make no sense.
    """

    batch: int
    rates: Float[np.ndarray, " steps"]
    """Learning rate at every step."""
    leaks: Float[np.ndarray, " leaks"]
    """Slope of the output below 0 at every step and after the last; 0 where the network has its own."""
    optimizer: str = "adam"
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"setting 'batch': {self.batch}", expected="at least 1 sample")
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"setting 'optimizer': {self.optimizer!r}", expected=" | ".join(OPTIMIZERS))
        for name, numbers in (
            ("learning_rate", self.rates),
            ("leak", self.leaks),
            ("weight_decay", np.array([self.weight_decay])),
        ):
            if not (np.isfinite(numbers).all() and (numbers >= 0).all()):
                raise ConfigError(f"setting {name!r}: a value is negative or not finite", expected=f"{name} ≥ 0")


@dataclass(frozen=True)
class Checkpoint:
    """Where training stands, so that it can go on as if it had never stopped."""

    step: int
    tensors: dict[str, Tensor]
    """Parameters, moments of the optimizer and generators: a dictionary of tensors, as safetensors stores it."""
    key: str = ""
    """What was being trained, and how; a checkpoint continues nothing else."""


def learning_rates(steps: int, peak: float, schedule: str) -> Float[np.ndarray, " steps"]:
    """Constant, or half a cosine from the peak down to 0 just after the last step.

    Raises: ConfigError for an unknown schedule or a negative number of steps.

    >>> learning_rates(4, 1.0, "cosine").round(3).tolist()
    [1.0, 0.854, 0.5, 0.146]
    """
    if steps < 0:
        raise ConfigError(f"setting 'steps': {steps}", expected="0 or more")
    if schedule not in SCHEDULES:
        raise ConfigError(f"setting 'schedule': {schedule!r}", expected=" | ".join(SCHEDULES))
    if schedule == "constant":
        return np.full(steps, float(peak))
    return peak * (1 + np.cos(math.pi * np.arange(steps) / max(steps, 1))) / 2


def annealed(steps: int, leak: float) -> Float[np.ndarray, " leaks"]:
    """The leak at every step and after the last: down to 0 over the first half.

    >>> annealed(4, 0.2).tolist()
    [0.2, 0.1, 0.0, 0.0, 0.0]
    """
    return leak * np.maximum(0.0, 1 - 2 * np.arange(steps + 1) / max(steps, 1))


def check_match(toy: Toy, law: Features) -> None:
    """Raises: ConfigError if the law is of other features or instances than the network."""
    count, n = toy.b.shape
    if law.n != n:
        raise ConfigError(f"a law of {law.n} features for a network of {n}", expected="as many of both")
    for name in ("density", "importance"):
        rows = getattr(law, name).shape[:-1].numel()
        if rows not in (1, count):
            raise ConfigError(f"setting {name!r}: {rows} instances", expected=f"1 or {count}, as the network has")
