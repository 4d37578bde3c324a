"""Run the cells of a split: one line of JSON per finished cell, in as many processes as wanted, resumable at any moment.

`measure` is all that happens to a cell: its world, its statistics with everything that may be known about it, verdicts at
the levels of access that matter for it, and how well its features were found. A cell that fails leaves a line with its
error, is counted in the report, and is tried again by the next call.
"""

import json
import math
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ... import config as configs
from ... import rng
from ...diagnose import Evidence, diagnose, statistics
from ...diagnose.preflight import preflight
from ...errors import CorruptError, RunError
from ...records import to_json
from ...worlds.causes import World
from . import baselines
from .cells import Cell, world_of

Record = dict[str, Any]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
VARIABLES = 16
"""Most variables of the inputs that somebody with labels knows."""
FOUND = 0.95
"""Cosine from which an atom is a feature's direction."""
ESTIMATORS = ("rays", "quartic", "sparse")
"""What evidence may hold that has `directions`."""
SHARED = (
    "dimensions", "rectified", "rays", "quartic", "sparse", "sparse_again", "codes", "atom_blocks", "unmixing", "parts",
    "independence", "blocks", "dependence", "covariance", "coded_rows", "one_size",
)  # fmt: skip
"""What evidence caches and what depends on nothing but activations and seed."""
EVERY = 4
"""Of the development and test cells, one in so many gets the costly baselines."""


@dataclass(frozen=True)
class Job:
    """A cell and what to do with it."""

    cell: Cell
    access: tuple[str, ...] = ()
    """Levels of access at which a verdict is made."""
    costly: bool = False
    """Whether baselines that train autoencoders are measured too."""

    @property
    def key(self) -> str:
        """Changes if anything about the job does."""
        return configs.digest(self)


def job_of(cell: Cell) -> Job:
    """Development and calibration need statistics only; verdicts are made where they are looked at."""
    costly = cell.split in ("dev", "test") and int(cell.id[-3:]) % EVERY == 0
    if cell.split in ("dev", "calibration"):
        return Job(cell, (), costly)
    access = ["A"]
    if cell.family == "lookup" or cell.repeats > 1 or cell.split == "identity":
        access.append("A+")
    if cell.family in ("relational", "magnitude"):
        access.append("B")
    return Job(cell, tuple(access), costly)


def measure(job: Job) -> Record:
    """Everything that the report wants to know about one cell."""
    cell, clock = job.cell, _Clock()
    world = world_of(cell)
    clock.lap("world")
    raw = _evidence(world, cell, "B")
    everything = _clean(raw)
    numbers = statistics(everything)
    clock.lap("statistics")
    values = world.activations.values
    found: Record = {"baselines": baselines.cheap(values)}
    if job.costly:
        found["baselines"] |= baselines.costly(values, cell.seed)
        clock.lap("baselines")
    verdicts: dict[str, Any] = {}
    for access in job.access:
        given = _evidence(world, cell, access)
        if everything is raw:  # what depends on nothing but the activations is not calculated again
            vars(given).update({name: value for name, value in vars(everything).items() if name in SHARED})
        verdict = diagnose(given)
        checks = {check.id: check.verdict for check in verdict.checks}
        verdicts[access] = json.loads(to_json(replace(verdict, checks=(), budget={}))) | {"checks": checks}
        clock.lap(f"verdict {access}")
    truth = world.truth
    return found | {
        "statistics": numbers,
        "verdicts": verdicts,
        "alike": sorted(truth.alike),
        "truth": {"n": truth.n_features, "rank": truth.rank, "active": _active(truth.features)},
        "recovered": _recovered(everything, truth.atoms) if job.access and not cell.nuisances else {},
        "seconds": clock.laps,
    }


def run(jobs: Sequence[Job], path: Path, workers: int) -> list[Record]:
    """Lines of all jobs, in their order; what the file holds already is not done again.

    `workers` 0: in this process. Raises: CorruptError for a damaged file; RunError if a worker dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {r["key"]: r for r in read(path) if "error" not in r}
    left = [job for job in jobs if job.key not in done]
    with _appending(path) as append, _bar(path.stem, len(jobs), len(jobs) - len(left)) as step:
        for record in _measured(left, workers):
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


def _evidence(world: World, cell: Cell, access: str) -> Evidence:
    # The name of a site must not tell what is to be found out.
    activations = replace(world.activations, site="cell")
    inputs = world.activations.tokens if access != "A" else None
    labels = _labels(world, cell) if access == "B" else None
    return Evidence(activations, cell.seed % 1000, inputs=inputs, labels=labels)


def _clean(evidence: Evidence) -> Evidence:
    """On the rows and units that a diagnosis looks at; the same object where those are all of them, as they are.

    Raises: RunError if no diagnosis would be made.
    """
    found, values = preflight(evidence.activations), evidence.activations.values
    if found.refused:
        raise RunError(f"not fit for a diagnosis: {found.refused}")
    if found.activations.values is values:
        return evidence
    kept = found.kept_rows
    inputs, labels = (None if given is None else given[kept] for given in (evidence.inputs, evidence.labels))
    return replace(evidence, activations=found.activations, inputs=inputs, labels=labels)


def _labels(world: World, cell: Cell) -> Int[Tensor, "n v"]:
    """Variables of the inputs that somebody knows: the symbols of a code, or which features are active.

    Inputs of a table have properties too, and there are labels of inputs where nothing is represented: random bits.
    """
    g = rng.stream(cell.seed, "labels")
    if world.labels is not None:
        known = world.labels
    elif world.truth.cause in ("none", "lookup"):
        tokens = world.activations.tokens
        assert tokens is not None
        bits = torch.randint(2, (int(tokens.max()) + 1, VARIABLES), generator=g)
        return bits[tokens]
    else:
        known = (world.truth.features.abs() > 0).long()
    varies = (known != known[:1]).any(0).nonzero()[:, 0]
    return known[:, varies[torch.randperm(len(varies), generator=g)[:VARIABLES]]]


def _active(features: Float[Tensor, "n k"]) -> float:
    return float((features != 0).float().sum(1).mean()) if features.shape[1] else 0.0


def _recovered(evidence: Evidence, atoms: Float[Tensor, "k d"]) -> dict[str, float]:
    """Share of the true directions that an estimator found, by whatever the evidence holds."""
    found = {name: getattr(evidence, name, None) for name in ESTIMATORS} if len(atoms) else {}
    shares = {name: _share(atoms, e.directions) for name, e in found.items() if e is not None}
    return shares | ({"any": _share(atoms, torch.cat([e.directions for e in found.values() if e is not None]))} if shares else {})  # fmt: skip


def _share(atoms: Float[Tensor, "k d"], directions: Float[Tensor, "m d"]) -> float:
    if atoms.shape[1] != directions.shape[1] or not len(directions):
        return 0.0
    unit = torch.nn.functional.normalize(atoms, dim=1)
    return float(((unit @ directions.to(unit).T).abs().amax(1) > FOUND).float().mean())


def _measured(jobs: Sequence[Job], workers: int) -> Iterator[Record]:
    if workers == 0:
        yield from map(_guarded, jobs)
        return
    with _single_threads():
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_quiet)
        try:
            # Long cells are spread over the whole run, so that the time that is left can be told.
            for future in as_completed([pool.submit(_guarded, job) for job in sorted(jobs, key=lambda j: j.key)]):
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a worker died, most likely for want of memory", expected="about 3 GiB per worker",
                hint="run the same command with fewer --workers: it goes on where it was",
            ) from None  # fmt: skip
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _guarded(job: Job) -> Record:
    head = {"key": job.key, "cause": job.cell.cause, **asdict(job.cell)}
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


@contextmanager
def _bar(name: str, total: int, done: int) -> Iterator[Any]:
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
                print(f"{name}: {count} of {total} cells, {rest / 60:.0f} min left", file=sys.stderr, flush=True)
                said = now

        yield step


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def failed(records: Iterable[Record]) -> list[Record]:
    """Records of cells that failed."""
    return [record for record in records if "error" in record]
