"""Who takes part: mainline recipes as published, digon's own, classic decompositions, and a code over the true dictionary.

Every entrant gets the same stream, the same number of latents, the same target l0 and the same number of steps. Trained
ones differ in the settings below and in nothing else; the mainline keeps a constant learning rate of 3e-4 from the first
to the last step and revives dead latents only where its recipe does, ours are what `SAEConfig` and `TrainConfig` do by
themselves.

Source of the mainline recipes: Chanin & Garriga-Alonso 2026. Its matching-pursuit autoencoder is not among them.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ...coders import classic
from ...coders.base import Coder
from ...coders.pursuit import orthogonal
from ...coders.sae import Nested, SAEConfig
from ...coders.train import Batches, TrainConfig, train
from ...errors import ConfigError, did_you_mean
from ...tensors import Dictionary

ROWS = 20_000
"""Rows that a classic decomposition is fitted on."""
PREFIXES = (32, 8, 2)
"""Parts of the latents that a Matryoshka autoencoder reconstructs from: one in so many."""
MAINLINE = {"lr": 3e-4, "warmup": 0.0, "decay": 0.0, "l0_start": 1.0}


@dataclass(frozen=True)
class Task:
    """What every entrant is given."""

    batches: Batches
    sample: Callable[[int], Tensor]
    """From a number of rows to these."""
    truth: Dictionary
    """As many true atoms as latents, those that are active most often; only for who says so."""
    d: int
    width: int
    l0: int
    steps: int
    seed: int
    folder: Path
    """Where a long training keeps what it needs to go on."""


@dataclass(frozen=True)
class Entrant:
    """One way from activations to a coder."""

    about: str
    make: Callable[[Task], Coder]

    @property
    def recipe(self) -> str:
        """Changes if the settings of a trained one do."""
        text = repr(self.make) if isinstance(self.make, _Trained) else ""
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class _Trained:
    """An autoencoder, by what differs from the defaults."""

    sae: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    prefixes: bool = False

    def __call__(self, task: Task) -> Coder:
        sizes = tuple(sorted({max(1, task.width // part) for part in PREFIXES}))
        nested = {"nested": Nested(sizes)} if self.prefixes else {}
        sae = SAEConfig(task.d, task.width, task.l0, seed=task.seed, **{**nested, **self.sae})  # type: ignore[arg-type]
        config = TrainConfig(steps=task.steps, seed=task.seed, **self.training)  # type: ignore[arg-type]
        return train(sae, task.batches, config, task.folder)


def _pca(task: Task) -> Coder:
    return classic.pca(task.sample(ROWS), min(task.width, task.d), task.seed)


def _ica(task: Task) -> Coder:
    return classic.ica(task.sample(ROWS), min(task.width, task.d), task.seed)


def _dictionary(task: Task) -> Coder:
    return classic.dictionary_learning(task.sample(ROWS), task.width, task.l0, task.seed)


def _random(task: Task) -> Coder:
    return orthogonal(
        Dictionary(classic.random(task.d, task.width, task.seed).dictionary.atoms, task.truth.bias), task.l0
    )


def _truth(task: Task) -> Coder:
    return orthogonal(task.truth, task.l0)


ENTRANTS: dict[str, Entrant] = {
    "standard": Entrant("ReLU and an L1 penalty", _Trained({"activation": "relu", "revival": "none"}, MAINLINE)),
    "topk": Entrant("TopK, auxiliary loss", _Trained({"activation": "topk", "revival": "auxiliary"}, MAINLINE)),
    "batchtopk": Entrant("BatchTopK, auxiliary loss", _Trained({"activation": "batchtopk", "revival": "auxiliary"}, MAINLINE)),
    "jumprelu": Entrant("JumpReLU, step penalty", _Trained({"activation": "jumprelu", "revival": "none"}, MAINLINE)),
    "gated": Entrant("gated, L1 on the gate", _Trained({"activation": "gated", "revival": "none"}, MAINLINE)),
    "matryoshka": Entrant(
        "BatchTopK with nested prefixes, auxiliary loss",
        _Trained({"activation": "batchtopk", "revival": "auxiliary"}, MAINLINE, prefixes=True),
    ),
    "digon": Entrant("ours: BatchTopK with nested prefixes, and the defaults", _Trained({"activation": "batchtopk"}, prefixes=True)),
    "pca": Entrant("principal components", _pca),
    "ica": Entrant("independent components", _ica),
    "dictionary": Entrant("online dictionary learning, orthogonal pursuit", _dictionary),
    "random": Entrant("random atoms, orthogonal pursuit", _random),
    "truth": Entrant("the true atoms, orthogonal pursuit: what decoding alone can reach", _truth),
}  # fmt: skip


def entrant(name: str) -> Entrant:
    """One of `ENTRANTS`. Raises: ConfigError for another name."""
    if name not in ENTRANTS:
        raise ConfigError(f"no coder {name!r}", expected=" | ".join(ENTRANTS), hint=did_you_mean(name, ENTRANTS))
    return ENTRANTS[name]
