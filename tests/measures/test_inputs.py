import math

import pytest
import torch

from digon import rng
from digon.coders.atoms_rays import rays
from digon.errors import ConfigError
from digon.measures.geometry import feature_dimensionality
from digon.measures.inputs import coincidence, data_dimensionality, distinct, generalization, unexplained
from digon.worlds import causes


def measured(world, seed):
    g = rng.stream(seed, "test")
    learn = lambda rows: rays(rows, g).directions if len(rows) >= 100 else rows[:0]  # noqa: E731
    return generalization(world.activations.values, world.activations.tokens, learn, g)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "points"), [("random", 16), ("random", 64), ("hash", 32)])
def test_a_look_up_code_does_not_generalize(seed, kind, points):
    found = measured(causes.lookup(3000, 8, seed, kind, points=points), seed)
    assert found.reuse < 0.1
    assert found.gap > 50
    assert found.slope == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_features_generalize(seed):
    found = measured(causes.superposition(6000, 8, seed), seed)
    assert found.reuse > 0.9
    assert found.gap < 2
    assert abs(found.slope) < 0.2
    assert found.directions == 16


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_where_nothing_is(seed):
    found = measured(causes.null(2000, 6, seed), seed)
    assert found.directions == 0
    assert found.seen_fvu == 1
    assert math.isnan(found.reuse)
    assert math.isnan(found.slope)


def test_unexplained_in_closed_form():
    x = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, -2.0]])
    axes = torch.eye(3)
    assert unexplained(x, axes, active=2) == pytest.approx(4 / 29, abs=1e-6)  # a direction explains nothing behind it
    assert unexplained(x, axes, active=1) == pytest.approx((9 + 4) / 29, abs=1e-6)
    assert unexplained(x, axes[:0]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_dimensionality_of_data_points(seed):
    g = rng.stream(seed, "dimensionality")
    codes = torch.nn.functional.normalize(torch.randn(40, 6, generator=g), dim=1)
    found = data_dimensionality(codes, torch.arange(40), codes)
    assert found.of_inputs == pytest.approx(float(feature_dimensionality(codes).mean()), rel=1e-4)
    assert found.ratio == pytest.approx(1, rel=1e-4)
    # T data points on a T-gon: each has 2/T of a dimension, as Henighan et al. find
    turn = 2 * math.pi * torch.arange(20) / 20
    polygon = torch.stack([turn.cos(), turn.sin()], 1)
    assert data_dimensionality(polygon, torch.arange(20), polygon).of_inputs == pytest.approx(2 / 20, rel=1e-4)


def test_distinct_inputs():
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    means, owner, within = distinct(values, torch.tensor([7, 7, 2]))
    assert means.tolist() == [[0, 5], [2, 0]]
    assert owner.tolist() == [1, 1, 0]
    assert within == pytest.approx(2 / float((values - values.mean(0)).square().sum()))
    assert coincidence(torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [0.0, 0.0]])) == pytest.approx(1 / 3)


def test_too_few_inputs_are_refused():
    few = torch.randn(200, 3, generator=rng.stream(0, "few"))
    inputs = torch.arange(200) % 5
    with pytest.raises(ConfigError):
        generalization(few, inputs, lambda rows: rows[:1], rng.stream(0, "few"))
    with pytest.raises(ConfigError):
        data_dimensionality(few, inputs, few[:1])
