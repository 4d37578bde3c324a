"""What every study of toy networks takes and gives.

A study measures named quantities and draws figures. Claims (the .toml file beside the study) refer to quantities by name; a study knows
nothing of claims, so no claim can bend a study.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ...measures import stats
from ...records import Figure, Measurement

Say = Callable[[str], None]
"""Tells the user what is going on, one line at a time."""


@dataclass(frozen=True)
class StudyConfig:
    """How large and with which seed."""

    size: Literal["smoke", "paper"] = "paper"
    """`smoke` takes seconds and shows that the study works; `paper` reaches the numbers."""
    seed: int = 0
    device: str = "cpu"
    """Where studies train that do it in torch; compiled engines stay on the CPU."""
    full: bool = False
    """Sizes of the papers where `paper` is a reduced one (hours)."""

    @property
    def smoke(self) -> bool:
        """Whether this is the small size."""
        return self.size == "smoke"


@dataclass(frozen=True)
class Outcome:
    """What a study found."""

    values: dict[str, Measurement]
    """Quantity → what was measured."""
    exact: dict[str, float] = field(default_factory=dict)
    """Quantity → what calculation says it must be, where calculation can."""
    figures: tuple[Figure, ...] = ()


def measured(
    name: str, samples: float | Sequence[float] | np.ndarray, *, method: str, unit: str = "", seed: int | None = None
) -> Measurement:
    """A quantity from one number, or from several seeds: their mean with its 95 % interval (Student's t)."""
    values = np.atleast_1d(np.asarray(samples, dtype=float))
    mean, n = float(values.mean()), len(values)
    if n < 2 or not np.isfinite(values).all():
        return Measurement(name, mean, n=n, unit=unit, method=method, seed=seed)
    half = stats.student(n) * float(values.std(ddof=1)) / n**0.5
    return Measurement(name, mean, mean - half, mean + half, n, unit, method, seed)
