import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.geometry import feature_dimensionality
from digon.measures.inputs import (
    coincidence,
    data_dimensionality,
    distinct,
    held_out_kurtosis,
    sharing,
    some_inputs,
    unexplained,
)
from digon.worlds import causes


def measured(world, seed):
    return sharing(world.activations.values, world.activations.tokens, rng.stream(seed, "test"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["random", "hash", "index"])
def test_codes_of_a_table_have_one_length_and_share_nothing(seed, kind):
    found = measured(causes.lookup(6000, 16, seed, kind, points=256), seed)
    assert found.inputs == 256
    assert found.codes == pytest.approx(256, abs=2)
    assert found.spread < 0.05
    assert found.tails < 0
    assert found.sparse < 2.5 * found.sparse_error
    assert found.within == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_features_return_in_other_inputs(seed):
    found = measured(causes.superposition(10_000, 16, seed, active=2.0), seed)
    assert found.sparse > 5 * found.sparse_error
    assert found.beyond_units > 5
    assert found.spread > 2
    assert math.isnan(found.within)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_shared_where_nothing_is(seed):
    for kind in ("colored", "elliptical"):
        found = measured(causes.null(6000, 12, seed, kind), seed)
        assert found.sparse < 2.5 * found.sparse_error
        if kind == "colored":
            assert found.spread == pytest.approx(1, abs=0.1)
            assert found.white_spread == pytest.approx(1, abs=0.1)
            assert found.tails == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_kurtosis_of_known_sources(seed):
    g = rng.stream(seed, "sources")
    sparse = torch.randn(8000, 6, generator=g, dtype=torch.float64) * (torch.rand(8000, 6, generator=g) < 0.25)
    z = sparse / sparse.square().mean(0).sqrt()
    above, error = held_out_kurtosis(z, g)
    # kurtosis 3 / 0.25 = 12 of every source, less 3 E|z|^4 / r (r + 2) = 3 (r (r - 1) + 12 r) / r (r + 2)
    assert above == pytest.approx(12 - 3 * (5 + 12) / 8, abs=4 * error)
    signs = (2.0 * torch.randint(2, (8000, 6), generator=g) - 1).double()
    # of all directions the densest has the largest kurtosis, 3 - 2 / r, and the elliptical law 3 r^2 / r (r + 2)
    assert held_out_kurtosis(signs, g)[0] == pytest.approx(3 - 2 / 6 - 18 / 8, abs=0.1)


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
    # one pair, 2 apart: its variance is 2 over 2 coordinates, that of all values is the sum over 6
    assert within == pytest.approx((2 / 2) / float((values - values.mean(0)).square().mean()), rel=1e-6)
    assert distinct(values, torch.tensor([2, 0, 1]))[0].tolist() == [[3, 0], [0, 5], [1, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_recurring_inputs_is_measured_and_codes_are_counted(seed):
    world = causes.observed(causes.lookup(4000, 16, seed, "product", points=300), ["noise"], seed)
    found = measured(world, seed)
    assert found.within == pytest.approx(0.1 / 1.1, abs=0.01)
    truth = len(causes.lookup(4000, 16, seed, "product", points=300).truth.atoms.unique(dim=0))
    assert found.codes == pytest.approx(truth, rel=0.1)
    same = torch.tensor([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert coincidence(same, 0.0, rng.stream(seed, "same")) == pytest.approx((0.5, 1 / 3))


@pytest.mark.parametrize("seed", range(3))
def test_inputs_are_drawn_whole(seed):
    inputs = torch.arange(900) // 3
    rows, names = some_inputs(torch.arange(900.0)[:, None], inputs, rng.stream(seed, "some"), most=50)
    assert len(names.unique()) == 50
    assert torch.bincount(names)[names.unique()].tolist() == [3] * 50
    assert torch.equal(rows[:, 0].long() // 3, names)


def test_too_few_inputs_are_refused():
    few = torch.randn(200, 3, generator=rng.stream(0, "few"))
    inputs = torch.arange(200) % 5
    with pytest.raises(ConfigError):
        sharing(few, inputs, rng.stream(0, "few"))
    with pytest.raises(ConfigError):
        data_dimensionality(few, inputs, few[:1])
