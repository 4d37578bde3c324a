"""Threads that share work; each of them computes on one thread.

After a parallel operation of torch, its threads keep their cores busy for milliseconds, in case another one follows;
that takes half of their cores from threads that have work. So where much is shared here, torch runs on one thread
(`alone`), and a thread does all that has to be done on its part, products included: the part stays in its core's cache.
The same holds for the threads of NumPy's BLAS, which wait in the same way after a product of two long vectors.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from threading import Barrier, local
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Part = TypeVar("Part")
Result = TypeVar("Result")
_state = local()


def count() -> int:
    """Threads that share work started here."""
    return getattr(_state, "threads", None) or torch.get_num_threads()


@contextmanager
def alone() -> Iterator[None]:
    """Let torch and NumPy run on one thread for a while, and leave torch's other threads to `share`."""
    before = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"):
        if before == 1:
            yield
            return
        _state.threads = before
        torch.set_num_threads(1)
        try:
            yield
        finally:
            _state.threads = None
            torch.set_num_threads(before)


def share(task: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Results of a task on every part, in order, on `count()` threads."""
    threads = count()
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
    ready, before = Barrier(threads + 1), torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # the first question sets the number of a thread to that of the process
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "digon", begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    # Some libraries keep one number for all threads; those of this one must not lose theirs.
    torch.set_num_threads(before)
    return pool
