"""What every way of training toys on samples shares: rates and leaks step by step, and checkpoints."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    batch: int
    rates: Float[np.ndarray, " steps"]
    """Learning rate at every step."""
    leaks: Float[np.ndarray, " leaks"]
    """Slope of the output below 0 at every step and after the last; 0 where the network has its own."""
    optimizer: str = "adam"
    weight_decay: float = 0.0
    seed: int = 0


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

    >>> learning_rates(4, 1.0, "cosine").round(3).tolist()
    [1.0, 0.854, 0.5, 0.146]
    """
    if schedule == "constant":
        return np.full(steps, peak)
    return peak * (1 + np.cos(math.pi * np.arange(steps) / max(steps, 1))) / 2


def annealed(steps: int, leak: float) -> Float[np.ndarray, " leaks"]:
    """The leak at every step and after the last: down to 0 over the first half.

    >>> annealed(4, 0.2).tolist()
    [0.2, 0.1, 0.0, 0.0, 0.0]
    """
    return leak * np.maximum(0.0, 1 - 2 * np.arange(steps + 1) / max(steps, 1))
