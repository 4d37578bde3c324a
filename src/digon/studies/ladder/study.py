"""`digon study ladder`: train the networks, read them, write the report."""

import functools
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ...errors import ConfigError
from ...store import files
from ...store.runs import Run
from .. import jobs
from ..settings import LadderStudy
from .measure import read, train_subject
from .plan import TIERS, readings, subjects


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
    return {"run": str(run.path)}
