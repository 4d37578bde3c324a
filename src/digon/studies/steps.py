"""The first step of an audit as a verb of its own: harvest activations."""

from pathlib import Path
from typing import Any

from ..hosts.corpus import python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import load_host
from . import dictionaries


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
