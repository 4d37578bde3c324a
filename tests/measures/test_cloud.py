"""Dimensions, noise, tails and shape of clouds that are known."""

import math

import numpy as np
import pytest
import torch

from digon.measures import cloud
from digon.worlds import causes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_whitened_rows_are_white_within_their_rank(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4000, 5, generator=g) @ torch.randn(5, 9, generator=g)
    white = cloud.whiten(x - x.mean(0))
    assert white.shape == (4000, 5)
    torch.testing.assert_close(white.T @ white / 4000, torch.eye(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rank", [1, 4, 11])
def test_dimensions_above_noise(seed, rank):
    g = torch.Generator().manual_seed(seed)
    signal = torch.randn(10_000, rank, generator=g) @ torch.randn(rank, 12, generator=g)
    noisy = signal + 0.1 * torch.randn(10_000, 12, generator=g)
    expected = 12 if rank == 11 else rank  # a floor of one dimension is no floor
    assert cloud.noise_rank(noisy - noisy.mean(0)) == expected
    sparse = causes.rotated(10_000, 12, seed).activations.values
    assert cloud.noise_rank(sparse - sparse.mean(0)) == 12


@pytest.mark.parametrize("alpha", [1.5, 3.0, 6.0])
def test_tail_index_of_a_power_law(alpha):
    drawn = np.random.default_rng(0).pareto(alpha, 200_000) + 1
    index, low, high, used = cloud.tail_index(torch.from_numpy(drawn))
    assert low < alpha < high
    assert index == pytest.approx(alpha, rel=0.1)
    assert used == 2000
    assert cloud.tail_index(torch.ones(1000))[0] == math.inf


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("d", [4, 16, 64])
def test_elliptical_whatever_the_shape_and_nothing_else(seed, d):
    for degrees in (2.5, 4.0):
        t = causes.null(20_000, d, seed, "elliptical", degrees=degrees).activations.values
        assert cloud.elliptical(cloud.whiten(t - t.mean(0)))
    for world in (causes.rotated(20_000, d, seed), causes.superposition(20_000, d, seed, active=2.0)):
        h = world.activations.values
        assert not cloud.elliptical(cloud.whiten(h - h.mean(0)))


def test_a_few_points_are_no_cloud():
    points = torch.eye(6).repeat(500, 1)
    points[:, 5] = 0
    assert not cloud.elliptical(points)
