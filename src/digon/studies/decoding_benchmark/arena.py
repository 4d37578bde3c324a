"""Trials on worlds: judged by the truth, row by row, never by the batch-wise encoder of training."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...coders.base import Coder
from ...measures.recovery import LABELS, Recovery, report
from ...tensors import Dictionary
from ...worlds.tree import TreeConfig, TreeWorld
from ..jobs import Record
from .entrants import Task
from .trial import PIECE, Trial

TRAIN, FIT, JUDGE = 0, 1, 2
"""Streams of rows: to train on, to fit a decomposition on, to judge by. Their seeds never meet."""
STREAMS = 3


@dataclass(frozen=True)
class WorldTrial(Trial):
    """An entrant on rows of a world."""

    world: TreeConfig
    width: int
    steps: int
    batch: int
    rows: int
    """To judge by."""

    def task(self, folder: Path) -> Task:
        """The world's endless rows, and its most frequent atoms for who may look at them."""
        world = _world(self.world)
        often = world.density.argsort(descending=True)[: self.width].sort().values
        return Task(
            world.batches(self.batch, self._stream(TRAIN)),
            lambda rows: next(iter(world.samples(rows, self._stream(FIT)))).x,
            Dictionary(world.dictionary.atoms[often], world.dictionary.bias),
            self.world.d, self.width, self.l0, self.steps, self.seed, self.home(folder),
        )  # fmt: skip

    @torch.no_grad()
    def judged(self, coder: Coder, folder: Path) -> Record:
        """How well a coder found the features of the world."""
        world = _world(self.world)
        recovery, error, spread = Recovery(world.dictionary, coder.dictionary), 0.0, 0.0
        for sample in self._fresh(world):
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

    def _fresh(self, world: TreeWorld) -> Iterator:
        stream = world.samples(PIECE, self._stream(JUDGE))
        return (next(stream) for _ in range(-(-self.rows // PIECE)))

    def _stream(self, purpose: int) -> int:
        return STREAMS * self.seed + purpose


@cache
def _world(config: TreeConfig) -> TreeWorld:
    return TreeWorld(config)
