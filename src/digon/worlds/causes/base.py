"""What every world of a known cause has: activations, and the truth about them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import ConfigError
from ...records import Cause
from ...tensors import Activations

ROWS_PER_DOCUMENT = 20


@dataclass(frozen=True)
class Block:
    """A subspace of the activations with a cause of its own."""

    cause: Cause
    n_features: int
    basis: Float[Tensor, "r d"]
    """Rows that span it."""


@dataclass(frozen=True)
class Truth:
    """What is true of a world."""

    cause: Cause
    n_features: int
    """A manifold counts as one feature, however many dimensions it takes."""
    rank: int
    """Dimensions that the features span."""
    atoms: Float[Tensor, "k d"]
    """Directions, as rows: of every feature, or of every coordinate of a manifold; none for a world without features."""
    features: Float[Tensor, "n k"]
    """Coefficient of every atom on every row."""
    alike: frozenset[Cause] = frozenset()
    """Causes that the same activations could have: no test that sees activations alone may tell them apart."""
    blocks: tuple[Block, ...] = field(default=())
    """The parts of a mixed world."""


@dataclass(frozen=True)
class World:
    """Activations and their truth."""

    activations: Activations
    truth: Truth
    labels: Int[Tensor, "n v"] | None = None
    """Variables of the inputs that somebody with labels knows; none if every feature is its own label."""
    network: Callable[[Tensor], Tensor] | None = None
    """The network behind the site, for worlds that have one: from activations [n, d] to outputs [n, o]."""


def world(
    h: Float[Tensor, "n d"],
    truth: Truth,
    *,
    inputs: Int[Tensor, " n"] | None = None,
    labels: Int[Tensor, "n v"] | None = None,
) -> World:
    """A world of these rows; without `inputs`, every row is an input of its own."""
    row = torch.arange(len(h))
    activations = Activations(
        h, truth.cause, row if inputs is None else inputs, row // ROWS_PER_DOCUMENT, row % ROWS_PER_DOCUMENT
    )
    return World(activations, truth, labels)


def check_size(n_rows: int, d: int) -> None:
    """Raises: ConfigError for a world without rows or units."""
    if n_rows < 1 or d < 1:
        raise ConfigError(f"a world of {n_rows} rows and {d} units", expected="at least one of each")
