"""Measure every unit of a source: how often, how heavy-tailed, how context-free, how many kinds of context.

Units are read in chunks, so that a site of any width fits in memory. Senses are judged for neurons: their test asks
what the rest of the layer does, and a layer of latents is not one.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..measures import clusters, dimension, selectivity, stats
from ..records import Measurement
from ..store.runs import Run
from ..store.shards import ActivationStore
from .sources import Source

CHUNK = 128
CLUSTER_ROWS = 100_000
"""Rows that the test of senses looks at; more add little to 64 exemplars per unit."""


def survey(run: Run, source: Source, store: ActivationStore, seed: int) -> None:
    """Write `survey/<site>.parquet`, one row per unit, and for neurons `survey/<site>.measurements.json`."""
    parts = [_chunk(source, start, store, seed) for start in range(0, source.width, CHUNK)]
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    missing = np.full(source.width, math.nan)
    senses = {"cluster_z": missing, "cluster_p": missing, "senses": missing}
    flagged = np.zeros(source.width, bool)
    if source.kind == "neuron":
        found = _senses(source, store, seed)
        senses = {"cluster_z": found.z, "cluster_p": found.p, "senses": found.senses}
        senses = {name: column.double().numpy() for name, column in senses.items()}
        flagged = found.polysemantic.numpy()
        run.write_json(f"survey/{source.site}.measurements", [_participation(source, store, seed)])
    run.write_table(f"survey/{source.site}", {**table, **senses, "polysemantic": flagged})


def write_measured(run: Run, source: Source, store: ActivationStore, seed: int) -> None:
    """Write `survey/<site>.parquet` without the test of senses, which takes most of the time."""
    parts = [_chunk(source, start, store, seed) for start in range(0, source.width, CHUNK)]
    run.write_table(
        f"survey/{source.site}", {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    )


def _chunk(source: Source, start: int, store: ActivationStore, seed: int) -> dict[str, np.ndarray]:
    values = source.columns(start, min(start + CHUNK, source.width))
    return measure(values, store, rng.stream(seed, "survey", source.site, start))


def measure(values: Float[Tensor, "n units"], store: ActivationStore, draw: torch.Generator) -> dict[str, np.ndarray]:
    """Density, mean, kurtosis and context-free ceiling of some units, a row per unit."""
    sums = selectivity.power_sums(values, store.documents, len(store.document_ids))
    low, high = stats.bootstrap_interval(sums, selectivity.density_of, draw)
    whole = sums.sum(0)
    ceiling = selectivity.context_free_ceiling(values, store.tokens, store.documents, draw)
    columns: dict[str, Tensor] = {
        "density": selectivity.density_of(whole),
        "density_low": low,
        "density_high": high,
        "mean": values.double().mean(0),
        "kurtosis": selectivity.kurtosis_of(whole),
        "eta2": ceiling.value,
        "eta2_low": ceiling.low,
        "eta2_high": ceiling.high,
    }
    return {name: column.double().numpy() for name, column in columns.items()}


def _senses(source: Source, store: ActivationStore, seed: int) -> clusters.ExemplarClusters:
    step = max(1, -(-len(store) // CLUSTER_ROWS))
    rows = torch.arange(0, len(store), step)
    values = store.values(source.site, rows)
    return clusters.exemplar_clusters(values, store.documents[rows], rng.stream(seed, "senses", source.site))


def _participation(source: Source, store: ActivationStore, seed: int) -> Measurement:
    step = max(1, -(-len(store) // 50_000))
    rows = torch.arange(0, len(store), step)
    draw = rng.stream(seed, "participation", source.site)
    values, documents = store.values(source.site, rows), store.documents[rows]
    value, low, high = dimension.participation_interval(values, documents, draw)
    method = "(tr C)² / tr C², corrected for the sample size; jackknife over groups of documents"
    return Measurement(
        "participation_ratio", float(value), float(low), float(high), len(rows), "dimensions", method, seed,
        null=float(source.width),
    )  # fmt: skip
