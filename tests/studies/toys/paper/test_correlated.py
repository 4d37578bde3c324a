"""Correlated and anticorrelated features: tables of exact minima, thresholds, and how arrangements are read."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.measures.geometry import norms
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.diagram import best, random_starts, settle
from digon.studies.toys.paper import correlated
from digon.worlds.features import features
from digon.worlds.fit import sampled_loss
from digon.worlds.toys import Toy

TABLE = {0.05: 0.009206, 0.1: 0.024979, 0.2: 0.069997, 0.3: 0.131007, 0.5: 0.266295, 0.75: 0.340965}
"""Least loss of three correlated pairs in two dimensions, found independently with another method (error about 1e-3)."""


@pytest.fixture(scope="module")
def table():
    return correlated.branches(np.array(list(TABLE)))


def test_exact_minima_of_three_correlated_pairs(table):
    np.testing.assert_allclose(table.optimum.loss, list(TABLE.values()), rtol=2e-3)
    assert table.collapsed.tolist() == [0, 1, 2, 2, 3, 3]


def test_thresholds_from_a_coarse_grid():
    curves = correlated.branches(np.geomspace(0.06, 0.45, 8))
    assert curves.threshold(1) == pytest.approx(0.0713, abs=0.002)
    assert curves.threshold(2) == pytest.approx(0.141, abs=0.003)
    assert curves.threshold(3) == pytest.approx(0.3856, abs=0.015)


def test_the_dense_optimum_is_threefold(table):
    np.testing.assert_allclose(norms(table.optimum.W)[-1], 0.59, atol=0.005)


@pytest.mark.parametrize(
    ("density", "kind", "loss"),
    [(0.05, "correlated", 0.001660), (0.2, "correlated", 0.026091), (0.05, "anticorrelated", 0.0)],
)
def test_exact_minima_of_two_pairs(density, kind, loss):
    law = correlated.law_of([density], 4, kind=kind)
    one = correlated.features(4, law.density.expand(12, 4), sets=law.sets)
    found = best(settle(*random_starts(12, 4, 2, 1), one), 12)
    assert found.loss.item() == pytest.approx(loss, rel=1e-3, abs=1e-6)
    if kind == "anticorrelated":
        assert (correlated.within(found.W) < -0.9999).all()
    else:
        assert correlated.within(found.W).abs().max() < 0.05


def test_the_exact_loss_of_a_collapsed_network_against_sampling():
    found = correlated.branches(np.array([0.3])).optimum
    toy = Toy(6, 2)
    with torch.no_grad():
        toy.W.copy_(found.W)
        toy.b.copy_(found.b)
    law = correlated.law_of([0.3], 6)
    sampled = sampled_loss(toy, law, 400_000, 1)
    assert sampled.item() == pytest.approx(found.loss.item(), rel=0.01)


def test_six_independent_features_prefer_a_hexagon_when_they_are_sparse():
    lead = correlated.hexagon_lead(np.array([0.03, 0.1]))
    assert lead[0] > 0 > lead[1]
    W, b = random_starts(16, 6, 2, 3)
    found = best(settle(W, b, features(6, 0.03)), 16)
    angle = torch.rad2deg(torch.atan2(found.W[0, :, 1], found.W[0, :, 0])).sort().values
    np.testing.assert_allclose(angle.diff(), 60, atol=0.1)


def test_how_arrangements_are_read():
    def circle(*degrees):
        angle = torch.deg2rad(torch.tensor([degrees], dtype=torch.float64))
        return torch.stack([angle.cos(), angle.sin()], -1)

    assert correlated.side_by_side(circle(-32, 32, 88, 152, 208, 272)).item()
    assert correlated.side_by_side(circle(170, -170, 60, 0, -60, -120)).item()  # a pair across the cut of the circle
    assert not correlated.side_by_side(circle(0, 180, 60, 240, 120, 300)).item()
    np.testing.assert_allclose(correlated.gaps(circle(0, 64, 100, 164, 200, 200)), [[64, 64, 0]], atol=1e-5)
    assert correlated.collapsed(circle(0, 64, 100, 164, 200, 200)).tolist() == [[False, False, True]]


def test_rotations_and_seeds_change_nothing_that_is_read():
    turn = torch.linalg.qr(torch.randn(2, 2, generator=rng.stream(0, "turn"), dtype=torch.float64)).Q
    W = random_starts(3, 6, 2, 0)[0]
    torch.testing.assert_close(correlated.within(W @ turn), correlated.within(W))


def test_the_study():
    outcome = correlated.run(StudyConfig(size="smoke"), lambda _: None)
    v = {name: m.value for name, m in outcome.values.items()}
    assert v["pair_cosine"] < 0.05
    assert v["anti_cosine"] < -0.99
    assert v["pair_loss"] == pytest.approx(0.00166, rel=0.01)
    assert v["hexagon_edge"] == pytest.approx(0.0701, abs=0.002)
    assert v["threshold_2"] == pytest.approx(0.141, abs=0.005)
    assert outcome.exact["hexagon_gap"] == pytest.approx(64.4, abs=0.5)
    assert {f.id for f in outcome.figures} == {"E5-pairs", "E5-bases", "E5-collapse", "E5-thresholds"}
