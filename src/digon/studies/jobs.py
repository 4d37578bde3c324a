"""Many independent jobs, in as many processes as wanted: one line of JSON per finished job, resumable at any moment.

A job that fails leaves a line with its error, and is tried again by the next call.
"""

import json
import math
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import CorruptError, RunError

Record = dict[str, Any]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@runtime_checkable
class Job(Protocol):
    """What can be done elsewhere, at another time."""

    @property
    def key(self) -> str:
        """Changes if anything about the job does."""
        ...

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        ...


J = TypeVar("J", bound=Job)
P = TypeVar("P")
R = TypeVar("R")


def run(jobs: Sequence[J], measure: Callable[[J], Record], path: Path, workers: int) -> list[Record]:
    """Lines of all jobs, in their order; what the file holds already is not done again.

    `measure` has a name in its module, so that other processes find it. `workers` 0: in this process. Raises: CorruptError for a damaged file; RunError if a worker dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {r["key"]: r for r in read(path) if "error" not in r}
    left = [job for job in jobs if job.key not in done]
    # Long cells are spread over the whole run, so that the time that is left can be told.
    mixed = sorted(left, key=lambda job: job.key) if workers else left
    with _appending(path) as append, progress(path.stem, len(jobs), len(jobs) - len(left)) as step:
        for record in spread(partial(_guarded, measure), mixed, workers):
            append(record)
            done[record["key"]] = record
            step()
    return [done[job.key] for job in jobs]


def read(path: Path) -> list[Record]:
    """Lines of a file; a last line that a kill has cut off does not count.

    Raises: CorruptError if any other line is damaged.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    records: list[Record] = []
    for i, line in enumerate(lines[:-1]):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise CorruptError(
                f"line {i + 1} of {path} is damaged", expected="a line of JSON per cell",
                hint="delete that line and run the same command again",
            ) from None  # fmt: skip
    return records


def failed(records: Iterable[Record]) -> list[Record]:
    """Records of cells that failed."""
    return [record for record in records if "error" in record]


def spread(task: Callable[[P], R], parts: Sequence[P], workers: int) -> Iterator[R]:
    """Results of a task in so many processes of one thread each, as they come; 0: in this process, in order.

    `task` has a name in its module, or is a partial one of such, so that other processes find it. Raises: whatever the task
    raises, after which nothing more is started; RunError if a worker dies.
    """
    if workers == 0:
        yield from map(task, parts)
        return
    with _single_threads():
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_quiet)
        try:
            for future in as_completed([pool.submit(task, part) for part in parts]):
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a worker died, most likely for want of memory", expected="about 3 GiB per worker",
                hint="run the same command with fewer --workers: it goes on where it was",
            ) from None  # fmt: skip
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _guarded(measure: Callable[[J], Record], job: J) -> Record:
    head = {"key": job.key, **job.head}
    try:
        return _plain(head | measure(job))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return head | {"error": f"{type(error).__name__} in {place}: {str(error)[:300]}"}


def _plain(value: Any) -> Any:
    """JSON has no NaN: a number that does not exist is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _appending(path: Path) -> Iterator[Any]:
    """Append whole lines, each on the disk before the next cell; what a kill has cut off goes first."""
    if path.is_file():
        kept = path.read_bytes().rpartition(b"\n")
        if kept[2]:
            path.write_bytes(kept[0] + kept[1])
    with path.open("ab") as file:

        def append(record: Record) -> None:
            file.write((json.dumps(record, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

        yield append


@contextmanager
def _single_threads() -> Iterator[None]:
    """Processes that start meanwhile calculate with one thread each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def progress(name: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar with the time that is left; without a terminal a line a minute."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    start, said, count = time.monotonic(), time.monotonic(), done
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, completed=done)

        def step() -> None:
            nonlocal said, count
            count += 1
            bar.advance(task)
            now = time.monotonic()
            if not console.is_terminal and (now - said > 60 or count == total):
                rest = (now - start) / (count - done) * (total - count)
                print(f"{name}: {count} of {total}, {rest / 60:.0f} min left", file=sys.stderr, flush=True)
                said = now

        yield step
