"""Compressed computation: the bound, the semicircle, and the residual stream as mixing."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import compressed


def networks(count: int, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, n, m, generator=g), torch.randn(count, m, n, generator=g) / m


def test_loss_of_single_features_against_samples():
    n, m = 6, 3
    W_in, W_out = networks(1, n, m)
    M = compressed.mixing(n, 0.2, rng.stream(0, "test"))[None]
    value = torch.linspace(-1, 1, 4001)
    x = torch.cat([value[:, None] * row for row in torch.eye(n)])[None]
    error = (compressed.output(W_in, W_out, x) - compressed.labels(x, M)).square().sum(2).mean()
    assert float(compressed.single_loss(W_in, W_out, M)) == pytest.approx(6 * float(error), rel=2e-3)


def test_nothing_beats_naive_where_features_come_alone():
    n, m = 8, 4
    M = torch.zeros(1, n, n)
    assert float(compressed.rank_bound(M, m)) == pytest.approx(0.5, abs=1e-12)
    eye = torch.eye(n)[:, :m][None]
    assert float(compressed.single_loss(eye, eye.mT, M)) == pytest.approx(0.5)
    W_in, W_out = networks(200, n, m)
    assert float(compressed.single_loss(W_in, W_out, M.expand(200, -1, -1)).min()) >= 0.5


def test_naive_loss_by_sampling():
    x = compressed.samples(20, torch.tensor([0.05]), 400_000, rng.stream(0, "test"))
    eye = torch.eye(20)[:, :10][None]
    error = (compressed.output(eye, eye.mT, x) - x.relu()).square().sum(2).mean()
    assert float(error) == pytest.approx(compressed.naive_loss(20, 10, 0.05), rel=0.02)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.03])
def test_semicircle(sigma):
    n = 600
    s = torch.linalg.eigvalsh(compressed.mixing(n, sigma * (100 / n) ** 0.5, rng.stream(0, "test")).double())
    left = ((1 + s[: n // 2]).square().sum() + s.square().sum()) / n
    assert float(left) == pytest.approx(float(compressed.semicircle_loss(sigma, 100)), rel=0.02)


def test_best_mixing():
    grid = np.linspace(0, 0.08, 8001)
    best = grid[np.argmin(compressed.semicircle_loss(grid, 100))]
    assert compressed.best_sigma(100) == pytest.approx(best, abs=2e-5)
    assert compressed.best_sigma(100) == pytest.approx(0.0283, abs=1e-4)


def test_a_residual_stream_mixes_labels():
    """Reading embedded inputs back through a random embedding is clean labels plus M = I − EᵀE for the MLP."""
    g = torch.Generator().manual_seed(0)
    E = torch.nn.functional.normalize(torch.randn(50, 6, generator=g, dtype=torch.float64), dim=0)
    x = torch.rand(1, 20, 6, generator=g, dtype=torch.float64) * 2 - 1
    y = torch.randn(1, 20, 6, generator=g, dtype=torch.float64)
    stream = (x + x.relu()) - (x @ E.T @ E + y)
    M = (torch.eye(6, dtype=torch.float64) - E.T @ E)[None]
    torch.testing.assert_close(stream, compressed.labels(x, M) - y)


def test_overlap():
    M = compressed.mixing(10, 1.0, rng.stream(0, "test"))[None]
    vectors = torch.linalg.eigh(M).eigenvectors
    assert float(compressed.eigen_overlap(vectors[:, :, 5:], M)) == pytest.approx(1.0, abs=1e-5)
    assert float(compressed.eigen_overlap(vectors[:, :, :5], M)) == pytest.approx(0.0, abs=1e-5)


def test_negative_mixing_is_refused():
    with pytest.raises(ConfigError, match="sigma"):
        compressed.mixing(4, -1.0, rng.stream(0, "test"))


def test_the_study():
    outcome = compressed.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["limit_over_bound"].value == pytest.approx(1.0, abs=0.01)
    assert outcome.values["mixed_ratio"].value < outcome.values["clean_ratio"].value
    assert outcome.values["mixed_on_clean"].value > 1
    assert 0.6 < outcome.values["overlap"].value <= 1
