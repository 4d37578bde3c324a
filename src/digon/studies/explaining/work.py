"""One run of `digon explain` in progress: what its stages share, and the chunks of units that it is cut into."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...store.runs import Run
from ..sources import Source
from .desk import Desk
from .network import Network
from .settings import ExplainRun
from .target import Target

CHUNK = 32
"""Units that are explained together: they share tables, and are each other's baseline."""
Say = Callable[[str], None]
Table = dict[str, np.ndarray]


def counted(n: int, what: str) -> str:
    """A number of things in words.

    >>> counted(1, "unit"), counted(3, "unit")
    ('1 unit', '3 units')
    """
    return f"{n:,} {what}{'s' * (n != 1)}"


@dataclass(frozen=True)
class Chunk:
    """Some units of a site, and where their records go."""

    source: Source
    number: int
    units: list[int]

    @property
    def name(self) -> str:
        """Name of its records."""
        return f"{self.source.site}/{self.number:05d}"


@dataclass(frozen=True)
class Work:
    """One run in progress: what the stages share."""

    run: Run
    settings: ExplainRun
    target: Target
    desk: Desk
    network: Network | None
    key: str
    say: Say
