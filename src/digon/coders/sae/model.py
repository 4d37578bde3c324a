"""One sparse autoencoder; which latents are active is left to its activation.

    z = (x − b_dec) W_encᵀ + b_enc,   f = codes of the z that the activation chooses,   x̂ = f W_dec + b_dec

Atoms have unit norm. A training step looks at all pre-activations once, without gradient, to find the pairs (row,
latent) that take part (`coders.sparse.search`); everything after that touches only those.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...tensors import Codes, Dictionary
from .. import sparse
from ..base import check_width
from .activations import ACTIVATIONS, Pairs
from .config import SAEConfig
from .nested import Prefixes
from .weights import Weights

BLOCK = 2**22
"""Entries of the pre-activation matrix that are computed at once: about what a core's cache holds."""


@dataclass(frozen=True)
class Pass:
    """What a training step sees of the forward pass."""

    reconstruction: Float[Tensor, "n d"]
    values: Float[Tensor, " nnz"]
    """Codes of the pairs, zeros among them."""
    pairs: Pairs
    nested: Float[Tensor, "n p d"]
    """Reconstruction from every prefix of the latents, the last of them all."""
    error: Float[Tensor, ""]
    """Mean squared error over rows, units and prefixes."""

    @property
    def support(self) -> sparse.Support:
        """Rows and latents of the pairs."""
        return self.pairs.support


class SAE(Weights):
    """A sparse autoencoder: a `Coder` that is trained by `coders.train`.

    Raises: ConfigError if the settings make no sense.
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.precision: sparse.Precision = "float32"
        """Of the products that a training pass compares."""
        self.activation = ACTIVATIONS[config.activation]
        for name, value in self.activation.learned.items():
            self.register_parameter(name, nn.Parameter(torch.full((config.width,), value)))
        for name, value in self.activation.tracked.items():
            self.register_buffer(name, torch.full((config.width,), value))

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
        z_of = lambda rows: self.preactivations(rows.to(self.W_enc.dtype))  # noqa: E731
        tops = [self.activation.deployed(self, z_of(rows)) for rows in self._blocks(x)]
        size = max(values.shape[1] for values, _ in tops)
        values = torch.cat([F.pad(values, (0, size - values.shape[1])) for values, _ in tops])
        indices = torch.cat([F.pad(indices, (0, size - indices.shape[1])) for _, indices in tops])
        codes = Codes(values, indices, self.config.width)
        return Codes(codes.dense(), None, codes.width) if 4 * size > codes.width else codes

    def preactivations(self, x: Float[Tensor, "n d"], latents: Tensor | slice = slice(None)) -> Float[Tensor, "n k"]:
        """z, of all latents or of the chosen ones."""
        return F.linear(x - self.b_dec, self.W_enc[latents], self.b_enc[latents])

    def forward(
        self, x: Float[Tensor, "n d"], eligible: Bool[Tensor, " k"] | None = None, prefixes: Prefixes | None = None
    ) -> Pass:
        """Training pass: gradients flow through the pairs that take part, and nowhere else.

        `eligible` latents are active at least on the row where their pre-activation is largest.
        """
        with torch.no_grad():
            centered = x - self.b_dec
            rule = self.activation.rule(self, len(x))
            found = sparse.search(centered, self.W_enc, self.b_enc, rule, eligible, self.precision)
            if prefixes is not None:
                found = found.take(prefixes.order(found.rows, found.latents))
            cut = self.activation.cut(self, found, len(x))
            forced = None if found.marked is None else found.marked & (found.z <= cut)
        support = sparse.Support.of(found.rows, found.latents, len(x), self.config.width)
        z = sparse.encode(found.z, centered, (self.W_enc, self.b_enc, self.b_dec), support)
        pairs = Pairs(z, cut, forced, support)
        values = self.activation.codes(self, pairs)
        if prefixes is None:
            reconstruction, error = sparse.rebuild(values, self.W_dec, self.b_dec, x, support)
            return Pass(reconstruction, values, pairs, reconstruction[:, None], error)
        nested = prefixes.decode(values, self.W_dec, support) + self.b_dec
        return Pass(nested[:, -1], values, pairs, nested, (nested - x[:, None]).square().mean())

    @torch.no_grad()
    def balance(self, x: Float[Tensor, "n d"], latents: Int[Tensor, " m"] | None = None) -> None:
        """Make latents fire equally often on `x`, so that all together would use the budget.

        Only where biases or thresholds decide how often a latent fires: all but topk and batchtopk.
        """
        name = self.activation.offset
        if name is None:
            return
        chosen = torch.arange(self.config.width, device=x.device) if latents is None else latents
        self.b_enc[chosen] = 0
        share = min(self.budget / self.config.width, 0.5)
        rank = min(max(round(share * len(x)), 1), len(x) - 1)
        sign = 1 if name == "threshold" else -1
        for part in chosen.split(max(BLOCK // len(x), 1)):
            # Between two pre-activations: at one of them, rounding would decide which side it is on.
            level = self.preactivations(x, part).topk(rank + 1, dim=0).values[-2:].mean(0)
            getattr(self, name)[part] = sign * (level.clamp_min(0) if sign > 0 else level)

    @torch.no_grad()
    def update_threshold(self, cut: Tensor) -> None:
        """Move θ toward the cut of a batch; the first batch sets it. Only batchtopk has a threshold that is tracked."""
        if "threshold" in self.activation.tracked:
            moved = torch.lerp(self.threshold, cut, self.config.threshold_rate)
            self.threshold.copy_(torch.where(self.threshold == 0, cut, moved))

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
    def constrain(self) -> None:
        """Bring back what a step must not change: atoms have unit norm, thresholds are not negative."""
        self.normalize_atoms()
        if "threshold" in self.activation.learned:
            self.threshold.clamp_min_(0)

    @torch.no_grad()
    def scaled(self, factor: float, order: Int[Tensor, " k"] | None = None) -> "SAE":
        """The SAE that does on `factor`·x what this one does on x, with codes `factor` times as large. Frozen.

        `order` is the order that its latents get.
        """
        other = SAE(self.config).to(self.W_enc.device)
        other.load_state_dict(self.state_dict())
        scales = {"b_enc", "b_dec", "b_mag", "threshold"}
        for name, tensor in other.state_dict(keep_vars=False).items():
            if name in scales:
                tensor.mul_(factor)
            if order is not None and name != "b_dec" and not (self.config.tied and name == "W_enc"):
                tensor.copy_(tensor[order])
        return other.requires_grad_(False).eval()

    def _blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(BLOCK // self.config.width, 256))


def check_l0(config: SAEConfig) -> None:
    """Raises: ConfigError if training has no l0 to aim at."""
    if config.l0 is None:
        raise ConfigError("l0 is not set", expected="the number of active latents per row")
