"""Where dictionaries stand: the run or folder of shards, and the network and text that it names."""

import tomllib
from pathlib import Path

from ...errors import ConfigError, DigonError
from ...hosts.corpus import Corpus, python_corpus, read_corpus
from ...hosts.load import Host, load_host
from ...store import files
from ...store.runs import Run
from ...store.shards import ActivationStore
from ..settings import DecodeConfig
from .worlds import SETTING
from .write import Bench

KIND = "dictionaries"


def bench(config: DecodeConfig, store: ActivationStore) -> tuple[Bench, str]:
    """What dictionaries can be judged on, and what is missing for the rest, in a sentence.

    Raises: any DigonError of a network or text that the settings name; where the run names it, its absence is only told.
    """
    bare = Bench(store, config.seed)
    if SETTING in store.plan.settings:  # a world has no network
        return bare, ""
    network, named_data = named(config.run)
    model = config.model or network
    if model is None:
        return bare, "The network is not known, so nothing was measured on it: give it by --model."
    try:
        host, corpus = _load(model, config.data or named_data, config.device)
    except DigonError as error:
        if config.model is not None or config.data is not None:
            raise
        return bare, f"Nothing was measured on the network, which cannot be had: {error.problem}."
    for what, got, wanted in (
        (host.name, host.fingerprint, store.plan.model),
        (corpus.name, corpus.fingerprint, store.plan.data),
    ):
        if got != wanted and config.model is not None:
            raise ConfigError(f"{what} is not what was harvested", expected=f"what has the fingerprint {wanted}")
        if got != wanted:
            return bare, f"Nothing was measured on the network: {what} is not what was harvested."
    return Bench(store, config.seed, host, corpus), ""


def mark(config: DecodeConfig) -> None:
    """Make a folder of shards a run that has a page; a run stays as it is."""
    if (config.run / "config.toml").is_file() and not _own(config.run):
        return
    files.write_text(config.run / "config.toml", f'kind = "{KIND}"\n')
    facts = {
        "kind": KIND,
        "title": f"{config.run.resolve().name}: dictionaries",
        "commands": [f"digon decode {config.run} --site {config.site}", f"digon page {config.run}"],
    }
    Run(config.run).write_json("facts", facts)


def _own(run: Path) -> bool:
    return _toml(run).get("kind") == KIND


def named(run: Path) -> tuple[str | None, str | None]:
    """Network and text that a run names; None where it names none."""
    found = _toml(run)
    settings = found.get("explain", found)
    assert isinstance(settings, dict), "settings of a run are a table"
    model, data = settings.get("model") or settings.get("host") or settings.get("target"), settings.get("data")
    return (str(model) if model else None), (str(data) if data else None)


def _toml(run: Path) -> dict[str, object]:
    path = run / "config.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except tomllib.TOMLDecodeError:
        return {}


def _load(model: str, data: str | None, device: str) -> tuple[Host, Corpus]:
    return load_host(model, device=device), read_corpus(Path(data)) if data else python_corpus()
