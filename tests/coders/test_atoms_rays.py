"""Rays: every feature that is ever active alone, and nothing else."""

import pytest
import torch

from digon import rng
from digon.coders.atoms_rays import CAP, _count, densest, rays
from digon.errors import ConfigError
from digon.measures.basis import haar
from digon.worlds import causes

ROWS = 12_000


def found(world, seed=0):
    return rays(world.activations.values, rng.stream(seed, "rays"))


def exact(result, atoms):
    cosines = result.directions @ torch.nn.functional.normalize(atoms, dim=1).T
    return len(result.directions) == len(atoms) and bool((cosines.amax(0) > 0.99).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("load", "active"), [(1.5, 0.8), (5.0, 0.8)])
def test_superposition_shows_every_feature(load, active, seed):
    world = causes.superposition(ROWS, 8, seed, load, active=active)
    assert exact(found(world, seed), world.truth.atoms)


def test_twelve_features_per_dimension():
    world = causes.superposition(30_000, 8, 0, 12.0, active=1.0)
    assert exact(found(world), world.truth.atoms)


@pytest.mark.parametrize("make", [causes.monosemantic, causes.rotated])
def test_as_many_rays_as_features(make):
    world = make(ROWS, 8, 0, active=0.8)
    assert exact(found(world), world.truth.atoms)


def test_antipodal_pairs_are_two_rays_each():
    world = causes.superposition(ROWS, 8, 0, dictionary="digon", active=0.8)
    assert exact(found(world), world.truth.atoms)


def test_codes_of_a_table_are_rays_and_none_of_them_the_origin():
    world = causes.lookup(ROWS, 8, 0, points=24)
    assert exact(found(world), world.truth.atoms)


@pytest.mark.parametrize("kind", ["isotropic", "power law", "elliptical"])
def test_noise_has_no_rays(kind):
    for seed in range(3):
        result = found(causes.null(6000, 8, seed, kind), seed)
        assert len(result.directions) == 0
        assert result.covered == 0


def test_curves_are_loose():
    for kind in ("circle", "sphere"):
        result = found(causes.manifold(8000, 9, 0, kind))
        assert len(result.directions) == 0
        assert len(result.loose) > 0
        assert result.loose_tightness.median() < 0.6


def test_companions_that_are_never_alone_are_no_rays():
    result = found(causes.rotated(8000, 8, 0, active=0.8, dependence="pairs"))
    assert len(result.directions) == 0


def test_an_offset_and_a_linear_map_move_the_rays_along():
    world = causes.superposition(ROWS, 6, 0, 2.0, active=0.8)
    A = haar(6, rng.stream(0, "map")) * torch.linspace(0.5, 2, 6)
    offset = torch.linspace(-3, 3, 6)
    result = rays(world.activations.values @ A + offset, rng.stream(0, "rays"))
    assert exact(result, world.truth.atoms @ A)
    torch.testing.assert_close(result.origin, offset, atol=1e-3, rtol=0)


def test_a_little_noise_costs_nothing():
    h = (world := causes.superposition(ROWS, 8, 0, 2.0, active=0.8)).activations.values
    noisy = h + 0.03 * h.std() * torch.randn(h.shape, generator=rng.stream(0, "noise"))
    assert exact(rays(noisy, rng.stream(0, "rays")), world.truth.atoms)


def test_the_origin_is_where_many_rows_coincide():
    g = rng.stream(0, "origin")
    h = torch.randn(2000, 3, generator=g)
    torch.testing.assert_close(densest(h, g), torch.zeros(3))
    h[:400] = 2.0
    torch.testing.assert_close(densest(h, g), torch.full((3,), 2.0))


def test_too_little_data_is_refused():
    with pytest.raises(ConfigError, match="at least 100 rows"):
        rays(torch.randn(50, 4), rng.stream(0, "rays"))


def test_same_seed_same_rays():
    world = causes.superposition(4000, 6, 0, 1.5, active=0.8)
    assert torch.equal(found(world, 1).directions, found(world, 1).directions)


def test_constant_repeated_and_broken_units():
    world = causes.superposition(ROWS, 6, 0, 1.5, active=0.8)
    h = world.activations.values
    more = rays(torch.cat([h, h[:, :2], torch.ones(len(h), 1)], 1), rng.stream(0, "rays"))
    assert exact(more, torch.cat([world.truth.atoms, world.truth.atoms[:, :2], torch.zeros(9, 1)], 1))
    with pytest.raises(ConfigError, match="0 units that vary"):
        rays(torch.ones(500, 4), rng.stream(0, "rays"))
    with pytest.raises(ConfigError, match="NaN"):
        rays(torch.full((500, 4), torch.nan), rng.stream(0, "rays"))


def test_rows_beyond_the_most_are_thinned(monkeypatch):
    monkeypatch.setattr("digon.coders.atoms_rays.MOST_NUMBERS", 48_000)
    result = found(causes.superposition(3 * ROWS, 8, 0, 1.5, active=0.8))
    assert result.rows <= 6000
    assert len(result.directions) == 12


def test_counts_of_caps_against_plain_ones():
    u = torch.nn.functional.normalize(torch.randn(3000, 3, generator=rng.stream(0, "u")), dim=1)
    assert torch.equal(_count(u[:50], u), (u[:50] @ u.T > CAP).sum(1).float())
