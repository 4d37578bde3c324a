"""All records of one dictionary, each a stage of its own; and what of them fits into a line of a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...coders.sae import SAE
from ...config import digest
from ...hosts.corpus import Corpus
from ...hosts.load import Host
from ...records import Measurement
from ...store import files
from ...store.runs import Run
from ...store.shards import ActivationStore
from ..sources import Latents
from . import host as network
from . import latents, probes, truth, worlds
from .sides import Sides

FORMAT = 1
"""Raised when a record changes its meaning, so that old ones are made anew."""
SHOWN = {
    "fvu": "fvu", "fvu_fresh": "fvu, fresh text", "l0": "l0", "dead_share": "dead", "twin_share": "twins",
    "absorption_suspects": "absorbed?", "ce_recovered_mean": "CE recovered", "kl": "KL, nats", "probe_latents_1": "1-latent probe",
    "probe_directions_1": "by chance", "f1": "F1", "mcc": "MCC", "stability": "stability",
}  # fmt: skip
"""Columns of the summary."""


@dataclass(frozen=True)
class Bench:
    """What dictionaries are judged on: harvested rows, and the network and text behind them where these are known."""

    store: ActivationStore
    seed: int
    host: Host | None = None
    corpus: Corpus | None = None


def describe(folder: Path, sae: SAE, codes: Latents, bench: Bench, sides: Sides) -> None:
    """Write every record that the bench allows into the folder of a trained dictionary; what is there stays.

    `codes` are those of all harvested rows. Truth, network and probes judge what one site reads and writes again.
    """
    run, store, seed = Run(folder), bench.store, bench.seed
    plan = digest(store.plan)
    key = f"{FORMAT}/{files.sha256(folder / 'sae_weights.safetensors')}/{plan}/{seed}"
    config = sae.config
    about = {"name": folder.name, "site": sides.name, "mode": sides.mode, "read": sides.read, "written": sides.written}
    about |= {"activation": config.activation, "nested": config.nested is not None}
    about |= {"width": config.width, "d": config.d_in, "target_l0": config.l0, "seed": config.seed, "tied": config.tied}
    run.write_json("about", about | {"rows": len(store), "documents": len(store.document_ids)})
    with run.stage("latents", key) as needed:
        if needed:
            latents.write_latents(run, sae, codes, store, sides, seed)
    if sides.mode != "autoencoder":
        return
    (site,) = sides.read
    world = worlds.world_of(store)
    if world is not None:
        with run.stage("truth", key) as needed:
            if needed:
                truth.write_truth(run, sae, world, worlds.judged_stream(store))
    if bench.host is None or bench.corpus is None:
        return
    key += f"/{bench.host.fingerprint}/{bench.corpus.fingerprint}"
    with run.stage("host", key) as needed:
        if needed:
            place = bench.host.sites(site)[0]
            network.write_host(run, sae, store, bench.host, bench.corpus, place, seed)
    with run.stage("probes", key) as needed:
        if needed:
            probes.write_probes(run, sae, store, bench.host, bench.corpus, site, seed)


def summary(folder: Path) -> dict[str, Any]:
    """The main numbers of a dictionary with half of their 95 % intervals, for a row of a table."""
    found = {m.name: m for m in measurements(Run(folder))}
    row: dict[str, Any] = {"dictionary": folder.name}
    return row | {shown: _brief(found[name]) for name, shown in SHOWN.items() if name in found}


def _brief(m: Measurement) -> str:
    """Value and half of its interval, in few letters."""
    half = (m.high - m.low) / 2
    return f"{m.value:.3g}" + (f" ± {half:.1g}" if half == half else "")


def measurements(run: Run) -> list[Measurement]:
    """All measurements of a dictionary that are there."""
    found: list[Measurement] = []
    for name in ("measured", "host", "probes", "truth", "stability"):
        if (run.path / f"{name}.json").is_file():
            found += run.read_json(name, list[Measurement])
    return found
