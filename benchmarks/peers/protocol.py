"""Processes that make training steps when they are told to, one at a time, so that all of them see the same machine."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Size:
    d_in: int
    width: int
    l0: int
    batch: int
    threads: int

    @classmethod
    def read(cls, words: list[str]) -> "Size":
        return cls(*map(int, words))

    def words(self) -> list[str]:
        return [str(n) for n in (self.d_in, self.width, self.l0, self.batch, self.threads)]


def batches(size: Size) -> Iterator[Tensor]:
    """A few batches in memory, over and over: normal numbers, the same for all."""
    generator = torch.Generator().manual_seed(0)
    return cycle([torch.randn(size.batch, size.d_in, generator=generator) for _ in range(4)])


def serve(make: Callable[[Size], Step], size: Size) -> None:
    """Make as many steps as every line of the input says; answer with seconds, processor seconds and peak MiB."""
    torch.set_num_threads(size.threads)
    step, data = make(size), batches(size)
    for line in sys.stdin:
        start, work = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step(next(data))
        took = time.perf_counter() - start, time.process_time() - work
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print("answer " + json.dumps([*took, peak]), flush=True)
