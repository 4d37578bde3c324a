"""Single steps of an audit as verbs of their own: harvest activations, decode a site."""

from pathlib import Path
from typing import Any

import torch

from ..coders import parallel
from ..coders.base import evaluate
from ..coders.sae import Nested, SAEConfig
from ..coders.train import TrainConfig, from_store, missed_l0, train_many
from ..errors import PathError
from ..hosts.corpus import python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import load_host
from ..store.shards import ActivationStore
from .settings import DecodeConfig
from .sources import Latents

EXPANSION = 4
"""Latents per unit, if nothing is said."""
PIECE = 8192
"""Rows that are coded at once."""


def harvest_to(
    out: Path, *, model: str, data: Path | None, site: str, tokens: int, seed: int, device: str
) -> dict[str, Any]:
    """Harvest into a folder of shards; the same call resumes."""
    host = load_host(model, device=device)
    sites = host.sites(site)
    corpus = read_corpus(data) if data else python_corpus()
    store = harvest(host, corpus, sites, out, HarvestConfig(max_tokens=tokens, seed=seed))
    names = ", ".join(s.name for s in sites)
    return {
        "sentences": [f"{len(store):,} tokens of {len(store.document_ids):,} documents at {names}"],
        "store": str(out),
        "next": f"digon decode {out} --site {sites[len(sites) // 2].name}",
    }


def decode_run(config: DecodeConfig) -> dict[str, Any]:
    """Train autoencoders on a site of a run or of a folder of shards, each into a folder of `<run>/sae`.

    Started by torchrun, all processes train together, and only the first one has something to say.
    Raises: ConfigError for settings that make no sense; PathError if nothing was harvested there.
    """
    root = config.run / "activations" if (config.run / "activations").is_dir() else config.run
    if not root.is_dir():
        raise PathError(f"no folder {config.run}", expected="a run, or a folder of harvested shards")
    with parallel.joined(config.device):
        group = parallel.current(config.shards)
        store = ActivationStore.open(root, verify=group.first)
        store.values(config.site, slice(0, 1))  # tells which sites there are, if this is none
        wanted = {config.run / "sae" / _name(sae, config.site): sae for sae in _saes(config, store.sites[config.site])}
        batch = min(config.batch, len(store) // group.rows.size * group.rows.size)
        training = TrainConfig(steps=config.steps, batch=batch, lr=config.lr, seed=config.seed, device=config.device)
        trained = train_many(wanted, from_store(store, config.site, training), training, group=group)
    if not group.first:
        return {}
    sentences, failed = list[str](), list[str]()
    for folder, sae in trained.items():
        missed = missed_l0(folder)
        failed += [f"{folder.name}: {missed}"] if missed else []
        with torch.inference_mode():
            Latents.encode(sae, store, config.site, config.device).save(folder / "codes.safetensors")
            totals = evaluate(sae, store.batches(config.site, PIECE))
        sentences.append(
            f"{folder.name}: {totals.l0:.1f} of {len(totals.fires)} latents active per token leave "
            f"{100 * totals.fvu:.1f} % of the variance unexplained; {100 * totals.dead_share:.1f} % of them are dead"
        )
    first = next(iter(trained))
    return {
        "sentences": sentences,
        "failed": failed,
        "weights": str(first) if len(trained) == 1 else [str(folder) for folder in trained],
        "next": f"load it with SAELens, or in Python: digon.coders.formats.load(Path({str(first)!r}))",
    }


def _saes(config: DecodeConfig, d: int) -> list[SAEConfig]:
    nested = Nested(config.prefixes) if config.prefixes else None
    return [
        SAEConfig(
            d, config.latents or EXPANSION * d, l0, config.activation, seed=config.seed, revival=config.revival,
            nested=nested, tied=config.tied,
        )
        for l0 in dict.fromkeys(config.l0)
    ]  # fmt: skip


def _name(sae: SAEConfig, site: str) -> str:
    return f"{site}.{sae.activation}{'-nested' * (sae.nested is not None)}-{sae.width}-l0-{sae.l0}"
