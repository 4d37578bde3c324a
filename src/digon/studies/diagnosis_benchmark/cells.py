"""Which worlds does the benchmark look at? Cells of three disjoint splits and the grids of acceptance, from one file.

A cell says everything that a world takes: family, parameters, rows, units, nuisances, seed. The file `cells.toml` holds
the priors; every (split, family, number) has a generator of its own, so cells of different splits share neither seeds
nor draws, and asking for fewer cells gives the first ones of the same list.

    dev           statistics and checks are made on it; the posterior learns from it
    calibration   the posterior learns from it, too
    test          looked at once, for the report
    calm, loads, identity, corners      grids that the diagnosis is accepted by
"""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import rng
from ...errors import ConfigError, did_you_mean
from ...records import Cause
from ...worlds.causes import (
    NUISANCES,
    World,
    lookup,
    magnitude,
    manifold,
    mixed,
    monosemantic,
    null,
    observed,
    polygon,
    relational,
    rotated,
    superposition,
)

FILE = Path(__file__).parent / "cells.toml"
FAMILIES: dict[str, Any] = {
    "null": null,
    "monosemantic": monosemantic,
    "rotated": rotated,
    "superposition": superposition,
    "manifold": manifold,
    "polygon": polygon,
    "magnitude": magnitude,
    "relational": relational,
    "lookup": lookup,
}
CAUSES_OF: dict[str, Cause] = {"null": "none", "polygon": "superposition"}
"""Cause of every family that is not called like it."""
SPLITS = ("dev", "calibration", "test")
GRIDS = ("calm", "loads", "identity", "corners")
REPEATABLE = ("monosemantic", "rotated", "superposition", "manifold")
DIMENSIONS = {"circle": 2, "arc": 2, "torus": 4, "sphere": 3}
MOST_FEATURES = 768
MOST_CODES = 40_000_000
"""Rows times points of a look-up table: what fits beside other workers."""
SMALLEST_PART = 8


@dataclass(frozen=True)
class Cell:
    """Everything that one world of the benchmark takes."""

    id: str
    split: str
    family: str
    kwargs: dict[str, Any]
    n_rows: int
    d: int
    nuisances: tuple[str, ...]
    seed: int
    repeats: int = 1
    """How often every input occurs, on average."""

    @property
    def cause(self) -> Cause:
        """Why the units of this world are polysemantic."""
        return CAUSES_OF.get(self.family, self.family)  # type: ignore[return-value]


def cells(split: str, per_family: int | None = None) -> tuple[Cell, ...]:
    """The cells of a split or a grid; with `per_family`, so many of each family:
    the first ones of a split, evenly spread ones of a grid.

    Raises: ConfigError for an unknown split.
    """
    if split not in SPLITS + GRIDS:
        raise ConfigError(
            f"no split {split!r}", expected=" | ".join(SPLITS + GRIDS), hint=did_you_mean(split, SPLITS + GRIDS)
        )
    all_of_it = _drawn(split) if split in SPLITS else _grid(split)
    if per_family is None:
        return all_of_it
    chosen: set[str] = set()
    for family in {cell.family for cell in all_of_it}:
        its = [cell.id for cell in all_of_it if cell.family == family]
        # a grid is in order, and its first cells are all alike
        step = max(1.0, len(its) / per_family) if split in GRIDS else 1.0
        chosen |= {its[int(i * step)] for i in range(min(per_family, len(its)))}
    return tuple(cell for cell in all_of_it if cell.id in chosen)


def digest() -> str:
    """Hash of all cells: it changes if, and only if, any cell does."""
    everything = [asdict(cell) for split in SPLITS + GRIDS for cell in cells(split)]
    return hashlib.blake2b(json.dumps(everything, sort_keys=True).encode(), digest_size=16).hexdigest()


def world_of(cell: Cell) -> World:
    """The world of a cell, seen through its nuisances.

    A world whose inputs occur several times could also be a table of these inputs, for all that activations say.
    """
    distinct = cell.n_rows // cell.repeats
    if cell.family == "mixed":
        world = _mixed(cell)
    else:
        world = FAMILIES[cell.family](distinct, cell.d, cell.seed, **cell.kwargs)
    if cell.repeats > 1:
        world = _repeated(world, cell)
    return observed(world, cell.nuisances, cell.seed)


@cache
def _priors() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def _drawn(split: str) -> tuple[Cell, ...]:
    families = [*FAMILIES, "mixed"]
    return tuple(_cell(split, family, i) for family in families for i in range(_priors()["splits"][split]))


def _cell(split: str, family: str, number: int) -> Cell:
    priors, common = _priors(), _priors()["common"]
    g = rng.numpy_stream(priors["seed"], split, family, number)
    n_rows, d = _draw(common["n_rows"], g), _draw(common["d"], g)
    nuisances: tuple[str, ...] = ()
    if g.random() < common["nuisances"]:
        count = 2 if g.random() < common["two"] else 1
        nuisances = tuple(str(name) for name in g.choice(sorted(NUISANCES), count, replace=False))
    repeated, repeats = g.random() < common["repeated"], _draw(common["repeats"], g)
    kwargs = _parts(d, n_rows, g) if family == "mixed" else _parameters(family, d, n_rows, g)
    n_rows = _enough(family, kwargs, n_rows, d)
    if not (repeated and family in REPEATABLE and n_rows // repeats >= common["fewest_distinct"]):
        repeats = 1
    seed = rng.derive(priors["seed"], split, family, number) % 2**31
    return Cell(f"{split}-{family}-{number:03d}", split, family, kwargs, n_rows, d, nuisances, seed, repeats)


def _parameters(family: str, d: int, n_rows: int, g: np.random.Generator) -> dict[str, Any]:
    variants = _priors()["family"][family]
    weights = np.array([v.get("weight", 1) for v in variants], float)
    chosen = variants[g.choice(len(variants), p=weights / weights.sum())]
    drawn = {name: _draw(prior, g) for name, prior in chosen.items() if name != "weight"}
    return _resolved(family, drawn, d, n_rows)


def _resolved(family: str, drawn: dict[str, Any], d: int, n_rows: int) -> dict[str, Any]:
    """From shares of the units to numbers of things, within what the generators take."""
    kwargs = dict(drawn)
    if "points_per_unit" in kwargs:
        kwargs["points"] = max(2, min(round(kwargs.pop("points_per_unit") * d), MOST_CODES // n_rows))
    if "n_share" in kwargs:
        kwargs["n"] = max(2, round(kwargs.pop("n_share") * d))
    if "copies_share" in kwargs:
        kwargs["copies"] = max(1, round(kwargs.pop("copies_share") * d))
    if "fill" in kwargs:
        kwargs["count"] = max(1, round(kwargs.pop("fill") * d / DIMENSIONS.get(kwargs.get("kind", "circle"), 2)))
    if family == "superposition" and "load" in kwargs:
        most = MOST_FEATURES if kwargs.get("dictionary", "random") == "random" else MOST_FEATURES // 2
        kwargs["load"] = round(max(min(kwargs["load"], most / d), (d + 1) / d), 4)
    if "density" in kwargs:
        kwargs["density"] = round(max(kwargs["density"], _priors()["common"]["events"] / n_rows), 4)
    return kwargs


def _enough(family: str, kwargs: dict[str, Any], n_rows: int, d: int) -> int:
    """Rows for which the average feature of a superposition is active often enough to be seen."""
    if family != "superposition" or "load" not in kwargs:
        return n_rows
    wanted = _priors()["common"]["events"] * kwargs["load"] * d / kwargs["active"]
    sizes = sorted({n_rows, *(n for n in _priors()["common"]["n_rows"]["of"] if n >= n_rows)})
    return next((n for n in sizes if n >= wanted), sizes[-1])


def _parts(d: int, n_rows: int, g: np.random.Generator) -> dict[str, Any]:
    """Two or three cells of different families that share the units."""
    prior = _priors()["family"]["mixed"][0]
    count = min(_draw(prior["parts"], g), max(2, d // SMALLEST_PART))
    names = [str(name) for name in g.choice(prior["families"], count, replace=False)]
    share = g.dirichlet(np.full(count, 3.0))
    least = min(SMALLEST_PART, d // count)
    sizes = np.floor(share * (d - least * count)).astype(int) + least
    sizes[0] += d - sizes.sum()
    return {
        "parts": [
            {"family": name, "d": int(size), "kwargs": _parameters(name, int(size), n_rows, g)}
            for name, size in zip(names, sizes, strict=True)
        ]
    }


def _draw(prior: Any, g: np.random.Generator) -> Any:
    if not isinstance(prior, dict):
        return prior
    if "of" in prior:
        return prior["of"][int(g.integers(len(prior["of"])))]
    low, high = prior["from"], prior["to"]
    value = math.exp(g.uniform(math.log(low), math.log(high))) if prior.get("log") else g.uniform(low, high)
    return round(value) if prior.get("whole") else round(value, 4)


@cache
def _grid(name: str) -> tuple[Cell, ...]:
    return tuple(_grid_cells(name))


def _grid_cells(name: str) -> Iterator[Cell]:
    seed, number = _priors()["seed"], 0
    for spec in _priors()["acceptance"]:
        if spec["name"] != name:
            continue
        seen_as = [(), *((n,) for n in sorted(NUISANCES))] if spec.get("nuisances") == "each" else [()]
        for values in itertools.product(*spec["vary"].values()):
            for d, nuisances in itertools.product(spec["d"], seen_as):
                key = rng.derive(seed, "acceptance", name, number)
                g = np.random.default_rng(key)
                drawn = {k: _draw(prior, g) for k, prior in spec.get("draw", {}).items()}
                drawn |= dict(zip(spec["vary"], values, strict=True))
                kwargs = _resolved(spec["family"], drawn, d, spec["n_rows"])
                id = f"{name}-{spec['family']}-{number:03d}"
                yield Cell(
                    id, name, spec["family"], kwargs, spec["n_rows"], d, nuisances, key % 2**31, spec.get("repeats", 1)
                )
                number += 1


def _mixed(cell: Cell) -> World:
    parts = [
        FAMILIES[part["family"]](cell.n_rows, part["d"], rng.derive(cell.seed, "part", i) % 2**31, **part["kwargs"])
        for i, part in enumerate(cell.kwargs["parts"])
    ]
    world = mixed(parts, cell.seed)
    # Parts that could all have one cause could together be a world of that cause.
    common = frozenset.intersection(*(part.truth.alike or frozenset({part.truth.cause}) for part in parts))
    if common:
        world = replace(world, truth=replace(world.truth, alike=common | {"mixed"}))
    return world


def _repeated(world: World, cell: Cell) -> World:
    g = rng.stream(cell.seed, "repeats")
    rows = torch.randint(len(world.activations), (cell.n_rows,), generator=g)
    tokens, row = world.activations.tokens, torch.arange(cell.n_rows)
    assert tokens is not None
    activations = replace(
        world.activations, values=world.activations.values[rows], tokens=tokens[rows], documents=row, positions=0 * row
    )
    alike = (world.truth.alike or frozenset({world.truth.cause})) | {"lookup"}
    truth = replace(world.truth, features=world.truth.features[rows], alike=alike)
    return replace(world, activations=activations, truth=truth, labels=None)
