"""One generator per cause: what do activations look like when we know why?

    null             correlated Gaussian, no features at all
    monosemantic     h = f,        one sparse feature per unit
    rotated          h = f Q,      as many features as units, Q orthogonal
    superposition    h = f W,      more features than units, rows of W random unit directions

Features are active with probability `density`, independently, with values uniform on [0, 1]. Rows are grouped into
documents; every row is an input of its own, so its number serves as token.

Source: the ontology of Chan 2024, "Superposition is not "just" neuron polysemanticity".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..measures.basis import haar
from ..records import Cause
from ..tensors import Activations

ROWS_PER_DOCUMENT = 20


@dataclass(frozen=True)
class Truth:
    """What is true of a world."""

    cause: Cause
    n_features: int
    rank: int
    """Dimensions that the features span."""
    atoms: Float[Tensor, "k d"]
    """Direction of every feature, as rows; none for a world without features."""
    features: Float[Tensor, "n k"]
    """Value of every feature on every row."""


@dataclass(frozen=True)
class World:
    """Activations and their truth."""

    activations: Activations
    truth: Truth


def null(n_rows: int, d: int, seed: int) -> World:
    """Correlated Gaussian activations: nothing to find."""
    g = rng.stream(seed, "null")
    mixing = haar(d, g) * torch.linspace(0.5, 1.5, d)
    h = torch.randn(n_rows, d, generator=g) @ mixing
    return _world(h, Truth("no features", 0, d, torch.zeros(0, d), torch.zeros(n_rows, 0)))


def monosemantic(n_rows: int, d: int, seed: int, density: float = 0.05) -> World:
    """One sparse feature per unit."""
    f = _features(n_rows, d, density, seed)
    return _world(f, Truth("monosemantic", d, d, torch.eye(d), f))


def rotated(n_rows: int, d: int, seed: int, density: float = 0.05) -> World:
    """As many features as units, in a random orthogonal basis: every unit polysemantic, no superposition."""
    f, basis = _features(n_rows, d, density, seed), haar(d, rng.stream(seed, "basis"))
    return _world(f @ basis, Truth("rotated", d, d, basis, f))


def superposition(n_rows: int, d: int, seed: int, load: float = 2.0, density: float = 0.05) -> World:
    """`load` times as many features as units, in random directions."""
    k = round(load * d)
    g = rng.stream(seed, "directions")
    atoms = torch.nn.functional.normalize(torch.randn(k, d, generator=g), dim=1)
    f = _features(n_rows, k, density, seed)
    return _world(f @ atoms, Truth("superposition", k, min(k, d), atoms, f))


def _features(n_rows: int, k: int, density: float, seed: int) -> Float[Tensor, "n k"]:
    g = rng.stream(seed, "features")
    active = torch.rand(n_rows, k, generator=g) < density
    return active * torch.rand(n_rows, k, generator=g)


def _world(h: Float[Tensor, "n d"], truth: Truth) -> World:
    row = torch.arange(len(h))
    return World(Activations(h, truth.cause, row, row // ROWS_PER_DOCUMENT, row % ROWS_PER_DOCUMENT), truth)
