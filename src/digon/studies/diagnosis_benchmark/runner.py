"""All that happens to a cell of the benchmark: its world, its statistics with everything that may be known about it,
verdicts at the levels of access that matter for it, and how well its features were found.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import config as configs
from ... import rng
from ...diagnose import Evidence, diagnose, statistics
from ...diagnose.preflight import preflight
from ...errors import RunError
from ...records import to_json
from ...worlds.causes import World
from ..jobs import Record
from . import baselines
from .cells import Cell, world_of

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

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return {"cause": self.cell.cause, **asdict(self.cell)}


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
        excluded = sorted({cause for check in verdict.checks for cause in check.excludes})
        plain = json.loads(to_json(replace(verdict, checks=(), budget={})))
        verdicts[access] = plain | {"checks": checks, "excluded": excluded}
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


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
