"""What a sparse autoencoder is, apart from how long it is trained."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from ...errors import ConfigError, did_you_mean

ActivationName = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
Revival = Literal["auxiliary", "resample", "forced", "straight_through", "none"]
BEST_REVIVAL: dict[ActivationName, Revival] = {
    "relu": "resample",
    "topk": "forced",
    "batchtopk": "forced",
    "jumprelu": "resample",
    "gated": "resample",
}
"""Measured on small worlds of sparse features in superposition."""


@dataclass(frozen=True)
class Nested:
    """Prefixes of the latents that have to reconstruct without the rest, so that general features come first."""

    sizes: tuple[int, ...] = ()
    """Prefixes of fixed size, rising; all latents are always one more."""
    sampled: int = 0
    """Prefixes that are drawn anew for every step, small ones as often as large ones (uniform in the logarithm)."""
    by_frequency: bool = False
    """Order the latents by how often they fire, most often first, instead of by index."""
    detached: bool = False
    """Let every latent learn only from the smallest prefix that it is in."""


@dataclass(frozen=True)
class SAEConfig:
    """What a sparse autoencoder is; size and target l0 are enough."""

    d_in: int
    """Units of the site."""
    width: int
    """Latents."""
    l0: int | None
    """Active latents per row: exactly (topk), on average (the others); None if unknown, for loaded weights."""
    activation: ActivationName = "topk"
    """Which latents may be active."""
    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss."""
    dead_after: int = 100_000
    """Tokens without firing after which a latent counts as dead."""
    threshold_rate: float = 0.01
    """Share of the newest batch in running means: of the threshold (batchtopk), of how often latents fire."""
    seed: int = 0
    """Seed of the initial weights."""
    revival: Revival | None = None
    """What brings dead latents back (see `revival`); None: what does best with the activation."""
    nested: Nested | None = None
    """Prefixes that have to reconstruct by themselves (Matryoshka)."""
    tied: bool = False
    """Use the atoms as encoder, too."""
    bandwidth: float = 0.3
    """Width of the kernel through which thresholds learn, in units of the typical code."""

    @property
    def rescue(self) -> Revival:
        """What brings dead latents back."""
        return self.revival or BEST_REVIVAL[self.activation]

    @property
    def typical_code(self) -> float:
        """Size of equal codes of l0 orthogonal atoms that make up a row of unit variance per unit: √(d_in/l0)."""
        return (self.d_in / (self.l0 or 1)) ** 0.5

    @property
    def kernel(self) -> float:
        """Width of the kernel in units of the pre-activations."""
        return self.bandwidth * self.typical_code

    def check(self) -> None:
        """Raises: ConfigError if the settings make no sense together."""
        if self.d_in < 1 or self.width < 1:
            raise ConfigError(f"an SAE of {self.width} latents on {self.d_in} units", expected="positive sizes")
        if self.l0 is not None and not 1 <= self.l0 <= self.width:
            raise ConfigError(f"l0 = {self.l0}", expected=f"1 to the width, {self.width}")
        for name, kind in (("activation", ActivationName), ("revival", Revival)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known and not (name == "revival" and value is None):
                raise ConfigError(
                    f"{name} = {value!r}", expected=f"one of {', '.join(known)}", hint=did_you_mean(str(value), known)
                )
        if not (self.bandwidth > 0 and self.aux_coefficient >= 0 and 0 < self.threshold_rate <= 1):
            raise ConfigError(
                f"bandwidth = {self.bandwidth}, aux_coefficient = {self.aux_coefficient}, "
                f"threshold_rate = {self.threshold_rate}",
                expected="bandwidth > 0, aux_coefficient ≥ 0, threshold_rate in (0, 1]",
            )
        if self.nested is not None:
            self._check_prefixes(self.nested)

    def _check_prefixes(self, nested: Nested) -> None:
        steps = [0, *nested.sizes, self.width]
        if any(a >= b for a, b in pairwise(steps)) or nested.sampled < 0:
            raise ConfigError(
                f"prefixes of {nested.sizes} latents and {nested.sampled} sampled ones",
                expected=f"rising sizes between 1 and {self.width - 1}",
            )
        if bool(nested.sizes) == bool(nested.sampled):
            raise ConfigError("fixed and sampled prefixes together, or neither", expected="sizes or sampled")
