"""Transcoders: what one site holds, written as sparse latents that say what another site holds.

    f = codes of (x − b_in) W_encᵀ + b_enc,   ŷ = f W_dec + b_dec (+ (x − b_in) W_skipᵀ)

Trained on rows x | y of two sites, each divided by its own scale, with the error of y. They start from the first rows:
b_in is the mean of x (fixed, and folded away when deployed); the skip matrix is the best affine map (ridge regression);
every encoder row is the direction of x that goes with its atom in y, E[x (y·d)].

Sources: Dunefsky et al. 2024 (transcoders); Paulo et al. 2025 (the skip matrix). The start is ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .weights import Weights

RIDGE = 1e-3
"""Added to the covariance of x, relative to its mean variance."""


@torch.no_grad()
def start(sae: Weights, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]) -> None:
    """Set what the first rows of both sites tell, in units of their scales."""
    sae.b_in.copy_(x.mean(0))
    centered = (x - sae.b_in).double()
    cross = centered.T @ (y - y.mean(0)).double() / len(x)
    sae.W_enc.copy_(F.normalize(sae.W_dec.double() @ cross.T, dim=1))
    if sae.config.target is not None and sae.config.target.skip:
        covariance = centered.T @ centered / len(x)
        covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
        sae.W_skip.copy_(torch.linalg.solve(covariance, cross).T)
