"""Loss surfaces of two features in one dimension: closed forms, sampling, the jump."""

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import surfaces

CONFUSED = {1.0: 0.083333, 0.9: 0.0975, 0.8: 0.106667, 0.7: 0.110833, 0.6: 0.11, 0.5: 0.104167}
ANTIPODAL = {0.5: 0.0813, 0.6: 0.1159}


def test_closed_forms_against_the_published_minima():
    for p, loss in CONFUSED.items():
        assert surfaces.confused_loss(p) == pytest.approx(loss, abs=1e-6)
    for p, loss in ANTIPODAL.items():
        assert surfaces.antipodal_loss(p) == pytest.approx(loss, abs=1e-4)


def by_integration(w, p, r):
    """The loss of weights without bias, by adaptive integration over the two values."""

    def error(x, y):
        h = w[0] * x + w[1] * y
        return (x - max(w[0] * h, 0)) ** 2 + r * (y - max(w[1] * h, 0)) ** 2

    one = quad(lambda x: error(x, 0), 0, 1)[0] + quad(lambda y: error(0, y), 0, 1)[0]
    both = dblquad(lambda y, x: error(x, y), 0, 1, 0, 1, epsabs=1e-9)[0]
    return p * (1 - p) * one + p**2 * both


@pytest.mark.parametrize("w", [(0.7, 0.7), (1.0, -0.9), (-0.4, 1.3), (0.0, 1.0)])
def test_the_surface_against_adaptive_integration(w):
    point = torch.tensor([w], dtype=torch.float64)
    assert surfaces.surface(point, 0.4, 0.6).item() == pytest.approx(by_integration(w, 0.4, 0.6), abs=1e-6)


def test_candidates_lie_on_the_surface_and_are_stationary():
    for p in (0.3, 0.55, 0.9):
        side = surfaces.antipodal_square(p) ** 0.5
        for w, loss in (((0.5**0.5,) * 2, surfaces.confused_loss(p)), ((side, -side), surfaces.antipodal_loss(p))):
            point = torch.tensor([w], dtype=torch.float64, requires_grad=True)
            value = surfaces.surface(point, p, 1.0)
            assert value.item() == pytest.approx(loss, abs=1e-12)
            assert torch.autograd.grad(value.sum(), point)[0].abs().max() < 1e-12


def test_the_jump_is_between_one_half_and_six_tenths():
    assert surfaces.jump() == pytest.approx(0.58217, abs=1e-4)
    below, above = surfaces.path(np.array([0.581, 0.5835]), np.ones(2))
    assert below[1] < -0.9
    assert above[1] == pytest.approx(0.5**0.5, abs=1e-4)


def test_symmetries_of_the_surface():
    w = torch.randn(20, 2, generator=rng.stream(0, "w"), dtype=torch.float64)
    torch.testing.assert_close(surfaces.surface(w, 0.3, 1.0), surfaces.surface(w.flip(1), 0.3, 1.0))
    torch.testing.assert_close(surfaces.surface(w, 0.3, 0.4), surfaces.surface(-w, 0.3, 0.4))
    torch.testing.assert_close(surfaces.surface(w, 0.3, 4.0), 4 * surfaces.surface(w.flip(1), 0.3, 0.25))


def test_the_study():
    outcome = surfaces.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["minima_gap"].value < 1e-9
    assert outcome.values["sampling_z"].value < 5
    assert outcome.values["jump_density"].value == pytest.approx(0.582, abs=0.003)
    assert outcome.values["jump_size"].value == pytest.approx(outcome.exact["jump_size"], abs=0.01)
    assert {f.id for f in outcome.figures} == {"C2-surfaces", "C2-jump"}
