"""Worlds without features: whatever a test finds here is false."""

import numpy as np
import torch

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from .base import Truth, World, check_size, world


def null(n_rows: int, d: int, seed: int, kind: str = "colored", degrees: float = 4.0) -> World:
    """Gaussian activations, or elliptical ones: a Gaussian whose rows are stretched by a random length.

    `power law`: variance of the k-th axis falls as 1/k. `elliptical`: multivariate Student t with that many degrees of
    freedom; its tails are heavy in every direction, and no direction is a feature.

    Raises: ConfigError for another kind.
    """
    check_size(n_rows, d)
    g = rng.stream(seed, "null")
    mixing = haar(d, g) * _scales(kind, d)
    h = torch.randn(n_rows, d, generator=g) @ mixing
    if kind == "elliptical":
        numbers = np.random.default_rng(int(torch.randint(2**31, (1,), generator=g)))
        h = h / torch.from_numpy((numbers.chisquare(degrees, n_rows) / degrees) ** 0.5).float()[:, None]
    return world(h, Truth("none", 0, d, torch.zeros(0, d), torch.zeros(n_rows, 0)))


def _scales(kind: str, d: int) -> torch.Tensor:
    if kind == "isotropic":
        return torch.ones(d)
    if kind in ("colored", "elliptical"):
        return torch.linspace(0.5, 1.5, d)
    if kind == "power law":
        return torch.arange(1, d + 1).float() ** -0.5
    raise ConfigError(f"no null {kind!r}", expected="isotropic | colored | power law | elliptical")
