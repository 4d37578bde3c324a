"""`digon benchmark decoding`: try the coders, judge them, write the report."""

import functools
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import ConfigError
from ...records import to_json
from ...store import files
from .. import jobs
from ..settings import DecodingBenchmark
from . import real
from .entrants import ENTRANTS, entrant
from .published import beside
from .report import Cell, cells_of, figures, markdown, verdict
from .trial import Trial, measure
from .trials import ARENAS, SHARED, SWEEPS, swept, swept_name, trials

SLOWEST = ("pca", "ica", "dictionary", "random")
"""Left out of the sizes above medium: dense, or hours."""


def run_decoding(config: DecodingBenchmark, out: Path, report: Path | None = None) -> dict[str, Any]:
    """Run and judge; returns sentences, paths, and the trials that failed. A killed run goes on where it was.

    Raises: ConfigError for unknown coders, or a report that is no Markdown file.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    for name in config.coders:
        entrant(name)
    wanted = _wanted(config)
    if not config.only_done:
        for host in config.hosts:
            real.harvest_place(host, out / real.ACTIVATIONS / host)
    records = _records(config, wanted, out)
    cells = cells_of(records)
    sites = real.with_agreement(cells, wanted, out)
    medium = beside([cell for cell in cells if cell.about == "medium"])
    rest = [medium, real.section(sites), _missing(cells, len(wanted) - len(records))]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    text = markdown(records, _command(config, report), machine, "\n\n".join(filter(None, rest)))
    for place in [out / "report.md", *([report] if report is not None else [])]:
        files.write_text(place, text)
    files.write_text(out / "figures.json", to_json([*figures(cells), *real.figures(sites)], indent=1))
    broken = jobs.failed(records)
    sentences = [
        f"{len(records)} of {len(wanted)} trials, {len(broken)} failed.",
        *_verdicts(config, cells),
        f"Report: {report or out / 'report.md'}",
    ]
    return {
        "run": str(out),
        "failed": [f"{r['about']} {r['coder']} l0 {r['l0']}: {r['error']}" for r in broken],
        "sentences": sentences,
        "pictures": str(out / "figures.json"),
    }


def _wanted(config: DecodingBenchmark) -> list[Trial]:
    """All trials that were asked for: on worlds of all sizes, on swept ones, on real networks."""
    found: list[Trial] = []
    for size in config.sizes:
        found += trials(size, config.coders or _default(size), config.seeds, config.steps)
    if config.sweeps:
        found += swept(config.coders or tuple(ENTRANTS), config.seeds, config.steps)
    for host in config.hosts:
        found += real.site_trials(host, config.coders or real.CODERS, config.seeds, config.steps)
    return found


def _records(config: DecodingBenchmark, wanted: Sequence[Trial], out: Path) -> list[jobs.Record]:
    """What was found, in the order of the trials; with `only_done`, what the run holds of it."""
    path = out / "trials.jsonl"
    if not config.only_done:
        return jobs.run(wanted, functools.partial(measure, folder=out), path, config.workers)
    done = {r["key"]: r for r in jobs.read(path)}
    return [done[trial.key] for trial in wanted if trial.key in done]


def _default(size: str) -> tuple[str, ...]:
    """Coders of a size: all of them, or those that are worth their time."""
    return tuple(name for name in ENTRANTS if size in ("smoke", "small", "medium") or name not in SLOWEST)


def _verdicts(config: DecodingBenchmark, cells: Sequence[Cell]) -> list[str]:
    told = {size: verdict([c for c in cells if c.about == size]) for size in config.sizes}
    return [f"{size}: {text.replace('**', '')}" for size, text in told.items() if text]


def _missing(cells: Sequence[Cell], left_out: int) -> str:
    """What a reader must not take from the report."""
    known = {cell.about for cell in cells}
    left = [size for size in ARENAS if size not in (*known, "smoke")]
    told = [
        *(
            [
                f"Stopped {left_out} trials before the end: what has no interval or a dash was not done thrice or not at all."
            ]
            if left_out
            else []
        ),
        *([f"Not run here: {', '.join(left)} (`--sizes`); the published world, full, wants a GPU."] if left else []),
        "Trained on about a million rows, not 2·10⁸. Learning rates of the mainline were chosen for that, on a world of the law of "
        "the medium one ([decoding-settings.md](decoding-settings.md)); longer training may close gaps or open them.",
        "Intervals are over trainings on one world. Settings of ours were chosen on another world of the medium law.",
    ]
    swept = {name for name, worlds in SWEEPS.items() if any(swept_name(name, v) in known - {SHARED} for v in worlds)}
    told += (
        [f"No sweeps over {', '.join(name for name in SWEEPS if name not in swept)} (`--sweeps`)."]
        if len(swept) < len(SWEEPS)
        else []
    )
    hosts = [host for host in real.PLACES if host not in known]
    told += [f"No real activations of {', '.join(hosts)} (`--hosts`)."] if hosts else []
    return "\n".join(["## What this does not show", "", *(f"- {line}" for line in told)])


def _command(config: DecodingBenchmark, report: Path | None) -> str:
    words = ["digon benchmark decoding"]
    words += [f"--report {report}"] if report is not None else []
    words += [f"--sizes {' '.join(config.sizes)}"]
    words += [f"--coders {' '.join(config.coders)}"] if config.coders else []
    words += [f"--seeds {config.seeds}"]
    words += [f"--steps {config.steps}"] if config.steps is not None else []
    words += ["--sweeps"] if config.sweeps else []
    words += [f"--hosts {' '.join(config.hosts)}"] if config.hosts else []
    words += ["--only-done  # the trials that were done when it was stopped"] if config.only_done else []
    return " ".join(words)
