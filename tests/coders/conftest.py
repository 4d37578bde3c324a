"""Planted superposition, and an SAE in general position."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from digon import rng
from digon.coders.sae import SAE, SAEConfig


class Planted:
    """Sparse features in fewer dimensions, with endless batches that any step can start."""

    def __init__(self, n: int = 32, d: int = 16, density: float = 0.05, batch: int = 512, scale: float = 1.0) -> None:
        directions = torch.randn(n, d, generator=rng.stream(0, "directions"))
        self.directions = torch.nn.functional.normalize(directions, dim=1)
        self.density, self.batch, self.scale = density, batch, scale

    def draw(self, n: int, *names: str | int) -> Tensor:
        stream = rng.stream(0, "planted", *names)
        size = (n, len(self.directions))
        on = torch.rand(size, generator=stream) < self.density
        features = on * (0.5 + torch.rand(size, generator=stream))
        return (features @ self.directions + 0.3) * self.scale

    def __call__(self, start: int) -> Iterator[Tensor]:
        return (self.draw(self.batch, step) for step in itertools.count(start))


def make_perturbed(activation: str, d: int = 8, width: int = 32, l0: int = 3) -> SAE:
    """An SAE whose every parameter is in general position."""
    sae = SAE(SAEConfig(d_in=d, width=width, l0=l0, activation=activation))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            noise = torch.randn(tensor.shape, generator=rng.stream(0, name))
            tensor.add_(0.3 * (noise.abs() if name == "threshold" else noise))
        sae.normalize_atoms()
    return sae


@pytest.fixture(scope="session", name="Planted")
def planted_class():
    return Planted


@pytest.fixture(scope="session")
def perturbed():
    return make_perturbed
