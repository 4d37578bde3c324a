import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures import geometry
from digon.measures.basis import haar
from digon.measures.leverage import blocks_of, leverage_matrix, leverages, load, named, welch_ratio, whitened
from digon.worlds import causes
from digon.worlds.causes.dictionaries import dictionary, random


def off_by(atoms, angle, generator):
    noise = torch.nn.functional.normalize(torch.randn(atoms.shape, generator=generator), dim=1)
    return torch.nn.functional.normalize(atoms + angle * noise, dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_leverages_sum_to_the_rank_and_are_what_a_probe_reads(seed):
    g = rng.stream(seed, "leverage")
    atoms, variances = random(12, 7, g).double(), torch.rand(12, generator=g).double() + 0.2
    covariance = atoms.T @ (variances[:, None] * atoms)
    found = leverages(atoms, variances, covariance)
    assert float(found.sum()) == pytest.approx(7, abs=1e-6)
    turn = haar(7, g).double() @ torch.diag(torch.linspace(0.2, 5, 7).double())
    torch.testing.assert_close(leverages(atoms @ turn, variances, turn.T @ covariance @ turn), found)
    f = torch.randn(60_000, 12, generator=g).double() * variances.sqrt()
    h = f @ atoms
    residual = f - h @ torch.linalg.lstsq(h, f).solution
    torch.testing.assert_close(1 - residual.square().sum(0) / f.square().sum(0), found, atol=0.02, rtol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "n", "r"),
    [("digon", 2, 1), ("triangle", 3, 2), ("tetrahedron", 4, 3), ("pentagon", 5, 2), ("square antiprism", 8, 3)],
)
@pytest.mark.parametrize("angle", [0.0, 0.14])
def test_polytopes_in_orthogonal_subspaces(seed, kind, n, r, angle):
    g = rng.stream(seed, "blocks")
    atoms = off_by(dictionary(kind, 0, 24, g), angle, g)
    blocks = named(atoms, blocks_of(atoms), 0.15)
    assert [(len(b.members), b.rank) for b in blocks] == [(n, r)] * (24 // r)
    right = sum(b.shape == kind for b in blocks) / len(blocks)
    assert right == 1 if angle == 0 else right >= 0.75
    assert sorted(i for b in blocks for i in b.members) == list(range(len(atoms)))
    assert load(atoms) == pytest.approx(n / r)
    assert blocks[0].load == pytest.approx(n / r)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "n"), [(8, 16), (16, 80), (64, 128), (64, 96)])
def test_random_directions_are_one_block(seed, d, n):
    g = rng.stream(seed, "one")
    atoms = random(n, d, g)
    for angle in (0.0, 0.14):
        (block,) = blocks_of(off_by(atoms, angle, g))
        assert block.rank == d


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_of_superposition_and_dimensions_of_their_own(seed):
    g = rng.stream(seed, "sum")
    frame = haar(48, g)
    parts = [random(32, 16, g) @ frame[:16], random(40, 16, g) @ frame[16:32], frame[32:]]
    for angle in (0.0, 0.05, 0.14):
        blocks = blocks_of(off_by(torch.cat(parts), angle, g))
        assert sum(b.rank for b in blocks) == 48
        # an atom that happens to lie across all others of its block may be told apart from it
        first, second = blocks[:2]
        assert set(first.members) <= set(range(32, 72))
        assert len(first.members) >= 38
        assert set(second.members) <= set(range(32))
        assert len(second.members) >= 29
        assert {(72 + i,) for i in range(16)} <= {b.members for b in blocks}


@pytest.mark.parametrize("seed", range(3))
def test_a_complete_dictionary_has_no_superposition(seed):
    g = rng.stream(seed, "complete")
    assert all(b.rank == len(b.members) == 1 for b in blocks_of(off_by(haar(16, g), 0.14, g)))
    world = causes.rotated(4000, 12, seed, basis="oblique", condition=30.0)
    x = world.activations.values
    white = whitened(world.truth.atoms, torch.cov(x.T))
    assert len(blocks_of(white)) == 12
    torch.testing.assert_close(white @ white.T, torch.eye(12), atol=0.25, rtol=0)


def test_the_matrix_is_a_projection_with_known_entries():
    triangle = dictionary("triangle", 0, 2, rng.stream(0, "t"))
    expected = torch.full((3, 3), -1 / 3).fill_diagonal_(2 / 3).double()
    torch.testing.assert_close(leverage_matrix(triangle), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        leverage_matrix(triangle).diagonal(), geometry.leverage(triangle.double()), atol=1e-6, rtol=0
    )


def test_welch_ratio():
    assert welch_ratio(dictionary("pentagon", 0, 2, rng.stream(0, "w"))) == pytest.approx(1, abs=1e-5)
    g = rng.stream(1, "w")
    assert welch_ratio(random(200, 100, g)) == pytest.approx(math.sqrt(2), rel=0.05)
    assert math.isnan(welch_ratio(torch.eye(3)))


def test_nonsense_is_refused():
    with pytest.raises(ConfigError):
        blocks_of(torch.zeros(0, 3))
    with pytest.raises(ConfigError):
        blocks_of(torch.eye(2), tolerance=1.5)
