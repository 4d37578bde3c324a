"""Universal AND: expectations against enumeration, variances against sampling, and the numbers known for finite d."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from digon import rng
from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import conjunctions


@pytest.mark.parametrize(("ones", "p"), [(2, 0.125), (3, 0.125), (5, 0.3)])
def test_expectations_against_enumeration(ones, p):
    def mean(extra: int, own: int) -> float:
        e = np.arange(extra + 1)
        return float((binom.pmf(e, extra, p) * np.maximum(e + own - 1, 0)).sum())

    expected = (mean(ones, 0), mean(ones - 1, 1), mean(ones - 2, 2))
    np.testing.assert_allclose(conjunctions.expected_reads(ones, p), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("d", "shared", "ones", "on", "off"),
    [(1024, 16, 2, 0.0, 0.020), (1024, 16, 3, 0.125, 0.057), (4096, 32, 3, 0.0884, 0.032)],
)
def test_known_means(d, shared, ones, on, off):
    p = (shared / d) ** 0.5
    assert conjunctions.expected_reads(ones, p)[2] - 1 == pytest.approx(on, abs=1e-4)
    assert conjunctions.off_mean(100, ones, p) == pytest.approx(off, abs=6e-4)


def test_two_inputs_on_are_read_exactly():
    reads = conjunctions.universal(512, 30, 16.0, 2, 40, rng.stream(0, "test"))
    assert reads.on_error == pytest.approx(0.0, abs=1e-6)
    assert float(reads.r[reads.on].std()) < 1e-6


def test_read_off_by_hand():
    W = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    r = conjunctions.read_off(W, torch.tensor([[1.0, 1, 0], [1, 1, 1]]), conjunctions.all_pairs(3))
    expected = [[1.0, 1.0, 0.5], [1.5, 2.0, 1.5]]
    torch.testing.assert_close(r, torch.tensor(expected))


def test_spread_of_the_sparse_reads():
    """RMS error with three inputs on, over fresh layers."""
    d, shared = 512, 16.0
    squares = []
    for s in range(8):
        reads = conjunctions.universal(d, 40, shared, 3, 60, rng.stream(s, "spread"))
        squares.append(float((reads.r[reads.on] - 1).square().mean()))
    assert math.sqrt(np.mean(squares)) == pytest.approx(conjunctions.on_rms(d, 3, (shared / d) ** 0.5), rel=0.08)


@pytest.mark.parametrize("unit", ["square", "relu"])
@pytest.mark.parametrize("on", [0, 1, 2])
def test_variance_of_random_directions(unit, on):
    """One neuron at a time: c w_i w_j φ(s) has mean [on = 2] and the calculated variance."""
    g, ones, rows = torch.Generator().manual_seed(on), 3, 4_000_000
    w = torch.randn(ones + 2 - on, rows, generator=g, dtype=torch.float64)
    s = w[:ones].sum(0)
    pair = {0: (ones, ones + 1), 1: (0, ones), 2: (0, 1)}[on]
    value = s.square() / 2 if unit == "square" else math.sqrt(2 * math.pi * ones) * s.relu()
    one = w[pair[0]] * w[pair[1]] * value
    assert float(one.mean()) == pytest.approx(float(on == 2), abs=0.03)
    assert float(one.var()) == pytest.approx(conjunctions.random_variance(1, ones, on, unit), rel=0.06)


def test_rounding_removes_small_errors():
    r = torch.tensor([-0.1, 0.0, 0.24, 0.5, 0.76, 1.0, 1.3])
    torch.testing.assert_close(conjunctions.rounded_read(r), torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]))


def test_crowding_limit_is_where_the_shift_is_reached():
    d, shared, ones = 10**6, 8.0, 2
    m = conjunctions.crowding_limit(d, shared, ones)
    sigma = conjunctions.neuron_noise(d, round(m), shared, ones)
    assert sigma / math.sqrt(2 * math.pi) == pytest.approx(conjunctions.SHIFT, rel=0.01)
    assert conjunctions.crowding_limit(4 * d, shared, ones) / m == pytest.approx(8, rel=0.01)


def test_bad_sizes():
    with pytest.raises(ConfigError, match="shared"):
        conjunctions.connections(16, 4, 20.0, rng.stream(0, "test"))


def test_the_study():
    outcome = conjunctions.run(StudyConfig(size="smoke"), lambda _: None)
    for name in ("on_over_theory", "off_over_theory", "square_over_theory", "relu_over_theory"):
        assert outcome.values[name].value == pytest.approx(1.0, abs=0.1)
    assert outcome.values["accuracy_l3"].value > 0.998
    assert outcome.values["noise_over_theory"].value == pytest.approx(1.0, abs=0.25)
    assert [len(f.frames) for f in outcome.figures] == [1, 3, 1]
