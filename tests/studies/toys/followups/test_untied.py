"""Tied and untied networks: a second implementation of the loss, a known optimum, and ranked features."""

import math

import pytest
import torch

from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import untied
from digon.worlds.features import features
from digon.worlds.population import expected_loss


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_loss_against_the_contour_integral(density):
    g = torch.Generator().manual_seed(0)
    V = 0.8 * torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    b = 0.2 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    importance = torch.tensor([1.0, 0.5, 0.7, 0.2], dtype=torch.float64)
    found = untied.losses(V, V, b, untied.rule(4, density, 4096), importance)
    torch.testing.assert_close(found, expected_loss(V, b, features(4, density, importance)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_weights_of_the_rule(density):
    on = untied.rule(5, density, 64)
    assert float(on.weight.sum()) == pytest.approx(1.0, abs=1e-12)
    means = on.weight @ on.x
    torch.testing.assert_close(means, torch.full_like(means, density / 2), rtol=1e-2, atol=0)


def test_tied_optimum_of_the_opening_figure():
    importance = 0.9 ** torch.arange(5, dtype=torch.float64)
    assert untied.best("tied", 0.1, importance, 6, 0)[0] == pytest.approx(0.021403, rel=3e-3)


def test_the_map_is_all_that_counts():
    g = torch.Generator().manual_seed(1)
    V, W = torch.randn(2, 5, 2, generator=g, dtype=torch.float64)
    V2, W2 = untied.balanced(V, W)
    torch.testing.assert_close(V2 @ W2.mT, V @ W.mT)
    torch.testing.assert_close(V2.mT @ V2, W2.mT @ W2)
    on, b, one = untied.rule(5, 0.2, 64), torch.zeros(1, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(
        untied.losses(V[None], W[None], b, on, one), untied.losses(V2[None], W2[None], b, on, one)
    )


@pytest.mark.parametrize("kind", ["scaled", "untied"])
def test_a_tied_network_is_one_of_the_others(kind):
    flat = torch.randn(2, 15, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    on, one = untied.rule(5, 0.2, 64), torch.ones(5, dtype=torch.float64)
    tied = untied.losses(*untied.split(flat, "tied", 5, 2), on, one)
    other = untied.losses(*untied.split(untied.widened(flat, kind, 5), kind, 5, 2), on, one)
    torch.testing.assert_close(tied, other)


@pytest.mark.parametrize("n", [5, 12, 40])
def test_ranked_features_pass_one_at_a_time(n):
    pair = untied.ranked(n, 1e4)
    G = pair.V @ pair.W.mT
    torch.testing.assert_close(G.diagonal(), torch.ones(n, dtype=torch.float64))
    assert float(G.triu(1).max()) < 1e-6
    assert untied.single_loss(pair) < 1e-4
    g = torch.Generator().manual_seed(n)
    x = torch.diag(torch.rand(n, generator=g, dtype=torch.float64))
    torch.testing.assert_close((x @ G).relu(), x, rtol=0, atol=0.02)


def test_ranked_features_cost_pairs_only():
    """(n − 1)(n − 2)/2 pairs lose their second member, each with p²/3, if features are rare."""
    pair, p = untied.ranked(5, 1000.0), 1e-3
    one = torch.ones(5, dtype=torch.float64)
    found = untied.losses(pair.V[None], pair.W[None], pair.b[None], untied.rule(5, p, 64), one)
    assert float(found) == pytest.approx(6 * p**2 / 3, rel=0.02)


def test_tied_weights_cannot_do_that():
    angle = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 5
    polygon = torch.stack([angle.cos(), angle.sin()], 1)
    assert untied.single_loss(untied.Pair(polygon, polygon, torch.zeros(5))) > 0.15


def test_bad_sizes():
    with pytest.raises(ConfigError, match="at most 6"):
        untied.rule(9, 0.1, 8)
    with pytest.raises(ConfigError, match="density"):
        untied.rule(3, 0.0, 8)


def test_the_study():
    outcome = untied.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["ratio"].value == pytest.approx(0.597, abs=0.02)
    assert outcome.values["dense_ratio"].value == pytest.approx(1.0, abs=0.01)
    assert outcome.values["sparse_ratio"].value < 0.3
    assert outcome.values["tied_inhibition"].value == pytest.approx(0.0, abs=0.05)
