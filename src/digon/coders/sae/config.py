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
class Target:
    """What a transcoder writes: the activations of another site than the one that it reads."""

    d_out: int
    """Units of the site that is written."""
    skip: bool = False
    """Whether a plain matrix from the input helps, so that latents only have to explain what is not linear."""


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
    refinements: int = 0
    """How often the encoder looks again at what its codes leave over (see `refine`)."""
    target: Target | None = None
    """The other site that is written (transcoder); None: what was read is written again."""
    sites: tuple[int, ...] = ()
    """Units of several sites whose rows lie side by side, each with a scale of its own (crosscoder)."""

    @property
    def d_out(self) -> int:
        """Units that are written."""
        return self.d_in if self.target is None else self.target.d_out

    @property
    def parts(self) -> tuple[int, ...]:
        """What a training row is made of: units of every site, side by side; each site has a scale of its own."""
        return self.sites or ((self.d_in,) if self.target is None else (self.d_in, self.d_out))

    @property
    def rescue(self) -> Revival:
        """What brings dead latents back."""
        return self.revival or BEST_REVIVAL[self.activation]

    @property
    def typical_code(self) -> float:
        """Size of equal codes of l0 orthogonal atoms that make up a row of unit variance per unit: √(d_out/l0)."""
        return (self.d_out / (self.l0 or 1)) ** 0.5

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
        self._check_mode()

    def _check_mode(self) -> None:
        """Raises: ConfigError if what is read and what is written do not go together with the rest."""
        if self.refinements < 0 or self.d_out < 1:
            raise ConfigError(
                f"refinements = {self.refinements}, d_out = {self.d_out}", expected="0 or more, and a positive size"
            )
        if self.sites and (len(self.sites) < 2 or min(self.sites) < 1 or sum(self.sites) != self.d_in):
            raise ConfigError(
                f"sites of {self.sites} units side by side in rows of {self.d_in}",
                expected="at least two positive sizes that sum to d_in",
            )
        if self.target is not None and (self.sites or self.refinements or self.tied):
            raise ConfigError(
                "a transcoder with several sites, refinements or tied weights",
                expected="one site that is read, another that is written",
                hint="refining and tying compare what is written with what is read: only an autoencoder can",
            )
        if self.sites and self.tied:
            raise ConfigError("a crosscoder with tied weights", expected="an encoder of its own: sites differ in scale")

    def _check_prefixes(self, nested: Nested) -> None:
        steps = [0, *nested.sizes, self.width]
        if any(a >= b for a, b in pairwise(steps)) or nested.sampled < 0:
            raise ConfigError(
                f"prefixes of {nested.sizes} latents and {nested.sampled} sampled ones",
                expected=f"rising sizes between 1 and {self.width - 1}",
            )
        if bool(nested.sizes) == bool(nested.sampled):
            raise ConfigError("fixed and sampled prefixes together, or neither", expected="sizes or sampled")
