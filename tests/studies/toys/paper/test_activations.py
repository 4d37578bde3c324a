"""Two features in one dimension with other networks: quadrature against closed forms and sampling."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import activations
from digon.studies.toys.paper.activations import Setting, two_loss
from digon.worlds.closed import small_loss
from digon.worlds.features import features
from digon.worlds.toys import ACTIVATIONS

W = torch.tensor([[0.9, -0.8], [0.7, 0.6], [1.2, 0.1]], dtype=torch.float64)
B = torch.tensor([[0.05, 0.1], [-0.1, 0.0], [0.2, 0.3]], dtype=torch.float64)
P, R = torch.tensor([0.3, 0.9, 0.05], dtype=torch.float64), torch.tensor([1.0, 0.4, 3.0], dtype=torch.float64)


def test_relu_against_the_closed_form():
    density, importance = P[:, None].expand(-1, 2), torch.stack([torch.ones_like(R), R], 1)
    exact = small_loss(W[..., None], B, density, importance)
    torch.testing.assert_close(two_loss(W, B, P, R, Setting("ReLU")), exact, rtol=3e-3, atol=0)
    torch.testing.assert_close(two_loss(W, B, P, R, Setting("ReLU"), nodes=200), exact, rtol=3e-5, atol=0)


@pytest.mark.parametrize("name", ["gelu", "softplus", "square", "solu"])
def test_smooth_activations_have_converged(name):
    few, many = (two_loss(W, B, P, R, Setting(name, name), nodes=k) for k in (10, 40))
    torch.testing.assert_close(few, many, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "setting", [Setting("GELU", "gelu"), Setting("SoLU", "solu"), Setting("d", dropout=0.3), Setting("n", noise=0.3)]
)
def test_against_sampling(setting):
    g, rows = rng.stream(0, "rows"), 400_000
    for i in range(len(W)):
        x = features(2, float(P[i])).sample(rows, g)[0].double()
        h = x @ W[i]
        if setting.dropout:
            h = h * (torch.rand(rows, generator=g) >= setting.dropout) / (1 - setting.dropout)
        h = h + setting.noise * torch.randn(rows, generator=g, dtype=torch.float64)
        output = ACTIVATIONS[setting.output](h[:, None] * W[i] + B[i])
        error = ((x - output).square() * torch.stack([torch.ones(()), R[i]])).sum(1)
        exact = two_loss(W[[i]], B[[i]], P[[i]], R[[i]], setting).item()
        assert abs(error.mean().item() - exact) < 4.5 * error.std().item() / rows**0.5 + 2e-3 * exact


def test_weights_of_the_quadrature_are_probabilities():
    x, parts = activations.quadrature(7)
    torch.testing.assert_close(parts.sum(0), torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    for p in (0.1, 0.7):
        weight = parts @ torch.tensor([(1 - p) ** 2, p * (1 - p), p**2], dtype=torch.float64)
        assert weight.sum().item() == pytest.approx(1)
        np.testing.assert_allclose(weight @ x, p / 2)
        np.testing.assert_allclose(weight @ x.square(), p / 3)


def test_heavy_dropout_keeps_two_features_apart():
    """With probability 0.9 the hidden value is lost: the loss of any network is that of its bias most of the time."""
    setting = Setting("d", dropout=0.9)
    none = two_loss(0 * W, B, P, R, setting)
    torch.testing.assert_close(none, two_loss(0 * W, B, P, R, Setting("ReLU")))


def test_the_study():
    outcome = activations.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["area_relu"].value == pytest.approx(outcome.exact["area_relu"], abs=0.05)
    assert outcome.values["relu_excess"].value < 0.05
    assert 0 < outcome.values["area_gelu"].value < outcome.values["area_relu"].value
    assert {f.id for f in outcome.figures} == {"C1-phases", "C1-areas"}
