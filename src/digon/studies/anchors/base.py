"""What the anchors share: their seeds, and the table in which an anchor collects its quantities."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ... import rng
from ...records import Measurement
from ..toys.base import Outcome, measured

SEEDS = 3


def seeds(seed: int, name: str, count: int = SEEDS) -> list[int]:
    """Seeds of the repetitions of an anchor."""
    return [rng.derive(seed, "anchor", name, number) for number in range(count)]


@dataclass
class Table:
    """Quantities of one anchor."""

    seed: int
    values: dict[str, Measurement] = field(default_factory=dict)
    exact: dict[str, float] = field(default_factory=dict)

    def note(
        self, name: str, samples: float | Sequence[float] | np.ndarray, method: str, exact: float | None = None
    ) -> None:
        """One number per seed: their mean with its 95 % interval; or a number in which nothing is random."""
        self.values[name] = measured(name, samples, method=method, seed=self.seed)
        if exact is not None:
            self.exact[name] = exact

    def note_best(
        self, name: str, samples: Sequence[float], best: int, method: str, exact: float | None = None
    ) -> None:
        """The number of the seed with the lowest loss; the interval is the range over seeds."""
        self.values[name] = Measurement(
            name, samples[best], min(samples), max(samples), len(samples), method=method, seed=self.seed
        )
        if exact is not None:
            self.exact[name] = exact

    def outcome(self) -> Outcome:
        """For the judge."""
        return Outcome(self.values, self.exact)
