"""What a coder is, and how well it reconstructs a stream of activations.

A coder turns activations into codes and back through its dictionary. The neuron basis, PCA, ICA, a random basis and a
sparse autoencoder all are coders, so that every measure compares them on equal terms.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


@dataclass(frozen=True)
class Totals:
    """Sums over a stream of activations, from which the coder's summary numbers follow."""

    rows: int
    error: float
    """Sum of squared reconstruction errors."""
    spread: float
    """Sum of squared distances from the mean of the stream."""
    fires: Int[Tensor, " k"]
    """Rows in which each latent is active (its code is not zero)."""

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained. Range: 0 (exact) to 1 (no better than the mean) and above."""
        return self.error / self.spread if self.spread > 0 else math.nan

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
        return float((self.fires == 0).double().mean()) if self.rows else math.nan


@torch.no_grad()
def evaluate(coder: Coder, batches: Iterable[Float[Tensor, "_ d"]]) -> Totals:
    """Run a coder over a stream in bounded memory; sums are kept in float64.

    The spread is merged batch by batch (Chan, Golub & LeVeque 1979), so a large mean costs no digits.
    """
    atoms = coder.dictionary.atoms
    rows, error, spread = 0, 0.0, 0.0
    mean = torch.zeros(atoms.shape[1], dtype=torch.float64, device=atoms.device)
    fires = torch.zeros(len(atoms), dtype=torch.int64, device=atoms.device)
    for batch in batches:
        x = batch.to(atoms)
        codes = coder.encode(x)
        fires += _fires(codes)
        exact = x.double()
        error += float((exact - coder.decode(codes)).square_().sum())
        n, center = len(x), exact.mean(0)
        gap = float((center - mean).square().sum())
        spread += float((exact - center).square_().sum()) + gap * rows * n / max(rows + n, 1)
        rows += n
        mean += (center - mean) * (n / max(rows, 1))
    return Totals(rows, error, spread, fires)


def _fires(codes: Codes) -> Int[Tensor, " k"]:
    if codes.indices is None:
        return (codes.values != 0).sum(0)
    return torch.bincount(codes.indices[codes.values != 0].long(), minlength=codes.width)
