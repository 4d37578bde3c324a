"""`digon benchmark explanation`: build units, explain and judge them, write the report."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ...errors import ConfigError
from ...records import to_json
from ...store import files
from ...worlds.units import KINDS
from .. import jobs
from ..settings import ExplanationBenchmark
from .report import TEXTS, cells_of, figures, markdown, verdicts
from .trial import Trial, measure

SHARES: tuple[tuple[float, ...], ...] = (
    (1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0, 1.0), (0.5, 0.3, 0.2), (0.7, 0.2, 0.1),
)  # fmt: skip
"""Unions that are tried."""
FIRST_SEED = 1
"""Seed 0 was used to choose settings."""
ALONE: tuple[tuple[float, ...], ...] = ((1.0,),)


def trials(config: ExplanationBenchmark) -> list[Trial]:
    """Every kind of unit on every text, with every seed."""
    return [
        Trial(name, config.documents, kind, shares, config.units, config.noise, config.leak, seed)
        for name in config.texts
        for seed in range(FIRST_SEED, FIRST_SEED + config.seeds)
        for kind in KINDS
        if not config.kinds or kind in config.kinds
        for shares in (SHARES if kind == "union" else ALONE)
    ]


def run_explanation(config: ExplanationBenchmark, out: Path, report: Path | None = None) -> dict[str, Any]:
    """Run and judge; returns sentences, paths, and the trials that failed. A killed run goes on where it was.

    Raises: ConfigError for a report that is no Markdown file.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    wanted, path = trials(config), out / "trials.jsonl"
    if config.only_done:
        done = {r["key"]: r for r in jobs.read(path)}
        records = [done[trial.key] for trial in wanted if trial.key in done]
    else:
        records = jobs.run(wanted, measure, path, config.workers)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    written = markdown(records, _command(config, report), machine)
    for place in [out / "report.md", *([report] if report is not None else [])]:
        files.write_text(place, written)
    cells = cells_of(records)
    files.write_text(out / "figures.json", to_json(figures(cells), indent=1))
    broken = jobs.failed(records)
    return {
        "run": str(out),
        "failed": [f"{r['text']} {r['about']} seed {r['seed']}: {r['error']}" for r in broken],
        "sentences": [
            f"{len(records)} trials, {len(broken)} failed.",
            *(
                f"{TEXTS[name]}: {line.replace('**', '')}"
                for name in config.texts
                if any(c.text == name for c in cells)
                for line in verdicts([c for c in cells if c.text == name])
            ),
            f"Report: {report or out / 'report.md'}",
        ],
        "pictures": str(out / "figures.json"),
    }


def _command(config: ExplanationBenchmark, report: Path | None) -> str:
    default = ExplanationBenchmark()
    words = ["digon benchmark explanation"]
    words += [f"--report {report}"] if report is not None else []
    words += [f"--texts {' '.join(config.texts)}"] if config.texts != default.texts else []
    words += [f"--kinds {' '.join(config.kinds)}"] if config.kinds else []
    for name in ("documents", "seeds", "units", "noise", "leak"):
        value = getattr(config, name)
        words += [f"--{name} {value}"] if value != getattr(default, name) else []
    words += ["--only-done  # the trials that were done when it was stopped"] if config.only_done else []
    return " ".join(words)
