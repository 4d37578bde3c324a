"""Single steps of an audit as verbs of their own: harvest activations, decode a site."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..coders import parallel
from ..coders.base import evaluate
from ..coders.sae import SAE, Nested, SAEConfig
from ..coders.train import TrainConfig, from_store, missed_l0, train_many
from ..config import digest
from ..errors import PathError
from ..hosts.corpus import python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import load_host
from ..store.shards import ActivationStore
from . import dictionaries
from .settings import DecodeConfig
from .sources import Latents

EXPANSION = 4
"""Latents per unit, if nothing is said."""
PIECE = 8192
"""Rows that are coded at once."""


def harvest_to(
    out: Path, *, model: str, data: Path | None, site: str, tokens: int, seed: int, device: str
) -> dict[str, Any]:
    """Harvest into a folder of shards, from a network or from a world of known truth; the same call resumes."""
    if model.startswith(dictionaries.WORLD):
        return dictionaries.harvest_world(out, model, tokens, seed)
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

    Then measure them: `dictionaries` says what is written. Started by torchrun, all processes train together, and only the
    first one measures and has something to say.

    Raises: ConfigError for settings that make no sense; PathError if nothing was harvested there.
    """
    root = config.run / "activations" if (config.run / "activations").is_dir() else config.run
    if not root.is_dir():
        raise PathError(f"no folder {config.run}", expected="a run, or a folder of harvested shards")
    with parallel.joined(config.device):
        group = parallel.current(config.shards)
        store = ActivationStore.open(root, verify=group.first)
        store.values(config.site, slice(0, 1))  # tells which sites there are, if this is none
        bench, missing = dictionaries.bench(config, store) if group.first else (dictionaries.Bench(store, 0), "")
        trained = _train(config, store, group)
    if not group.first:
        return {}
    sentences, failed = [missing] if missing else list[str](), list[str]()
    for folder, sae in trained.items():
        missed = missed_l0(folder)
        failed += [f"{folder.name}: {missed}"] if missed else []
        sentences.append(_measured(config, store, folder, sae, bench))
    first = next(iter(trained))
    for alike in _alike(trained):
        dictionaries.compare(alike, config.seed)
    dictionaries.mark(config)
    return {
        "run": str(config.run),
        "dictionaries": [dictionaries.summary(folder) for folder in trained],
        "sentences": sentences,
        "failed": failed,
        "weights": str(first) if len(trained) == 1 else [str(folder) for folder in trained],
        "next": f"load it with SAELens, or in Python: digon.coders.formats.load(Path({str(first)!r}))",
    }


def _train(config: DecodeConfig, store: ActivationStore, group: parallel.Group) -> dict[Path, SAE]:
    """All autoencoders that were asked for, on one pass, each in its folder."""
    wanted = {
        config.run / "sae" / _name(sae, config.site, config.seed): sae
        for sae in _saes(config, store.sites[config.site])
    }
    batch = min(config.batch, len(store) // group.rows.size * group.rows.size)
    training = TrainConfig(steps=config.steps, batch=batch, lr=config.lr, seed=config.seed, device=config.device)
    return train_many(wanted, from_store(store, config.site, training), training, group=group)


def _measured(config: DecodeConfig, store: ActivationStore, folder: Path, sae: SAE, bench: dictionaries.Bench) -> str:
    """Keep the codes and what was measured of an autoencoder, and say the most important of it."""
    with torch.inference_mode():
        codes = Latents.encode(sae, store, config.site, config.device)
        codes.save(folder / "codes.safetensors")
        totals = evaluate(sae, store.batches(config.site, PIECE))
    dictionaries.describe(folder, sae, codes, bench, config.site)
    return (
        f"{folder.name}: {totals.l0:.1f} of {len(totals.fires)} latents active per token leave "
        f"{100 * totals.fvu:.1f} % of the variance unexplained; {100 * totals.dead_share:.1f} % of them are dead"
    )


def _saes(config: DecodeConfig, d: int) -> list[SAEConfig]:
    nested = Nested(config.prefixes) if config.prefixes else None
    return [
        SAEConfig(
            d, config.latents or EXPANSION * d, l0, config.activation, seed=config.seed + more, revival=config.revival,
            nested=nested, tied=config.tied,
        )
        for l0 in dict.fromkeys(config.l0)
        for more in range(config.seeds)
    ]  # fmt: skip


def _alike(trained: dict[Path, SAE]) -> list[dict[Path, SAE]]:
    """Autoencoders that differ in their seed alone, where there are several."""
    groups: dict[str, dict[Path, SAE]] = {}
    for folder, sae in trained.items():
        groups.setdefault(digest(replace(sae.config, seed=0)), {})[folder] = sae
    return [group for group in groups.values() if len(group) > 1]


def _name(sae: SAEConfig, site: str, first_seed: int) -> str:
    own = f"{site}.{sae.activation}{'-nested' * (sae.nested is not None)}-{sae.width}-l0-{sae.l0}"
    return own + f"-seed-{sae.seed}" * (sae.seed != first_seed)
