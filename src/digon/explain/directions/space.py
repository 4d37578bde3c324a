"""White coordinates of a site: every direction has the same variance there, so that loud units decide nothing.

1. Units are put on one scale, as no explanation depends on a unit's scale; units that do not vary are left out.
2. Their covariance S is shrunk, Σ = (1 − δ) S + δ μ I with μ = tr S / d, and δ as Ledoit and Wolf estimate it from the rows.
3. z = Λ^{-1/2} Uᵀ (x − mean) with Σ = U Λ Uᵀ. A direction is a unit vector θ there; it reads x by w = U Λ^{-1/2} θ.

Only rows of the fit split go into it. Two directions are orthogonal where θ·θ' = 0, that is where they are uncorrelated under Σ.

Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"; virtual neurons of
whitened activations after Bills et al. 2023.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import ConfigError, NonFiniteError

PIECE = 8192
"""Rows that are added up at once."""
FLAT = 1e-6
"""Deviation, relative to the size of a unit's values, below which it is rounding."""
RANK = 1e-7
"""Variance of an axis, relative to the largest, below which it is rounding."""


@dataclass(frozen=True)
class Space:
    """The way into white coordinates and back."""

    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    """Of every unit; 0 for units that do not vary."""
    into: Float[Tensor, "d r"]
    """White coordinates of centered rows."""
    back: Float[Tensor, "r d"]
    """What a step of 1 along every white axis adds to the units, on average: Λ^{1/2} Uᵀ."""
    spectrum: Float[Tensor, " r"]
    """Eigenvalues of S, before shrinkage, in descending order; their sum is the number of varying units."""
    shrinkage: float
    """δ. Range: [0, 1]."""
    floor: float
    """ε = δ μ: what shrinkage adds to the variance of every axis."""

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"]) -> "Space":
        """White coordinates of a population of rows.

        Raises: ConfigError for fewer than two varying units or fewer rows than 2; NonFiniteError if a row is not finite.
        """
        if len(rows) < 2:
            raise ConfigError(f"{len(rows)} rows to find directions from", expected="thousands, of many documents")
        mean, deviation = _scales(rows)
        scale = torch.where(deviation > 0, 1 / deviation.clamp_min(1e-300), 0.0)
        varying = int((deviation > 0).sum())
        if varying < 2:
            raise ConfigError(
                f"{varying} of {rows.shape[1]} units vary on {len(rows)} rows",
                expected="at least 2: directions are combinations of units",
                hint="another site, or more text",
            )
        covariance, fourth = _second_moments(rows, mean, scale)
        shrinkage = ledoit_wolf(covariance, fourth, len(rows), varying)
        floor = shrinkage * float(covariance.trace()) / varying
        values, axes = torch.linalg.eigh(covariance)
        kept = (values > RANK * values[-1]).nonzero().squeeze(1).flip(0)
        values, axes = values[kept], axes[:, kept]
        root = ((1 - shrinkage) * values + floor).sqrt()
        into, back = scale[:, None] * axes / root, (axes * root).T * deviation
        return cls(mean, deviation, into, back, values, shrinkage, floor)

    @property
    def rank(self) -> int:
        """Dimensions in which the rows vary."""
        return len(self.spectrum)

    @property
    def effective_rank(self) -> float:
        """Participation ratio of the spectrum, (Σ λ)² / Σ λ². Range: [1, rank]."""
        return float(self.spectrum.sum().square() / self.spectrum.square().sum())

    def white(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        """White coordinates in the precision of the rows."""
        into, mean = self.into.to(rows), self.mean.to(rows)
        return torch.cat([(part - mean) @ into for part in rows.split(PIECE)])

    def reads(self, theta: Float[Tensor, "k r"]) -> Float[Tensor, "k d"]:
        """Weights w of directions: the activation of a direction is w·(x − mean)."""
        return theta.double() @ self.into.T

    def writes(self, theta: Float[Tensor, "k r"]) -> Float[Tensor, "k d"]:
        """Where rows lie whose direction is active: Σ w, the mean of x − mean per unit of the direction's activation."""
        return theta.double() @ self.back

    def toward(self, weights: Float[Tensor, "k d"]) -> Float[Tensor, "k r"]:
        """Unit θ of directions that are given by their weights w; the inverse of `reads` up to scale."""
        return torch.nn.functional.normalize(weights.double() @ self.back.T, dim=1)


def ledoit_wolf(covariance: Float[Tensor, "d d"], fourth: float, rows: int, varying: int) -> float:
    """δ from S, the mean of ‖z‖⁴ over the rows, and the numbers of rows and of units that vary. Range: [0, 1].

    >>> ledoit_wolf(torch.eye(3), 11.0, 100, 3)
    1.0
    """
    power = float(covariance.square().sum())
    away = power - float(covariance.trace()) ** 2 / varying
    noise = (fourth - power) / rows
    return 1.0 if away <= noise else max(0.0, noise / away)


def _scales(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Means and standard deviations; 0 for units whose variation is rounding."""
    mean = torch.stack([part.sum(0, dtype=torch.float64) for part in rows.split(PIECE)]).sum(0) / len(rows)
    wrong = int((~mean.isfinite()).sum())
    if wrong:
        raise NonFiniteError(
            f"{wrong} of {len(mean)} units are not finite somewhere in {len(rows)} rows",
            expected="finite activations",
            hint="harvest again, or look for NaN in the model",
        )
    square = torch.stack([(part - mean).square().sum(0, dtype=torch.float64) for part in rows.split(PIECE)]).sum(0)
    deviation = (square / len(rows)).sqrt()
    size = (mean.square() + deviation.square()).sqrt()
    return mean, torch.where(deviation > FLAT * size, deviation, 0.0)


def _second_moments(
    rows: Float[Tensor, "n d"], mean: Float[Tensor, " d"], scale: Float[Tensor, " d"]
) -> tuple[Float[Tensor, "d d"], float]:
    """Covariance of the scaled rows, and the mean of their fourth power of length; pieces add up in float64."""
    d = rows.shape[1]
    total, fourth = torch.zeros(d, d, dtype=torch.float64, device=rows.device), 0.0
    for part in rows.split(PIECE):
        x = (part - mean.to(part)) * scale.to(part)
        total += (x.T @ x).double()
        fourth += float(x.square().sum(1).double().square().sum())
    return total / len(rows), fourth / len(rows)
