import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize_scalar
from scipy.special import comb
from scipy.stats import norm
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from digon import rng
from digon.measures import bounds as b
from digon.measures import geometry, polytopes

DELTA = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4])


def test_donoho_tanner_against_published_values():
    """Weak thresholds of the cross-polytope and the simplex, three digits."""
    np.testing.assert_allclose(b.donoho_tanner(DELTA), [0.117, 0.137, 0.164, 0.204, 0.267, 0.386, 0.534], atol=6e-4)
    positive = b.donoho_tanner(DELTA, signed=False)
    np.testing.assert_allclose(positive, [0.137, 0.164, 0.203, 0.264, 0.365, 0.558, 0.766], atol=6e-4)
    assert np.isnan(b.donoho_tanner(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(("signed", "sides"), [(True, 2), (False, 1)])
def test_donoho_tanner_against_the_minimax_formula(signed, sides):
    """The smallest error of a soft threshold in the normal-means problem equals δ at the transition."""
    for delta in (0.002, 0.05, 0.3, 0.7, 0.97):
        share = delta * float(b.donoho_tanner(delta, signed=signed))

        def error(t, share=share):
            tail = (1 + t * t) * norm.sf(t) - t * norm.pdf(t)
            return share * (1 + t * t) + (1 - share) * sides * tail

        found = minimize_scalar(error, bounds=(0, 10), method="bounded", options={"xatol": 1e-12})
        assert found.fun == pytest.approx(delta, rel=1e-9)
        assert b.recovery_dimensions(1000, 1000 * share, signed=signed) == pytest.approx(1000 * delta, rel=1e-10)


@pytest.mark.parametrize(("signed", "sides"), [(True, 2), (False, 1)])
def test_donoho_tanner_when_dimensions_are_few(signed, sides):
    """ρ · 2 ln(1/δ) → 1, slowly: from above, for both."""
    ratio = [float(b.donoho_tanner(d, signed=signed)) * 2 * math.log(1 / d) for d in (1e-2, 1e-4, 1e-8)]
    assert ratio == sorted(ratio, reverse=True) or sides == 2
    assert 0.9 < ratio[-1] < 1.2


@pytest.mark.parametrize("signed", [True, False])
def test_donoho_tanner_against_linear_programs(signed):
    """Recovery of random sparse codes flips between 25 % below and 25 % above the curve (n = 120, d = 60)."""
    n, d = 120, 60
    edge = float(b.donoho_tanner(d / n, signed=signed)) * d
    draw = rng.numpy_stream(0, "lp")

    def share(k):
        hits = 0
        for _ in range(8):
            A, x = draw.standard_normal((d, n)), np.zeros(n)
            x[:k] = draw.standard_normal(k) if signed else draw.random(k)
            wide = np.hstack([A, -A]) if signed else A
            found = linprog(np.ones(wide.shape[1]), A_eq=wide, b_eq=A @ x, bounds=(0, None)).x
            code = found[:n] - found[n:] if signed else found
            hits += bool(np.abs(code - x).max() < 1e-6)
        return hits / 8

    assert share(round(0.75 * edge)) >= 0.75
    assert share(round(1.25 * edge)) <= 0.25


@pytest.mark.parametrize(
    ("n", "k", "read", "both", "lasso", "convex"),
    [(256, 4, 100, 277, 44, 19), (1024, 8, 265, 774, 111, 44), (4096, 16, 662, 1986, 266, 103)],
)
def test_table_of_read_outs(n, k, read, both, lasso, convex):
    assert round(b.read_dimensions(n, k)) == read
    assert round(b.read_dimensions(n, k, way=2)) == both
    assert round(b.lasso_dimensions(n, k)) == lasso
    assert round(b.recovery_dimensions(n, k, signed=False)) == convex


def test_a_benchmark_between_two_lines():
    """n = 16,384 features in 768 dimensions, 34 active: above what ℓ1 needs, below what one threshold needs."""
    assert b.recovery_dimensions(16_384, 34, signed=False) == pytest.approx(250, abs=1)
    assert b.lasso_dimensions(16_384, 34) == pytest.approx(660, abs=1)
    assert b.read_dimensions(16_384, 34) == pytest.approx(1695, abs=1)


def test_welch_is_met_by_equiangular_tight_frames():
    frames = [
        polytopes.simplex(3),
        polytopes.simplex(6),
        polytopes.Shape("icosahedron's axes", polytopes.library(12)[2].vertices[[0, 1, 4, 5, 8, 9]]),
    ]
    for shape in frames:
        n, d = len(shape.vertices), shape.dimensions
        largest = np.abs(shape.gram - np.eye(n)).max()
        assert largest == pytest.approx(b.welch(n, d), abs=1e-12)
        assert b.least_coherence(n, d) <= largest + 1e-12
    assert (b.welch(6, 3), b.gerzon(3)) == (pytest.approx(1 / math.sqrt(5)), 6)
    assert b.gerzon(23) == 276  # attained; Lemmens & Seidel
    assert b.gerzon(8, "complex") == 64
    assert b.welch(10, 10) == 0


def test_higher_orders_and_the_orthoplex():
    assert b.orthoplex(5, 3) == 0
    assert b.orthoplex(7, 3) == pytest.approx(3**-0.5)
    n, d, r = 1000, 4, 3
    assert b.welch(n, d, r) == pytest.approx(((n / comb(6, 3, exact=True) - 1) / 999) ** (1 / 6))
    assert b.least_coherence(1000, 4) > b.welch(1000, 4)
    # twelve directions at 15° in the plane: no bound may exceed the cosine that they reach
    assert b.least_coherence(12, 2) <= math.cos(math.pi / 12)


def test_tight_frames():
    W = torch.tensor(polytopes.polygon(7).vertices)
    assert geometry.frame_potential(W) == pytest.approx(b.frame_potential_bound(7, 2), rel=1e-12)
    assert geometry.feature_dimensionality(W).mean() == pytest.approx(b.tight_dimensionality(7, 2), rel=1e-12)
    random = torch.randn(7, 2, generator=rng.stream(0, "W"), dtype=torch.float64)
    random = random / random.norm(dim=1, keepdim=True)
    assert geometry.frame_potential(random) > b.frame_potential_bound(7, 2)
    assert b.frame_potential_bound(3, 5) == 3


def test_johnson_lindenstrauss_against_scikit_learn():
    for n, eps in [(100, 0.1), (10_000, 0.3), (10**6, 0.5)]:
        assert b.johnson_lindenstrauss(n, eps) == pytest.approx(johnson_lindenstrauss_min_dim(n, eps=eps), abs=1)


def test_random_cosines():
    """The beta law against samples, its closed form in three dimensions, and the asymptotic sizes."""
    assert b.cosine_tail(3, 0.3) == pytest.approx(0.7)  # cosines are uniform on a sphere
    assert b.cosine_tail(2, 0.5) == pytest.approx(2 / 3)
    x = torch.randn(20, 400, 20, generator=rng.stream(0, "x"), dtype=torch.float64)
    cosine = (geometry.cosines(x) - torch.eye(400)).abs()
    upper = np.triu_indices(400, 1)
    off = cosine[:, upper[0], upper[1]].numpy()
    assert (off > 0.4).mean() == pytest.approx(float(b.cosine_tail(20, 0.4)), rel=0.05)
    one, pairs = b.random_coherence(400, 20)
    assert float(cosine.amax(-1).mean()) == pytest.approx(one, rel=0.04)
    assert float(cosine.amax((-2, -1)).mean()) == pytest.approx(pairs, rel=0.04)
    one, pairs = b.random_coherence(10**6, 10**4)
    assert one == pytest.approx(math.sqrt(2 * math.log(1e6) / 1e4), rel=0.08)
    assert pairs == pytest.approx(math.sqrt(4 * math.log(1e6) / 1e4), rel=0.07)


def test_nearly_orthogonal_directions_exist():
    """The count is met by a draw of that size with fewer than one bad pair on average."""
    n = int(b.nearly_orthogonal(60, 0.5))
    assert n == pytest.approx(math.sqrt(2 / float(b.cosine_tail(60, 0.5))), abs=1)
    x = torch.randn(20, n, 60, generator=rng.stream(0, "x"), dtype=torch.float64)
    largest = (geometry.cosines(x) - torch.eye(n)).abs().amax((-2, -1))
    assert float((largest <= 0.5).double().mean()) == pytest.approx(math.exp(-1), abs=0.35)
    rate = math.log(b.nearly_orthogonal(4000, 0.1) / b.nearly_orthogonal(2000, 0.1)) / 2000
    assert rate == pytest.approx(0.01 / 4, rel=0.12)


def test_compressed_sensing():
    assert b.compressed_sensing_dimensions(100, 0.02) == pytest.approx(2 * math.log(50))
    assert b.features_per_dimension_bound(0.02) == pytest.approx(12.78, abs=0.01)
    assert b.coherence_sparsity(1 / 3) == pytest.approx(2)
