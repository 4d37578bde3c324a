import math

import numpy as np
import pytest
import torch

from digon import rng
from digon.measures import geometry
from digon.measures import polytopes as p
from digon.measures.basis import haar


def placed(*shapes, seed=0, norms=None, dims=None, noise=0.0):
    """Shapes in orthogonal subspaces, rotated, rows shuffled."""
    d = sum(s.vertices.shape[1] for s in shapes)
    dims = dims or d
    W, at, row = torch.zeros(sum(len(s.vertices) for s in shapes), dims, dtype=torch.float64), 0, 0
    for i, s in enumerate(shapes):
        k, w = s.vertices.shape
        W[row : row + k, at : at + w] = torch.tensor(s.vertices) * (norms[i] if norms else 1)
        row, at = row + k, at + w
    g = rng.stream(seed, "place")
    W = W @ haar(dims, g).double()
    W = W + noise * torch.randn(W.shape, generator=g, dtype=torch.float64)
    return W[torch.randperm(len(W), generator=g)]


FRACTIONS = {
    p.simplex(2): 1 / 2, p.simplex(3): 2 / 3, p.simplex(4): 3 / 4, p.simplex(5): 4 / 5, p.simplex(6): 5 / 6,
    p.polygon(5): 2 / 5, p.polygon(6): 1 / 3, p.polygon(7): 2 / 7, p.antiprism(4): 3 / 8,
    p.library(12)[2]: 3 / 12, p.library(20)[1]: 3 / 20,
}  # fmt: skip


@pytest.mark.parametrize(("shape", "fraction"), FRACTIONS.items(), ids=lambda v: getattr(v, "name", ""))
def test_exact_fractions(shape, fraction):
    """The fractions of the paper's guide lines, from the vertices and from W by another formula."""
    assert shape.fraction == pytest.approx(fraction, abs=1e-12)
    assert shape.tight
    D = geometry.feature_dimensionality(torch.tensor(shape.vertices))
    assert (D - fraction).abs().max() < 1e-12
    assert D.sum() == pytest.approx(shape.dimensions, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_names_survive_rotation_permutation_scale_and_noise(seed):
    parts = [p.simplex(2), p.simplex(3), p.simplex(4), p.polygon(5), p.antiprism(4, 0.555), p.simplex(1)]
    W = placed(*parts, seed=seed, norms=[1.0, 0.9, 1.2, 1.1, 1.0, 0.8], noise=0.01)
    found = p.polytopes(W)
    assert [f.name for f in found] == ["square antiprism", "pentagon", "tetrahedron", "triangle", "digon", "single"]
    assert [f.dimensions for f in found] == [3, 2, 3, 2, 1, 1]
    assert [len(f.members) for f in found] == [8, 5, 4, 3, 2, 1]
    assert sorted(i for f in found for i in f.members) == list(range(len(W)))
    assert max(f.residual for f in found) < 0.05
    for f, fraction in zip(found, [0.374, 2 / 5, 3 / 4, 2 / 3, 1 / 2, 1], strict=True):
        assert f.fraction == pytest.approx(fraction, abs=2e-3)
        assert f.measured == pytest.approx(fraction, abs=0.02)


def test_antiprism_off_the_tight_height():
    """At height h, D = 1 / (4(1 − h²)² + 8h⁴): 3/8 at h² = 1/3, .374 at .555."""
    h = 0.555
    shape = p.antiprism(4, h)
    assert shape.fraction == pytest.approx(1 / (4 * (1 - h * h) ** 2 + 8 * h**4), abs=1e-12)
    assert shape.fraction == pytest.approx(0.374, abs=2e-4)
    assert not shape.tight
    assert p.antiprism(4).fraction == pytest.approx(3 / 8, abs=1e-12)


PRODUCTS = [
    ([p.simplex(2), p.simplex(3)], "triangular bipyramid", 3, (2 / 3 * 3 + 1) / 5),
    ([p.polygon(5), p.simplex(2)], "pentagonal bipyramid", 3, 3 / 7),
    ([p.simplex(2)] * 3, "octahedron", 3, 1 / 2),
    ([p.simplex(2)] * 2, "square", 2, 1 / 2),
    ([p.simplex(3), p.simplex(4)], "tetrahedron × triangle", 5, 5 / 7),
    ([p.polygon(5), p.polygon(5), p.simplex(2)], "digon × 2 pentagons", 5, 5 / 12),
]


@pytest.mark.parametrize(("parts", "name", "dimensions", "fraction"), PRODUCTS, ids=lambda v: str(v)[:20])
def test_tegum_products(parts, name, dimensions, fraction):
    found = p.identify(placed(*parts, noise=0.005))
    assert (found.name, found.dimensions) == (name, dimensions)
    assert found.fraction == pytest.approx(fraction, abs=1e-12)
    assert found.tight


def test_octahedron_is_the_triangular_antiprism():
    assert p.identify(torch.tensor(p.antiprism(3).vertices)).name == "octahedron"
    cube = torch.tensor([[x, y, z] for x in (1.0, -1.0) for y in (1.0, -1.0) for z in (1.0, -1.0)])
    found = p.identify(cube)
    assert found.nearest == "square antiprism"
    assert (found.name, found.residual > 0.2) == ("irregular", True)


def test_a_product_joined_by_noise_is_split():
    """A cosine of .3 between a triangle and a digon joins them at the threshold; the residual counts it."""
    W = torch.zeros(5, 3, dtype=torch.float64)
    W[:3, :2] = torch.tensor(p.polygon(3).vertices)
    W[3], W[4] = torch.tensor([0.05, 0.0, 1.0]), torch.tensor([-0.05, 0.0, -1.0])
    [found] = p.polytopes(W, threshold=0.04, tolerance=0.1)
    assert found.name == "triangular bipyramid"
    between = 4 * (0.05**2 + 2 * 0.025**2) / (1 + 0.05**2)
    triangle, digon = 3 * 3 / 2, 4.0
    assert found.residual == pytest.approx(math.sqrt(between / (triangle + digon)), rel=1e-6)
    assert [f.name for f in p.polytopes(W)] == ["triangle", "digon"]


def test_random_directions_are_irregular_and_dead_ones_are_left_out():
    W = torch.randn(9, 4, generator=rng.stream(0, "W"), dtype=torch.float64)
    W = W / geometry.norms(W)[:, None]
    W[3] *= 0.1
    found = p.polytopes(W)
    assert {f.name for f in found} == {"irregular"}
    assert math.isnan(found[0].fraction)
    assert 3 not in {i for f in found for i in f.members}
    assert p.polytopes(torch.zeros(3, 2)) == []


def test_residual_is_zero_only_for_the_same_shape():
    """Pentagon against the 4-simplex: eigenvalues (5/2, 5/2, 0, 0, 0) and (5/4)×4."""
    pentagon, other = p.polygon(5), p.simplex(5)
    assert p.residual(pentagon.gram, pentagon) < 1e-12
    spectral = math.sqrt(2 * (5 / 2 - 5 / 4) ** 2 + 2 * (5 / 4) ** 2) / math.sqrt(5 + 20 / 16)
    assert p.residual(pentagon.gram, other) >= spectral - 1e-12
    order = np.random.default_rng(0).permutation(5)
    assert p.residual(pentagon.gram[np.ix_(order, order)], pentagon) < 1e-12
