"""Learning dynamics: how jumps and stages are found, and what training ends in."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import dynamics
from digon.worlds.features import features
from digon.worlds.fit import FitConfig
from digon.worlds.toys import Toy

STEPS = np.arange(0, 6001, 50)


def level(*changes):
    """One feature's dimensionality: 1/3 at first, then other values from given steps on."""
    D = np.full((len(STEPS), 2), 0.5)
    D[:, 0] = 1 / 3
    for at, value in changes:
        D[at <= STEPS, 0] = value
    return D


def test_jumps_are_found_where_they_are():
    assert dynamics.jumps(STEPS, level()) == []
    assert dynamics.jumps(STEPS, level((100, 0.5))) == []  # too early
    assert dynamics.jumps(STEPS, level((2000, 0.45))) == []  # too small
    (found,) = dynamics.jumps(STEPS, level((2000, 0.5)))
    assert abs(found - 2000) <= 250
    two = dynamics.jumps(STEPS, level((2000, 0.5), (4000, 0.3)))
    assert [abs(a - b) <= 250 for a, b in zip(two, (2000, 4000), strict=True)] == [True, True]


def test_slow_drift_is_no_jump():
    D = level()
    D[:, 0] = np.linspace(0.2, 0.9, len(STEPS))
    assert dynamics.jumps(STEPS, D) == []


def test_a_burst_is_a_fall_that_is_faster_than_around():
    loss = 1 - 1e-5 * STEPS
    assert dynamics.burst(STEPS, loss, 3000) == pytest.approx(1)
    loss[STEPS >= 3000] -= 0.01
    assert dynamics.burst(STEPS, loss, 3000) == pytest.approx((0.01 + 50e-5) / 50e-5)


def octahedron():
    axes = torch.eye(3, dtype=torch.float64)
    return torch.cat([axes, -axes])


def test_stages_of_ideal_shapes():
    one = torch.tensor([[1.0, 0, 0]] * 3 + [[-1.0, 0, 0]] * 3, dtype=torch.float64) * 0.58
    turned = torch.linalg.qr(torch.randn(3, 3, generator=rng.stream(0, "turn"), dtype=torch.float64)).Q
    apart = torch.cat([torch.eye(3, dtype=torch.float64), turned])
    shape = dynamics.stages(torch.stack([one, apart, octahedron()])[:, None])
    np.testing.assert_allclose(shape.within[:, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(shape.opposite[[0, 2], 0], [-1, -1], atol=1e-12)
    assert shape.opposite[1, 0] > -0.98
    np.testing.assert_allclose(shape.apart[[0, 2], 0], [-1, -1], atol=1e-12)
    assert shape.order(0) == (0, 1, 2)


def test_stages_out_of_order_do_not_count():
    one = octahedron()
    flat = torch.tensor([[1.0, 0, 0]] * 6, dtype=torch.float64)
    assert dynamics.stages(torch.stack([one, one, flat])[:, None]).order(0) is None


def test_the_course_starts_at_the_initial_weights_and_its_loss_is_exact():
    law, toy = features(4, 0.3), Toy(4, 2, 3, seed=5)
    W = toy.W.detach().clone()
    found = dynamics.course(toy, law, FitConfig(steps=40, batch=64, seed=5), np.array([0, 20, 40]))
    torch.testing.assert_close(found.W[0], W.double())
    torch.testing.assert_close(found.W[-1], toy.W.detach().double())
    x = law.sample(400_000, rng.stream(1, "x"), 1)
    toy_first = Toy(4, 2, 3, seed=5)
    error = (toy_first(x.expand(3, -1, -1)) - x).square().sum(-1).mean(-1)
    np.testing.assert_allclose(found.loss[0], error.detach(), rtol=0.01)


def test_the_study():
    outcome = dynamics.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["digon_share"].value > 0.8
    assert outcome.values["final_norm"].value == pytest.approx(1, abs=0.05)
    assert outcome.values["final_within"].value < 0.05
    assert {f.id for f in outcome.figures} == {"E6-levels", "E6-movie", "E6-kinks", "E6-octahedron"}
