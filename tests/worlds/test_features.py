"""Laws of sparse features: moments, dependence, the sparse form, and what is refused."""

import inspect
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare, multivariate_normal

from digon import rng
from digon.errors import ConfigError
from digon.worlds import memory
from digon.worlds.features import (
    VALUES,
    FeatureSet,
    check_law,
    features,
    geometric,
    joint_density,
    moments,
    power_law,
    second_moments,
)
from digon.worlds.population import expected_loss

ROWS = 200_000
FAMILY = FeatureSet((4, 5, 6, 7), "hierarchy", parents=(-1, 4, 4, 6))
MIXED = features(
    9,
    [0.3, 0.3, 0.1, 0.2, 0.5, 0.25, 0.2, 0.05, 0.4],
    sets=(FeatureSet((0, 1), "correlated"), FeatureSet((2, 3), "anticorrelated"), FAMILY),
)
COPULA = features(3, [0.1, 0.02, 0.5], sets=(FeatureSet((0, 1, 2), "copula", correlation=0.6),))


def dense(law, seed):
    return law.sample(ROWS, rng.stream(seed, "dense"))[0]


def sparse(law, seed):
    return law.sample_sparse(ROWS, rng.stream(seed, "sparse")).dense(ROWS, law.n)


@pytest.mark.parametrize("draw", [dense, sparse])
@pytest.mark.parametrize("law", [MIXED, COPULA], ids=["mixed", "copula"])
def test_features_are_active_together_as_often_as_the_law_says(law, draw):
    active = (draw(law, 0) != 0).double()
    together = (active.T @ active) / ROWS
    exact = joint_density(law)
    error = (exact * (1 - exact) / ROWS).sqrt()
    assert ((together - exact).abs() <= 4.5 * error).all()


@pytest.mark.parametrize("draw", [dense, sparse])
@pytest.mark.parametrize("values", VALUES)
def test_moments_of_values(values, draw):
    x = draw(features(4, [1.0, 0.5, 0.2, 0.01], values=values), 1).double()
    first, second = moments(values)
    density = torch.tensor([1.0, 0.5, 0.2, 0.01], dtype=torch.float64)
    for power, moment in ((1, first), (2, second)):
        error = (x**power).std(0) / ROWS**0.5
        assert (((x**power).mean(0) - density * moment).abs() <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("draw", [dense, sparse])
def test_exact_second_moments_of_sets(draw):
    law = MIXED
    x = draw(law, 2).double()
    mean, both = second_moments(law)
    assert ((x.mean(0) - mean).abs() <= 4.5 * x.std(0) / ROWS**0.5).all()
    products = x[:, :, None] * x[:, None, :]
    assert ((products.mean(0) - both).abs() <= 4.5 * products.std(0) / ROWS**0.5 + 1e-12).all()


def test_what_every_kind_of_set_means():
    # Constant values, because one uniform float32 number in 16 million is 0.
    x = dense(replace(MIXED, values="constant"), 3) != 0
    assert (x[:, 0] == x[:, 1]).all()
    assert not (x[:, 2] & x[:, 3]).any()
    assert not (x[:, [5, 6]] & ~x[:, [4]]).any()
    assert not (x[:, 7] & ~x[:, 6]).any()


def test_the_sparse_form_counts_like_a_binomial_and_never_repeats_a_cell():
    law = features(40, geometric(40, 0.8, 0.3))
    found = law.sample_sparse(3000, rng.stream(4, "sparse"))
    cells = found.row * 40 + found.feature
    assert (cells.diff() > 0).all(), "sorted by row and feature, no cell twice"
    # Rows on which feature 0 is active in blocks of ten rows: a binomial law with ten trials.
    rows = found.row[found.feature == 0] // 10
    counts = np.bincount(np.bincount(rows.numpy(), minlength=300), minlength=11)
    expected = 300 * binom.pmf(np.arange(11), 10, 0.3)
    pooled = [np.concatenate([v[:5], [v[5:].sum()]]) for v in (counts, expected)]
    assert chisquare(*pooled).pvalue > 1e-3


def test_the_sparse_form_of_a_wide_law_takes_memory_of_the_active_features():
    n, rows = 1_000_000, 1_000_000  # a dense sample would have a trillion numbers
    law = features(n, 1e-7)
    found = law.sample_sparse(rows, rng.stream(5, "wide"))
    assert len(found.row) == pytest.approx(rows * n * 1e-7, abs=5 * math.sqrt(rows * n * 1e-7))
    assert found.row.max() < rows
    assert found.feature.max() > 0.999 * n


def test_densities_and_laws_may_differ_between_instances():
    law = features(2, torch.tensor([[0.1, 0.2], [0.3, 0.9]]))
    x = law.sample(100_000, rng.stream(6, "instances"), 2)
    np.testing.assert_allclose((x != 0).double().mean(1), law.density, atol=0.006)
    found = law.sample_sparse(100_000, rng.stream(6, "sparse"), instance=1)
    np.testing.assert_allclose(torch.bincount(found.feature) / 100_000, [0.3, 0.9], atol=0.006)
    with pytest.raises(ConfigError, match="2 instances for 3"):
        law.sample(4, rng.stream(6, "wrong"), 3)


def test_equal_streams_give_equal_samples():
    for law in (MIXED, COPULA):
        a, b = (law.sample_sparse(500, rng.stream(7, "same")) for _ in range(2))
        assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))
        assert torch.equal(law.sample(50, rng.stream(7, "x")), law.sample(50, rng.stream(7, "x")))


@pytest.mark.parametrize("rho", [-0.45, 0.0, 0.3, 0.95])
def test_the_copula_against_a_second_implementation(rho):
    law = features(3, [0.1, 0.02, 0.5], sets=(FeatureSet((0, 1, 2), "copula", correlation=rho),))
    edges = torch.special.ndtri(law.density).numpy()
    expected = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(edges[:2])
    assert joint_density(law)[0, 1].item() == pytest.approx(expected, abs=2e-6)


def test_a_copula_of_full_correlation_nests_its_members():
    law = features(2, [0.1, 0.3], sets=(FeatureSet((0, 1), "copula", correlation=((1.0, 1.0), (1.0, 1.0))),))
    x = dense(law, 8) != 0
    assert not (x[:, 0] & ~x[:, 1]).any()


def test_power_laws():
    np.testing.assert_allclose(power_law(100, 1.5)[[0, 3, 99]], [1, 0.125, 0.001])
    np.testing.assert_allclose(geometric(20, 0.7)[[0, 1, 19]], [1, 0.7, 0.7**19])
    assert features(100, power_law(100, 1.1, 0.5)).density[0] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "density": 0.5}, "0 features"),
        ({"n": 2.5, "density": 0.5}, "2.5 features"),
        ({"n": 3, "density": 0.0}, "density"),
        ({"n": 3, "density": 1.0001}, "density"),
        ({"n": 3, "density": math.nan}, "density"),
        ({"n": 3, "density": "dense"}, "'density': 'dense'"),
        ({"n": 3, "density": [0.1, 0.2]}, "2 values for 3 features"),
        ({"n": 3, "density": 0.1, "importance": -1.0}, "importance"),
        ({"n": 3, "density": 0.1, "importance": math.inf}, "importance"),
        ({"n": 3, "density": torch.full((2, 3), 0.1), "importance": torch.ones(3, 3)}, "density \\[2, 3\\]"),
    ],
)
def test_bad_laws(arguments, message):
    with pytest.raises(ConfigError, match=message):
        inspect.unwrap(features)(**arguments)  # without the run-time types of the tests


def test_an_unknown_law_of_values():
    law = SimpleNamespace(n=1, density=torch.ones(1), importance=torch.ones(1), values="cauchy", sets=())
    with pytest.raises(ConfigError, match=r"no law 'cauchy'\nExpected: uniform \| symmetric"):
        inspect.unwrap(check_law)(law)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((FeatureSet((0, 1), "correlated"), FeatureSet((1, 2), "correlated")), "different numbers"),
        ((FeatureSet((0, 9), "correlated"),), "different numbers"),
        ((FeatureSet((), "correlated"),), "at least one member"),
        ((FeatureSet((0, 1), "correlated"),), "one density"),
        ((FeatureSet((1, 2), "anticorrelated"),), "add up to at most 1"),
        ((FeatureSet((0, 1), "hierarchy"),), "a parent for every member"),
        ((FeatureSet((0, 1), "hierarchy", parents=(1, -1)),), "a parent for every member"),
        ((FeatureSet((0, 1), "hierarchy", parents=(-1, 2)),), "a parent for every member"),
        ((FeatureSet((0, 1), "hierarchy", parents=(-1, 0)),), "at most as dense"),
        ((FeatureSet((0, 1, 2), "copula", correlation=-0.6),), "negative eigenvalue"),
        ((FeatureSet((0, 1), "copula", correlation=1.5),), "negative eigenvalue"),
        ((FeatureSet((0, 1), "copula", correlation=math.nan),), "symmetric matrix"),
        ((FeatureSet((0, 1), "copula", correlation=((1.0, 0.2), (0.3, 1.0))),), "symmetric matrix"),
        ((FeatureSet((0, 1), "copula", correlation=((1.0,), (0.3, 1.0))),), "2 rows of 2"),
    ],
)
def test_bad_sets(sets, expected):
    with pytest.raises(ConfigError, match=expected):
        features(3, [0.2, 0.6, 0.7], sets=sets)


def test_sets_without_an_exact_loss_say_so():
    for law in (MIXED, COPULA):
        with pytest.raises(ConfigError, match="sampled"):
            expected_loss(torch.zeros(1, law.n, 2), torch.zeros(1, law.n), law)


def test_what_does_not_fit_into_memory_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 8 * 2**30)
    law, g = features(2_000_000, 0.5), rng.stream(0, "memory")
    before = g.get_state()
    with pytest.raises(ConfigError, match=r"24\.2 GiB\nExpected: at most 8\.0 GiB.*\nHint: .*sample_sparse"):
        law.sample(1000, g)
    with pytest.raises(ConfigError, match="1e\\+09 active features"):
        law.sample_sparse(1000, g)
    assert torch.equal(before, g.get_state())


def test_free_memory_is_that_of_this_machine():
    assert 2**27 < memory.free_memory() < 2**50
