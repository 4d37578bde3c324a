"""The settings of one toy network. Free of torch, so that the command line can show them at once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ToyConfig:
    """The network, its features and how to train it."""

    n: int = 5
    """Features."""
    m: int = 2
    """Hidden dimensions."""
    density: float = 0.1
    """Chance that a feature is active, above 0 and at most 1: 1 − sparsity."""
    decay: float = 1.0
    """Importance of a feature relative to the one before it."""
    values: Literal["uniform", "symmetric", "constant", "half-normal", "lognormal"] = "uniform"
    """What an active feature is worth: uniform is U[0, 1], symmetric U[−1, 1]."""
    sets: Literal["none", "correlated", "anticorrelated"] = "none"
    """Whether features come in sets that are active together, or never together."""
    set_size: int = 2
    """Features per set."""
    hidden: Literal["linear", "relu", "gelu"] = "linear"
    """Activation of the hidden layer; anything but linear gives it a privileged basis."""
    output: Literal["relu", "linear", "gelu"] = "relu"
    """Activation of the output."""
    target: Literal["identity", "absolute"] = "identity"
    """What the output should be: the features, or their absolute values."""
    untied: bool = False
    """Whether embedding and readout are trained apart."""
    engine: Literal["auto", "exact", "sampled"] = "auto"
    """exact minimizes the expected loss itself, sampled trains on fresh batches; auto: exact where it is known."""
    starts: int = 16
    """Networks from different starts; the best one is shown."""
    steps: int = 10_000
    """Training steps of the sampled engine."""
    batch: int = 1024
    """Rows per step of the sampled engine."""
    learning_rate: float = 1e-3
    """Learning rate of the sampled engine."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "cpu"
    """Where tensors live: cpu, cuda, cuda:1, mps."""

    @property
    def exact(self) -> bool:
        """Whether the exact engine trains it."""
        known = (
            self.hidden == "linear"
            and self.output in ("relu", "linear")
            and self.target == "identity"
            and not self.untied
            and self.values in ("uniform", "symmetric")
        )
        return self.engine == "exact" or (self.engine == "auto" and known)
