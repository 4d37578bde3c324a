"""One trial: an entrant learns on rows of a place, and the deployed coder is judged on fresh ones.

A place is a world, whose features are known (`arena`), or a site of a real network, where nobody knows them (`real`). What a
trial is tried on, how it is trained and how it goes on after a kill is the same for both.
"""

import time
from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path

from ... import config as configs
from ...coders.base import Coder
from ..jobs import Record
from .entrants import Task, entrant

PIECE = 4096
"""Rows that are judged at once."""
CODERS = "coders"
"""Folder of what trials keep."""


@dataclass(frozen=True)
class Trial:
    """What is tried; equal trials have equal results."""

    about: str
    """Which world or site of the benchmark that is."""
    coder: str
    l0: int
    seed: int
    """Of the coder and of its data; a world has its own."""

    @property
    def key(self) -> str:
        """Changes if anything about the trial does, or about the recipe of its coder."""
        return configs.digest(self) + entrant(self.coder).recipe

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return asdict(self)

    def home(self, folder: Path) -> Path:
        """Where it keeps what it needs to go on."""
        return folder / CODERS / self.key

    @abstractmethod
    def task(self, folder: Path) -> Task:
        """What its entrant is given."""

    @abstractmethod
    def judged(self, coder: Coder, folder: Path) -> Record:
        """How good a coder is on rows that it has not seen: `scores`, and what else there is to tell."""


def measure(trial: Trial, folder: Path) -> Record:
    """Train, or go on training, in `folder`, the run's; then scores, failures and seconds."""
    task, start = trial.task(folder), time.perf_counter()
    coder = entrant(trial.coder).make(task)
    trained = time.perf_counter() - start
    return trial.judged(coder, folder) | {"seconds": trained}
