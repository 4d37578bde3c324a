"""From measured cells to numbers: what was called, what was true, how far probabilities and sets can be trusted.

Errors are counted on what the access can tell apart: a superposition called a look-up table is right from activations
alone, and wrong once it is known which rows are the same input.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ... import rng
from ...diagnose.posterior import Kind, Opinion, Posterior, Reference, fit, kind_of
from ...diagnose.verdict import decide
from ...measures.calibration import Reliability, abstention_curve, brier, chance_error, covered, reliability
from ...records import CAUSES, Cause
from ..jobs import Record
from . import baselines
from .cells import digest

CALM: tuple[Cause, ...] = ("none", "monosemantic", "rotated")
"""Causes whose worlds have no superposition."""
SAME_AS_SUPERPOSITION: frozenset[str] = frozenset({"superposition", "lookup"})
"""What activations alone cannot tell from superposition, named or not."""
ODDS = 10.0


@dataclass(frozen=True)
class Judged:
    """Opinions on some cells beside their truth."""

    access: str
    records: tuple[Record, ...]
    opinions: tuple[Opinion, ...]

    @property
    def kinds(self) -> list[Kind]:
        """What each cell may rightly be called."""
        return [truth(r, self.access) for r in self.records]

    @property
    def right(self) -> np.ndarray:
        """[cells] whether the most plausible cause is a right one."""
        return np.array([o.top in kind for o, kind in zip(self.opinions, self.kinds, strict=True)], bool)

    @property
    def confidence(self) -> np.ndarray:
        """[cells] probability that the call is right, as the opinion states it."""
        return np.array([o.plausible[o.top] for o in self.opinions])

    @property
    def covered(self) -> np.ndarray:
        """[cells] whether the set holds a right cause."""
        sets = torch.tensor([[c in o.causes for c in CAUSES] for o in self.opinions])
        kinds = torch.tensor([[c in kind for c in CAUSES] for kind in self.kinds])
        return covered(sets, kinds).numpy()

    @property
    def reliability(self) -> Reliability:
        """Stated against actual shares of right calls."""
        return reliability(torch.from_numpy(self.confidence), torch.from_numpy(self.right))

    @property
    def chance_error(self) -> tuple[float, float]:
        """Calibration error of so many calls if stated probabilities were exact: mean, and 95 % quantile."""
        return chance_error(torch.from_numpy(self.confidence), rng.stream(0, "calibration error"))

    @property
    def brier(self) -> float:
        """Squared distance to the truth, which is shared among causes that cannot be told apart."""
        p = torch.tensor([[o.probabilities[c] for c in CAUSES] for o in self.opinions])
        shared = torch.tensor([[(c in kind) / len(kind) for c in CAUSES] for kind in self.kinds])
        return float(brier(p, shared))

    @property
    def log_loss(self) -> float:
        """Mean −log P(kind); a kind that the reference does not know costs as much as one in a thousand."""
        found = [
            -math.log(max(1e-3, o.kinds.get(kind, 0.0))) for o, kind in zip(self.opinions, self.kinds, strict=True)
        ]
        return float(np.mean(found))

    def of(self, chosen: np.ndarray | Callable[[Record], bool]) -> "Judged":
        """Some of the cells."""
        keep = np.array([chosen(r) for r in self.records], bool) if callable(chosen) else chosen
        rows = np.flatnonzero(keep)
        return Judged(
            self.access, tuple(self.records[i] for i in rows), tuple(self.opinions[i] for i in rows)
        )  # fmt: skip

    def abstaining(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of the cells that are called and share of the calls that is wrong; novel cells come last."""
        novel = np.array([o.novel for o in self.opinions])
        made, wrong = abstention_curve(torch.from_numpy(self.confidence - novel), torch.from_numpy(self.right))
        return made.numpy(), wrong.numpy()


def truth(record: Record, access: str) -> Kind:
    """What a cell may rightly be called."""
    return kind_of(record["cause"], record["alike"], access)


def reference_of(dev: Sequence[Record], calibration: Sequence[Record]) -> Reference:
    """The table that the posterior learns from; cells that failed are left out."""
    records = [r for r in (*dev, *calibration) if "error" not in r]
    names = tuple(dict.fromkeys(name for r in records for name in r["statistics"]))
    table = np.array([[_number(r["statistics"].get(name)) for name in names] for r in records], np.float32)
    return Reference(
        names,
        table.reshape(len(records), len(names)),
        tuple(r["cause"] for r in records),
        tuple(frozenset(r["alike"]) for r in records),
        tuple(r["family"] for r in records),
        digest(),
    )


def judge(posterior: Posterior, records: Iterable[Record], access: str) -> Judged:
    """Opinions on cells at a level of access."""
    kept = tuple(r for r in records if "error" not in r)
    names = posterior.reference.names
    table = np.array([[_number(r["statistics"].get(name)) for name in names] for r in kept]).reshape(-1, len(names))
    return Judged(access, kept, tuple(posterior.of_table(table, access)))


def concluded(posterior: Posterior, record: Record) -> Record:
    """A cell whose verdicts name the causes that this posterior leaves, of those that the checks did not exclude.

    Checks take most of the time and do not change with what the posterior has learned. A verdict that does not say what
    they excluded stays as it is.
    """
    numbers = {name: _number(value) for name, value in record.get("statistics", {}).items()}
    verdicts = {
        access: verdict
        | {"causes": list(decide(verdict["excluded"], posterior.of(numbers, access), access, numbers)[0])}
        if "excluded" in verdict
        else verdict
        for access, verdict in record.get("verdicts", {}).items()
    }
    return {**record, "verdicts": verdicts} if verdicts else record


def confusion(judged: Judged) -> np.ndarray:
    """[true, called] numbers of cells; a right call of another name counts as the true one."""
    counts = np.zeros((len(CAUSES), len(CAUSES)), int)
    for record, opinion, right in zip(judged.records, judged.opinions, judged.right, strict=True):
        true = CAUSES.index(record["cause"])
        counts[true, true if right else CAUSES.index(opinion.top)] += 1
    return counts


def flips(judged: Judged) -> float:
    """Share of the calls that ten to one against the called cause would change."""
    found: list[bool] = []
    for opinion in judged.opinions:
        kind = max(opinion.kinds, key=lambda k: opinion.kinds[k])
        before, others = opinion.kinds[kind], [p for k, p in opinion.kinds.items() if k != kind]
        found.append(max(others, default=0.0) > before / ODDS)
    return float(np.mean(found)) if found else math.nan


def leave_one_family_out(
    reference: Reference, records: Sequence[Record], families: Iterable[str]
) -> dict[str, dict[str, float]]:
    """What becomes of a family that the model has never seen, at access A."""
    names, found = np.array(reference.families), {}
    for family in families:
        rest = reference.take(names != family)
        judged = judge(fit(rest), [r for r in records if r["family"] == family], "A")
        if not judged.records:
            continue
        novel = np.array([o.novel for o in judged.opinions])
        # A cause without any reference world is in every set: it counts for nothing here.
        sets = [set(o.causes) & set(rest.causes) for o in judged.opinions]
        shared = np.array([any(s <= kind for kind in o.kinds) for s, o in zip(sets, judged.opinions, strict=True)])
        missed = np.array([not s & kind for s, kind in zip(sets, judged.kinds, strict=True)])
        found[family] = {
            "cells": float(len(judged.records)),
            "novel": float(novel.mean()),
            "right": float(judged.right.mean()),
            "over 90 % sure and wrong": float(((judged.confidence > 0.9) & ~judged.right & ~novel).mean()),
            "only wrong causes that look alike in the set": float((shared & missed & ~novel).mean()),
        }
    return found


def ablation(reference: Reference, records: Sequence[Record], names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Statistic → what leaving it out does to the share of right calls and to the log loss.

    Each at the lowest access at which it is known.
    """
    whole: dict[str, Judged] = {}
    found: dict[str, tuple[float, float]] = {}
    for name in names:
        access = name.split(":")[0] if ":" in name else "A"
        if access not in whole:
            whole[access] = judge(fit(reference), records, access)
        less = judge(fit(reference.without([name])), records, access)
        found[name] = (
            float(less.right.mean() - whole[access].right.mean()), less.log_loss - whole[access].log_loss
        )  # fmt: skip
    return found


def by_baseline(dev: Sequence[Record], test: Sequence[Record]) -> dict[str, dict[str, float]]:
    """How often baselines are right at access A, and how often they call superposition where there is none."""
    records = [r for r in (*dev, *test) if "error" not in r]
    asked = np.array([r["split"] != "dev" for r in records])
    causes = np.array([r["cause"] for r in records], dtype=object)
    keys = sorted({key for r in records for key in r["baselines"]})
    table = {key: np.array([_number(r["baselines"].get(key)) for r in records]) for key in keys}
    kinds = [truth(r, "A") for r, is_asked in zip(records, asked, strict=True) if is_asked]
    calm = np.isin(causes[asked].astype(str), CALM)
    found: dict[str, dict[str, float]] = {}
    for name in (*baselines.READINGS, "raw moments"):
        needed = [c for c in baselines.READINGS.get(name, ()) if c in table]
        known = np.all([np.isfinite(table[c]) for c in needed], 0) if needed else np.ones(len(records), bool)
        if not (~asked & known).any() or len(needed) < len(baselines.READINGS.get(name, ())):
            continue
        called = baselines.fit_and_call(name, table, ~asked & known, causes, asked)
        right = np.array([c in kind for c, kind in zip(called, kinds, strict=True)])
        falsely = np.isin(called.astype(str), ["superposition"])
        found[name] = {
            "right": float(right.mean()),
            "balanced": balanced(right, causes[asked]),
            "false superposition": float(falsely[calm].mean()) if calm.any() else math.nan,
        }
    return found


def balanced(right: np.ndarray, causes: np.ndarray) -> float:
    """Mean over causes of the share of right calls."""
    return float(np.mean([right[causes == c].mean() for c in sorted(set(causes))])) if len(right) else math.nan


def claims_superposition(verdict: Record) -> tuple[bool, bool]:
    """Whether a verdict says superposition: as its only or most probable cause, or anywhere in its set."""
    causes, posterior = set(verdict["causes"]), verdict["posterior"]
    anywhere = "superposition" in causes
    alone = anywhere and causes <= SAME_AS_SUPERPOSITION
    known = {c: p for c, p in posterior.items() if p is not None}
    top = bool(known) and max(known, key=lambda c: known[c]) == "superposition"
    return alone or (top and anywhere), anywhere


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
