"""Single steps of an audit as verbs of their own: harvest activations, decode a site."""

from pathlib import Path
from typing import Any

from ..errors import PathError
from ..hosts.corpus import python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import load_host
from ..store.shards import ActivationStore
from .audit import decode_site
from .settings import AuditConfig


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


def decode_run(
    run: Path, *, site: str, latents: int | None, l0: int, steps: int | None, seed: int, device: str
) -> dict[str, Any]:
    """Train an autoencoder on a site of a run or of a folder of shards, into `<run>/sae/<site>`."""
    root = run / "activations" if (run / "activations").is_dir() else run
    if not root.is_dir():
        raise PathError(f"no folder {run}", expected="a run, or a folder of harvested shards")
    store = ActivationStore.open(root)
    store.values(site, slice(0, 1))
    folder = run / "sae" / (site if latents is None else f"{site}.{latents}")
    config = AuditConfig(model="", l0=l0, seed=seed, device=device, sae_steps=steps or AuditConfig.sae_steps)
    totals = decode_site(store, site, folder, config, latents)
    return {
        "sentences": [
            f"{folder.name}: {totals.l0:.1f} of {len(totals.fires)} latents active per token leave "
            f"{100 * totals.fvu:.1f} % of the variance unexplained; {100 * totals.dead_share:.1f} % of them are dead"
        ],
        "weights": str(folder),
        "next": f"load it with SAELens, or in Python: digon.coders.formats.load(Path({str(folder)!r}))",
    }
