"""`digon decode`: sparse autoencoders, transcoders and crosscoders on the shards of a harvest.

autoencoder   --site A                      codes of A that write A again
transcoder    --site A --target-site B      codes of A that write B
crosscoder    --site A --cross-sites B C    one code that writes A, B and C again
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..coders import parallel
from ..coders.base import Totals, evaluate_pairs
from ..coders.sae import SAE, Nested, SAEConfig, Target
from ..coders.sae.sites import sharing
from ..coders.train import TrainConfig, from_store, missed_l0, recommended, train_many
from ..config import digest
from ..errors import ConfigError, PathError
from ..store import weights
from ..store.shards import ActivationStore
from . import dictionaries
from .settings import DecodeConfig
from .sources import Latents

EXPANSION = 4
"""Latents per unit, if nothing is said."""
PIECE = 8192
"""Rows that are coded at once."""
SHARING = "sharing.safetensors"
"""Share [latents, sites] of every site in every latent of a crosscoder."""


def decode_run(config: DecodeConfig) -> dict[str, Any]:
    """Train autoencoders on a site of a run or of a folder of shards, each into a folder of `<run>/sae`.

    Then measure them: `dictionaries` says what is written. Started by torchrun, all processes train together, and only the
    first one measures and has something to say.

    Raises: ConfigError for settings that make no sense; PathError if nothing was harvested there.
    """
    _check(config)
    root = config.run / "activations" if (config.run / "activations").is_dir() else config.run
    if not root.is_dir():
        raise PathError(f"no folder {config.run}", expected="a run, or a folder of harvested shards")
    with parallel.joined(config.device):
        group = parallel.current(config.shards)
        store = ActivationStore.open(root, verify=group.first)
        for site in _sites(config):
            store.values(site, slice(0, 1))  # tells which sites there are, if this is none
        bench, missing = dictionaries.bench(config, store) if group.first else (dictionaries.Bench(store, 0), "")
        trained = _train(config, store, group)
    if not group.first:
        return {}
    sentences, failed = [missing] if missing else list[str](), list[str]()
    for folder, sae in trained.items():
        missed = missed_l0(folder)
        failed += [f"{folder.name}: {missed}"] if missed else []
        sentences.append(_report(config, folder, sae, bench))
    for alike in _alike(trained):
        dictionaries.compare(alike, config.seed)
    dictionaries.mark(config)
    first = next(iter(trained))
    return {
        "run": str(config.run),
        "dictionaries": [dictionaries.summary(folder) for folder in trained] if len(_sites(config)) == 1 else [],
        "sentences": sentences,
        "failed": failed,
        "weights": str(first) if len(trained) == 1 else [str(folder) for folder in trained],
        "next": _next(config, first),
    }


def _train(config: DecodeConfig, store: ActivationStore, group: parallel.Group) -> dict[Path, SAE]:
    """All autoencoders that were asked for, on one pass, each in its folder."""
    batch = min(config.batch, len(store) // group.rows.size * group.rows.size)
    training = TrainConfig(
        steps=config.steps,
        batch=batch,
        lr=config.lr,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
    )
    saes, training = _saes(config, store.sites, training)
    wanted = {config.run / "sae" / _name(config, sae): sae for sae in saes}
    return train_many(wanted, from_store(store, _sites(config), training), training, group=group)


@torch.inference_mode()
def _report(config: DecodeConfig, folder: Path, sae: SAE, bench: dictionaries.Bench) -> str:
    """Keep the codes of all rows beside the weights, and what was measured; say how good they are."""
    read, store = (config.site, *config.cross_sites), bench.store
    codes = Latents.encode(sae, store, read, config.device)
    codes.save(folder / "codes.safetensors")
    if len(_sites(config)) == 1:  # what is measured compares what was read with what is written, at one site
        dictionaries.describe(folder, sae, codes, bench, config.site)
    totals = evaluate_pairs(sae, _pairs(sae, _sites(config), store))
    text = (
        f"{folder.name}: {totals.l0:.1f} of {len(totals.fires)} latents active per token leave {_left(totals, config, sae)} "
        f"unexplained; {100 * totals.dead_share:.1f} % of them are dead"
    )
    if not config.cross_sites:
        return text
    found = sharing(sae)
    weights.write_tensors(folder / SHARING, {"share": found.share}, {"sites": "\n".join(read)})
    alone = found.alone.tolist()
    parts = [f"{100 * share:.0f} % belong to {site} alone" for site, share in zip(read, alone, strict=True)]
    return f"{text}; {', '.join(parts)}, {100 * (1 - sum(alone)):.0f} % are shared"


def _left(totals: Totals, config: DecodeConfig, sae: SAE) -> str:
    if not config.cross_sites:
        return f"{100 * totals.fvu:.1f} % of the variance" + f" of {config.target_site}" * (
            config.target_site is not None
        )
    each = zip((config.site, *config.cross_sites), totals.fvu_by_part(sae.config.sites), strict=True)
    return " and ".join(f"{100 * fvu:.1f} % of the variance of {site}" for site, fvu in each)


def _pairs(sae: SAE, sites: tuple[str, ...], store: ActivationStore) -> Iterator[tuple[Tensor, Tensor]]:
    for pieces in zip(*(store.batches(site, PIECE) for site in sites), strict=True):
        yield sae.split(torch.cat(pieces, 1))


def _sites(config: DecodeConfig) -> tuple[str, ...]:
    """All sites whose rows lie side by side."""
    return (config.site, *config.cross_sites, *([config.target_site] if config.target_site else []))


def _check(config: DecodeConfig) -> None:
    sites = _sites(config)
    if config.target_site is not None and config.cross_sites:
        raise ConfigError(
            "--target-site together with --cross-sites", expected="one of them: a transcoder or a crosscoder"
        )
    if config.skip and config.target_site is None:
        raise ConfigError("--skip without --target-site", expected="a transcoder: an autoencoder would copy its input")
    if config.recipe not in (None, "plain") and (config.activation or config.prefixes or config.revival):
        raise ConfigError(
            f"--recipe {config.recipe} together with --activation, --prefixes or --revival",
            expected="a recipe, which decides these itself",
            hint="--recipe plain takes them as given",
        )
    if len(set(sites)) < len(sites):
        raise ConfigError(f"the same site twice: {', '.join(sites)}", expected="different sites")


def recipe(config: DecodeConfig) -> str:
    """recommended, flat or plain: what was asked for, or what fits the rest of the settings."""
    own = config.activation or config.prefixes or config.revival
    return config.recipe or ("plain" if own or len(_sites(config)) > 1 else "recommended")


def _saes(config: DecodeConfig, units: dict[str, int], training: TrainConfig) -> tuple[list[SAEConfig], TrainConfig]:
    """All autoencoders that were asked for, and how they are trained."""
    sizes, how = tuple(units[site] for site in (config.site, *config.cross_sites)), recipe(config)
    target = None if config.target_site is None else Target(units[config.target_site], config.skip)
    mode: dict[str, Any] = {
        "tied": config.tied, "refinements": config.refinements, "target": target,
        "sites": sizes if config.cross_sites else (),
    }  # fmt: skip
    width, plain = config.latents or EXPANSION * max(sizes), training
    found: list[SAEConfig] = []
    for l0 in dict.fromkeys(config.l0):
        for seed in range(config.seed, config.seed + config.seeds):
            if how == "plain":
                nested = Nested(config.prefixes) if config.prefixes else None
                activation = config.activation or "batchtopk"
                sae = SAEConfig(sum(sizes), width, l0, activation, seed=seed, revival=config.revival, nested=nested)
            else:
                sae, training = recommended(sum(sizes), width, l0, plain, seed, flat=how == "flat")
            found.append(replace(sae, **mode))
    return found, training


def _alike(trained: dict[Path, SAE]) -> list[dict[Path, SAE]]:
    """Autoencoders that differ in their seed alone, where there are several."""
    groups: dict[str, dict[Path, SAE]] = {}
    for folder, sae in trained.items():
        groups.setdefault(digest(replace(sae.config, seed=0)), {})[folder] = sae
    return [group for group in groups.values() if len(group) > 1]


def _name(config: DecodeConfig, sae: SAEConfig) -> str:
    site = "+".join((config.site, *config.cross_sites))
    if config.target_site is not None:
        site += f"-to-{config.target_site}" + "-skip" * config.skip
    kind = recipe(config)
    kind = sae.activation + "-nested" * (sae.nested is not None) if kind == "plain" else kind
    extra = f"-refined{sae.refinements}" * (sae.refinements > 0)
    own = f"{site}.{kind}{extra}-{sae.width}-l0-{sae.l0}"
    return own + f"-seed-{sae.seed}" * (sae.seed != config.seed)


def _next(config: DecodeConfig, folder: Path) -> str:
    load = f"digon.coders.formats.load(Path({str(folder)!r}))"
    alien = config.refinements or (config.target_site is not None and config.activation in ("topk", "gated"))
    return f"load it in Python: {load}" if alien else f"load it with SAELens, or in Python: {load}"
