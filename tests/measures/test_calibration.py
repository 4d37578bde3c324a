"""Calibration against closed forms, simulation and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from digon import rng
from digon.measures.calibration import (
    abstention_curve,
    brier,
    conformal_rank,
    conformal_threshold,
    covered,
    reliability,
)


def calls(seed, n, bend=1.0):
    """Confidences between .3 and 1 that are right with probability confidence ** bend."""
    g = rng.stream(seed, "calls")
    confidence = 0.3 + 0.7 * torch.rand(n, generator=g)
    return confidence, torch.rand(n, generator=g) < confidence**bend


@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_that_of_scikit_learn(seed):
    confidence, right = calls(seed, 2000)
    mine = reliability(confidence, right)
    full = mine.counts > 0
    accuracy, mean = calibration_curve(right.numpy(), confidence.numpy(), n_bins=10)
    np.testing.assert_allclose(mine.accuracy[full], accuracy, atol=1e-6)
    np.testing.assert_allclose(mine.confidence[full], mean, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_honest_confidences_have_no_error_and_bent_ones_do(seed):
    assert reliability(*calls(seed, 20_000)).error < 0.015
    # E[c − c³] for c uniform on [.3, 1]: (.455 − .248) / .7
    assert reliability(*calls(seed, 20_000, bend=3.0)).error == pytest.approx(0.2958, abs=0.015)


def test_no_calls_no_error():
    assert np.isnan(reliability(torch.zeros(0), torch.zeros(0, dtype=torch.bool)).error)


def test_brier_is_twice_that_of_two_classes():
    confidence, right = calls(0, 500)
    p = torch.stack([confidence, 1 - confidence], 1)
    truth = torch.stack([right, ~right], 1).float()
    assert float(brier(p, truth)) == pytest.approx(2 * brier_score_loss(right.numpy(), confidence.numpy()), abs=1e-6)


@pytest.mark.parametrize(("n", "confidence"), [(20, None), (80, None), (80, 0.9), (200, 0.95)])
def test_conformal_coverage_is_what_was_promised(n, confidence):
    g = rng.stream(0, "conformal", n)
    scores = torch.rand(4000, n, generator=g, dtype=torch.float64)
    # Uniform scores: coverage of a threshold is one minus it.
    coverage = torch.stack([1 - conformal_threshold(row, 0.9, confidence) for row in scores])
    if confidence is None:
        assert coverage.mean() >= 0.9 - 0.002
    else:
        assert (coverage >= 0.9).double().mean() >= confidence - 0.015


def test_too_few_examples_exclude_nothing():
    assert conformal_rank(8) == 0
    assert conformal_rank(21, confidence=0.9) == 0  # .9 ^ 22 > .1
    assert float(conformal_threshold(torch.ones(5))) == -np.inf


def test_any_right_class_covers():
    sets = torch.tensor([[True, False, True], [False, True, False]])
    right = torch.tensor([[False, False, True], [True, False, True]])
    assert covered(sets, right).tolist() == [True, False]


def test_abstaining_on_the_least_sure_lowers_the_error():
    confidence, right = calls(1, 5000, bend=2.0)
    made, wrong = abstention_curve(confidence, right)
    assert float(made[-1]) == 1
    assert float(wrong[-1]) == pytest.approx(1 - right.float().mean().item(), abs=1e-5)
    assert wrong[len(wrong) // 4] < wrong[len(wrong) // 2] < wrong[-1]
