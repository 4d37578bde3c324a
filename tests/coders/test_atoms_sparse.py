import pytest
import torch

from digon import rng
from digon.coders.atoms_sparse import sparse_atoms
from digon.errors import ConfigError
from digon.worlds import causes


def atoms_of(world, seed=0):
    return sparse_atoms(world.activations.values, rng.stream(seed, "sparse"))


def recovered(found, world):
    truth = torch.nn.functional.normalize(world.truth.atoms, dim=1)
    return float(((found.directions @ truth.T).abs().amax(0) > 0.95).double().mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("d", "load", "active"), [(16, 2.0, 2.0), (24, 3.0, 1.0), (16, 1.5, 4.0)])
def test_every_feature_in_superposition_is_found_and_nothing_else(d, load, active, seed):
    world = causes.superposition(12_000, d, seed, load=load, active=active)
    found = atoms_of(world, seed)
    assert len(found) == pytest.approx(world.truth.n_features, rel=0.06)
    assert recovered(found, world) >= 0.94
    assert found.gain > 0.5
    assert found.active == pytest.approx(active, rel=0.35)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dependence", ["none", "pairs", "copula", "hierarchy"])
def test_rotated_features_never_need_more_atoms_than_dimensions(dependence, seed):
    world = causes.rotated(6000, 12, seed, active=1.5, dependence=dependence)
    found = atoms_of(world, seed)
    assert len(found) == 12
    assert found.gain == 0
    assert found.explained > 0.8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["isotropic", "colored", "elliptical"])
def test_noise_needs_next_to_no_dictionary(kind, seed):
    found = atoms_of(causes.null(6000, 16, seed, kind), seed)
    assert len(found) < 16
    assert found.gain == 0
    assert found.empty_bits - found.bits < 0.02 * found.empty_bits


@pytest.mark.parametrize("seed", range(2))
def test_a_pentagon_is_found_behind_the_plane_that_explains_it(seed):
    """Two atoms explain every row of a plane; five take fewer bits."""
    world = causes.superposition(8000, 8, seed, dictionary="pentagon", active=1.0)
    found = atoms_of(world, seed)
    assert len(found) == world.truth.n_features == 20
    assert recovered(found, world) == 1


def test_gains_offsets_and_noise_do_not_move_the_count():
    world = causes.superposition(12_000, 16, 0, load=2.0, active=1.5)
    for nuisance in ("gains", "outliers", "eight_bits", "noise"):
        found = atoms_of(causes.observed(world, [nuisance], 0))
        assert len(found) == pytest.approx(32, rel=0.1), nuisance


def test_codes_decode_to_the_rows():
    world = causes.superposition(6000, 12, 0, load=2.0, active=1.0)
    found = atoms_of(world)
    x = world.activations.values[:500]
    codes = found.encode(x)
    back = codes @ (found.directions * found.sizes[:, None]) + found.origin
    assert float((x - back).square().sum() / x.square().sum()) < 0.05
    assert float((codes != 0).float().sum(1).mean()) == pytest.approx(found.active, rel=0.2)


def test_too_little_data_is_refused_and_rank_deficient_data_is_not():
    with pytest.raises(ConfigError, match="at least 100 rows"):
        sparse_atoms(torch.randn(50, 8), rng.stream(0, "x"))
    flat = torch.randn(500, 2) @ torch.randn(2, 6)
    assert sparse_atoms(flat, rng.stream(0, "x")).dimensions in (2, 3)  # the origin need not lie in their plane
