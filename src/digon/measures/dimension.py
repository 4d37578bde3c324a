"""How many dimensions carry the variance?

    participation ratio   (tr C)² / tr C²      d for isotropic data, 1 for data on a line

The plug-in value is too small when rows are few: sampling spreads the eigenvalues and inflates tr C². For Gaussian rows
E tr S² = (1 + 1/(n−1)) tr C² + (tr C)²/(n−1), which is solved for tr C² here (and likewise for E (tr S)²).

Source: participation ratio as in Gao et al. 2017; Gaussian moments of a sample covariance (Ledoit & Wolf 2002, lemma).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import stats


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
