"""`digon benchmark diagnosis`: run the cells, learn from dev and calibration, judge the rest, write the report."""

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...diagnose import posterior
from ...diagnose.posterior import Posterior, fit, load_reference
from ...errors import ConfigError
from ...records import Figure, Frame, Panel, Series, to_json
from ...store import files
from ..jobs import Record, failed, read, run
from ..settings import DiagnosisBenchmark
from .cells import GRIDS, SPLITS, Cell, cells
from .report import Findings, markdown
from .runner import job_of, measure
from .scores import ablation, by_baseline, concluded, judge, leave_one_family_out, reference_of

SMOKE_CELLS, SMOKE_ROWS, SMOKE_UNITS = 3, 10_000, 16
ACCESS = ("A", "A+", "B")
FEWEST = 20
"""Cells to develop and to calibrate on from which the run learns from its own."""


def run_benchmark(config: DiagnosisBenchmark, out: Path, report: Path | None = None) -> dict[str, Any]:
    """Run and judge; returns sentences, paths, and the cells that failed.

    The folder holds a file of lines per split; a killed run goes on where it was.

    Raises: ConfigError if the report is no Markdown file, or a reference is to be updated from part of the cells.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    if config.update_reference and (config.size == "smoke" or not {"dev", "calibration"} <= set(config.splits)):
        raise ConfigError(
            "a reference from part of the cells", expected="--size full with the splits dev and calibration"
        )
    records: dict[str, Sequence[Record]] = {}
    for split in (s for s in SPLITS + GRIDS if s in config.splits):
        if split not in ("dev", "calibration") and config.update_reference:
            _update(records)  # verdicts that follow use what was just learned
        if config.only_done:
            wanted = {cell.id for cell in chosen(config, split)}
            records[split] = [r for r in read(out / f"{split}.jsonl") if r["id"] in wanted]
            continue
        jobs = [replace(job, costly=job.costly and config.size == "full") for job in map(job_of, chosen(config, split))]
        records[split] = run(jobs, measure, out / f"{split}.jsonl", config.workers)
    if config.update_reference:
        _update(records)
    broken = [r["id"] for split in records.values() for r in failed(split)]
    sentences = [f"{sum(map(len, records.values()))} cells, {len(broken)} failed."]
    result: dict[str, Any] = {"run": str(out), "failed": broken, "sentences": sentences}
    if "test" not in records:
        return result
    found = findings(records, _command(config, report), small=config.size == "smoke")
    text = markdown(found)
    files.write_text(out / "report.md", text)
    files.write_text(out / "figures.json", to_json(figures(found), indent=1))
    if report is not None:
        files.write_text(report, text)
    judged = found.judged["A"]
    sentences += [
        f"Most probable cause right on {100 * judged.right.mean():.1f} % of {len(judged.records)} test cells from activations "
        f"alone; sets cover {100 * judged.covered.mean():.1f} %; calibration error {judged.reliability.error:.3f}.",
        f"Report: {report or out / 'report.md'}",
    ]
    return result


def chosen(config: DiagnosisBenchmark, split: str) -> tuple[Cell, ...]:
    """The cells of a split that a size asks for."""
    most_units = config.most_units or 10**9
    if config.size == "full":
        return tuple(c for c in cells(split, config.per_family) if c.d <= most_units)
    small = [c for c in cells(split) if c.n_rows <= SMOKE_ROWS and c.d <= min(SMOKE_UNITS, most_units)]
    families: dict[str, list[Cell]] = {}
    for cell in small:
        families.setdefault(cell.family, []).append(cell)
    most = config.per_family or SMOKE_CELLS
    return tuple(cell for mine in families.values() for cell in mine[:most])


def findings(records: dict[str, Sequence[Record]], command: str, *, small: bool = False) -> Findings:
    """Everything that the report is written from; `small` leaves out what refits the model again and again."""
    model = _posterior(records)
    records = {split: [concluded(model, r) for r in some] for split, some in records.items()}
    test = [r for r in records["test"] if "error" not in r]
    families = [] if small else sorted(set(model.reference.families))
    return Findings(
        command,
        records,
        {access: judge(model, test, access) for access in ACCESS},
        model.reference,
        by_baseline(records.get("dev", ()), test) if records.get("dev") else {},
        leave_one_family_out(model.reference, test, families),
        ablation(model.reference, test, () if small else model.reference.names),
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    )


def figures(found: Findings) -> list[Figure]:
    """Reliability and abstention, ready to be drawn."""
    panels = []
    for access, judged in found.judged.items():
        r = judged.reliability
        keep = (r.counts > 0).numpy()
        stated, right = r.confidence.numpy()[keep], r.accuracy.numpy()[keep]
        measured = Series("points", f"access {access}", tuple(stated.tolist()), tuple(right.tolist()))
        guide = Series("line", "as stated", (0.0, 1.0), (0.0, 1.0), role="guide")
        panels.append(Panel(f"access {access}", "stated probability", "share right", (measured, guide), square=True))
    curves = []
    for access, judged in found.judged.items():
        made, wrong = judged.abstaining()
        at = np.unique(np.linspace(0, len(made) - 1, 60).astype(int)) if len(made) else np.zeros(0, int)
        curves.append(Series("line", f"access {access}", tuple(made[at].tolist()), tuple(wrong[at].tolist())))
    risk = Panel("abstention", "share of cells called", "share of calls wrong", tuple(curves))
    caution = "Worlds of the benchmark's families, not networks: a site unlike all of them is called novel instead."
    return [
        Figure("diagnosis-reliability", "Do stated probabilities hold?", "", "Points near the diagonal.", caution,
               (Frame("", tuple(panels)),)),
        Figure("diagnosis-abstention", "Fewer calls, fewer errors", "", "Curves that rise only at the right end.", caution,
               (Frame("", (risk,)),), columns=1),
    ]  # fmt: skip


def _posterior(records: dict[str, Sequence[Record]]) -> Posterior:
    """From this run's own cells, or where they are too few from the table that the package carries."""
    own = [[r for r in records.get(split, ()) if "error" not in r] for split in ("dev", "calibration")]
    if min(map(len, own)) >= FEWEST:
        return fit(reference_of(*own))
    return fit(load_reference())


def _update(records: dict[str, Sequence[Record]]) -> None:
    """Replace the table that the package carries, once both splits are done."""
    if {"dev", "calibration"} <= records.keys():
        files.write_bytes(posterior.FILE, reference_of(records["dev"], records["calibration"]).to_bytes())
        posterior.shipped.cache_clear()


def _command(config: DiagnosisBenchmark, report: Path | None) -> str:
    words = ["digon benchmark diagnosis", f"--size {config.size}"]
    words += [f"--per-family {config.per_family}"] if config.per_family is not None else []
    words += [f"--split {' '.join(config.splits)}"] if config.splits != SPLITS + GRIDS else []
    words += [f"--most-units {config.most_units}"] if config.most_units is not None else []
    words += ["--update-reference"] if config.update_reference else []
    words += ["--only-done  # the cells that were done when it was stopped"] if config.only_done else []
    words[1:1] = [f"--report {report}"] if report is not None else []
    return " ".join(words)
