import math

import pytest
import torch
from scipy.stats import binom

from digon import rng
from digon.errors import ConfigError
from digon.measures.basis import haar
from digon.measures.blocks import dependence_blocks, separability, shape_of_block
from digon.worlds import causes
from digon.worlds.features import FeatureSet, features


def blocks_of(world, seed):
    return dependence_blocks(world.activations.values, world.activations.documents, seed)


def ring(angles, seed=0, active=0.1, spread=0.0):
    """A gated plane: most rows are at the origin."""
    g = rng.stream(seed, "ring")
    length = (torch.rand(len(angles), generator=g) < active) * (1 + spread * torch.randn(len(angles), generator=g))
    return length[:, None] * torch.stack([angles.cos(), angles.sin()], 1)


@pytest.mark.parametrize("seed", range(3))
def test_circles_are_blocks_of_two_without_gaps(seed):
    found = blocks_of(causes.manifold(8000, 8, seed), seed)
    assert [len(block) for block in found.members] == [2, 2, 2, 2]
    for block in found.members:
        shape = shape_of_block(found.parts[:, list(block)], rng.stream(seed, "shape"))
        assert shape.shape == "continuum"
        assert shape.scatter < 0.2
        assert shape.open < 0.3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("corners", [3, 6, 12])
def test_corners_of_polygons_are_isolated(seed, corners):
    found = blocks_of(causes.polygon(8000, 8, seed, corners), seed)
    assert [len(block) for block in found.members] == [2, 2, 2, 2]
    for block in found.members:
        shape = shape_of_block(found.parts[:, list(block)], rng.stream(seed, "shape"))
        assert shape.shape == "atoms"
        assert abs(shape.atoms - corners) <= corners // 12


@pytest.mark.parametrize("seed", range(3))
def test_no_blocks_without_features(seed):
    assert blocks_of(causes.null(8000, 8, seed), seed).members == ()
    stretched = blocks_of(causes.null(8000, 8, seed, "elliptical"), seed)
    assert stretched.spherical
    assert stretched.members == ()


@pytest.mark.parametrize("seed", range(3))
def test_pairs_fill_their_blocks_and_superposition_is_one_block(seed):
    pairs = blocks_of(causes.rotated(8000, 8, seed, dependence="pairs"), seed)
    assert [len(block) for block in pairs.members] == [2, 2, 2, 2]
    for block in pairs.members:
        shape = shape_of_block(pairs.parts[:, list(block)], rng.stream(seed, "shape"))
        assert shape.shape == "continuum"
        assert shape.scatter > 0.25
    assert [len(block) for block in blocks_of(causes.superposition(8000, 8, seed), seed).members] == [8]


def one_pair(n_rows, d, seed, correlation):
    """Independent features, rotated, but for two whose activity is correlated."""
    law = features(d, 0.05, sets=(FeatureSet((0, 1), "copula", correlation=correlation),))
    return law.sample(n_rows, rng.stream(seed, "features"))[0] @ haar(d, rng.stream(seed, "basis"))


def test_independent_features_pair_up_no_more_often_than_discoveries_may_be_false():
    worlds = [causes.rotated(2000, d, seed) for d, count in ((4, 40), (8, 24), (16, 12)) for seed in range(count)]
    called = sum(len(blocks_of(world, seed).members) > 0 for seed, world in enumerate(worlds))
    assert called <= binom.ppf(0.99, len(worlds), 0.05)


def test_one_dependent_pair_among_independent_features_is_found_alone():
    found = [dependence_blocks(one_pair(4000, 8, seed, 0.6), None, seed).members for seed in range(20)]
    assert sum(len(members) == 1 and len(members[0]) == 2 for members in found) >= 17


def test_tightness_is_one_half_on_a_circle_and_scatter_ignores_a_linear_map():
    g = rng.stream(0, "circle")
    rows = ring(2 * math.pi * torch.rand(20_000, generator=g))
    shape = shape_of_block(rows @ torch.tensor([[2.0, 0.5], [0.0, 0.7]]), g)
    assert shape.tightness == pytest.approx(0.5, abs=0.05)
    assert shape.scatter < 1e-4
    four = ring(math.pi / 2 * torch.randint(4, (20_000,), generator=g))
    square = shape_of_block(four, g)
    assert (square.shape, square.atoms, square.lines) == ("atoms", 4, 2)
    two = ring(math.pi / 2 * torch.randint(2, (20_000,), generator=g))
    assert shape_of_block(two, g).shape == "axes"
    assert shape_of_block(torch.zeros(100, 2), g).shape == "unclear"


@pytest.mark.parametrize("seed", range(3))
def test_separability(seed):
    g = rng.stream(seed, "separability")
    turn = 2 * math.pi * torch.rand(20_000, generator=g)
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    independent = torch.rand(20_000, 2, generator=g) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    assert separability(independent, g) == pytest.approx(0, abs=0.02)
    # Second implementation: cells of a circle from a fine grid of angles instead of a sample.
    grid = 2 * math.pi * (torch.arange(1_000_000) + 0.5) / 1_000_000
    cells = [((t + 1) / 2 * 10).long().clamp(max=9) for t in (grid.cos().double(), grid.sin().double())]
    joint = torch.bincount(cells[0] * 10 + cells[1], minlength=100).double().view(10, 10) / len(grid)
    entropy = lambda p: float(-(p[p > 0] * p[p > 0].log2()).sum())  # noqa: E731
    exact = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.flatten())
    assert separability(circle, g, angles=1) == pytest.approx(exact, abs=0.03)
    assert exact - 0.15 < separability(circle, g) < exact  # cells shift with the extreme rows of every rotation


def test_what_cannot_be_measured_is_refused():
    g = rng.stream(0, "refused")
    for few in (torch.randn(15, 4, generator=g), torch.ones(100, 4), torch.zeros(0, 4)):
        with pytest.raises(ConfigError, match="units that vary"):
            dependence_blocks(few, None, 0)
    with pytest.raises(ConfigError):
        shape_of_block(torch.randn(100, 1, generator=g), g)
    with pytest.raises(ConfigError):
        separability(torch.randn(50, 2, generator=g), g)
