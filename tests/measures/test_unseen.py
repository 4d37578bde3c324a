import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.unseen import chao1, coverage, detected


def zipf(n, exponent, sightings, numbers):
    share = np.arange(1, n + 1.0) ** -exponent
    share /= share.sum()
    return share, torch.from_numpy(numbers.multinomial(sightings, share))


def test_closed_forms():
    counts = torch.tensor([1, 1, 1, 1, 2, 2, 9, 0])
    assert chao1(counts).value == pytest.approx(7 + 16 / 17 * 16 / 4)
    assert coverage(counts).value == pytest.approx(1 - 4 / 17 * (16 * 4) / (16 * 4 + 4))
    once = torch.tensor([1, 1, 1, 5])
    assert chao1(once).value == pytest.approx(4 + 7 / 8 * 3 * 2 / 2)
    complete = torch.tensor([50, 60, 70])
    assert chao1(complete).value == chao1(complete).high == 3
    assert coverage(complete).value == 1
    assert coverage(torch.zeros(3)).value != coverage(torch.zeros(3)).value
    assert chao1(torch.zeros(3)).value == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.2])
def test_chao_bounds_a_zipf_world_from_below(seed, exponent):
    numbers = rng.numpy_stream(seed, "zipf")
    low, value, seen = [], [], []
    for _ in range(100):
        _, counts = zipf(300, exponent, 900, numbers)
        found = chao1(counts)
        low.append(found.low)
        value.append(found.value)
        seen.append(int((counts > 0).sum()))
    assert np.mean(np.array(low) <= 300) >= 0.9  # the interval's lower end is a bound
    assert np.mean(value) <= 300 * 1.03
    assert np.mean(value) > np.mean(seen)  # and better than counting what was seen
    if exponent == 0:
        assert np.mean(value) == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_the_interval_of_coverage_covers(seed, exponent):
    numbers = rng.numpy_stream(seed, "coverage")
    inside = []
    for _ in range(200):
        share, counts = zipf(500, exponent, 1000, numbers)
        truth = share[counts.numpy() > 0].sum()
        found = coverage(counts)
        inside.append(found.low <= truth <= found.high)
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_species_that_need_several_sightings(seed):
    numbers = rng.numpy_stream(seed, "floor")
    rates = 400 * np.arange(1, 121.0) ** -1.0
    value, seen = [], []
    for _ in range(100):
        counts = torch.from_numpy(numbers.poisson(rates))
        value.append(detected(counts, 6).value)
        seen.append(int((counts >= 6).sum()))
    assert np.mean(seen) < np.mean(value) < 120
    assert np.mean(value) < (rates > 1).sum()


def test_nonsense_is_refused():
    for bad in (lambda: chao1(torch.tensor([-1, 2])), lambda: detected(torch.tensor([3]), 0)):
        with pytest.raises(ConfigError):
            bad()
