import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.precision import precision


def table(entries, seed, width=4):
    """A network that reads a random table at the index that its only coordinate carries, as a fraction."""
    rows = torch.randn(entries, width, generator=rng.stream(seed, "table"))
    return lambda h: rows[(h[:, 0] * entries).floor().clamp(0, entries - 1).long()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [6, 8, 10])
def test_a_table_needs_the_bits_of_its_index(seed, bits):
    x = torch.rand(3000, 1, generator=rng.stream(seed, "x"))
    centers = ((x * 2**bits).floor() + 0.5) / 2**bits
    found = precision(table(2**bits, seed), centers, rng.stream(seed, "test"))
    assert bits <= found.bits <= bits + 2
    assert found.errors[bits - 3] > 0.5
    assert found.pieces > 2 ** (bits - 3)


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_reader_loses_a_quarter_with_every_bit(seed):
    g = rng.stream(seed, "linear")
    x = torch.rand(3000, 6, generator=g)
    weights = torch.randn(6, 3, generator=g)
    found = precision(lambda h: h @ weights, x, g)
    # error of rounding to 2^b levels: 1 / 12 (2^b - 1)^2 over the variance 1 / 12 of every coordinate
    for b in (3, 4, 5, 6):
        assert found.errors[b - 1] == pytest.approx(1 / (2**b - 1) ** 2, rel=0.15)
    assert found.bits == 3
    assert found.pieces == 1


def test_an_output_that_is_constant_has_nothing_to_lose():
    with pytest.raises(ConfigError):
        precision(lambda h: torch.ones(len(h), 2), torch.rand(100, 2, generator=rng.stream(0, "x")), rng.stream(0, "t"))
