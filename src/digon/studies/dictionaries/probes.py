"""How well do few latents stand for concepts of the text? Sparse probing on harvested rows."""

import numpy as np
import torch
from torch import Tensor

from ... import rng
from ...coders.sae import SAE
from ...errors import ConfigError
from ...hosts.concepts import Labels, label
from ...hosts.corpus import Corpus
from ...hosts.load import Host
from ...measures.probing import Probe, Rows, sparse_probes
from ...records import Measurement
from ...store.runs import Run
from ...store.shards import ActivationStore
from ...tensors import Codes

ROWS = 9000
"""Rows that are read, two thirds of the documents to choose and fit on."""
DOCUMENTS = 240
"""Documents that they come from."""
SOURCE = "Gurnee et al. 2023; Gao et al. 2024"


def write_probes(run: Run, sae: SAE, store: ActivationStore, host: Host, corpus: Corpus, site: str, seed: int) -> None:
    """Write `probes.parquet`, a row per concept, basis and k, and `probes.json`, the means over concepts.

    Both empty if no concept has enough rows.
    """
    rows, names = read_rows(sae, store, host, corpus, site, seed)
    try:
        found = sparse_probes(rows, rng.stream(seed, "probes", site))
    except ConfigError:
        found = []
    run.write_table("probes", _table(found, names))
    run.write_json("probes", [_mean(probe, names, rows) for probe in found])


@torch.inference_mode()
def read_rows(
    sae: SAE, store: ActivationStore, host: Host, corpus: Corpus, site: str, seed: int
) -> tuple[Rows, tuple[str, ...]]:
    """Rows of some documents with their labels, and the names of these."""
    assert host.tokenizer is not None, "a harvested host has a tokenizer"
    order = rng.numpy_stream(seed, "probe documents").permutation(len(store.document_ids)).tolist()
    chosen = {store.document_ids[i]: i for i in order[: 2 * DOCUMENTS]}
    labels = label([d for d in corpus if d.id in chosen], host.tokenizer)
    kept = [i for i in order if store.document_ids[i] in labels.of][:DOCUMENTS]
    wanted = torch.isin(store.documents, torch.tensor(kept, dtype=torch.long)).nonzero()[:, 0]
    pick = torch.randperm(len(wanted), generator=rng.stream(seed, "probe rows"))[:ROWS]
    at = wanted[pick.sort().values]
    x = store.values(site, at)
    found = sae.encode(x.to(sae.W_dec.device))
    codes = Codes(found.values.cpu(), None if found.indices is None else found.indices.cpu(), found.width)
    fit = torch.isin(store.documents[at], torch.tensor(kept[: 2 * len(kept) // 3], dtype=torch.long))
    return Rows(x, codes, _labels(labels, store, at), store.documents[at], fit), labels.names


def _labels(labels: Labels, store: ActivationStore, at: Tensor) -> Tensor:
    rows = [
        labels.of[store.document_ids[document]][position]
        for document, position in zip(store.documents[at].tolist(), store.positions[at].tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, len(labels.names), dtype=torch.bool)


def _table(found: list[Probe], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    lines = [(probe, c) for probe in found for c in range(len(names))]
    return {
        "concept": np.array([names[c] for _, c in lines], dtype=object),
        "basis": np.array([probe.basis for probe, _ in lines], dtype=object),
        "members": np.array([probe.members for probe, _ in lines], dtype=np.int64),
        **{
            column: np.array([float(getattr(probe, column)[c]) for probe, c in lines])
            for column in ("value", "low", "high")
        },
    }


def _mean(probe: Probe, names: tuple[str, ...], rows: Rows) -> Measurement:
    known = int(probe.value.isfinite().sum())
    name = f"probe_{probe.basis.replace(' ', '_')}" + (f"_{probe.members}" if probe.basis != "dense" else "")
    method = (
        f"balanced accuracy, mean of {known} concepts, on {len(rows.documents[~rows.fit].unique())} documents that nothing "
        "was fitted on; bootstrap over these"
    )
    return Measurement(
        name,
        probe.mean,
        probe.mean_low,
        probe.mean_high,
        int((~rows.fit).sum()),
        method=method,
        source=SOURCE,
        null=0.5,
    )
