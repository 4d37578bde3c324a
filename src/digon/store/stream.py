"""In which order the rows of a store are read for training: at random, in memory that does not grow with the store.

1. Rows are cut into blocks of B neighbors, so large that a disk reads one at nearly its full rate.
2. An epoch visits the blocks in random order, a pool of P rows at a time; while one pool is used, the next is read.
3. The rows of a pool are shuffled, and batches are cut from them.

So every row comes once per epoch (but for the last, incomplete batch), and where to go on follows from the number of the
batch alone. How good is the shuffle? Two rows of a batch come from one block with chance (B − 1)/(P − 1), where a
permutation of all n rows has (B − 1)/(n − 1). If rows of a block are correlated by ρ, the mean of a batch of b rows has
1 + ρ (b − 1)(B − 1)/(P − 1) times the variance that it has with independent rows. With about a thousand blocks per pool and
b = 4096 that is at most 1 + 4ρ. A store that fits into one pool is permuted as a whole.

Memory: two pools, and 16 bytes per block. Rows are read, not mapped: pages of a map would count as this process's memory.
"""

import bisect
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..errors import CorruptError
from . import weights

BLOCK = 1 << 17
"""Bytes of neighboring rows that are read at once."""
POOL = 1 << 27
"""Bytes that are shuffled among each other; twice as many are held."""

Span = tuple[int, int]
"""First row, and the row after the last."""


@dataclass(frozen=True)
class Shards:
    """Rows of one site in the files of a store, one after the other."""

    paths: Sequence[Path]
    starts: Sequence[int]
    """First row of every file, and the number of all rows."""
    name: str
    """Of the tensor in the files."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes on disk of a row."""
        return self._first.dtype.itemsize * self._first.shape[1]

    @cached_property
    def _first(self) -> weights.Place:
        return weights.locate(self.paths[0], self.name)

    @cached_property
    def _offsets(self) -> dict[int, int]:
        """Where the rows begin in the files that were read so far."""
        return {}

    def room(self, rows: int) -> Float[Tensor, "n d"]:
        """Memory for rows in the type in which they are stored."""
        return torch.empty(rows, self._first.shape[1], dtype=self._first.dtype)

    def read(self, spans: Iterable[Span], room: Float[Tensor, "n d"] | None = None) -> Float[Tensor, "m d"]:
        """Rows of some spans, in their order, in the type in which they are stored; the first rows of `room`, if given.

        Raises: CorruptError if a file is shorter than it should be; PathError if it is gone.
        """
        wanted = list(spans)
        rows = sum(stop - start for start, stop in wanted)
        out = self.room(rows) if room is None else room[:rows]
        raw, width = memoryview(out.view(torch.uint8).numpy()).cast("B"), self.bytes_per_row  # pyright: ignore[reportArgumentType]
        at = 0
        pieces = [(i, a, b) for start, stop in wanted for i, a, b in self._in_files(start, stop)]
        for i, group in ((i, list(group)) for i, group in itertools.groupby(pieces, key=lambda piece: piece[0])):
            if i not in self._offsets:
                self._offsets[i] = weights.locate(self.paths[i], self.name).offset
            file = os.open(self.paths[i], os.O_RDONLY)
            try:
                # All pieces are asked for before the first is waited for: disks are fast only with many requests.
                for _, a, b in group if hasattr(os, "posix_fadvise") else ():
                    os.posix_fadvise(file, self._offsets[i] + a * width, (b - a) * width, os.POSIX_FADV_WILLNEED)
                for _, a, b in group:
                    self._fill(file, raw[at : at + (b - a) * width], self._offsets[i] + a * width, i)
                    at += (b - a) * width
            finally:
                os.close(file)
        return out

    def _in_files(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The pieces of a span: number of a file, and rows in it."""
        i = bisect.bisect_right(self.starts, start) - 1
        while start < stop:
            end = min(stop, self.starts[i + 1])
            yield i, start - self.starts[i], end - self.starts[i]
            start, i = end, i + 1

    def _fill(self, file: int, into: memoryview, offset: int, i: int) -> None:
        while into:
            got = os.preadv(file, [into], offset)
            if not got:
                raise CorruptError(f"{self.paths[i]} is truncated", hint="harvest again")
            into, offset = into[got:], offset + got


@dataclass(frozen=True)
class Order:
    """Which rows are read when. All numbers are rows."""

    rows: int
    batch: int
    block: int
    pool: int
    """A multiple of the batch."""
    seed: int

    @classmethod
    def of(cls, rows: int, batch: int, bytes_per_row: int, seed: int) -> "Order":
        """Blocks and pools of the usual sizes; pools are equal, up to a batch."""
        count = -(-rows * bytes_per_row // POOL)
        pool = -(-rows // (count * batch)) * batch
        return cls(rows, batch, max(BLOCK // bytes_per_row, 1), pool, seed)

    @property
    def batches(self) -> int:
        """Batches per epoch."""
        return self.rows // self.batch

    @property
    def pools(self) -> int:
        """Pools per epoch."""
        return -(-self.rows // self.pool)

    def place(self, step: int) -> tuple[int, int, int]:
        """Epoch, pool and number within the pool of a batch."""
        epoch, within = divmod(step, self.batches)
        return epoch, *divmod(within, self.pool // self.batch)

    def spans(self, epoch: int, pool: int) -> list[Span]:
        """What a pool holds, in the order of the store."""
        if self.pools == 1:
            return [(0, self.rows)]
        order = torch.randperm(-(-self.rows // self.block), generator=rng.stream(self.seed, "blocks", epoch))
        starts = order * self.block
        ends = (starts + self.block).clamp(max=self.rows)
        after = (ends - starts).cumsum(0)
        low, high = pool * self.pool, min((pool + 1) * self.pool, self.rows)
        # Of the blocks at the borders of the pool, only a part belongs to it.
        first, last = torch.searchsorted(after, torch.tensor([low, high - 1]), right=True).tolist()
        begin = int(after[first] - ends[first] + starts[first])
        starts[first] += low - begin
        ends[last] -= int(after[last]) - high
        return sorted(zip(starts[first : last + 1].tolist(), ends[first : last + 1].tolist(), strict=True))

    def shuffle(self, epoch: int, pool: int) -> Tensor:
        """The order of the rows of a pool."""
        names = (epoch,) if self.pools == 1 else (epoch, pool)
        length = min(self.pool, self.rows - pool * self.pool)
        return torch.randperm(length, generator=rng.stream(self.seed, "shuffle", *names))


def shuffled(shards: Shards, order: Order, start: int) -> Iterator[Float[Tensor, "b d"]]:
    """Endless batches in float32, from batch number `start` on; the rows of each in the order of the store."""
    epoch, pool, within = order.place(start)
    length = order.pool // order.batch
    # Always the same memory: new memory costs about as much time as what is read into it.
    rooms = [shards.room(min(order.pool, order.rows)) for _ in range(min(order.pools, 2))]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(shards.read, order.spans(epoch, pool), rooms[0])
        while True:
            held = ahead.result()
            rooms.reverse()
            following = order.place(epoch * order.batches + min((pool + 1) * length, order.batches))
            if order.pools > 1:
                ahead = reader.submit(shards.read, order.spans(*following[:2]), rooms[0])
            chosen = order.shuffle(epoch, pool)
            for i in range(within, min(length, order.batches - pool * length)):
                rows = chosen[i * order.batch : (i + 1) * order.batch].sort().values
                yield held.index_select(0, rows).float()  # several times as fast as held[rows]
            del chosen  # before there is another one
            epoch, pool, within = following
