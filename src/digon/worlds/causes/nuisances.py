"""What observation does to activations of every cause alike: non-linearities, normalization, gains, rounding, noise."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from .base import World

Values = Float[Tensor, "n d"]


def relu(h: Values, generator: torch.Generator) -> Values:
    """max(h, 0)."""
    return h.relu()


def gelu(h: Values, generator: torch.Generator) -> Values:
    """GELU of standardized activations."""
    return torch.nn.functional.gelu(h / _size(h))


def row_normalization(h: Values, generator: torch.Generator) -> Values:
    """Every row centered and divided by its standard deviation, as LayerNorm does."""
    centered = h - h.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True) + 1e-5 * _size(h) ** 2).sqrt()


def gains(h: Values, generator: torch.Generator) -> Values:
    """Every unit at a random size (lognormal, σ = 0.5) around a random offset."""
    d = h.shape[1]
    scale = (0.5 * torch.randn(d, generator=generator)).exp()
    return h * scale + _size(h) * torch.randn(d, generator=generator)


def eight_bits(h: Values, generator: torch.Generator) -> Values:
    """Rounded to 256 levels between the extremes of each unit."""
    low, high = h.amin(0), h.amax(0)
    step = (high - low).clamp(min=1e-12) / 255
    return ((h - low) / step).round() * step + low


def outliers(h: Values, generator: torch.Generator) -> Values:
    """A twentieth of the units, at least one, twenty times as large."""
    chosen = torch.randperm(h.shape[1], generator=generator)[: max(1, h.shape[1] // 20)]
    return h.index_put((torch.arange(len(h))[:, None], chosen[None]), 20 * h[:, chosen])


def noise(h: Values, generator: torch.Generator) -> Values:
    """Gaussian noise, equal in all directions, at a tenth of the signal's power (10 dB)."""
    return h + _size(h) * 0.1**0.5 * torch.randn(h.shape, generator=generator)


NUISANCES: dict[str, Callable[[Values, torch.Generator], Values]] = {
    f.__name__: f for f in (relu, gelu, row_normalization, gains, eight_bits, outliers, noise)
}


def observed(world: World, names: Sequence[str], seed: int) -> World:
    """The world as seen through nuisances, one after the other; the truth stays what it is.

    Raises: ConfigError for an unknown nuisance.
    """
    h = world.activations.values
    for name in names:
        if name not in NUISANCES:
            raise ConfigError(f"no nuisance {name!r}", expected=" | ".join(NUISANCES))
        h = NUISANCES[name](h, rng.stream(seed, "nuisance", name))
    # a network that reads the activations as they were would misread these
    network = world.network if not names else None
    return replace(world, activations=replace(world.activations, values=h), network=network)


def _size(h: Values) -> Float[Tensor, ""]:
    return (h - h.mean(0)).square().mean().sqrt().clamp(min=1e-12)
