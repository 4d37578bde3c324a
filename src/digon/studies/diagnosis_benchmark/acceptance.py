"""What the diagnosis promised beforehand, beside what was measured: one row per promise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...records import CAUSES
from ..jobs import Record
from .scores import CALM, Judged, claims_superposition

Records = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Promise:
    """A bound and what was measured against it."""

    what: str
    bound: float
    at_most: bool
    measured: float
    """NaN if no cell speaks to it."""
    cells: int

    @property
    def kept(self) -> bool:
        """Whether the measured share keeps to the bound."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


def promises(records: Records, judged: Mapping[str, Judged]) -> list[Promise]:
    """Every promise that some cell speaks to."""
    made = [
        *_superposition(_verdicts(records, "calm"), _verdicts(records, "loads"), records),
        *_alike(_verdicts(records, "identity"), _verdicts(records, "corners")),
        *_trust(judged),
    ]
    return [promise for promise in made if promise.cells]


def _superposition(calm: list[Record], loads: list[Record], records: Records) -> list[Promise]:
    calm = [r for r in calm if r["cause"] in CALM]
    few = [r for r in loads if r["kwargs"]["load"] <= 4]
    found = [r for r in records.get("loads", ()) if "error" not in r and r["recovered"]]
    told = lambda reading: [claims_superposition(_of(r))[reading] for r in calm]  # noqa: E731
    return [
        _most("superposition where there is none, only or first", 0.02, told(0)),
        _most("superposition where there is none, anywhere in the set", 0.02, told(1)),
        _least("superposition named in the set, load ≥ 1.5, active ≤ 4", 0.95, ("superposition" in _of(r)["causes"] for r in loads)),
        _least("number of features within ±10 %, load ≤ 4", 0.95, (_near(r) for r in few)),
        *(
            _mean(f"share of features found at load {load:g}, mean over cells", bound,
                  [r["recovered"]["any"] for r in found if r["kwargs"]["load"] == load])
            for load, bound in ((2.0, 0.95), (5.0, 0.9))
        ),
    ]  # fmt: skip


def _alike(identity: list[Record], corners: list[Record]) -> list[Promise]:
    sets: Callable[[Iterable[Record], str], list[set[str]]] = lambda cells, access: [  # noqa: E731
        set(_of(r, access)["causes"]) for r in cells
    ]
    tables = [r for r in identity if r["family"] == "lookup"]
    others = [r for r in identity if r["family"] == "superposition"]
    both, pair = {"superposition", "lookup"}, {"superposition", "manifold"}
    polygons = [r for r in corners if r["family"] == "polygon"]
    return [
        _least("look-up told from superposition with identity", 0.95,
               ("lookup" in s and "superposition" not in s for s in sets(tables, "A+"))),
        _least("superposition told from look-up with identity", 0.95,
               ("superposition" in s and "lookup" not in s for s in sets(others, "A+"))),
        _most("one of both without the other, without identity", 0.0,
              (bool(s & both) and not both <= s for s in sets(identity, "A"))),
        _most("polygon: superposition or manifold without the other", 0.0,
              (bool(s & pair) and not pair <= s for s in sets(polygons, "A"))),
    ]  # fmt: skip


def _trust(judged: Mapping[str, Judged]) -> list[Promise]:
    made: list[Promise] = []
    for access, all_cells in judged.items():
        by_cause = {c: all_cells.of(lambda r, c=c: r["cause"] == c) for c in CAUSES}
        covered = {c: float(j.covered.mean()) for c, j in by_cause.items() if j.records}
        if not covered:
            continue
        worst, cells = min(covered, key=lambda c: covered[c]), len(all_cells.records)
        made.append(Promise(f"sets of 90 % cover, worst cause ({worst}), access {access}", 0.88, False, covered[worst],
                            len(by_cause[worst].records)))  # fmt: skip
        made.append(Promise(f"calibration error, access {access}", 0.05, True, all_cells.reliability.error, cells))
    return made


def _verdicts(records: Records, split: str) -> list[Record]:
    return [r for r in records.get(split, ()) if "error" not in r and r["verdicts"]]


def _of(record: Record, access: str = "A") -> Record:
    return record["verdicts"][access]


def _near(record: Record) -> bool:
    point = _of(record)["n_features"]["point"]
    return point is not None and abs(point / record["truth"]["n"] - 1) <= 0.1


def _least(what: str, bound: float, hits: Iterable[bool]) -> Promise:
    return _mean(what, bound, [float(hit) for hit in hits])


def _most(what: str, bound: float, hits: Iterable[bool]) -> Promise:
    told = [float(hit) for hit in hits]
    return Promise(what, bound, True, float(np.mean(told)) if told else np.nan, len(told))


def _mean(what: str, bound: float, shares: Sequence[float]) -> Promise:
    return Promise(what, bound, False, float(np.mean(shares)) if shares else np.nan, len(shares))
