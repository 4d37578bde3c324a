"""Threads that share work; each of them computes on one thread.

While the workers of a parallel product wait for the next one they keep their cores busy, which slows everything that
runs between products. Here a worker does all that has to be done on its part, the product included, so that its part
also stays in the cache of its core.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def share(task: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Results of a task on every part, in order, on `torch.get_num_threads()` threads."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        return [task(part) for part in parts]
    return list(_pool(threads, os.getpid()).map(task, parts))


def spans(length: int, count: int) -> list[tuple[int, int]]:
    """Divide a length evenly into at most `count` spans that are not empty; one that is, if the length is 0.

    >>> spans(10, 3)
    [(0, 3), (3, 6), (6, 10)]
    """
    count = max(min(count, length), 1)
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork."""
    ready = Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first question sets the number of a thread to that of the process
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "digon", begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    # Some libraries keep one number for all threads; those of this one must not lose theirs.
    torch.set_num_threads(threads)
    return pool
