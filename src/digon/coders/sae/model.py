"""One sparse autoencoder; which latents are active is left to its activation.

    z = (x − b_dec) W_encᵀ + b_enc,   f = codes of the z that the activation chooses,   x̂ = f W_dec + b_dec

Atoms have unit norm. A training step looks at all pre-activations once, without gradient, to find the pairs (row,
latent) that take part (`coders.sparse.search`); everything after that touches only those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...tensors import Codes, Dictionary
from .. import sparse
from ..parallel import WHOLE, Group
from .activations import ACTIVATIONS, Pairs
from .config import SAEConfig
from .folding import rescale
from .nested import Prefixes
from .pretrained import Pretrained
from .refine import corrected
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


class SAE(Pretrained, Weights):
    """A sparse autoencoder: a `Coder` that is trained by `coders.train`.

    Raises: ConfigError if the settings make no sense.
    """

    def __init__(self, config: SAEConfig, group: Group | None = None) -> None:
        super().__init__(config, group)
        self.precision: sparse.Precision = "float32"
        """Of the products that a training pass compares."""
        self.activation = ACTIVATIONS[config.activation]
        for name, value in self.activation.learned.items():
            self.register_parameter(name, nn.Parameter(torch.full((self.held,), value)))
        for name, value in self.activation.tracked.items():
            self.register_buffer(name, torch.full((self.held,), value))

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
        assert x.shape[1] == self.config.d_in, f"{x.shape[1]} units, the encoder reads {self.config.d_in}"
        blocks = [self._seen(rows.to(self.W_enc.dtype)) for rows in self._blocks(x)]
        tops = [self.activation.deployed(self, self.preactivations(rows), rows) for rows in blocks]
        size = max(values.shape[1] for values, _ in tops)
        values = torch.cat([F.pad(values, (0, size - values.shape[1])) for values, _ in tops])
        indices = torch.cat([F.pad(indices, (0, size - indices.shape[1])) for _, indices in tops])
        codes = Codes(values, indices, self.config.width)
        return Codes(codes.dense(), None, codes.width) if 4 * size > codes.width else codes

    def write(self, x: Float[Tensor, "n d_in"], codes: Codes) -> Float[Tensor, "n d_out"]:
        """What the SAE makes of `x`, whose codes are given: `decode`, and what a skip matrix adds."""
        skipped = self.skipped(x.to(self.W_dec.dtype))
        return self.decode(codes) if skipped is None else self.decode(codes) + skipped

    def preactivations(self, x: Float[Tensor, "n d"], latents: Tensor | slice = slice(None)) -> Float[Tensor, "n k"]:
        """z, of all latents or of the chosen ones."""
        # Product first, then the bias: fused they round in another order than they do in other tools.
        return F.linear(x - self.group.latents.shared(self.origin), self.W_enc[latents]).add_(self.b_enc[latents])

    def forward(
        self,
        x: Float[Tensor, "n d_in"],
        eligible: Bool[Tensor, " k"] | None = None,
        prefixes: Prefixes | None = None,
        y: Float[Tensor, "n d_out"] | None = None,
    ) -> Pass:
        """Training pass: gradients flow through the pairs that take part, and nowhere else.

        `y` is what should be written: `x`, if nothing else is given.
        `eligible` latents are active at least on the row of the batch where their pre-activation is largest.
        """
        y = x if y is None else y
        seen = torch.cat([self._seen(rows) for rows in self._blocks(x)]) if self.config.refinements else x
        with torch.no_grad():
            centered, claim = seen - self.origin, None
            if not self.group.rows.alone:
                claim = self.group.strongest
            rule = self.activation.rule(self, len(x))
            found = sparse.search(centered, (self.W_enc, self.b_enc), rule, eligible, self.precision, claim)
            found, cut = self.activation.settle(self, found, len(x))
            if prefixes is not None:
                order = prefixes.order(found.rows, found.latents)
                found, cut = found.take(order), cut[order] if cut.ndim else cut
            forced = None if found.marked is None else found.marked & (found.z <= cut)
        across = self.group.latents
        support = sparse.Support.of(found.rows, found.latents, len(x), self.held)
        z = sparse.encode(found.z, centered, (self.W_enc, self.b_enc, across.shared(self.origin)), support)
        pairs = Pairs(z, cut, forced, support)
        values = self.activation.codes(self, pairs)
        base = self.base(x)
        if prefixes is None:
            if across.alone and base.ndim == 1:
                reconstruction, error = sparse.rebuild(values, self.W_dec, base, y, support)
            else:
                reconstruction = across.merged(sparse.decode(values, self.W_dec, support)) + base
                error = (reconstruction - y).square().mean()
            return Pass(reconstruction, values, pairs, reconstruction[:, None], error)
        parts = across.merged(prefixes.decode(values, self.W_dec, support))
        nested = parts + (base if base.ndim == 1 else base[:, None])
        return Pass(nested[:, -1], values, pairs, nested, (nested - y[:, None]).square().mean())

    @torch.no_grad()
    def balance(self, x: Float[Tensor, "n d"], latents: Int[Tensor, " m"] | None = None) -> None:
        """Make latents fire equally often on `x`, so that all together would use the budget.

        Only where biases or thresholds decide how often a latent fires: all but topk and batchtopk.
        """
        name = self.activation.offset
        if name is None:
            return
        chosen = torch.arange(self.held, device=x.device) if latents is None else latents
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
    def scaled(self, factor: float | Sequence[float], order: Int[Tensor, " k"] | None = None) -> "SAE":
        """The SAE that does on `factor`·x what this one does on x, with codes as many times as large. Frozen.

        Sites have factors of their own, in the order of `SAEConfig.parts`. Codes then grow as what is written does: with
        the factor of the site, or with the root mean square over the units of several. `order` is the order that the
        latents get.
        """
        other = SAE(self.config).to(self.W_enc.device)
        other.load_state_dict(self.state_dict())
        rescale(other, [factor] * len(self.config.parts) if isinstance(factor, int | float) else factor)
        for name, tensor in other.state_dict(keep_vars=False).items():
            if order is not None and name not in WHOLE and not (self.config.tied and name == "W_enc"):
                tensor.copy_(tensor[order])
        return other.requires_grad_(False).eval()

    def _seen(self, x: Tensor) -> Tensor:
        """What is encoded: `x`, or what refinements make of it."""
        return corrected(self, x, lambda seen: self.activation.deployed(self, self.preactivations(seen), seen))

    def _blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(BLOCK // self.config.width, 256))


def check_l0(config: SAEConfig) -> None:
    """Raises: ConfigError if training has no l0 to aim at."""
    if config.l0 is None:
        raise ConfigError("l0 is not set", expected="the number of active latents per row")
