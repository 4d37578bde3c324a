"""Nonlinear compression: exact integrals against quadrature on a grid and earlier numbers."""

import numpy as np
import pytest

from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import nonlinear
from digon.studies.toys.paper.nonlinear import Staircase, exact, staircase


@pytest.mark.parametrize("z", [2, 3, 7])
def test_sharp_steps(z):
    assert exact(Staircase(z, 0.0)) == pytest.approx(1 / (12 * z**2), rel=1e-12)


@pytest.mark.parametrize(
    ("centered", "in_x", "z", "expected"),
    [
        (True, False, 3, [0.0093, 0.0110, 0.0127, 0.0175, 0.0250]),
        (True, False, 5, [0.0033, 0.0054, 0.0073, 0.0130, 0.0217]),
        (True, False, 8, [0.0013, 0.0036, 0.0056, 0.0117, 0.0212]),
        (False, False, 3, [0.0093, 0.0128, 0.0163, 0.0264, 0.0422]),
        (True, True, 3, [0.0093, 0.0143, 0.0191, 0.0318, 0.0482]),
    ],
)
def test_table(centered, in_x, z, expected):
    found = [exact(staircase(z, e, centered=centered, in_x=in_x)) for e in nonlinear.EPSILONS]
    np.testing.assert_allclose(found, expected, atol=1.5e-4)


def test_the_reading_in_which_the_published_claim_fails():
    assert exact(staircase(3, 0.1, centered=False, in_x=True)) == pytest.approx(0.0943, abs=1e-4)
    assert exact(staircase(3, 0.1, centered=False, in_x=True)) > nonlinear.LINEAR


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("width", [0.07, 0.3, 0.9])
def test_exact_against_a_fine_grid(centered, width):
    f = Staircase(4, width, centered)
    line = (np.arange(2000) + 0.5) / 2000
    x, y = np.meshgrid(line, line)
    ex, ey = nonlinear.errors(x, y, f)
    assert exact(f) == pytest.approx(np.mean(ex**2 + ey**2), rel=2e-4)


def test_ramps_are_relus():
    f = Staircase(3, 0.2)
    np.testing.assert_allclose(f(np.array([0.5, 0.9, 1.0, 1.1, 2.0, 3.0])), [0, 0, 0.5, 1, 1.5, 2], atol=1e-12)


@pytest.mark.parametrize(("z", "width", "centered"), [(3, 0.1, True), (5, 0.4, False)])
def test_the_network_computes_the_scheme(z, width, centered):
    f, x = Staircase(z, width, centered), np.random.default_rng(0).random((1000, 2))
    layers = nonlinear.as_network(f)
    np.testing.assert_allclose(
        nonlinear.through(layers, x) - x, np.stack(nonlinear.errors(x[:, 0], x[:, 1], f), 1), atol=1e-9
    )
    assert len(layers[0][1]) + len(layers[2][1]) == 4 * z - 2


def test_a_network_cannot_jump():
    with pytest.raises(ConfigError, match="without ramps"):
        nonlinear.as_network(Staircase(3, 0.0))


def test_overlapping_ramps_are_refused():
    with pytest.raises(ConfigError, match="width"):
        staircase(12, 0.1, centered=True, in_x=True)


def test_the_study():
    outcome = nonlinear.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["sharp_error"].value == pytest.approx(1 / 108, rel=0.01)
    assert outcome.values["gain_one_sided_x"].value < 1 < outcome.values["gain_centered_x"].value
    assert outcome.values["monte_carlo_z"].value < 4
    assert len(outcome.figures[0].frames) == 4
