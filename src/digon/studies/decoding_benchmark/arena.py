"""One trial: an entrant learns on a stream of a world's rows, and is judged on fresh ones against the truth.

Judged is the deployed coder, row by row, never the batch-wise encoder of training.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from ... import config as configs
from ...coders.base import Coder
from ...measures.recovery import LABELS, Recovery, report
from ...tensors import Dictionary
from ...worlds.tree import TreeConfig, TreeWorld
from ..jobs import Record
from .entrants import Task, entrant

PIECE = 4096
"""Rows that are judged at once."""
TRAIN, FIT, JUDGE = 0, 1, 2
"""Streams of rows: to train on, to fit a decomposition on, to judge by. Their seeds never meet."""
STREAMS = 3


@dataclass(frozen=True)
class Trial:
    """What is tried; equal trials have equal results."""

    world: TreeConfig
    about: str
    """Which world of the benchmark that is."""
    coder: str
    width: int
    l0: int
    steps: int
    batch: int
    rows: int
    """To judge by."""
    seed: int
    """Of the coder and of its data; the world has its own."""

    @property
    def key(self) -> str:
        """Changes if anything about the trial does, or about the recipe of its coder."""
        return configs.digest(self) + entrant(self.coder).recipe

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return asdict(self)


def measure(trial: Trial, folder: Path) -> Record:
    """Train, or go on training, in `folder`; then scores, failures and seconds."""
    world, start = _world(trial.world), time.perf_counter()
    coder = entrant(trial.coder).make(_task(trial, world, folder / trial.key))
    trained = time.perf_counter() - start
    return judged(coder, world, trial) | {"seconds": trained}


@torch.no_grad()
def judged(coder: Coder, world: TreeWorld, trial: Trial) -> Record:
    """How well a coder found the features of a world, on rows that it has not seen."""
    recovery, error, spread = Recovery(world.dictionary, coder.dictionary), 0.0, 0.0
    for sample in _rows(world, trial):
        codes = coder.encode(sample.x)
        recovery.update(sample.codes, codes)
        error += float((sample.x - coder.decode(codes)).double().square().sum())
        spread += float((sample.x - world.mean).double().square().sum())
    found = report(recovery, world.density)
    return {
        "scores": found.scores | {"fvu": error / spread},
        "failures": {name: found.scores[name] for name in LABELS},
        "latents": len(coder.dictionary),
    }


def _task(trial: Trial, world: TreeWorld, folder: Path) -> Task:
    often = world.density.argsort(descending=True)[: trial.width].sort().values
    return Task(
        world.batches(trial.batch, _stream(trial, TRAIN)),
        lambda rows: next(iter(world.samples(rows, _stream(trial, FIT)))).x,
        Dictionary(world.dictionary.atoms[often], world.dictionary.bias),
        trial.world.d, trial.width, trial.l0, trial.steps, trial.seed, folder,
    )  # fmt: skip


def _rows(world: TreeWorld, trial: Trial) -> Iterator:
    stream = world.samples(PIECE, _stream(trial, JUDGE))
    return (next(stream) for _ in range(-(-trial.rows // PIECE)))


def _stream(trial: Trial, purpose: int) -> int:
    return STREAMS * trial.seed + purpose


@cache
def _world(config: TreeConfig) -> TreeWorld:
    return TreeWorld(config)
