import pytest
import torch

from digon import rng
from digon.measures import dimension
from digon.measures.basis import haar


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
