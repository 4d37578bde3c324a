"""Toys beside compressed sensing: linear programs, packing, bounds."""

import numpy as np
import pytest

from digon import rng
from digon.measures.bounds import features_per_dimension_bound, recovery_dimensions
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import sensing
from digon.worlds.fit import FitConfig


def test_the_bound_at_two_percent():
    assert features_per_dimension_bound(0.02) == pytest.approx(12.78, abs=0.01)


def test_linear_programs_recover_far_above_the_limit_and_fail_far_below():
    n, k = 60, 4
    limit, draw = recovery_dimensions(n, k, signed=False), rng.numpy_stream(0, "test")
    for share, least, most in ((0.5, 0.0, 0.1), (1.7, 0.9, 1.0)):
        m = round(limit * share)
        rate = np.mean([sensing.recovered(draw.standard_normal((n, m)), k, draw) for _ in range(20)])
        assert least <= rate <= most


def test_half_of_all_vectors_are_recovered_at_the_statistical_dimension():
    found = sensing.half_recovered(60, 4, 20, 1)
    assert found == pytest.approx(recovery_dimensions(60, 4, signed=False), rel=0.15)


def test_dense_networks_store_one_feature_per_dimension():
    plan = FitConfig(steps=800, batch=256, learning_rate=1e-2, schedule="cosine", seed=0)
    found = sensing.pack(20, 5, np.array([1.0, 0.05]), plan)
    np.testing.assert_allclose(found.frobenius[:, 0], 1, atol=0.1)
    assert (found.count[:, 1] >= 1.8).all()
    assert found.frobenius.shape == (3, 2)


def test_the_study():
    outcome = sensing.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["largest_ratio"].value < 2
    assert outcome.values["grows"].value == 1
    assert outcome.values["recovery_ratio"].value == pytest.approx(1, abs=0.15)
    assert {f.id for f in outcome.figures} == {"E12-packing", "E12-dimensions"}
