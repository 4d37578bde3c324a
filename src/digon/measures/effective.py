"""Effective features: how many latents would carry the same spread of activity if all were equally active?

    pᵢ = Σ_rows |zᵢ| / Σ_rows Σⱼ |zⱼ|        F = exp(−Σ pᵢ log pᵢ)        ψ = F / d

ψ of a sparse autoencoder's codes is in use as a measure of superposition. It is not one: on isotropic noise without any
feature the best dictionary is the frame of all ± axes, and ψ is 2. Read ψ − ψ_null alone, and for several widths.

Source: Bereska et al. 2025 (F and ψ); that it needs a null was measured here.
"""

from jaxtyping import Float
from torch import Tensor


def effective_count(codes: Float[Tensor, "*b n k"]) -> Float[Tensor, "*b"]:
    """F: exponential of the entropy of the latents' shares of all activity.

    Range: [1, k]; 0 for codes that are all zero.

    >>> import torch
    >>> effective_count(torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, -2.0]]))
    tensor(2.)
    """
    mass = codes.abs().sum(-2)
    total = mass.sum(-1, keepdim=True)
    share = mass / total.clamp(min=1e-30)
    entropy = -(share * share.clamp(min=1e-30).log()).sum(-1)
    return entropy.exp() * (total[..., 0] > 0)


def effective_features(codes: Float[Tensor, "*b n k"], units: int) -> Float[Tensor, "*b"]:
    """ψ: effective features per unit, the popular index of superposition. A baseline: meaningless without a null.

    Range: [0, k/units].
    """
    return effective_count(codes) / units
