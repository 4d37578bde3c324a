"""The main job: how polysemantic is a network, why, which features, what do its units respond to?

1. harvest   activations of the chosen sites on the text                 -> activations/
2. survey    every unit of every site: density, tails, η², senses         -> survey/<site>.parquet
3. diagnose  the numbered checks and the causes they leave standing       -> diagnosis/<site>.json
4. decode    a sparse autoencoder on one site; its latents are surveyed   -> sae/<site>/
5. explain   cards of some units: exemplars, explanations, scores         -> cards/<site>.json
6. report    tables, sentences and facts                                  -> *.parquet, *.json
7. page      one HTML file                                                -> page.html (built by the caller: the page is a layer above)

Every step is a stage of the run folder: a restart skips what is finished, and resumes harvest and training inside.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import config as configs
from ..coders import formats
from ..coders.base import Totals, evaluate
from ..coders.sae import SAEConfig
from ..coders.train import TrainConfig, from_store, train
from ..errors import SiteError, did_you_mean
from ..hosts.corpus import Corpus, python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import Host, load_host
from ..store.runs import Run
from ..store.shards import ActivationStore
from . import cards, diagnosis, dictionaries, report, sources, survey
from .settings import AuditConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Audit:
    """One audit in progress: what the stages share."""

    run: Run
    config: AuditConfig
    host: Host
    corpus: Corpus
    say: Say

    @property
    def key(self) -> str:
        """What every stage depends on: settings, weights and text."""
        return f"{configs.digest(self.config)}/{self.host.fingerprint}/{self.corpus.fingerprint}"

    def stage(self, name: str, sentence: str):
        """A stage of the run, announced when it has to run."""
        return _announced(self, name, sentence)


class _announced:
    def __init__(self, audit: Audit, name: str, sentence: str) -> None:
        self._audit, self._sentence = audit, sentence
        self._stage = audit.run.stage(name, audit.key)

    def __enter__(self) -> bool:
        needed = self._stage.__enter__()
        if needed:
            self._audit.say(self._sentence)
        return needed

    def __exit__(self, *error: Any) -> bool | None:
        return self._stage.__exit__(*error)


def run_audit(config: AuditConfig, out: Path, say: Say | None = None) -> dict[str, Any]:
    """Audit a network into the run folder `out`; returns what the command prints at its end.

    Raises: any DigonError; what was finished stays, and the same call resumes.
    """
    say = say or _to_stderr
    host = load_host(config.model, device=config.device)
    chosen = [site.name for site in host.sites(config.sites)]
    site_to_decode = decoded_site(config, chosen)
    corpus = read_corpus(Path(config.data)) if config.data else python_corpus()
    audit = Audit(Run.create(out, config), config, host, corpus, say)
    started = time.perf_counter()
    store = _harvest(audit, chosen)
    neurons = [sources.Neurons(store, site) for site in chosen]
    for source in neurons:
        with audit.stage(f"survey {source.site}", f"measure {source.width} units of {source.site}") as needed:
            if needed:
                survey.survey(audit.run, source, store, config.seed)
        with audit.stage(f"diagnose {source.site}", f"run the checks on {source.site}") as needed:
            if needed:
                diagnosis.diagnose_site(audit.run, source, store, config.seed)
    latents = _decode(audit, store, site_to_decode)
    for source in [*neurons, *latents]:
        with audit.stage(f"explain {source.site}", f"explain units of {source.site}") as needed:
            if needed:
                cards.write_cards(audit.run, source, store, host, config)
    with audit.stage("report", "write tables and sentences") as needed:
        if needed:
            report.write(audit.run, config, host, corpus, store, [*neurons, *latents])
    say(f"done in {time.perf_counter() - started:.0f} s")
    return report.summary(audit.run)


def _harvest(audit: Audit, chosen: list[str]) -> ActivationStore:
    config, root = audit.config, audit.run.path / "activations"
    settings = HarvestConfig(max_tokens=config.tokens, compute=config.compute, seed=config.seed)
    with audit.stage("harvest", f"harvest {config.tokens:,} tokens at {len(chosen)} sites") as needed:
        if needed:
            return harvest(audit.host, audit.corpus, audit.host.sites(",".join(chosen)), root, settings)
    return ActivationStore.open(root)


def decoded_site(config: AuditConfig, chosen: list[str]) -> str | None:
    """The site that gets an autoencoder: the one asked for, else the middle one.

    Raises: SiteError if the one asked for is not among the chosen sites.
    """
    if config.decode_site == "none":
        return None
    site = config.decode_site or chosen[len(chosen) // 2]
    if site not in chosen:
        raise SiteError(
            f"cannot decode {site!r}: it is not among the sites of this audit",
            expected=f"one of {', '.join(chosen)}",
            hint=did_you_mean(site, chosen),
        )
    return site


def _decode(audit: Audit, store: ActivationStore, site: str | None) -> list[sources.Latents]:
    config = audit.config
    if site is None:
        return []
    folder = audit.run.path / "sae" / site
    width = config.expansion * store.sites[site]
    name = f"{site}.sae"
    with audit.stage(f"decode {site}", f"train a sparse autoencoder with {width} latents on {site}") as needed:
        if needed:
            totals = decode_site(store, site, folder, config)
            audit.run.write_json(f"survey/{name}.measurements", report.dictionary_measurements(totals, config.seed))
    latents = sources.Latents.load(folder / "codes.safetensors", name, len(store))
    with audit.stage(f"judge {name}", f"judge {name}: what the network loses by it, what it tells apart") as needed:
        if needed:
            bench = dictionaries.Bench(store, config.seed, audit.host, audit.corpus)
            dictionaries.describe(folder, formats.load(folder), latents, bench, dictionaries.Sides((site,), (site,)))
    with audit.stage(f"survey {name}", f"measure {width} latents of {name}") as needed:
        if needed:
            survey.survey(audit.run, latents, store, config.seed)
    return [latents]


def decode_site(store: ActivationStore, site: str, folder: Path, config: AuditConfig) -> Totals:
    """Train an autoencoder on one site; keep it in SAELens' layout, with the codes of all rows beside it."""
    d = store.sites[site]
    batch = min(4096, len(store))
    settings = TrainConfig(steps=config.sae_steps, batch=batch, seed=config.seed, device=config.device)
    shape = SAEConfig(d, config.expansion * d, config.l0, activation="batchtopk", seed=config.seed)
    sae = train(shape, from_store(store, site, settings), settings, folder)
    with torch.inference_mode():
        sources.Latents.encode(sae, store, site, config.device).save(folder / "codes.safetensors")
        return evaluate(sae, store.batches(site, 8192))


def _to_stderr(sentence: str) -> None:
    import sys

    print(f"• {sentence}", file=sys.stderr, flush=True)
