"""What a coder is, and how well it reconstructs a stream of activations.

A coder turns activations into codes and back through its dictionary. The neuron basis, PCA, ICA, a random basis and a
sparse autoencoder all are coders, so that every measure compares them on equal terms.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..measures import sparsity
from ..tensors import Codes, Dictionary


@runtime_checkable
class Coder(Protocol):
    """Anything that maps activations to codes and back."""

    @property
    def dictionary(self) -> Dictionary:
        """Atoms as rows, and the offset."""
        ...

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """Codes of raw activations."""
        ...

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        ...


def check_width(x: Float[Tensor, "n d"], dictionary: Dictionary) -> None:
    """Assert that rows of `x` live in the space of the atoms."""
    d = dictionary.atoms.shape[1]
    assert x.shape[1] == d, f"activations have {x.shape[1]} units, the coder was made for {d}"


@runtime_checkable
class Transcoder(Protocol):
    """Anything that says by a sparse code of one site what another site holds."""

    @property
    def dictionary(self) -> Dictionary:
        """Atoms in the site that is written."""
        ...

    def encode(self, x: Float[Tensor, "n d_in"]) -> Codes:
        """Codes of what is read."""
        ...

    def write(self, x: Float[Tensor, "n d_in"], codes: Codes) -> Float[Tensor, "n d_out"]:
        """What the other site should hold, from what is read and its codes."""
        ...


@dataclass(frozen=True)
class Totals:
    """Sums over a stream of activations, from which the coder's summary numbers follow."""

    rows: int
    errors: Float[Tensor, " d"]
    """Sum of squared reconstruction errors of every unit."""
    spreads: Float[Tensor, " d"]
    """Sum of squared distances of every unit from its mean over the stream."""
    fires: Int[Tensor, " k"]
    """Rows in which each latent is active (its code is not zero)."""

    @property
    def error(self) -> float:
        """Sum of squared reconstruction errors."""
        return float(self.errors.sum())

    @property
    def spread(self) -> float:
        """Sum of squared distances from the mean of the stream."""
        return float(self.spreads.sum())

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained. Range: 0 (exact) to 1 (no better than the mean) and above."""
        return self.fvu_by_part((len(self.errors),))[0]

    def fvu_by_part(self, parts: Sequence[int]) -> list[float]:
        """The same of every part of the units: of sites that lie side by side."""
        error, spread = (
            [float(part.sum()) for part in sums.split(list(parts))] for sums in (self.errors, self.spreads)
        )
        return [e / s if s > 0 else math.nan for e, s in zip(error, spread, strict=True)]

    @property
    def density(self) -> Float[Tensor, " k"]:
        """Share of rows in which each latent is active; NaN without rows."""
        return self.fires / self.rows if self.rows else torch.full(self.fires.shape, math.nan)

    @property
    def l0(self) -> float:
        """Mean number of active latents per row."""
        return float(self.fires.sum()) / self.rows if self.rows else math.nan

    @property
    def dead_share(self) -> float:
        """Share of latents that are active in no row."""
        return float(sparsity.dead_share(self.density))


def evaluate(coder: Coder, batches: Iterable[Float[Tensor, "_ d"]]) -> Totals:
    """Run a coder over a stream in bounded memory; sums are kept in float64."""
    return _totals(
        coder.dictionary.atoms, ((x, x) for x in batches), coder.encode, lambda _, codes: coder.decode(codes)
    )


def evaluate_pairs(
    transcoder: Transcoder, pairs: Iterable[tuple[Float[Tensor, "_ d_in"], Float[Tensor, "_ d_out"]]]
) -> Totals:
    """The same for what a transcoder makes of the first of two sites: errors and spreads are those of the second."""
    return _totals(transcoder.dictionary.atoms, pairs, transcoder.encode, transcoder.write)


@torch.no_grad()
def _totals(
    atoms: Tensor,
    pairs: Iterable[tuple[Tensor, Tensor]],
    encode: Callable[[Tensor], Codes],
    write: Callable[[Tensor, Codes], Tensor],
) -> Totals:
    """The spread is merged batch by batch (Chan, Golub & LeVeque 1979), so a large mean costs no digits."""
    rows = 0
    errors, spreads, mean = torch.zeros(3, atoms.shape[1], dtype=torch.float64, device=atoms.device)
    fires = torch.zeros(len(atoms), dtype=torch.int64, device=atoms.device)
    for read, wanted in pairs:
        x, y = read.to(atoms), wanted.to(atoms)
        codes = encode(x)
        fires += sparsity.fires(codes)
        exact = y.double()
        errors += (exact - write(x, codes)).square_().sum(0)
        n, center = len(y), exact.mean(0)
        spreads += (exact - center).square_().sum(0) + (center - mean).square() * (rows * n / max(rows + n, 1))
        rows += n
        mean += (center - mean) * (n / max(rows, 1))
    return Totals(rows, errors, spreads, fires)
