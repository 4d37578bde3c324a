"""One sparse autoencoder; what differs between variants is which latents may be active.

    z = (x − b_dec) W_encᵀ + b_enc,   f = ReLU(z) on the active latents,   x̂ = f W_dec + b_dec

topk keeps the l0 largest z of every row; batchtopk the l0·B largest of the batch of B rows, and learns the threshold θ
that reproduces this on average: deployed, f = ReLU(z)·1[z > θ]. Atoms have unit norm. Latents that have not fired for a
window of tokens learn to reconstruct what the others leave over (the auxiliary loss).
Sources: Gao et al. 2024 (TopK, auxiliary loss); Bussmann et al. 2024 (BatchTopK).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .. import rng
from ..errors import ConfigError
from ..tensors import Codes, Dictionary
from . import sparse
from .base import check_width

BLOCK = 2**22
"""Entries of the pre-activation matrix that are computed at once: about what a core's cache holds."""


@dataclass(frozen=True)
class SAEConfig:
    """What a sparse autoencoder is, apart from how long it is trained."""

    d_in: int
    """Units of the site."""
    width: int
    """Latents."""
    l0: int | None
    """Active latents per row: exactly (topk), on average (batchtopk); None if unknown, for loaded weights."""
    activation: Literal["topk", "batchtopk"] = "topk"
    """Which latents may be active."""
    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss; 0 switches it off."""
    dead_after: int = 100_000
    """Tokens without firing after which a latent counts as dead."""
    threshold_rate: float = 0.01
    """Share of the newest batch in the running mean of the threshold (batchtopk)."""
    seed: int = 0
    """Seed of the initial weights."""


@dataclass(frozen=True)
class Pass:
    """What a training step sees of the forward pass."""

    reconstruction: Float[Tensor, "n d"]
    values: Float[Tensor, " nnz"]
    """Codes of the pairs in `support`, zeros among them."""
    support: sparse.Support


class SAE(nn.Module):
    """A sparse autoencoder: a `Coder` that is trained by `coders.train`.

    Raises: ConfigError if width or l0 make no sense.
    """

    threshold: Tensor

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        if config.d_in < 1 or config.width < 1:
            raise ConfigError(f"an SAE of {config.width} latents on {config.d_in} units", expected="positive sizes")
        if config.l0 is not None and not 1 <= config.l0 <= config.width:
            raise ConfigError(f"l0 = {config.l0}", expected=f"1 to the width, {config.width}")
        self.config = config
        draws = torch.randn(config.width, config.d_in, generator=rng.stream(config.seed, "sae"))
        self.W_dec = nn.Parameter(F.normalize(draws, dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().clone())
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self.register_buffer("threshold", torch.zeros(config.width))

    @property
    def dictionary(self) -> Dictionary:
        """Decoder rows and bias."""
        return Dictionary(self.W_dec.detach(), self.b_dec.detach())

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        return Dictionary(self.W_dec, self.b_dec).decode(codes)

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """Codes by the deployed encoder, which treats every row by itself whatever the batch.

        Sparse: as many per row as the fullest row has; dense once that is a quarter of the width.
        """
        check_width(x, self.dictionary)
        z_of = lambda rows: self._preactivations(rows.to(self.W_enc.dtype))  # noqa: E731
        if self.config.activation == "topk":
            assert self.config.l0 is not None, "a topk SAE without l0"
            tops = [sparse.rowwise_top(z_of(rows), self.config.l0) for rows in self._blocks(x)]
        else:
            tops = [self._above_threshold(z_of(rows)) for rows in self._blocks(x)]
        size = max(values.shape[1] for values, _ in tops)
        values = torch.cat([F.pad(values, (0, size - values.shape[1])) for values, _ in tops]).relu()
        indices = torch.cat([F.pad(indices, (0, size - indices.shape[1])) for _, indices in tops])
        codes = Codes(values, indices, self.config.width)
        return Codes(codes.dense(), None, codes.width) if 4 * size > codes.width else codes

    def forward(self, x: Float[Tensor, "n d"]) -> Pass:
        """Training pass: gradients flow through active latents only."""
        with torch.no_grad():
            found, rows, latents = _SELECT[self.config.activation](self, x)
        support = sparse.Support.of(rows, latents, len(x), self.config.width)
        values = sparse.encode(found, x, (self.W_enc, self.b_enc, self.b_dec), support).relu()
        return Pass(sparse.decode(values, self.W_dec, support) + self.b_dec, values, support)

    def auxiliary_loss(
        self, x: Float[Tensor, "n d"], residual: Float[Tensor, "n d"], dead: Int[Tensor, " m"]
    ) -> Float[Tensor, ""]:
        """How badly the dead latents, up to d/2 of them per row, reconstruct the residual.

        Range: 0 to about 1, relative to the variance of the residual.
        """
        z = F.linear(x - self.b_dec, self.W_enc.index_select(0, dead), self.b_enc.index_select(0, dead)).relu()
        count = max(self.config.d_in // 2, 1)
        if count < len(dead):
            values, indices = sparse.rowwise_top(z, count)
            z = torch.zeros_like(z).scatter(1, indices, values)
        miss = (z @ self.W_dec.index_select(0, dead) - residual).square().sum()
        spread = (residual - residual.mean(0)).square().sum()
        return miss / spread.clamp_min(torch.finfo(spread.dtype).tiny)

    @torch.no_grad()
    def update_threshold(self, values: Float[Tensor, " nnz"]) -> None:
        """Move θ toward the smallest positive code of a batch; the first batch sets it. topk has no threshold."""
        if self.config.activation == "topk":
            return
        smallest = torch.where(values > 0, values, math.inf).min()
        target = torch.where(smallest.isinf(), self.threshold, smallest)
        moved = torch.lerp(self.threshold, target, self.config.threshold_rate)
        self.threshold.copy_(torch.where(self.threshold == 0, target, moved))

    @torch.no_grad()
    def free_gradient(self) -> None:
        """Remove from the decoder's gradient what would only change the norm of the atoms."""
        grad = self.W_dec.grad
        if grad is not None:
            grad.addcmul_((grad * self.W_dec).sum(1, keepdim=True), self.W_dec, value=-1)

    @torch.no_grad()
    def normalize_atoms(self) -> None:
        """Give every atom unit norm."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def scaled(self, factor: float) -> "SAE":
        """The SAE that does on `factor`·x what this one does on x, with codes `factor` times as large. Frozen."""
        other = SAE(self.config).to(self.W_enc.device)
        other.load_state_dict(self.state_dict())
        for tensor in (other.b_enc, other.b_dec, other.threshold):
            tensor.mul_(factor)
        return other.requires_grad_(False).eval()

    def _preactivations(self, x: Tensor) -> Tensor:
        return F.linear(x - self.b_dec, self.W_enc, self.b_enc)

    def _blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(BLOCK // self.config.width, 256))

    def _above_threshold(self, z: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.where(z > self.threshold, z, 0.0)
        fullest = int((kept > 0).sum(1).max()) if len(z) else 0
        return sparse.rowwise_top(kept, max(fullest, 1))


def _select_by_row(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    assert sae.config.l0 is not None, "training needs l0"
    tops = [sparse.rowwise_top(sae._preactivations(rows), sae.config.l0) for rows in sae._blocks(x)]
    rows = torch.arange(len(x), device=x.device).repeat_interleave(sae.config.l0)
    return torch.cat([v for v, _ in tops]).view(-1), rows, torch.cat([i for _, i in tops]).view(-1)


def _select_by_batch(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    assert sae.config.l0 is not None, "training needs l0"
    z = x.new_empty(len(x), sae.config.width)
    for rows, into in zip(sae._blocks(x), sae._blocks(z), strict=True):
        torch.addmm(sae.b_enc, rows - sae.b_dec, sae.W_enc.T, out=into)
    flat = sparse.overall_top(z, sae.config.l0 * len(x))
    return z.view(-1)[flat], flat // sae.config.width, flat % sae.config.width


_SELECT: dict[str, Callable[[SAE, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "topk": _select_by_row,
    "batchtopk": _select_by_batch,
}
