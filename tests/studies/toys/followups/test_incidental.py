"""Incidental polysemanticity: gradients, chance, and the path of the L1 norm."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import incidental


def test_gradients_against_autograd():
    g = torch.Generator().manual_seed(0)
    W = torch.randn(2, 4, 6, generator=g, dtype=torch.float64).requires_grad_()
    noise = 0.3 * torch.randn(2, 4, 6, generator=g, dtype=torch.float64)
    whole = (incidental.identity_loss(W) + 0.1 * W.abs().sum((1, 2))).sum()
    torch.testing.assert_close(incidental.gradient(W.detach(), 0.1), torch.autograd.grad(whole, W)[0])
    y = ((W + noise) @ W.mT).relu()
    noisy = (y - torch.eye(4, dtype=torch.float64)).square().sum()
    torch.testing.assert_close(incidental.noise_gradient(W.detach(), noise), torch.autograd.grad(noisy, W)[0])


def test_counting():
    W = torch.tensor([[[1.0, 0.0, 0.1], [-0.9, 0.0, 0.0], [0.0, 1.1, 0.0], [0.0, 0.95, 0.0], [0.0, 0.0, 1.0]]])
    assert incidental.polysemantic(W).tolist() == [2.0]
    assert incidental.opposite_share(W) == 0.5
    assert math.isnan(incidental.opposite_share(W[:, 4:]))


def test_chance_against_simulation():
    n, m, rows = 12, 30, 100_000
    draw = np.random.default_rng(0)
    neuron, sign = draw.integers(m, size=(rows, n)), draw.integers(2, size=(rows, n))
    slots = np.zeros((2, rows, m), dtype=bool)
    for s in range(2):
        r, k = np.nonzero(sign == s)
        slots[s, r, neuron[r, k]] = True
    assert incidental.expected_collisions(n, m) == pytest.approx((slots[0] & slots[1]).sum(1).mean(), rel=0.02)
    assert incidental.expected_collisions(100, 100_000) == pytest.approx(100**2 / 400_000, rel=0.02)


@pytest.mark.parametrize("v", [0.0, 0.7, 3.0])
def test_folded_moments(v):
    expected = [2 * integrate.quad(lambda z, k=k: (z - v) ** k * stats.norm.pdf(z), v, 12)[0] for k in (1, 2)]
    np.testing.assert_allclose(incidental.folded(v), expected, rtol=1e-7)


def test_the_path_against_small_steps():
    m = 40_000
    times = np.array([0.0, 0.002, 0.01, 0.05]) * m
    exact = incidental.norm_exact(m, 1 / m, times)
    assert exact[0] == pytest.approx(math.sqrt(2 * m / math.pi), rel=1e-6)
    np.testing.assert_allclose(incidental.alone(m, 1 / m, times, 0), exact, rtol=0.05)


def test_the_formula_is_the_late_law():
    m, times = 10**8, np.array([1e-2, 1e-1]) * 1e8
    exact, formula = (f(m, 1e-8, times) for f in (incidental.norm_exact, incidental.norm_formula))
    np.testing.assert_allclose(exact, formula, rtol=0.15)
    assert abs(np.log10(exact[0] / exact[1]) - 1) < 0.02


def test_start():
    W = incidental.start(8, 64, 3, 0)
    assert float(W.square().sum(2).mean()) == pytest.approx(1.0, abs=0.15)
    with pytest.raises(ConfigError, match="neuron per feature"):
        incidental.start(8, 4, 1, 0)


def test_noise_acts_through_its_fourth_moment():
    """Both kinds have the same second moment, so that only the shape differs."""
    found = incidental.under_noise(2000, 4, 0)
    assert found.fourth.shape == (2, 3, 4, len(found.steps))
    np.testing.assert_allclose(found.fourth[0, :, :, 0], found.fourth[1, :, :, 0])
    assert found.fourth[0, -1, :, -1].mean() > found.fourth[1, -1, :, -1].mean()


def test_the_study():
    outcome = incidental.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["opposite_share"].value == 1.0
    assert outcome.values["aligned_polysemantic"].value < 0.3
    assert outcome.values["fourth_norm_gaussian"].value < 0.4
    assert outcome.exact["formula_gap"] == pytest.approx(0.22, abs=0.01)
    assert len(outcome.figures) == 3
