"""What the page shows of the dictionaries in a run: everything from the records beside their weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptError
from ..records import Measurement, to_json
from ..store.runs import Run

LISTS = ("measured", "host", "probes", "truth", "stability")
"""Files of measurements; those of a network, a truth or other seeds are there where these are known."""
CURVES = ("step", "fvu", "l0", "dead_share", "lr", "penalty", "deployed_l0")
MOST_LATENTS = 20_000
"""Latents whose rows go into the page; of more, the most frequent ones."""
DIGITS = 4
BINS = 40
"""Bins of densities, equal in the logarithm."""


def collect(run: Run) -> list[dict[str, Any]]:
    """Every dictionary of a run that was measured, by name."""
    found = sorted((run.path / "sae").glob("*/about.json")) if (run.path / "sae").is_dir() else []
    return [_dictionary(Run(path.parent)) for path in found if (path.parent / "measured.json").is_file()]


def _dictionary(folder: Run) -> dict[str, Any]:
    table = folder.read_table("latents")
    density = table["density"].astype(float)
    shown = np.sort(np.argsort(-density, kind="stable")[:MOST_LATENTS])
    there = lambda name: (folder.path / name).is_file()  # noqa: E731
    lists: dict[str, Any] = {name: _measurements(folder, name) for name in LISTS if there(f"{name}.json")}
    columns = {name: _plain(column[shown]) for name, column in table.items()}
    if there("truth.parquet"):
        truth = folder.read_table("truth")
        columns |= {name: _plain(column[shown]) for name, column in truth.items() if name != "evidence"}
        lists["failures"] = _failures(truth)
    return {
        "about": folder.read_json("about", dict[str, Any]),
        "geometry": _rounded(folder.read_json("geometry", dict[str, Any])),
        "densities": histogram(density),
        "latents": {"latent": shown.tolist()} | columns,
        "curves": curves(folder.path / "metrics.jsonl"),
        "concepts": _rows(folder.read_table("probes")) if there("probes.parquet") else [],
        **lists,
    }


def histogram(density: np.ndarray) -> dict[str, Any]:
    """Latents by density in bins that are equal in the logarithm, up to 1; the dead stand apart.

    The first bin begins at the rarest latent that fires.
    """
    alive = density[density > 0]
    low = float(np.floor(np.log10(alive.min()) * 4) / 4) if len(alive) else -4.0
    low = min(low, -0.25)
    edges = np.logspace(low, 0, BINS + 1)
    counts = np.histogram(np.clip(alive, edges[0], 1.0), bins=edges)[0]
    return {"edges": [_short(v) for v in edges], "counts": counts.tolist(), "dead": int((density == 0).sum())}


def curves(path: Path) -> dict[str, list[float | None]]:
    """Columns of a training's metrics. Raises: CorruptError if the file is damaged."""
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            name: [_short(line.get(name)) for line in lines] for name in CURVES if any(name in line for line in lines)
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise CorruptError(f"{path} is damaged: {error}", hint=f"delete {path.parent} and decode again") from None


def _measurements(folder: Run, name: str) -> list[dict[str, Any]]:
    return json.loads(to_json(folder.read_json(name, list[Measurement])))


def _failures(truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """How many latents have each label, and for each a few with their evidence: those of the largest F1 for the fine, else the smallest."""
    found: dict[str, Any] = {}
    for label in dict.fromkeys(truth["label"].tolist()):
        members = np.flatnonzero(truth["label"] == label)
        order = np.argsort(np.nan_to_num(truth["f1"][members]), kind="stable")
        some = members[order[::-1] if label == "fine" else order][:4]
        examples = [{"latent": int(i), "evidence": str(truth["evidence"][i])} for i in some]
        found[label] = {"count": len(members), "examples": examples}
    return found


def _rows(table: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    columns = {name: _plain(column) for name, column in table.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return _short(value) if isinstance(value, float) else value


def _plain(column: np.ndarray) -> list[Any]:
    return [_short(v) for v in column.tolist()] if column.dtype.kind == "f" else column.tolist()


def _short(value: float | int | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.{DIGITS}g}")
