"""The numbers that make up an SAE, and what it aims at."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import rng
from ..parallel import Group
from .config import SAEConfig


class Weights(nn.Module):
    """Encoder and decoder; an activation may add numbers per latent of its own.

    In a group whose processes hold different latents, all numbers per latent are those of this process alone.

    Raises: ConfigError if the settings make no sense.
    """

    threshold: Tensor
    r_mag: Tensor
    b_mag: Tensor

    def __init__(self, config: SAEConfig, group: Group | None = None) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.group = group or Group()
        self.budget = float(config.l0 or 0)
        """Active latents per row that a training pass aims at."""
        draws = torch.randn(config.width, config.d_in, generator=rng.stream(config.seed, "sae"))
        self.W_dec = nn.Parameter(F.normalize(self.group.latents.own(draws), dim=1))
        self.W_enc = self.W_dec if config.tied else nn.Parameter(self.W_dec.detach().clone())
        self.b_enc = nn.Parameter(torch.zeros(len(self.W_dec)))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))

    @property
    def held(self) -> int:
        """Latents that this process holds."""
        return len(self.b_enc)

    @property
    def target_l0(self) -> int:
        """Active latents per row, in the end."""
        assert self.config.l0 is not None, "this needs an SAE with a known l0"
        return self.config.l0
