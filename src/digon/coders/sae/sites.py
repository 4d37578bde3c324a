"""Crosscoders: one code for several sites, and how every latent is shared among them.

The rows of the sites lie side by side, each site divided by its own scale, so that none counts for its size alone. An
autoencoder on these rows is a crosscoder: one encoder reads all sites, the atom of a latent has a piece in every site. The
atom as a whole has unit norm; where codes are penalized, a latent pays for the norms of all its pieces, Σ_s ‖d_s‖, which is
1 for a latent of one site and √S for one that S sites share equally: so it costs what S autoencoders would pay in sum,
relative to what it explains, and nothing pushes latents into being shared.

The share of site s in a latent is ‖d_s‖² / Σ ‖d‖², in units of each site's scale.

Source: Lindsey et al. 2024 (crosscoders; penalty by the sum of norms).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .weights import Weights

ALONE = 0.9
"""A latent with at least this share in one site belongs to that site alone."""


@dataclass(frozen=True)
class Sharing:
    """How the latents of a crosscoder are shared among its sites."""

    share: Float[Tensor, "k s"]
    """Share of every site in every latent; rows sum to 1. NaN for an atom of norm 0."""

    @property
    def sites(self) -> Float[Tensor, " k"]:
        """Effective number of sites of a latent, 1 / Σ share². Range: 1 (one alone) to s (all equally)."""
        return 1 / self.share.square().sum(1)

    @property
    def alone(self) -> Float[Tensor, " s"]:
        """Share of the latents that belong to each site alone; what is missing to 1 is shared."""
        return (self.share >= ALONE).double().mean(0)


@torch.no_grad()
def sharing(sae: Weights) -> Sharing:
    """How the latents of a crosscoder, in training or deployed, are shared among its sites."""
    square = norms(sae).square()
    return Sharing(square / square.sum(1, keepdim=True))


def norms(sae: Weights) -> Float[Tensor, "k s"]:
    """Norm of every latent's atom in every site, in units of the site's scale; differentiable."""
    assert sae.config.sites, "this needs a crosscoder"
    pieces = sae.W_dec.split(sae.config.sites, dim=1)
    return torch.stack([piece.norm(dim=1) for piece in pieces], 1) / sae.site_scale
