"""Correlation from sums over excerpts, for many units at once: its interval, and what chance reaches.

    ρ = (Σam − Σa Σm / n) / √((Σa² − (Σa)²/n)(Σm² − (Σm)²/n))

Sums of 1, a, m, a², m², am are kept per excerpt or per document, so that a bootstrap draw is a matrix product. A permutation
puts the simulated values of one excerpt beside the real values of another: only Σam changes, and all draws follow from the
products of every excerpt with every other. Where lengths differ, what has no partner counts as paired with the mean.

Explained variance after a line m' = α + β·m that was fitted elsewhere is a function of the same sums; fitted on the same
rows it is ρ².

Sources: Bills et al. 2023 (pooled correlation, calibration); Good 2005 (permutation tests).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..measures import stats

DRAWS = 200
TINY = 1e-9
"""Spread, in squared deviations of the pool, below which a side counts as constant."""


def correlation_of(sums: Float[Tensor, "*b 6 s"]) -> Float[Tensor, "*b s"]:
    """Correlation from sums of 1, a, m, a², m², am. Range: [−1, 1]; NaN where a side is constant."""
    n, a, m, aa, mm, am = sums.unbind(-2)
    spread_a, spread_m = aa - a * a / n, mm - m * m / n
    varies = (spread_a > TINY) & (spread_m > TINY)
    return torch.where(varies, (am - a * m / n) / (spread_a * spread_m).clamp_min(TINY**2).sqrt(), math.nan)


def line_of(sums: Float[Tensor, "*b 6 s"]) -> tuple[Float[Tensor, "*b s"], Float[Tensor, "*b s"]]:
    """Offset and slope of the least-squares line from simulated to real; the slope of a constant is 0, without rows NaN.

    >>> [float(x) for x in line_of(torch.tensor([[2.0], [4.0], [1.0], [10.0], [1.0], [3.0]]))]  # (0, 1) → (1, 3)
    [1.0, 2.0]
    """
    n, a, m, _, mm, am = sums.unbind(-2)
    spread = mm - m * m / n
    slope = torch.where(spread > TINY, (am - a * m / n) / spread.clamp_min(TINY), 0.0 * n / n)
    return (a - slope * m) / n, slope


def explained_of(
    sums: Float[Tensor, "*b 6 s"], line: tuple[Float[Tensor, " s"], Float[Tensor, " s"]]
) -> Float[Tensor, "*b s"]:
    """1 − Σ(a − α − βm)² / Σ(a − mean a)². Range: up to ρ²; NaN where the real values are constant."""
    n, a, m, aa, mm, am = sums.unbind(-2)
    offset, slope = line
    error = aa + n * offset**2 + slope**2 * mm - 2 * offset * a - 2 * slope * am + 2 * offset * slope * m
    spread = aa - a * a / n
    return torch.where(spread > TINY, 1 - error / spread.clamp_min(TINY), math.nan)


def moments(a: Float[Tensor, "*n"], m: Float[Tensor, "*n"], known: Bool[Tensor, "*n"]) -> Float[Tensor, "*n 6"]:
    """1, a, m, a², m², am of every row; 0 where a side is not known."""
    one = known.to(a.dtype)
    a, m = a * one, m * one
    return torch.stack([one, a, m, a * a, m * m, a * m], -1)


def affine(
    values: Float[Tensor, "*b n"], pool: Bool[Tensor, "*b n"] | None = None
) -> tuple[Float[Tensor, "*b 1"], Float[Tensor, "*b 1"]]:
    """Mean and one over the deviation of a pool, or of all; the latter is 0 where the pool is constant or empty."""
    values = values.double()
    if not values.numel():
        nothing = values.sum(-1, keepdim=True)
        return nothing, nothing
    if pool is None:
        low, high, mean = values.amin(-1, True), values.amax(-1, True), values.mean(-1, True)
        deviation = values.std(-1, correction=0, keepdim=True)
    else:
        n = pool.sum(-1, keepdim=True).clamp_min(1)
        low = torch.where(pool, values, math.inf).amin(-1, True)
        high = torch.where(pool, values, -math.inf).amax(-1, True)
        mean = torch.where(pool, values, 0.0).sum(-1, keepdim=True) / n
        deviation = (torch.where(pool, values - mean, 0.0).square().sum(-1, keepdim=True) / n).sqrt()
    varies = (high > low) & (deviation > 0)
    return mean, torch.where(varies, 1 / deviation.clamp_min(1e-300), 0.0)


def standard(
    values: Float[Tensor, "*b n"], known: Bool[Tensor, "*b n"], pool: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b n"]:
    """Values relative to mean and deviation of a pool, so that rounding and scale cannot look like variation.

    The pool is all that is known if none is given. Where it is constant values become 0; so does what is not known.
    """
    mean, inverse = affine(values, known if pool is None else pool)
    return torch.where(known, (values.double() - mean) * inverse, 0.0)


def standardized(values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Every column relative to its own mean and deviation; columns that do not vary become 0."""
    mean, inverse = affine(values.T)
    return (values.double() - mean.T) * inverse.T


def correlations(a: Float[Tensor, "n k"], b: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Correlation of every column with its partner, whatever their scales. Range: [−1, 1]; NaN where one is constant.

    >>> a = torch.tensor([[0.0], [1.0], [3.0]])
    >>> correlations(1e-9 * a, 5 - a)
    tensor([-1.], dtype=torch.float64)
    """
    a, b = standardized(a), standardized(b)
    return torch.where(a.any(0) & b.any(0), (a * b).mean(0), math.nan)


@dataclass(frozen=True)
class Paired:
    """Real and simulated values of the scoring excerpts of many units, reduced to what scores need."""

    sums: Float[Tensor, "units excerpts 6"]
    cross: Float[Tensor, "units excerpts excerpts"] | None
    """Σ a(i)·m(j) over the tokens of excerpt i beside those of excerpt j, both standardized; None if not wanted."""
    known: Int[Tensor, " units"]
    """Scored tokens that have a simulated value."""
    wanted: Int[Tensor, " units"]

    @classmethod
    def of(
        cls,
        real: Float[Tensor, "units excerpts t"],
        simulated: Float[Tensor, "units excerpts t"],
        there: Bool[Tensor, "units excerpts t"],
        *,
        cross: bool = False,
    ) -> "Paired":
        """Reduce values; `there` is false beyond the end of an excerpt. Missing simulated values are left out."""
        shape = real.shape
        known = there & simulated.isfinite() & real.isfinite()
        a, m = (standard(v.flatten(1), known.flatten(1)).view(shape) for v in (real, simulated))
        both = torch.bmm(a, m.transpose(1, 2)) if cross else None
        return cls(moments(a, m, known).sum(2), both, known.sum((1, 2)), there.sum((1, 2)))

    @property
    def rho(self) -> Float[Tensor, " units"]:
        """Correlation over all tokens of all excerpts."""
        return correlation_of(self.sums.sum(1)[..., None])[..., 0]


def resampled(
    sums: Float[Tensor, "units excerpts 6"],
    present: Bool[Tensor, "units excerpts"],
    strata: Sequence[int],
    generator: torch.Generator,
    draws: int = DRAWS,
) -> Float[Tensor, "draws units"]:
    """Correlation of bootstrap draws of the excerpts within each stratum (`strata` are their widths, present ones first).

    All units share the random numbers, so that the result does not depend on which ones are scored together.
    """
    total = sums.new_zeros(draws, len(sums), 6)
    for part, here in zip(sums.split(list(strata), 1), present.split(list(strata), 1), strict=True):
        uniform = torch.rand(draws, part.shape[1], generator=generator, dtype=torch.float64).to(sums.device)
        counts = here.sum(1)
        for count in [c for c in counts.unique().tolist() if c]:
            rows = (counts == count).nonzero().squeeze(1)
            picks = (uniform[:, :count] * count).long()
            weights = stats.times_drawn(picks, count).to(sums.dtype)
            total[:, rows] += torch.einsum("bd,udk->buk", weights, part[rows, :count])
    return correlation_of(total[..., None])[..., 0]


def permuted(
    paired: Paired, present: Bool[Tensor, "units excerpts"], generator: torch.Generator, draws: int = DRAWS
) -> Float[Tensor, "draws units"]:
    """Correlation after the simulated values of the excerpts have changed places, `draws` times.

    NaN where fewer than two excerpts are present or a side is constant.
    """
    cross = paired.cross
    assert cross is not None, "the products between excerpts were not kept"
    found = cross.new_full((draws, len(cross)), math.nan)
    order = torch.rand(draws, cross.shape[1], generator=generator, dtype=torch.float64).to(cross.device)
    counts, first = present.sum(1), (~present).to(torch.uint8).argsort(dim=1, stable=True)
    for count in [c for c in counts.unique().tolist() if c > 1]:
        rows = (counts == count).nonzero().squeeze(1)
        chosen = first[rows, :count]
        square = cross[rows].gather(1, chosen[:, :, None].expand(-1, -1, cross.shape[2]))
        square = square.gather(2, chosen[:, None, :].expand(-1, count, -1))
        partner = order[:, :count].argsort(1)
        pairs = torch.arange(count, device=cross.device)
        found[:, rows] = square[:, pairs, partner].sum(-1).T / paired.known[rows]
    defined = paired.rho.isfinite()
    return torch.where(defined, found, math.nan)
