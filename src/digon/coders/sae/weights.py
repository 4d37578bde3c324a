"""The numbers that make up an SAE, and what it aims at."""

import torch
from jaxtyping import Float
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
    b_in: Tensor
    W_skip: Tensor
    site_scale: Tensor

    def __init__(self, config: SAEConfig, group: Group | None = None) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.group = group or Group()
        self.budget = float(config.l0 or 0)
        """Active latents per row that a training pass aims at."""
        self.W_dec = nn.Parameter(self._directions("sae", config.d_out))
        if config.tied:
            self.W_enc = self.W_dec
        elif config.target is None:
            self.W_enc = nn.Parameter(self.W_dec.detach().clone())
        else:
            self.W_enc = nn.Parameter(self._directions("encoder", config.d_in))
        self.b_enc = nn.Parameter(torch.zeros(len(self.W_dec)))
        self.b_dec = nn.Parameter(torch.zeros(config.d_out))
        if config.target is not None:
            self.register_buffer("b_in", torch.zeros(config.d_in))
            if config.target.skip:
                self.W_skip = nn.Parameter(torch.zeros(config.d_out, config.d_in))
        if config.sites:
            self.register_buffer("site_scale", torch.ones(len(config.sites)))

    def _directions(self, name: str, d: int) -> Float[Tensor, "k d"]:
        draws = torch.randn(self.config.width, d, generator=rng.stream(self.config.seed, name))
        return F.normalize(self.group.latents.own(draws), dim=1)

    @property
    def held(self) -> int:
        """Latents that this process holds."""
        return len(self.b_enc)

    @property
    def target_l0(self) -> int:
        """Active latents per row, in the end."""
        assert self.config.l0 is not None, "this needs an SAE with a known l0"
        return self.config.l0

    @property
    def origin(self) -> Float[Tensor, " d"]:
        """What the encoder takes off its input: the decoder's bias, or for a transcoder the mean input (not learned)."""
        return self.b_dec if self.config.target is None else self.b_in

    def skipped(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"] | None:
        """What the skip matrix of a transcoder makes of the input; None without one."""
        if self.config.target is None or not self.config.target.skip:
            return None
        return F.linear(x - self.b_in, self.W_skip)

    def base(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " d_out"] | Float[Tensor, "n d_out"]:
        """What is written without any latent: the decoder's bias, and what the skip matrix makes of the input."""
        skipped = self.skipped(x)
        return self.b_dec if skipped is None else skipped + self.b_dec

    def split(self, rows: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n d_in"], Float[Tensor, "*n d_out"]]:
        """What is read and what is to be written, of training rows: the same, but for a transcoder."""
        if self.config.target is None:
            return rows, rows
        x, y = rows.split(self.config.parts, dim=-1)
        return x.contiguous(), y.contiguous()
