"""Against the truth, where the harvested rows come from a world whose features are known."""

import numpy as np
import torch

from ...coders.sae import SAE
from ...measures import stats
from ...measures.recovery import LABELS, Recovery, Report, report
from ...records import Measurement
from ...store.runs import Run
from ...worlds.tree import TreeWorld

ROWS = 60_000
PIECE = 4096
PARTS = 5
"""Parts of the rows whose scores give the interval: it says how much rows matter, not seeds."""
DIRECTIONS = ("mcc", "mmcs_features", "coverage")
"""Scores that no rows enter: they have no interval."""
SCORES = (
    "f1", "precision", "recall", "f1_rare", "f1_weighted", "mcc", "mmcs_features", "coverage", "slope", "public_f1", "l0_true",
)  # fmt: skip


@torch.no_grad()
def write_truth(run: Run, sae: SAE, world: TreeWorld, stream: int) -> None:
    """Write `truth.json` and `truth.parquet`, on rows of a stream that neither harvest nor training saw."""
    whole = Recovery(world.dictionary, sae.dictionary)
    batches = world.samples(PIECE, stream)
    parts: list[dict[str, float]] = []
    for _ in range(PARTS):
        part = Recovery(world.dictionary, sae.dictionary)
        for _ in range(-(-ROWS // (PARTS * PIECE))):
            sample = next(batches)
            codes = sae.encode(sample.x.to(sae.W_dec.device))
            part.update(sample.codes, codes)
            whole.update(sample.codes, codes)
        parts.append(report(part, world.density).scores)
    found = report(whole, world.density)
    run.write_table("truth", _table(found))
    run.write_json("truth", [_measurement(name, found, parts) for name in SCORES])


def _measurement(name: str, found: Report, parts: list[dict[str, float]]) -> Measurement:
    value = found.scores[name]
    if name in DIRECTIONS:
        return Measurement(name, value, n=len(found.features.f1), method="directions of one dictionary; no rows enter")
    values = np.array([part[name] for part in parts])
    half = stats.student(PARTS) * float(values.std(ddof=1)) / PARTS**0.5
    method = f"{found.rows:,} rows of the world that nothing was trained on; Student's interval from {PARTS} parts of them, not over seeds"
    return Measurement(name, value, value - half, value + half, found.rows, method=method)


def _table(found: Report) -> dict[str, np.ndarray]:
    judged = found.failures
    k = len(judged.label)
    return {
        "label": np.array([LABELS[i] for i in judged.label.tolist()], dtype=object),
        "feature": judged.own.cpu().numpy(),
        "cosine": judged.cosine.cpu().double().numpy(),
        "f1": judged.f1.cpu().double().numpy(),
        "evidence": np.array([judged.explain(i) for i in range(k)], dtype=object),
    }
