"""Quadratic neurons: water filling, the loss formula, the gradient."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize

from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import capacity


@pytest.mark.parametrize("kurtosis", [3.5, 6.0, 20.0])
def test_water_filling_beats_a_generic_optimizer_never_loses_to_it(kurtosis):
    v, d = np.array([1.0, 0.8, 0.5, 0.3, 0.1]), 2
    plan = capacity.water_filling(v, d, kurtosis)
    assert plan.sum() == pytest.approx(d, abs=1e-9)
    other = minimize(
        lambda c: capacity.feature_loss(c, v, kurtosis).sum(), np.full(5, 0.4), method="SLSQP",
        bounds=[(0, 1)] * 5, constraints={"type": "eq", "fun": lambda c: c.sum() - d}, options={"ftol": 1e-14},
    )  # fmt: skip
    assert capacity.feature_loss(plan, v, kurtosis).sum() == pytest.approx(other.fun, abs=1e-6)


def test_kurtosis_three_is_linear_in_the_capacity():
    v = np.array([1.0, 0.7])
    halves = [capacity.feature_loss(np.full(2, c), v, 3.0) for c in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(halves[1], (halves[0] + halves[2]) / 2, atol=1e-15)


def test_boundaries_of_two_features_in_one_dimension():
    beta = 5.0
    below, above = (capacity.water_filling(np.array([1.0, 2 / (beta - 1) * s]), 1, beta)[1] for s in (0.999, 1.01))
    assert below == 0
    assert 0 < above < 0.05


def test_gradient_and_expected_loss():
    v, draw = capacity.IMPORTANCES, np.random.default_rng(0)
    W = 0.5 * draw.standard_normal((8, 3))
    wrong = check_grad(
        lambda w: capacity.loss_and_gradient(w.reshape(8, 3), v, 4.0)[0],
        lambda w: capacity.loss_and_gradient(w.reshape(8, 3), v, 4.0)[1].ravel(),
        W.ravel(),
    )
    assert wrong < 1e-4
    sampled, error, kurtosis = capacity.monte_carlo(W, v, 0.25, 300_000, 1)
    assert kurtosis == pytest.approx(7.2)
    assert abs(sampled - capacity.loss_and_gradient(W, v, kurtosis)[0]) < 4 * error


def test_attained_bound_is_a_tight_frame():
    v, kurtosis = capacity.IMPORTANCES, 6.0
    _, W = capacity.train(v, 3, kurtosis, 10, 0)
    c, size = capacity.capacities(W), (W**2).sum(1)
    sharing = (c > 0.05) & (c < 0.95)
    assert sharing.sum() >= 3
    ratio = size[sharing] / c[sharing]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)


def test_the_study():
    outcome = capacity.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["attained"].value == pytest.approx(1, abs=1e-4)
    assert outcome.values["threshold"].value == pytest.approx(3, abs=0.1)
    assert outcome.values["whole_below_3"].value < 0.02
    assert outcome.values["capacity_sum"].value == pytest.approx(3, abs=1e-3)
    assert {f.id for f in outcome.figures} == {"F1-allocation", "F1-phases"}
