"""Who takes part: mainline recipes, digon's own, classic decompositions, and a code over the true dictionary.

Every entrant gets the same stream, the same number of latents, the same target l0 and the same number of steps. The mainline
differs from ours in what its recipes say: no falling l0, an auxiliary loss for dead latents where it has one, fixed prefixes,
the mean squared error. Published runs keep a learning rate of 3e-4 for 2·10⁸ rows; at 10⁶ rows little is learned that way
(F1 .39 instead of .69 for Matryoshka). So every recipe has the best learning rate of a few, constant or falling to zero over
the last fifth, found on a development seed of another world (docs/results/decoding-settings.md). Ours is `recommended`.

Source of the mainline recipes: Chanin & Garriga-Alonso 2026. Its matching-pursuit autoencoder is not among them.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...coders import classic
from ...coders.base import Coder
from ...coders.pursuit import orthogonal
from ...coders.sae import Nested, SAEConfig
from ...coders.train import Batches, TrainConfig, recommended, train
from ...errors import ConfigError, did_you_mean
from ...tensors import Dictionary

ROWS = 20_000
"""Rows that a classic decomposition is fitted on."""
PREFIXES = (32, 8, 2)
"""Parts of the latents that a Matryoshka autoencoder reconstructs from: one in so many."""
PUBLISHED = {"lr": 3e-4, "warmup": 0.0, "decay": 0.0, "l0_start": 1.0}
"""For the published number of rows."""
WARMUP = 0.02
LONG = 100_000
"""Steps from which on the mainline is trained as published."""


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
        if isinstance(self.make, _Ours):
            text = repr(recommended(1, 1, 1, flat=self.make.flat))
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class _Trained:
    """A mainline autoencoder."""

    sae: Mapping[str, object]
    lr: float
    """Best of those tried on development seeds, at a million rows."""
    decay: float = 0.0
    """Share of the steps in which it falls."""
    prefixes: bool = False

    def __call__(self, task: Task) -> Coder:
        sizes = tuple(sorted({max(1, task.width // part) for part in PREFIXES}))
        nested = {"nested": Nested(sizes)} if self.prefixes else {}
        sae = SAEConfig(task.d, task.width, task.l0, seed=task.seed, **{**nested, **self.sae})  # type: ignore[arg-type]
        short = {"lr": self.lr, "warmup": WARMUP * (self.decay > 0), "decay": self.decay, "l0_start": 1.0}
        how = PUBLISHED if task.steps >= LONG else short
        return train(sae, task.batches, TrainConfig(steps=task.steps, seed=task.seed, **how), task.folder)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Ours:
    """What `recommended` says."""

    flat: bool = False

    def __call__(self, task: Task) -> Coder:
        training = TrainConfig(steps=task.steps, seed=task.seed)
        sae, how = recommended(task.d, task.width, task.l0, training, task.seed, flat=self.flat)
        return train(sae, task.batches, how, task.folder)


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
    "standard": Entrant("ReLU and an L1 penalty", _Trained({"activation": "relu", "revival": "none"}, 3e-3)),
    "topk": Entrant("TopK, auxiliary loss", _Trained({"activation": "topk", "revival": "auxiliary"}, 1e-2, 0.2)),
    "batchtopk": Entrant("BatchTopK, auxiliary loss", _Trained({"activation": "batchtopk", "revival": "auxiliary"}, 3e-3)),
    "jumprelu": Entrant("JumpReLU, step penalty", _Trained({"activation": "jumprelu", "revival": "none"}, 3e-3)),
    "gated": Entrant("gated, L1 on the gate", _Trained({"activation": "gated", "revival": "none"}, 3e-2, 0.2)),
    "matryoshka": Entrant(
        "BatchTopK with nested prefixes, auxiliary loss",
        _Trained({"activation": "batchtopk", "revival": "auxiliary"}, 1e-2, 0.2, prefixes=True),
    ),
    "digon": Entrant("ours, the default of `digon decode`: what `recommended` says", _Ours()),
    "flat": Entrant("ours for features without trees (`--recipe flat`): the same without prefixes", _Ours(flat=True)),
    "pca": Entrant("principal components", _pca),
    "ica": Entrant("independent components", _ica),
    "dictionary": Entrant("online dictionary learning, orthogonal pursuit", _dictionary),
    "random": Entrant("random atoms, orthogonal pursuit", _random),
    "truth": Entrant("the true atoms of the most frequent features, orthogonal pursuit of at most l0 a row", _truth),
}  # fmt: skip


def entrant(name: str) -> Entrant:
    """One of `ENTRANTS`. Raises: ConfigError for another name."""
    if name not in ENTRANTS:
        raise ConfigError(f"no coder {name!r}", expected=" | ".join(ENTRANTS), hint=did_you_mean(name, ENTRANTS))
    return ENTRANTS[name]
