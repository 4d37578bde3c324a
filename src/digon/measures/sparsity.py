"""How sparse is a code and what does it miss?

l0          active codes per row
fvu         Σ‖x − x̂‖² / Σ‖x − mean‖²
dead share  latents that are active in no row of the window
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..tensors import Codes
from . import stats

DENSE = 0.1
"""A latent that is active in a larger share of the rows is called dense."""


def l0(codes: Codes) -> Float[Tensor, " n"]:
    """Active codes of every row. Range: 0 to the width.

    >>> l0(Codes(torch.tensor([[0.0, 2.0], [1.0, 3.0]]), None, 2))
    tensor([1., 2.])
    """
    return (codes.values != 0).sum(1).float()


def fires(codes: Codes) -> Int[Tensor, " k"]:
    """Rows in which each latent is active."""
    if codes.indices is None:
        return (codes.values != 0).sum(0)
    return torch.bincount(codes.indices[codes.values != 0].long(), minlength=codes.width)


def code_density(codes: Codes) -> Float[Tensor, " k"]:
    """Share of rows in which each latent is active. Range: [0, 1]; NaN without rows."""
    if len(codes) == 0:
        return torch.full((codes.width,), math.nan, device=codes.values.device)
    return fires(codes).double() / len(codes)


def dead(density: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """Latents that are never active in the window that the density was taken over."""
    return density == 0


def dead_share(density: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Share of latents that are never active. Range: [0, 1]; NaN where no density is known.

    >>> dead_share(torch.tensor([0.0, 0.2, 0.0, 0.1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return torch.where(density.isfinite(), dead(density).double(), math.nan).nanmean()


def dense(density: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
    """Latents that are active in more than a tenth of the rows."""
    return density > DENSE


def fvu(
    x: Float[Tensor, "n d"], reconstruction: Float[Tensor, "n d"], mean: Float[Tensor, " d"] | None = None
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained, about `mean` or else about the mean of these rows.

    Range: 0 (exact) to 1 (no better than the mean) and above; NaN where nothing varies.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> fvu(x, x), fvu(x, torch.ones(2, 1))
    (tensor(0.), tensor(1.))
    """
    center = x.mean(0) if mean is None else mean
    sums = torch.stack([_row_sums(x - reconstruction), _row_sums(x - center)]).sum(1)
    return fvu_of(sums[:, None])[0].to(x.dtype)


def fvu_sums(
    x: Float[Tensor, "n d"],
    reconstruction: Float[Tensor, "n d"],
    mean: Float[Tensor, " d"],
    documents: Int[Tensor, " n"],
    count: int,
) -> Float[Tensor, "docs 2 1"]:
    """Per document: squared error and squared distance from `mean`; resample them and read `fvu_of`.

    `mean` is held fixed: about each resample's own mean the sums would not add up over documents.
    """
    rows = torch.stack([_row_sums(x - reconstruction), _row_sums(x - mean)], 1)
    return stats.document_sums(rows, documents, count)[:, :, None]


def fvu_of(sums: Float[Tensor, "*b 2 u"]) -> Float[Tensor, "*b u"]:
    """Fraction of variance unexplained from its two sums."""
    error, spread = sums.unbind(-2)
    return torch.where(spread > 0, error / spread, math.nan)


def _row_sums(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return x.square().sum(1).double()
