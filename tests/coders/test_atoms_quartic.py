"""Atoms from fourth-order statistics: exact where the theory says so, silent on noise, honest at their limits."""

import math

import pytest
import torch

from digon import rng
from digon.coders.atoms_quartic import quadricovariance, quartic_atoms, unvech, vech, whiten
from digon.coders.atoms_quartic_wide import _Half
from digon.errors import ConfigError
from digon.measures.basis import haar
from digon.worlds import causes


def found(world, seed=0):
    return quartic_atoms(world.activations.values, rng.stream(seed, "quartic"))


def recovered(result, truth):
    return float(((result.directions @ truth.atoms.T).abs().amax(0) > 0.95).double().mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("load", [1.25, 1.5, 2.0])
def test_superposition_is_counted_and_recovered(load, seed):
    world = causes.superposition(60_000, 8, seed, load, active=0.8)
    result = found(world, seed)
    assert result.rank == world.truth.n_features
    assert result.isolated.sum() >= 0.8 * result.rank
    assert recovered(result, world.truth) == 1.0
    assert result.low <= result.rank <= result.high


def test_five_features_per_dimension():
    world = causes.superposition(60_000, 16, 0, 4.0, active=1.5)
    result = found(world)
    assert abs(result.rank - 64) <= 6
    assert recovered(result, world.truth) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_rotated_features_are_as_many_as_units(seed):
    world = causes.rotated(20_000, 12, seed)
    result = found(world, seed)
    assert result.rank == 12
    assert recovered(result, world.truth) == 1.0
    signs = (result.directions @ world.truth.atoms.T).gather(
        1, (result.directions @ world.truth.atoms.T).abs().argmax(1, keepdim=True)
    )
    assert (signs > 0).all()  # features are positive


@pytest.mark.parametrize("kind", ["isotropic", "colored", "power law"])
def test_noise_has_no_atoms(kind):
    for seed in range(3):
        assert found(causes.null(20_000, 10, seed, kind), seed).rank == 0


def test_gaussian_noise_on_top_changes_nothing():
    world = causes.superposition(60_000, 8, 0, 2.0, active=0.8)
    h = world.activations.values
    noisy = h + 0.5 * h.std() * torch.randn(h.shape, generator=rng.stream(0, "noise"))
    result = quartic_atoms(noisy, rng.stream(0, "quartic"))
    assert abs(result.rank - 16) <= 1
    assert recovered(result, world.truth) == 1.0


def test_heavy_tails_in_all_directions_saturate():
    result = found(causes.null(20_000, 8, 0, "elliptical"))
    assert result.saturated
    assert len(result.directions) == 0


def test_circles_and_companions_are_not_isolated():
    for world in (causes.manifold(60_000, 8, 0), causes.rotated(60_000, 8, 0, active=0.8, dependence="pairs")):
        result = found(world)
        assert result.rank == 12  # three per plane
        assert result.isolated.sum() == 0


def test_a_linear_map_moves_the_atoms_along():
    world = causes.superposition(60_000, 6, 0, 1.5, active=0.8)
    g = rng.stream(0, "map")
    A = haar(6, g) * torch.linspace(0.3, 3, 6)
    result = quartic_atoms(world.activations.values @ A + 5.0, rng.stream(0, "quartic"))
    moved = torch.nn.functional.normalize(world.truth.atoms @ A, dim=1)
    assert ((result.directions @ moved.T).amax(0) > 0.99).all()


def test_the_matrix_against_its_definition():
    g = rng.stream(0, "z")
    z = torch.randn(500, 4, generator=g).abs() - 1
    M = unvech(quadricovariance(z), 4)
    C = z.T @ z / len(z)
    moment = torch.einsum("ni,nj,nk,nl->ijkl", z, z, z, z) / len(z)
    cumulant = moment - sum(torch.einsum(e, C, C) for e in ("ij,kl->ijkl", "ik,jl->ijkl", "il,jk->ijkl"))
    S = torch.randn(4, 4, generator=g)
    S = S + S.T
    torch.testing.assert_close(
        vech(torch.einsum("ijkl,kl->ij", cumulant, S)), quadricovariance(z) @ vech(S), atol=1e-3, rtol=1e-3
    )
    assert M.shape == (10, 4, 4)


def test_vectors_of_matrices_keep_inner_products():
    g = rng.stream(0, "S")
    S, T = (a + a.mT for a in torch.randn(2, 5, 5, generator=g))
    torch.testing.assert_close((vech(S) * vech(T)).sum(), (S * T).sum())
    torch.testing.assert_close(unvech(vech(S), 5), S)


def test_whitening_has_a_way_back():
    h = causes.rotated(1000, 6, 0, n=4).activations.values.double() + 3
    z, back = whiten(h)
    assert z.shape == (1000, 4)
    torch.testing.assert_close(z.T @ z / 1000, torch.eye(4, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(z @ back, h - h.mean(0), atol=1e-6, rtol=0)


def test_too_little_data_is_refused():
    with pytest.raises(ConfigError, match="at least"):
        quartic_atoms(torch.randn(20, 8), rng.stream(0, "q"))
    with pytest.raises(ConfigError, match="lost in noise"):
        quartic_atoms(torch.randn(1000, 200, generator=rng.stream(0, "few")), rng.stream(0, "q"))
    with pytest.raises(ConfigError, match="NaN"):
        quartic_atoms(torch.full((100, 4), torch.nan), rng.stream(0, "q"))
    with pytest.raises(ConfigError, match="0 dimensions"):
        quartic_atoms(torch.ones(100, 4), rng.stream(0, "q"))


def test_same_seed_same_atoms():
    world = causes.superposition(20_000, 6, 0, 1.5)
    assert torch.equal(found(world, 1).directions, found(world, 1).directions)
    assert math.isfinite(found(world, 1).floor)


@pytest.mark.parametrize("seed", range(3))
def test_wide_data_gives_atoms_and_a_lower_bound(seed):
    world = causes.superposition(24_000, 56, seed, 1.5, active=2.0)
    result = found(world, seed)
    assert result.lower_bound
    assert result.dimensions == 56
    assert 0.95 * 84 <= result.rank <= 84
    assert recovered(result, world.truth) > 0.95
    assert result.isolated.double().mean() > 0.9
    assert ((result.directions @ world.truth.atoms.T).amax(1) > 0.95).double().mean() > 0.95  # with their sign


@pytest.mark.parametrize("seed", range(3))
def test_wide_noise_has_no_atoms_and_a_common_length_is_uniform(seed):
    for kind in ("isotropic", "power law"):
        result = found(causes.null(12_000, 56, seed, kind), seed)
        assert result.rank == len(result.directions) == 0
        assert not result.saturated
    stretched = found(causes.null(12_000, 56, seed, "elliptical"), seed)
    assert stretched.rank == len(stretched.directions) == 0


def test_wide_circles_are_not_isolated():
    result = found(causes.manifold(30_000, 56, 0))
    assert result.rank <= 84  # three per plane
    assert result.rank > 70
    assert result.isolated.double().mean() < 0.1


def test_wide_cumulants_against_the_matrix():
    z = torch.randn(800, 5, generator=rng.stream(0, "z")).abs() - 1
    x = torch.nn.functional.normalize(torch.randn(4, 5, generator=rng.stream(0, "x")), dim=1)
    v = torch.randn(4, 5, generator=rng.stream(0, "v"))
    half, M = _Half(z), quadricovariance(z)
    outer = vech(x[:, :, None] * x[:, None])
    torch.testing.assert_close(half.squares(x), outer @ M @ outer.T, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(half.cumulant(x)[0], (outer @ M @ outer.T).diagonal(), atol=1e-3, rtol=1e-3)
    image = unvech(outer @ M, 5)
    torch.testing.assert_close(half.pull(x), (image @ x[..., None])[..., 0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(half.bend(x, v), (image @ v[..., None])[..., 0], atol=1e-3, rtol=1e-3)


def test_constant_and_repeated_units_change_nothing():
    world = causes.superposition(20_000, 8, 0, 1.5, active=0.8)
    h = world.activations.values
    more = quartic_atoms(torch.cat([h, h[:, :3], torch.ones(len(h), 2)], 1), rng.stream(0, "quartic"))
    assert more.dimensions == 8
    assert more.rank == 12
