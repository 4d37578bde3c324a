"""What can be said of a dictionary from its atoms and from its codes on the harvested rows."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import rng
from ...coders.sae import SAE
from ...coders.sae.sites import sharing
from ...measures import absorption, neighbors, sparsity, stats
from ...measures.recovery.matching import CLOSE
from ...records import Measurement
from ...store.runs import Run
from ...store.shards import ActivationStore
from ..report import share
from ..sources import Latents
from .sides import Sides, atoms_of, reconstruction, shared

GROUPS = 20
"""Groups of documents that are left out one at a time."""
NEAREST = 5
SHARE_ROWS = 200_000
"""Rows whose codes are compared for absorption, spread evenly."""


def write_latents(run: Run, sae: SAE, codes: Latents, store: ActivationStore, sides: Sides, seed: int) -> None:
    """Write `latents.parquet`, `geometry.json` and `measured.json`."""
    atoms = atoms_of(sae)
    docs = len(store.document_ids)
    draw = rng.stream(seed, "dictionary", *sides.read, *(sides.written if sides.mode == "transcoder" else ()))
    groups = stats.document_groups(docs, min(GROUPS, docs), draw)[store.documents]
    firings = _firings(codes, len(store))
    silence = absorption.one_sided_silence(firings, atoms, groups[firings_rows(len(store))], min(GROUPS, docs), draw)
    comparable = sides.mode == "autoencoder" and not sae.config.tied  # an encoder row and an atom of one space
    mismatch = absorption.encoder_mismatch(sae.W_enc.detach().float().cpu(), atoms) if comparable else None
    cosine, near = neighbors.nearest_latents(atoms, NEAREST)
    fires = codes.starts[1:] - codes.starts[:-1]
    table = _table(codes, fires, mismatch, (cosine, near), silence)
    crossed = sides.mode == "crosscoder"
    if crossed:
        table |= {f"share_{i}": column.numpy() for i, column in enumerate(sharing(sae).share.cpu().unbind(1))}
    run.write_table("latents", table)
    run.write_json("geometry", geometry(atoms, draw))
    run.write_json(
        "measured",
        [
            *reconstruction(sae, store, sides, draw),
            *(shared(sae, sides) if crossed else []),
            *_shares(fires, codes.n_rows),
            _twins(cosine, atoms),
            *_absorbed(silence, mismatch, int((fires > 0).sum()), docs),
        ],
    )


def firings_rows(rows: int) -> Tensor:
    """Rows that absorption looks at: all, or so many spread evenly."""
    return torch.arange(0, rows, max(1, -(-rows // SHARE_ROWS)))


def _firings(codes: Latents, rows: int) -> absorption.Firings:
    step = max(1, -(-rows // SHARE_ROWS))
    latent = torch.arange(codes.width).repeat_interleave(codes.starts[1:] - codes.starts[:-1])
    kept = codes.rows % step == 0
    return absorption.Firings.of(latent[kept], codes.rows[kept].long() // step, codes.width, len(firings_rows(rows)))


def _table(
    codes: Latents, fires: Tensor, mismatch: Tensor | None, near: tuple[Tensor, Tensor], silence: absorption.Silence
) -> dict[str, np.ndarray]:
    k = codes.width
    total = torch.zeros(k, dtype=torch.float64)
    total.index_add_(0, torch.arange(k).repeat_interleave(fires), codes.values.double())
    suspect, awake = torch.full((k,), -1), torch.full((k,), torch.nan, dtype=torch.float64)
    suspect[silence.child[silence.silent]] = silence.parent[silence.silent]
    awake[silence.child[silence.silent]] = silence.awake[silence.silent]
    columns = {
        "density": fires.double() / max(codes.n_rows, 1),
        "mean_code": total / fires,
        "encoder_mismatch": torch.full((k,), torch.nan) if mismatch is None else mismatch,
        "suspect": suspect,
        "suspect_awake": awake,
    }
    for place in range(near[0].shape[1]):
        columns |= {f"near_{place}": near[1][:, place], f"cosine_{place}": near[0][:, place]}
    return {name: column.numpy() for name, column in columns.items()}


def geometry(atoms: Tensor, draw: torch.Generator) -> dict[str, Any]:
    """Cosines of all pairs and of nearest atoms in equal bins, as shares, beside what random directions give."""
    k, d = atoms.shape
    edges = np.linspace(-1, 1, neighbors.BINS + 1)
    pairs = neighbors.cosine_counts(atoms, draw).double()
    nearest = np.histogram(neighbors.nearest_latents(atoms, 1)[0].clamp(-1, 1).numpy(), bins=edges)[0]
    chance = {
        name: np.diff(neighbors.chance_below(edges, d, others)).tolist() if d > 1 else []
        for name, others in (("pairs", 1), ("nearest", max(k - 1, 1)))
    }
    alike = neighbors.nearest_latents(neighbors.shaped(atoms, draw), 1)[0].clamp(-1, 1).numpy()
    chance["shaped"] = (np.histogram(alike, bins=edges)[0] / max(alike.size, 1)).tolist()
    return {
        "edges": edges.tolist(),
        "pairs": (pairs / pairs.sum().clamp(min=1)).tolist(),
        "nearest": (nearest / max(nearest.sum(), 1)).tolist(),
        "chance": chance,
        "atoms": k,
        "d": d,
    }


def _shares(fires: Tensor, rows: int) -> list[Measurement]:
    density = fires.double() / max(rows, 1)
    k = len(fires)
    window = f"{rows:,} rows, Wilson interval over latents"
    return [
        share("dead_share", int(sparsity.dead(density).sum()), k, f"active on none of {window}"),
        share("dense_share", int(sparsity.dense(density).sum()), k, f"active on more than a tenth of {window}"),
    ]


def _twins(cosine: Tensor, atoms: Tensor) -> Measurement:
    k, d = atoms.shape
    hits = int((cosine[:, 0] >= CLOSE).sum()) if cosine.shape[1] else 0
    null = float(1 - neighbors.chance_below(np.array(CLOSE), d, k - 1)) if d > 1 and k > 1 else float("nan")
    method = f"latents with another atom at a cosine of {CLOSE} or more, Wilson interval over latents; null: random directions"
    return share("twin_share", hits, k, method, null)


def _absorbed(silence: absorption.Silence, mismatch: Tensor | None, alive: int, docs: int) -> list[Measurement]:
    ends = stats.jackknife_interval(torch.tensor([silence.share], dtype=torch.float64), silence.left_out[:, None])
    # The jackknife sees documents alone, and a share of few latents hardly moves with those.
    over = share("", int(silence.silent.sum()), max(alive, 1), "")
    found = [
        Measurement(
            "absorption_suspects", silence.share, max(0.0, min(over.low, float(ends[0]))), min(1.0, max(over.high, float(ends[1]))), alive,
            method=f"one-sided silence, {len(silence.child)} pairs of overlapping atoms, {docs} documents; the wider of Wilson's "
            "interval over latents and the jackknife over documents; null: random directions, at most",
            source="after Chanin et al. 2024", null=1 - absorption.CHANCE,
        ),
    ]  # fmt: skip
    if mismatch is not None:
        quartiles = torch.quantile(mismatch.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        spread = f"quartiles {quartiles[0]:.3g} and {quartiles[2]:.3g}"
        method = f"median over latents of 1 − cosine of encoder row and atom; {spread}; nothing is sampled"
        found.append(Measurement("encoder_mismatch", quartiles[1], n=len(mismatch), method=method, null=1.0))
    return found
