"""Memorizing: exact polygons, the kernel against torch, the sampler."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.geometry import feature_dimensionality
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import memorization, memorization_examples
from digon.studies.toys.followups.memorization_kernel import gradient, train
from digon.worlds.loops import rate


@pytest.mark.parametrize(("corners", "square"), [(4, 1.0), (5, 1.447), (10, 5.24), (30, 45.8)])
def test_radius(corners, square):
    assert memorization_examples.radius(corners) ** 2 == pytest.approx(square, rel=1e-3)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 8, 10, 14])
def test_polygon_fits_orthonormal_examples(count):
    examples = memorization_examples.draw_disjoint(1000, 0.005, count, rng.stream(0, "test", count))
    x = examples.dense().double()
    torch.testing.assert_close(x @ x.T, torch.eye(count).double())
    W, b = memorization_examples.memorizer(x)
    assert memorization_examples.loss(W, b, x).item() < 1e-12
    h = x @ W
    rho = memorization_examples.radius(count)
    np.testing.assert_allclose(h.norm(dim=1), rho, rtol=1e-6)
    np.testing.assert_allclose(memorization_examples.dimensionality(h), 2 / count, rtol=1e-6)
    assert W.norm().item() ** 2 == pytest.approx(count * rho**2, rel=1e-6)


def test_no_error_of_the_polygon_is_left_to_the_zero_predictor():
    """Predicting zero costs one: examples have length one."""
    x = memorization_examples.draw(300, 0.02, 50, rng.stream(1, "test")).dense()
    np.testing.assert_allclose(x.norm(dim=1), 1, rtol=1e-5)
    assert memorization_examples.loss(torch.zeros(300, 2), torch.zeros(300), x).item() == pytest.approx(1, rel=1e-5)


def test_refuses_examples_that_are_not_orthonormal():
    with pytest.raises(ConfigError, match="not orthonormal"):
        memorization_examples.memorizer(torch.ones(3, 4).double())
    with pytest.raises(ConfigError, match="without a common feature"):
        memorization_examples.draw_disjoint(20, 0.3, 10, rng.stream(0, "test"))


def test_drawn_examples():
    examples = memorization_examples.draw(400, 0.05, 5000, rng.stream(2, "test"))
    active = (examples.value > 0).sum(1).double()
    assert active.mean().item() == pytest.approx(20, abs=4 * (400 * 0.05 * 0.95 / 5000) ** 0.5)
    assert active.var().item() == pytest.approx(19, rel=0.15)
    assert all(len(set(row.tolist())) == len(row) for row in examples.index[:200])
    counts = torch.bincount(examples.index[examples.value > 0], minlength=400)
    assert counts.double().std().item() == pytest.approx(250**0.5, rel=0.15)


def test_kernel_agrees_with_torch():
    examples = memorization_examples.draw(60, 0.1, 40, rng.stream(3, "test"))
    x, draw = examples.dense(), np.random.default_rng(0)
    p = draw.standard_normal((3, 60)).astype(np.float32)
    g = np.zeros_like(p)
    index, value = examples.index.numpy().astype(np.int32), examples.value.numpy()
    found = gradient(p[0], p[1], p[2], index, value, g[0], g[1], g[2])
    W = torch.tensor(p[:2].T, requires_grad=True)
    b = torch.tensor(p[2], requires_grad=True)
    loss = memorization_examples.loss(W, b, x)
    loss.backward()
    assert W.grad is not None
    assert b.grad is not None
    assert found == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(g[:2].T, W.grad, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(g[2], b.grad, rtol=2e-4, atol=2e-5)
    # Thirty steps of AdamW with a schedule, against the optimizer of torch.
    W, b = (t.detach().clone().requires_grad_(True) for t in (W, b))
    rates = np.array([rate(step, 30, 0.01, 0.2) for step in range(30)])
    optimizer = torch.optim.AdamW([W, b], weight_decay=0.1)
    for now in rates:
        optimizer.param_groups[0]["lr"] = now
        optimizer.zero_grad()
        memorization_examples.loss(W, b, x).backward()
        optimizer.step()
    train(p, index, value, rates, 0.1)
    np.testing.assert_allclose(p[:2].T, W.detach(), atol=2e-4)
    np.testing.assert_allclose(p[2], b.detach(), atol=2e-4)


def test_dimensionality_is_that_of_the_geometry():
    rows = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(memorization_examples.dimensionality(rows), feature_dimensionality(rows))


def test_gaps_of_a_pentagon():
    W = torch.cat([memorization_examples.polygon(5), 0.1 * memorization_examples.polygon(7)])
    np.testing.assert_allclose(memorization.angular_gaps(W), 72)


def test_onset():
    assert memorization.onset(np.array([0.0, 0.1, 0.3, 0.4, 0.4, 0.4])) == pytest.approx(2**0.5)
    assert np.isnan(memorization.onset(np.full(6, 0.1)))


def test_the_study():
    outcome = memorization.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.exact["memorized_loss"] < 1e-12
    assert outcome.values["memorized_loss"].value < 0.02
    assert outcome.values["bump"].value > 1
    assert outcome.values["pentagon_features"].value == 5
    assert outcome.values["pentagon_gap"].value < 10
    assert {f.id for f in outcome.figures} == {"F3-loss", "F3-dimensionality", "F3-norms", "F3-onset", "F3-vectors"}
