"""Run the checks on one site of a run and write the verdict."""

import torch

from ..diagnose import Evidence, diagnose, run_checks
from ..records import Measurement
from ..store.runs import Run
from ..store.shards import ActivationStore
from . import report
from .sources import Neurons

MAX_ROWS = 60_000
"""Rows that the checks look at, spread evenly over the harvest."""


def diagnose_site(run: Run, source: Neurons, store: ActivationStore, seed: int) -> None:
    """Write `diagnosis/<site>.json`."""
    rows = torch.arange(0, len(store), max(1, -(-len(store) // MAX_ROWS)))
    evidence = Evidence(store.activations(source.site, rows), seed, _polysemantic(run, source.site))
    verdict = diagnose(source.site, run_checks(evidence), evidence.access)
    run.write_json(f"diagnosis/{source.site}", verdict)


def _polysemantic(run: Run, site: str) -> Measurement:
    return report.polysemantic_share(run.read_table(f"survey/{site}"))
