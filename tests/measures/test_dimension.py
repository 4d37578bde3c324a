import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures import dimension
from digon.measures.basis import haar
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_few_isotropic_rows_still_read_d(seed):
    x = torch.randn(120, 60, generator=rng.stream(seed, "iso"))
    centered = (x - x.mean(0)).double()
    covariance = centered.T @ centered / 119
    assert dimension.participation_ratio(covariance) < 45
    assert dimension.participation_ratio(covariance, 120) == pytest.approx(60, rel=0.12)


def test_rank_and_rotation():
    x = torch.zeros(4000, 10)
    x[:, :3] = torch.randn(4000, 3, generator=rng.stream(0, "rank"))
    owner = torch.arange(4000) // 20
    value, low, high = dimension.participation_interval(x, owner, rng.stream(0, "j"))
    assert low < 3 < high
    assert value == pytest.approx(3, abs=0.05)
    rotated, _, _ = dimension.participation_interval(x @ haar(10, rng.stream(1, "q")), owner, rng.stream(0, "j"))
    torch.testing.assert_close(rotated, value, rtol=1e-4, atol=0)
    assert dimension.participation_ratio(torch.zeros(3, 3)).isnan()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_intrinsic_dimension_of_a_gaussian(seed, d):
    g = rng.stream(seed, "gauss")
    x = torch.randn(4000, d, generator=g) @ torch.randn(d, 12, generator=g)
    assert dimension.two_nn(x, g).value == pytest.approx(d, rel=0.1)
    assert dimension.levina_bickel(x, g).value == pytest.approx(d, rel=0.12)


@pytest.mark.parametrize("seed", range(3))
def test_a_circle_has_one_dimension_and_its_interval_covers_it(seed):
    g = rng.stream(seed, "circle")
    turn = 2 * torch.pi * torch.rand(3000, generator=g)
    x = torch.stack([turn.cos(), turn.sin()], 1) @ torch.randn(2, 6, generator=g)
    found = dimension.two_nn(x, g)
    assert found.low < 1.02
    assert found.high > 0.98
    assert dimension.levina_bickel(x, g).value == pytest.approx(1, abs=0.05)
    again = dimension.two_nn(torch.cat([x, x]), g, rows=10_000)
    assert again.repeated == pytest.approx(0.5)
    assert again.value == pytest.approx(found.value, rel=0.15)
    points = dimension.two_nn(x[:4].repeat(100, 1), g)
    assert math.isnan(points.value)


@pytest.mark.parametrize("seed", range(3))
def test_ranks_against_noise(seed):
    g = rng.stream(seed, "rank")
    signal = torch.randn(3000, 4, generator=g) @ torch.randn(4, 40, generator=g)
    x = signal + 0.5 * torch.randn(3000, 40, generator=g)
    assert dimension.parallel_rank(x, g)[0] == 4
    centered = x - x.mean(0)
    assert dimension.gavish_donoho_rank(torch.linalg.svdvals(centered), 3000, 40) == 4
    noise = torch.randn(3000, 40, generator=g)
    assert dimension.parallel_rank(noise, g)[0] <= 1
    assert dimension.gavish_donoho_rank(torch.linalg.svdvals(noise), 3000, 40) == 0


def test_the_published_thresholds():
    # Gavish & Donoho 2014: 4/√3 over the median of the quarter circle law, and their cubic approximation
    assert dimension.optimal_threshold(1.0) == pytest.approx(2.858, abs=1e-3)
    for beta in (0.1, 0.3, 0.7):
        cubic = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
        assert dimension.optimal_threshold(beta) == pytest.approx(cubic, abs=0.03)
    with pytest.raises(ConfigError):
        dimension.optimal_threshold(0.0)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_the_same_shape(seed):
    g = rng.stream(seed, "shape")
    x = causes.null(20_000, 6, seed, "elliptical", degrees=8.0).activations.values
    copy = dimension.same_shape(x, 20_000, g)
    torch.testing.assert_close(torch.cov(copy.T), torch.cov(x.T), atol=0.35, rtol=0.2)
    assert float(copy.norm(dim=1).median()) == pytest.approx(float(x.norm(dim=1).median()), rel=0.03)
    assert dimension.two_nn(copy, g).value == pytest.approx(dimension.two_nn(x, g).value, rel=0.1)


def test_too_few_rows_are_refused():
    few = torch.zeros(2, 3)
    for bad in (dimension.two_nn, dimension.levina_bickel, dimension.parallel_rank):
        with pytest.raises(ConfigError):
            bad(few, rng.stream(0, "few"))
