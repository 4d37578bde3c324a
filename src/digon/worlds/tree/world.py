"""Rows of a tree world with their truth: on demand, or as endless batches that start anywhere."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...tensors import Codes, Dictionary
from ..memory import check_memory
from ..sparse import Active
from . import lazy
from .law import Law, TreeConfig, build, densities, directions

if TYPE_CHECKING:
    from .kernel import Plan

ROOM = 64
"""Active features of a row that fit at first. Where a row has more, the same rows are drawn again with more room, and so are later ones."""
PIECE = 1024
"""Most rows that a thread draws at once."""


class TreeSample(NamedTuple):
    """Rows and the codes that made them."""

    x: Float[Tensor, "n d"]
    codes: Codes
    """Strength of the active features; unused places of a row hold feature 0 with strength 0."""


class TreeWorld:
    """A world of sparse features in trees, far more of them than dimensions. Law: see `worlds/tree/law`.

    >>> world = TreeWorld(TreeConfig(features=64, d=16, roots=4, depth=1))
    >>> x, codes = world.sample(8, rng.stream(0, "rows"))
    >>> bool((world.dictionary.decode(codes) - x).abs().max() < 1e-4)
    True
    """

    def __init__(self, config: TreeConfig) -> None:
        self.config = config
        self.law: Law = build(config)
        self.dictionary: Dictionary = directions(config)
        self._copies: dict[torch.device, tuple[Law, Dictionary]] = {}
        self._room = ROOM

    @property
    def parents(self) -> Int[Tensor, " n"]:
        """Parent of every feature, −1 for roots and lone features. Siblings never are active together."""
        return self.law.parent

    @cached_property
    def trees(self) -> Int[Tensor, " n"]:
        """Root of the tree that a feature belongs to: itself for a root, −1 for a lone feature."""
        parent = self.law.parent
        root = torch.where((parent < 0) & (self.law.children > 0), torch.arange(len(parent)), -1)
        for _ in range(self.config.depth):
            root = torch.where(parent >= 0, root[parent.clamp(min=0)], root)
        return root

    @cached_property
    def density(self) -> Float[Tensor, " n"]:
        """P(active) of every feature."""
        return densities(self.law, self.config.seed)

    @cached_property
    def strength(self) -> Float[Tensor, " n"]:
        """E[strength | active] of every feature."""
        law = self.law
        cut = law.mean / law.spread
        strength = law.mean + law.spread * torch.exp(-cut.square() / 2 - torch.special.log_ndtr(cut)) / math.tau**0.5
        if self.config.scale_children:
            own, above = strength / law.mean, law.parent.clamp(min=0)
            for _ in range(self.config.depth):  # one more level is right after every pass
                strength = law.mean * own * torch.where(law.parent >= 0, strength[above] / law.mean[above], 1.0)
        return strength

    @cached_property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean row."""
        return self.dictionary.bias + (self.density * self.strength).float() @ self.dictionary.atoms

    def sample(self, rows: int, generator: torch.Generator) -> TreeSample:
        """Independent rows, on the generator's device. Compiled on processors, torch elsewhere.

        Raises: ConfigError if they do not fit into memory.
        """
        check_memory(
            rows * (4 * self.config.d + 8 * self._room), f"{rows} rows of the tree world", "draw fewer rows at a time"
        )
        if generator.device.type != "cpu":
            return self.sample_torch(rows, generator)
        return self._compiled(rows, int(torch.randint(2**63 - 1, (1,), generator=generator)))

    def sample_torch(self, rows: int, generator: torch.Generator) -> TreeSample:
        """The same law without compiled code, on any device."""
        law, dictionary = self._on(generator.device)
        codes = _codes(lazy.draw(law, rows, self.config.scale_children, generator), rows, self.config.features)
        return TreeSample(dictionary.decode(codes), codes)

    def samples(
        self, rows: int, seed: int = 0, start: int = 0, device: torch.device | str = "cpu"
    ) -> Iterator[TreeSample]:
        """Endless batches from step `start` on; a step's batch depends on world, `rows`, `seed` and step alone."""
        step = start
        while True:
            yield self.sample(rows, rng.stream(self.config.seed, "tree", "rows", seed, step, device=device))
            step += 1

    def batches(
        self, rows: int, seed: int = 0, device: torch.device | str = "cpu"
    ) -> Callable[[int], Iterator[Tensor]]:
        """From a step to the endless rows that start there: what `coders/train` wants."""
        return lambda start: (sample.x for sample in self.samples(rows, seed, start, device))

    def _on(self, device: torch.device) -> tuple[Law, Dictionary]:
        if device not in self._copies:
            dictionary = Dictionary(self.dictionary.atoms.to(device), self.dictionary.bias.to(device))
            self._copies[device] = self.law.to(device), dictionary
        return self._copies[device]

    @cached_property
    def _plan(self) -> "Plan":
        from .plan import plan

        return plan(self.law, self.dictionary, self.config.scale_children)

    def _compiled(self, rows: int, seed: int) -> TreeSample:
        from .kernel import LANES, draw

        threads = torch.get_num_threads()
        size = min(PIECE, LANES * -(-rows // (LANES * threads))) or LANES
        plan, key = self._plan, np.uint64(seed)
        x, counts = torch.empty(rows, self.config.d), np.zeros(rows, np.int64)
        while True:
            values, indices = np.zeros((rows, self._room), np.float32), np.zeros((rows, self._room), np.int32)
            starts = range(0, rows, size)
            parts = [[v[i : i + size] for v in (x.numpy(), values, indices, counts)] for i in starts]
            with ThreadPoolExecutor(threads) as pool:
                met = pool.map(lambda start, part: draw(plan, key, start, *part), starts, parts)
                most = max(met, default=0)
            if most <= self._room:
                break
            self._room = most + ROOM
        codes = Codes(torch.from_numpy(values[:, :most]), torch.from_numpy(indices[:, :most]), self.config.features)
        return TreeSample(x, codes)


def _codes(active: Active, rows: int, width: int) -> Codes:
    counts = torch.bincount(active.row, minlength=rows)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(active.row), device=counts.device) - starts[active.row]
    shape = (rows, int(counts.max()) if rows else 0)
    values, indices = active.value.new_zeros(shape), active.feature.new_zeros(shape)
    values[active.row, place], indices[active.row, place] = active.value, active.feature
    return Codes(values, indices, width)
