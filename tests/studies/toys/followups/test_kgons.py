"""k-gons: the printed table, a second implementation, the Hessian, a closed form, invariances."""

import numpy as np
import pytest
import torch

from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import kgon_levels, kgon_posterior, kgons

POTENTIALS = {5: 0.23738, 6: 0.86746, 7: 1.74870, 8: 2.77310}
LEVELS_5 = {"4": 0.06667, "4+": 0.05667, "5": 0.01583}
LEVELS_6 = {"4": 0.11111, "4+": 0.10417, "4++": 0.09722, "5": 0.06874, "5+": 0.06180, "6": 0.04819}
SQUARES = {"4": 2.0, "4+": 2.00347, "5": 3.62417, "5+": 3.62764, "6": 6.37767}


@pytest.mark.parametrize("k", POTENTIALS)
def test_critical_polygons_are_the_printed_ones(k):
    norm, bias, potential = kgon_levels.critical(k)
    assert (norm, bias) == pytest.approx(kgon_levels.PUBLISHED[k], abs=1e-4)
    assert potential == pytest.approx(POTENTIALS[k], abs=1e-4)
    loss, slope = kgons.second_loss(*kgon_levels.polygon(k, k, norm, bias))
    assert 3 * k * loss == pytest.approx(potential, abs=1e-12)
    assert slope < 1e-9


def test_twelve_corners():
    found = kgon_levels.search(12, (1.0, -0.5))
    assert found is not None
    norm, bias, potential = found
    assert (norm, bias) == pytest.approx((1.03322, -0.46654), abs=1e-4)
    assert potential / 36 == pytest.approx(0.19591, abs=1e-5)


@pytest.mark.parametrize(("c", "table"), [(5, LEVELS_5), (6, LEVELS_6)])
def test_levels(c, table):
    found = {level.name: level for level in kgon_levels.levels(c)}
    assert {name: level.loss for name, level in found.items()} == pytest.approx(table, abs=1e-5)
    for name, level in found.items():
        assert kgons.second_loss(level.W, level.b)[0] == pytest.approx(level.loss, abs=1e-12), name
    if c == 6:
        assert {name: found[name].square for name in SQUARES} == pytest.approx(SQUARES, abs=5e-5)
        assert kgon_levels.crossover(found["5"], found["6"]) == pytest.approx(601, abs=5)
        assert kgon_levels.crossover(found["5"], found["6"], prior=False) == pytest.approx(445, abs=1)


@pytest.mark.parametrize("c", [5, 6, 7, 8])
def test_rank_of_the_full_polygon(c):
    """Everything but the common rotation is curved: 2 λ = 3c − 1."""
    W, b = kgon_levels.polygon(c, c, *kgon_levels.critical(c)[:2], plus=0)
    values = np.sort(np.abs(np.linalg.eigvalsh(kgon_levels.hessian(W, b))))
    assert values[0] < 1e-7
    assert (values[1:] > 1e-4).all()


def test_gradient_and_rotation():
    draw = np.random.default_rng(0)
    W, b = draw.standard_normal((4, 6, 2)), 0.5 * draw.standard_normal((4, 6))
    loss, to_W, to_b = kgon_levels.loss_and_gradient(W, b)
    for i in range(4):
        assert kgons.second_loss(W[i], b[i])[0] == pytest.approx(loss[i], abs=1e-12)
    for k, at in ((0, (2, 3, 1)), (1, (1, 4))):
        moved = [[W.copy(), b.copy()] for _ in range(2)]
        moved[0][k][at] += 1e-6
        moved[1][k][at] -= 1e-6
        up, down = (kgon_levels.loss_and_gradient(*m)[0] for m in moved)
        assert (up - down)[at[0]] / 2e-6 == pytest.approx((to_W, to_b)[k][at], abs=1e-7)
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    np.testing.assert_allclose(kgon_levels.loss_and_gradient(W @ turn, b)[0], loss, atol=1e-13)


def test_loss_is_the_mean_over_samples():
    draw = torch.Generator().manual_seed(3)
    W, b = torch.randn(6, 2, generator=draw).double(), 0.3 * torch.randn(6, generator=draw).double()
    one = torch.randint(6, (400_000,), generator=draw)
    x = torch.nn.functional.one_hot(one, 6) * torch.rand(400_000, 1, generator=draw).double()
    error = (x - torch.relu(x @ W @ W.T + b)).square().sum(1)
    exact = float(kgon_levels.loss_and_gradient(W.numpy(), b.numpy())[0])
    assert abs(error.mean().item() - exact) < 4 * error.std().item() / 400_000**0.5


def test_corners_of_the_hull():
    hexagon, _ = kgon_levels.polygon(6, 6, 1.3, -0.6)
    pentagon, _ = kgon_levels.polygon(5, 6, 1.2, -0.3)
    inside = pentagon.copy()
    inside[5] = (0.3, 0.2)
    np.testing.assert_array_equal(kgon_posterior.corners(np.stack([hexagon, inside])), [6, 5])


def test_exchange_keeps_equal_losses_apart_only_by_chance():
    """Replicas of equal loss always swap; the colder one takes the lower loss for sure."""
    levels = {level.name: level for level in kgon_levels.levels(6)}
    flat = {k: np.concatenate([v.W.ravel(), v.b]) for k, v in levels.items()}
    w, n = np.stack([flat["6"], flat["5"]])[None], np.array([10.0, 1e6])
    swapped = kgon_posterior.exchange(w, n, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(swapped[0, 1], flat["6"])
    back = kgon_posterior.exchange(swapped, n, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(back, swapped)


def test_too_few_corners():
    with pytest.raises(ConfigError, match="2 corners"):
        kgon_levels.critical(2)


def test_the_study():
    outcome = kgons.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["energy_6"].value == pytest.approx(0.04819, abs=1e-5)
    assert outcome.exact["lambda_5"] == 7
    assert outcome.exact["lambda_5_plus"] == outcome.exact["lambda_6"] == 8.5
    assert outcome.values["lambda_6"].value == pytest.approx(8.5, abs=1.2)
    assert outcome.values["polygons_9_to_11"].value == 3
    assert len(outcome.figures) == 5
