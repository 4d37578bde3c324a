"""Every claim of the literature as one row, and the verdict on it.

A claim names a quantity of a study, the value that the paper (or an exact calculation, or we) expect of it, and how far
off counts as equal. The verdict compares three numbers and never bends one to another:

    holds          the measured value is the expected one
    differs        it is not; for a published value, what was measured is what exact calculation says, or there is none
    not reached    nothing was measured, or the study did not come to what exact calculation says is there
"""

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ... import config as configs
from ...errors import ConfigError, did_you_mean
from ...records import Claim, ClaimKind, ClaimVerdict
from .base import Outcome

ROOMS = ("digon.studies.toys.paper", "digon.studies.toys.followups", "digon.studies.toys")
"""Where studies and their claims are."""


@dataclass(frozen=True)
class Statement:
    """One row of a claims file: what is claimed, before anything is measured."""

    id: str
    statement: str
    source: str
    quantity: str
    """Key of `Outcome.values`."""
    kind: ClaimKind
    expected: float
    tolerance: float
    compare: Literal["equal", "at least", "at most"] = "equal"
    relative: bool = False
    """Whether the tolerance is a fraction of the expected value."""
    size: Literal["smoke", "paper"] = "smoke"
    """Smallest size of the study at which the claim can be judged."""
    study: str = ""
    """Name of the study: of its module and of the file of claims beside it."""

    @property
    def margin(self) -> float:
        """The tolerance in the unit of the quantity."""
        return self.tolerance * abs(self.expected) if self.relative else self.tolerance

    def met_by(self, value: float) -> bool:
        """Whether a number is what the claim expects."""
        if self.compare == "at least":
            return value >= self.expected - self.margin
        if self.compare == "at most":
            return value <= self.expected + self.margin
        return abs(value - self.expected) <= self.margin


def statements() -> list[Statement]:
    """All claims, in order of their ids.

    Raises: ConfigError if two claims share an id.
    """
    found: list[Statement] = []
    for room in ROOMS:
        for file in resources.files(room).iterdir():
            if file.name.endswith(".toml"):
                rows = tomllib.loads(file.read_text(encoding="utf-8")).get("claim", [])
                study = file.name.removesuffix(".toml")
                found += [configs.from_dict(Statement, {**row, "study": study}) for row in rows]
    ids = [row.id for row in found]
    twice = {name for name in ids if ids.count(name) > 1}
    if twice:
        raise ConfigError(f"claims with the same id: {', '.join(sorted(twice))}", expected="one claim per id")
    return sorted(found, key=lambda row: natural(row.id))


def module_of(study: str) -> str:
    """Full name of the module of a study.

    Raises: ConfigError if there is no such study.
    """
    for room in ROOMS:
        if (resources.files(room) / f"{study}.toml").is_file():
            return f"{room}.{study}"
    raise ConfigError(f"no study {study!r}", hint=did_you_mean(study, {row.study for row in statements()}))


def natural(name: str) -> tuple[Any, ...]:
    """Order in which E2 comes before E10.

    >>> sorted(["E10.1", "E2.11", "E2.2"], key=natural)
    ['E2.2', 'E2.11', 'E10.1']
    """
    parts: list[str | int] = []
    for character in name:
        if character.isdigit() and parts and isinstance(parts[-1], int):
            parts[-1] = 10 * parts[-1] + int(character)
        else:
            parts.append(int(character) if character.isdigit() else character)
    return tuple((isinstance(part, str), part) for part in parts)


def chosen(rows: Sequence[Statement], names: Iterable[str]) -> list[Statement]:
    """The claims with these ids, of these sections (`E4`) or of these studies (`pentagon`).

    Raises: ConfigError that suggests near names if one fits nothing.
    """
    picked: set[str] = set()
    known = {row.id for row in rows} | {row.id.split(".")[0] for row in rows} | {row.study for row in rows}
    for name in names:
        fits = {row.id for row in rows if name in (row.id, row.id.split(".")[0], row.study)}
        if not fits:
            raise ConfigError(
                f"no claim {name!r}", expected="the id of a claim, a section or a study", hint=did_you_mean(name, known)
            )
        picked |= fits
    return [row for row in rows if row.id in picked]


def judge(row: Statement, outcome: Outcome | None, size: str) -> Claim:
    """The claim with what was measured and calculated."""
    judged = outcome is not None and (size == "paper" or row.size == "smoke")
    found = outcome.values.get(row.quantity) if outcome is not None and judged else None
    exact = outcome.exact.get(row.quantity, math.nan) if outcome is not None and judged else math.nan
    if row.kind == "exact" and math.isnan(exact):
        exact = row.expected
    nan = math.nan
    value, low, high = (nan, nan, nan) if found is None else (found.value, found.low, found.high)
    published = row.expected if row.kind != "exact" else nan
    return Claim(
        row.id, row.statement, row.source, row.kind, published, exact, value, low, high, row.margin,
        _verdict(row, value, exact), row.compare,
    )  # fmt: skip


def _verdict(row: Statement, value: float, exact: float) -> ClaimVerdict:
    if math.isnan(value):
        return "not reached"
    if row.met_by(value):
        return "holds"
    if row.kind == "published" and not math.isnan(exact) and row.met_by(exact):
        return "not reached"  # calculation agrees with the paper: it is our experiment that fell short
    return "differs"
