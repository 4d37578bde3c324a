"""What to explain: the rows of a harvest, the network behind them where it is known, and the units on them."""

import fnmatch
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import config as configs
from ...coders import formats
from ...coders.sae import SAE
from ...errors import DigonError, ModelError, PathError, SiteError, did_you_mean
from ...hosts.corpus import python_corpus, read_corpus
from ...hosts.harvest import HarvestConfig, harvest
from ...hosts.load import Host, load_host
from ...store.runs import Run
from ...store.shards import ActivationStore
from ..dictionaries import named
from ..sources import Directions, Latents, Neurons, Source
from .settings import ExplainConfig


@dataclass(frozen=True)
class Target:
    """Rows, and what is known about them."""

    name: str
    """Of the network; first part of the units' addresses."""
    store: ActivationStore
    host: Host | None
    audited: Run | None
    """The run that the rows belong to: it may hold surveys and dictionaries."""
    network: str | None
    """Where the network comes from."""
    data: str | None
    notes: tuple[str, ...] = ()
    """What is missing, and what would bring it."""

    @property
    def fingerprint(self) -> str:
        """Changes when rows or network may have."""
        return f"{configs.digest(self.store.plan)}/{len(self.store)}/{self.host.fingerprint if self.host else ''}"


def read_target(config: ExplainConfig, out: Callable[[], Path]) -> Target:
    """Open the harvest, or make it in `activations` of the folder that `out` makes.

    Raises: PathError, SiteError, ModelError or ConfigError before any work.
    """
    path = Path(config.target).expanduser()
    for root in (path, path / "activations"):
        if (root / "manifest.json").is_file():
            return _harvested(config, path, ActivationStore.open(root))
    if (path / "config.toml").is_file():
        raise PathError(
            f"the run {path} has no harvested activations", expected="a finished `digon audit` or `harvest`"
        )
    return _read(config, out)


def _harvested(config: ExplainConfig, path: Path, store: ActivationStore) -> Target:
    known, data = named(path)
    network, notes = config.host or known, list[str]()
    host = None
    if network is None:
        notes.append("The network is not known, so tokens are shown as numbers: name it by --host.")
    else:
        try:
            host = load_host(network, device=config.device)
            if host.fingerprint != store.plan.model:
                raise ModelError(f"{host.name} is not the network that was harvested", expected="the same weights")
            if host.tokenizer is None:
                raise ModelError(f"{host.name} has no tokenizer", expected="a network that reads text")
        except DigonError as error:
            if config.host is not None:
                raise
            host = None
            notes.append(f"Tokens are shown as numbers, as the network cannot be had: {error.problem}.")
    audited = Run(path) if (path / "config.toml").is_file() else None
    name = host.name if host else path.resolve().name
    return Target(name, store, host, audited, network if host else None, data, tuple(notes))


def _read(config: ExplainConfig, out: Callable[[], Path]) -> Target:
    host = load_host(config.target, device=config.device)
    if config.site == "*":
        shown = ", ".join(site.name for site in host.sites() if site.kind != "module")
        raise SiteError(f"{host.name} has many sites", expected=f"--site, one of {shown or 'its modules'}")
    corpus = read_corpus(Path(config.data)) if config.data else python_corpus()
    settings = HarvestConfig(max_tokens=config.tokens, seed=config.seed)
    store = harvest(host, corpus, host.sites(config.site), out() / "activations", settings)
    return Target(host.name, store, host, None, config.target, config.data)


def sources(config: ExplainConfig, target: Target, out: Callable[[], Path]) -> list[Source]:
    """The units to choose from, site by site; codes of latents are kept in the folder that `out` makes.

    Raises: SiteError if a glob fits no site of the harvest, or several where latents or directions live at one.
    """
    store = target.store
    fitting = _fitting(config.site, list(store.sites))
    if config.latents is None and config.directions is None:
        return [Neurons(store, site) for site in fitting]
    if len(fitting) != 1:
        raise SiteError(
            f"{len(fitting)} sites: {', '.join(fitting[:5])}",
            expected="the one on which these units live",
            hint="--site NAME",
        )
    if config.directions is not None:
        return [Directions.read(config.directions, store, fitting[0])]
    assert config.latents is not None, "either latents or directions"
    return [_latents(config.latents, fitting[0], target, out, config.device)]


def _fitting(pattern: str, known: list[str]) -> list[str]:
    globs = [glob.strip() for glob in pattern.split(",") if glob.strip()]
    for glob in globs:
        if not fnmatch.filter(known, glob):
            raise SiteError(
                f"no harvested site fits {glob!r}",
                expected=f"a glob over {', '.join(known)}",
                hint=did_you_mean(glob, known),
            )
    return [name for name in known if any(fnmatch.fnmatchcase(name, glob) for glob in globs)]


@torch.inference_mode()
def _latents(folder: Path, site: str, target: Target, out: Callable[[], Path], device: str) -> Latents:
    """Codes of all rows: those that lie beside the weights in the run of these rows, else encoded once."""
    store, name = target.store, f"{site}.{folder.resolve().name}"
    own, coder = folder / "codes.safetensors", formats.load(folder)
    _check_read(folder, site)
    if own.is_file() and target.audited is not None and folder.resolve().is_relative_to(target.audited.path.resolve()):
        return _placed(Latents.load(own, name, len(store)), site, coder.to(device))
    if coder.config.d_in != store.sites[site]:
        raise SiteError(
            f"{folder} reads {coder.config.d_in} units, {site} has {store.sites[site]}",
            expected="the site that it was trained on", hint="--site NAME",
        )  # fmt: skip
    cache = out() / f"codes-{stamp(folder)}.safetensors"
    if not cache.is_file():
        Latents.encode(coder.to(device), store, site, device).save(cache)
    return _placed(Latents.load(cache, name, len(store)), site, coder.to(device))


def _check_read(folder: Path, site: str) -> None:
    """Raises: SiteError if a dictionary of a run was trained on other sites."""
    read = Run(folder).read_json("about", dict[str, Any])["read"] if (folder / "about.json").is_file() else [site]
    if site not in read:
        raise SiteError(f"{folder} does not read {site}", expected=f"--site {read[0]}")


def _placed(found: Latents, site: str, coder: SAE) -> Latents:
    """Latents that can be read and written on new rows, if that is all at one site."""
    alone = coder.config.target is None and not coder.config.sites
    return replace(found, place=site, coder=coder) if alone else found


def stamp(path: Path | None) -> str:
    """Changes when a file or a folder of files may have; empty for none."""
    if path is None:
        return ""
    found = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    listed = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in found]
    return hashlib.blake2b(repr(listed).encode(), digest_size=6).hexdigest()
