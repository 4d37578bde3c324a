"""`digon study ladder`: train the networks, read them, write the report."""

import functools
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import ConfigError
from ...records import Claim
from ...store import files
from ...store.runs import Run
from .. import jobs
from ..settings import LadderStudy
from .analysis import Ladder, ladder
from .measure import read, train_subject
from .plan import TIERS, readings, subjects
from .published import claims
from .report import figures, layer_table, markdown, measurements, setting, tally, told


def run_ladder(config: LadderStudy, out: Path, report: Path | None = None) -> dict[str, Any]:
    """Train, read and judge; returns sentences, paths, and what failed. A killed run goes on where it was.

    Raises: ConfigError for a report that is no Markdown file, or a folder with another ladder in it.
    """
    if report is not None and report.suffix != ".md":
        raise ConfigError(f"cannot write a report to {report}", expected="a file that ends in .md")
    run = Run.create(out, config.settled)
    networks = subjects(TIERS[config.size], config.seeds, config.data)
    models = out / "models"
    trained = jobs.run(networks, functools.partial(train_subject, folder=models), out / "trained.jsonl", config.workers)
    whole = {record["name"] for record in trained if "error" not in record}
    wanted = readings([network for network in networks if network.name in whole])
    records = jobs.run(wanted, functools.partial(read, folder=models), out / "readings.jsonl", config.workers)
    found = ladder(records)
    judged = claims(found)
    about = {
        "command": _command(config, report),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "seconds": _seconds(trained, records),
        "setting": setting(TIERS[config.size]),
    }
    text = markdown(found, judged, [*trained, *records], about)
    for place in [out / "report.md", *([report] if report is not None else [])]:
        files.write_text(place, text)
    _keep(run, found, judged, records)
    broken = jobs.failed([*trained, *records])
    return {
        "run": str(out),
        "failed": [f"{r['name']}: {r['error']}" for r in broken],
        "sentences": [*_sentences(judged), f"Report: {report or out / 'report.md'}"],
        "pictures": str(out / "studies" / "ladder.figures.json"),
    }


def _keep(run: Run, found: Ladder, judged: list[Claim], records: list[jobs.Record]) -> None:
    """Tables, claims and pictures, in the layout that the page of studies reads."""
    with run.stage("ladder", __version__):
        run.write_json("studies/ladder.figures", figures(found))
    run.write_table("layers", layer_table(records))
    run.write_json("measurements", measurements(found))
    run.write_json("claims", judged)
    run.write_json("facts", {
        "kind": "toys",
        "title": "A ladder of small transformers",
        "version": __version__,
        "verdicts": tally(judged),
        "seconds": {"ladder": round(sum(r.get("seconds", 0.0) for r in records), 1)},
    })  # fmt: skip


def _seconds(trained: list[jobs.Record], records: list[jobs.Record]) -> str:
    spent = [sum(r.get("cpu", 0.0) for r in part) / 60 for part in (trained, records)]
    clock = [sum(r.get("seconds", 0.0) for r in part) / 60 for part in (trained, records)]
    return (
        f"{len(trained)} networks took {spent[0]:.0f} minutes of one core to train and {len(records)} readings {spent[1]:.0f} "
        f"to measure ({sum(clock):.0f} by the clock of the processes): {sum(spent) / 2:.0f} minutes on two cores."
    )


def _sentences(judged: list[Claim]) -> list[str]:
    return [
        f"{c.id} {c.statement} Published {c.published:+.3g}, ours "
        + (f"{c.measured:+.3g}: {told(c)}." if math.isfinite(c.measured) else f"{told(c)}.")
        for c in judged
    ]


def _command(config: LadderStudy, report: Path | None) -> str:
    words = ["digon study ladder"] + ["--size smoke"] * (config.size == "smoke")
    words += [f"--seeds {config.seeds}"] * (config.seeds != LadderStudy.seeds)
    words += [f"--data {config.data}"] * (config.data is not None)
    return " ".join([*words, *([f"--report {report}"] if report is not None else [])])
