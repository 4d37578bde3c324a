"""How many dimensions carry the variance, how many stand out of noise, and how many does a neighborhood have?

    participation ratio   (tr C)² / tr C²                       d for isotropic data, 1 for data on a line
    parallel analysis     eigenvalues of the correlations above those of the same columns, each permuted by itself
    Gavish–Donoho         singular values above ω(β) times their median; the noise must fill more than half of them
    TwoNN                 (m − 1) / Σ log(r₂/r₁)                r₁, r₂: distances to the two nearest rows
    Levina–Bickel         (mean over rows of mean_j log(r_k/r_j))⁻¹     k nearest rows

Ranks against noise say which dimensions stand out, not which may be thrown away: a feature below the noise is a feature,
and cutting dimensions manufactures superposition. Intrinsic dimensions look at neighborhoods: a circle reads 1, and a
union of k-dimensional flats k, however many dimensions it spans together. Rows in large dimensions have no near
neighbors, so above about ten these estimators read too little: compare with a null that is measured in the same way.

The plug-in participation ratio is too small when rows are few: sampling spreads the eigenvalues and inflates tr C². For Gaussian rows
E tr S² = (1 + 1/(n−1)) tr C² + (tr C)²/(n−1), which is solved for tr C² here (and likewise for E (tr S)²).

Sources: participation ratio as in Gao et al. 2017; Gaussian moments of a sample covariance (Ledoit & Wolf 2002, lemma);
Horn 1965; Gavish & Donoho 2014; Facco et al. 2017 (TwoNN), Denti et al. 2022 (its likelihood); Levina & Bickel 2004 with
the average of MacKay & Ghahramani 2005.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.integrate import quad
from scipy.optimize import root_scalar
from scipy.stats import chi2
from torch import Tensor

from ..errors import ConfigError
from . import stats

NEIGHBOR_ROWS = 4000
"""Rows among which neighbors are looked for."""
PARALLEL_ROWS = 20_000
"""Rows of which parallel analysis takes the correlations, at least 5 d."""
NEIGHBORS = 10
PIECE = 2**24
"""Distances held at a time."""


@dataclass(frozen=True)
class IntrinsicDimension:
    """Dimension of neighborhoods."""

    value: float
    low: float
    """95 % interval, as if rows were independent."""
    high: float
    rows: int
    """Distinct rows that were compared."""
    repeated: float
    """Share of the rows that repeat another one; they have no neighborhood."""


def participation_ratio(covariance: Float[Tensor, "*b d d"], rows: int | None = None) -> Float[Tensor, "*b"]:
    """Effective number of dimensions of a covariance; with `rows`, corrected for the sample size.

    Range: [1, d]; NaN for a zero covariance.

    >>> participation_ratio(torch.eye(4))
    tensor(4.)
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = covariance.square().sum((-2, -1))
    numerator = trace.square()
    if rows is not None:
        n = rows - 1
        # E[s] = (1+1/n)q + t²/n and E[t̂²] = t² + 2q/n, solved for q = tr C² and t²
        square = (square - numerator / n) / (1 + 1 / n - 2 / n**2)
        numerator = numerator - 2 * square / n
    return torch.where(square > 0, numerator / square, math.nan)


def participation_interval(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"],
    generator: torch.Generator,
    groups: int = 20,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Participation ratio of rows with a jackknife interval over groups of documents."""
    group = stats.document_groups(int(documents.max()) + 1, groups, generator).to(values.device)[documents]
    x = values - values.mean(0)
    # products of centered rows are safe in the precision of the values; the groups add up in float64
    parts = (x[group == g] for g in range(groups))
    moments = [(len(part), part.sum(0, dtype=torch.float64), (part.T @ part).double()) for part in parts]
    n = sum(rows for rows, _, _ in moments)
    total, square = torch.stack([s for _, s, _ in moments]).sum(0), torch.stack([q for _, _, q in moments]).sum(0)

    def ratio(rows: int, s: Tensor, q: Tensor) -> Tensor:
        return participation_ratio(q / rows - torch.outer(s / rows, s / rows), rows)

    value = ratio(n, total, square)
    left_out = torch.stack([ratio(n - m, total - s, square - q) for m, s, q in moments if m < n])
    low, high = stats.jackknife_interval(value[None], left_out[:, None])
    return value, low[0], high[0]


def parallel_rank(
    values: Float[Tensor, "n d"], generator: torch.Generator, draws: int = 3
) -> tuple[int, Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Leading correlations that stand out of noise: the rank, the eigenvalues, and the largest of permuted columns.

    Range: 0 (independent columns) to d − 1. Rows above `PARALLEL_ROWS` are thinned. Cost: d³ and rows · d² per draw.
    Raises: ConfigError for fewer than 3 rows. Source: Horn 1965.
    """
    if len(values) < 3:
        raise ConfigError(f"{len(values)} rows", expected="at least 3")
    d = values.shape[1]
    x = _thinned(values, max(PARALLEL_ROWS, 5 * d), generator)
    x = x - x.mean(0)
    spread = x.norm(dim=0)
    x = torch.where(spread > 0, x / spread.clamp(min=1e-30), 0.0)
    seen = _spectrum(x)
    noise = torch.zeros_like(seen)
    for _ in range(draws):
        mixed = torch.stack([column[torch.randperm(len(x), generator=generator).to(x.device)] for column in x.T], 1)
        noise = torch.maximum(noise, _spectrum(mixed))
    # the same order of both, and no gap: a dimension counts only if all that are larger do; 1e-6 is rounding
    below = (seen <= noise * (1 + 1e-6)).nonzero()[:, 0]
    return int(below[0]) if len(below) else d, seen, noise


def gavish_donoho_rank(singular_values: Float[Tensor, " k"], rows: int, d: int) -> int:
    """Singular values of centered rows [rows, d] that are worth keeping if the rest is white noise of unknown size.

    Assumes that more than half of the dimensions are noise alone. Range: 0 to k. Source: Gavish & Donoho 2014.
    """
    beta = min(rows, d) / max(rows, d)
    return int((singular_values > optimal_threshold(beta) * singular_values.median()).sum())


def optimal_threshold(beta: float) -> float:
    """ω(β): where to cut singular values, in medians of them. β: the smaller side of the matrix over the larger.

    Raises: ConfigError for β outside (0, 1]. Source: Gavish & Donoho 2014.

    >>> round(optimal_threshold(1.0), 3)
    2.858
    """
    if not 0 < beta <= 1:
        raise ConfigError(f"an aspect ratio of {beta}", expected="above 0, at most 1")
    cut = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2

    def below(t: float) -> float:
        # Marchenko–Pastur in the angle that runs over its support: no singular ends
        end = math.acos(max(-1.0, min(1.0, 1 - 2 * (t - low) / (high - low))))
        half = (high - low) / 2
        density = lambda a: (half * math.sin(a)) ** 2 / (2 * math.pi * beta * (low + half * (1 - math.cos(a))))  # noqa: E731
        return quad(density, 1e-6, end)[0] - 0.5

    return cut / math.sqrt(root_scalar(below, bracket=(low + 1e-9, high)).root)


def two_nn(values: Float[Tensor, "n d"], generator: torch.Generator, rows: int = NEIGHBOR_ROWS) -> IntrinsicDimension:
    """Intrinsic dimension from the two nearest rows of every row. Range: (0, ∞); NaN if all rows are the same few.

    Memory: bounded. Cost: `rows`² d. Raises: ConfigError for fewer than 10 rows. Source: Facco et al. 2017; Denti et al. 2022.
    """
    distances, count, repeated = _neighbors(values, 2, generator, rows)
    if distances is None:
        return IntrinsicDimension(math.nan, math.nan, math.nan, count, repeated)
    ratios = (distances[:, 1] / distances[:, 0]).log()
    total, m = float(ratios.sum()), len(ratios)
    if total <= 0:
        return IntrinsicDimension(math.inf, math.nan, math.nan, count, repeated)
    low, high = (float(chi2.ppf(q, 2 * m)) / (2 * total) for q in (0.025, 0.975))
    return IntrinsicDimension((m - 1) / total, low, high, count, repeated)


def levina_bickel(
    values: Float[Tensor, "n d"], generator: torch.Generator, rows: int = NEIGHBOR_ROWS, neighbors: int = NEIGHBORS
) -> IntrinsicDimension:
    """Intrinsic dimension from how fast neighbors come in with distance. Range: (0, ∞); NaN if all rows are the same few.

    The interval is a normal one over rows. Memory: bounded. Raises: ConfigError for fewer than 10 rows or 3 neighbors.
    Source: Levina & Bickel 2004; MacKay & Ghahramani 2005.
    """
    if neighbors < 3:
        raise ConfigError(f"{neighbors} neighbors", expected="at least 3")
    distances, count, repeated = _neighbors(values, neighbors, generator, rows)
    if distances is None:
        return IntrinsicDimension(math.nan, math.nan, math.nan, count, repeated)
    inverse = (distances[:, -1:] / distances[:, :-1]).log().sum(1) / (neighbors - 1)
    mean, spread = float(inverse.mean()), float(inverse.std()) / math.sqrt(len(inverse))
    if mean <= 0:
        return IntrinsicDimension(math.inf, math.nan, math.nan, count, repeated)
    low, high = 1 / (mean + 1.96 * spread), 1 / max(mean - 1.96 * spread, 1e-12)
    return IntrinsicDimension(1 / mean, low, high, count, repeated)


def same_shape(values: Float[Tensor, "n d"], rows: int, generator: torch.Generator) -> Float[Tensor, "rows d"]:
    """Rows without features: the same covariance and the same law of the rows' lengths, no direction preferred.

    A Gaussian of the covariance, every row stretched to the length (in white coordinates) of some row of the data.
    """
    x = values.float() - values.float().mean(0)
    spread, axes = torch.linalg.eigh((x.T @ x).double() / len(x))
    kept = spread > 1e-9 * spread.amax().clamp(min=1e-300)
    scale = spread[kept].sqrt()
    some = x[torch.randint(len(x), (rows,), generator=generator).to(x.device)]
    length = (some.double() @ axes[:, kept] / scale).norm(dim=1, keepdim=True)
    g = torch.randn(rows, int(kept.sum()), generator=generator).to(length)
    return ((length * torch.nn.functional.normalize(g, dim=1) * scale) @ axes[:, kept].T).to(values)


def _neighbors(
    values: Float[Tensor, "n d"], count: int, generator: torch.Generator, rows: int
) -> tuple[Float[Tensor, "m k"] | None, int, float]:
    """Distances to the nearest rows, distinct rows, share of repeated ones."""
    if len(values) < 10:
        raise ConfigError(f"{len(values)} rows", expected="at least 10")
    some = _thinned(values, rows, generator)
    distinct = torch.from_numpy(np.unique(some.cpu().numpy(), axis=0)).to(some.device)
    repeated = 1 - len(distinct) / len(some)
    if len(distinct) < max(10, count + 2):
        return None, len(distinct), repeated
    distinct = distinct.double()
    distinct = distinct - distinct.mean(0)
    pieces = distinct.split(max(1, PIECE // len(distinct)))
    near = torch.cat([torch.cdist(piece, distinct).topk(count + 1, largest=False).values[:, 1:] for piece in pieces])
    near = near[near[:, 0] > 1e-7 * float(near[:, -1].median())]
    return (near, len(distinct), repeated) if len(near) >= 10 else (None, len(distinct), repeated)


def _thinned(values: Float[Tensor, "n d"], rows: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    if len(values) <= rows:
        return values.float()
    return values[torch.randperm(len(values), generator=generator)[:rows].to(values.device)].float()


def _spectrum(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    return torch.linalg.eigvalsh((x.T @ x).double()).flip(0)
