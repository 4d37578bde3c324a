import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from digon import rng
from digon.coders import atoms
from digon.coders.atoms_rays import rays
from digon.coders.base import Coder, evaluate
from digon.errors import ConfigError
from digon.worlds import causes

MAKE = {
    "quartic": lambda x, seed: atoms.quartic(x, 6, seed),
    "rays": lambda x, seed: atoms.rays(x, 6, seed),
    "sparse": lambda x, seed: atoms.sparse(x, seed),
}


def shifted(world, seed):
    """Activations away from zero, and how far."""
    offset = torch.randn(world.activations.d, generator=rng.stream(seed, "offset"))
    return world.activations.values + offset, offset


def compared(coder, world, x):
    """Cosines of matched directions, and the relative error of codes, as lengths along them, against the truth."""
    norm = coder.dictionary.atoms.norm(dim=1)
    true = world.truth.atoms.norm(dim=1)
    cosines = (coder.dictionary.atoms / norm[:, None]) @ (world.truth.atoms / true[:, None]).T
    mine, theirs = linear_sum_assignment(-cosines.numpy())
    codes = (coder.encode(x).dense() * norm)[:, mine]
    features = (world.truth.features * true)[:, theirs]
    return cosines.numpy()[mine, theirs], float((codes - features).square().sum() / features.square().sum())


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("seed", range(3))
def test_rotated_features_are_decoded_wherever_the_origin_is(name, seed):
    world = causes.rotated(3000, 10, seed, active=1.5)
    x, offset = shifted(world, seed)
    coder = MAKE[name](x, seed)
    assert isinstance(coder, Coder)
    assert len(coder.dictionary) == 10
    cosines, error = compared(coder, world, x)
    assert cosines.min() > 0.98
    assert error < 0.02
    torch.testing.assert_close(coder.dictionary.bias, offset, atol=0.02, rtol=0)
    totals = evaluate(coder, x.split(700))
    assert totals.fvu < 0.02
    active = float((world.truth.features != 0).sum(1).double().mean())
    assert 0.8 * active < totals.l0 < 2 * active


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("seed", range(3))
def test_superposition_is_decoded(name, seed):
    world = causes.superposition(5000, 12, seed, load=1.5, active=1.5)
    x, offset = shifted(world, seed)
    coder = MAKE[name](x, seed)
    cosines, error = compared(coder, world, x)
    assert len(coder.dictionary) == pytest.approx(18, abs=2)
    assert float(np.mean(cosines > 0.95)) > 0.9
    assert error < 0.1
    assert evaluate(coder, x.split(1000)).fvu < 0.05
    assert float((coder.dictionary.bias - offset).norm()) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_origin_is_found_where_no_row_is_at_rest(seed):
    world = causes.rotated(6000, 10, seed, active=4.0, values="half-normal")
    x, offset = shifted(world, seed)
    assert not rays(x, rng.stream(seed, "rays")).origin.any()  # rows do not coincide anywhere
    coder = atoms.quartic(x, 10, seed)
    cosines, error = compared(coder, world, x)
    assert cosines.min() > 0.98
    assert error < 0.02
    far = float((x.mean(0) - offset).norm())
    assert float((coder.dictionary.bias - offset).norm()) < 0.2 * far


def test_features_of_both_signs():
    world = causes.rotated(6000, 8, 0, active=1.5, values="symmetric")
    x, offset = shifted(world, 0)
    coder = atoms.quartic(x, 8, 0, positive=False)
    assert evaluate(coder, [x]).fvu < 0.02
    torch.testing.assert_close(coder.dictionary.bias, offset, atol=0.05, rtol=0)
    assert evaluate(atoms.quartic(x, 8, 0), [x]).fvu > 0.3  # half of the codes are missing
    assert evaluate(atoms.sparse(x, 0), [x]).fvu < 0.02


@pytest.mark.parametrize("kind", ["isotropic", "colored", "elliptical"])
@pytest.mark.parametrize("seed", range(3))
def test_without_features_there_are_no_atoms(kind, seed):
    x = causes.null(3000, 10, seed, kind).activations.values
    for name in ("quartic", "rays"):
        coder = MAKE[name](x, seed)
        assert len(coder.dictionary) == 0
        totals = evaluate(coder, x.split(1000))
        assert totals.fires.shape == (0,)
        assert totals.fvu == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_shortest_dictionary_of_noise_explains_next_to_nothing(seed):
    """A few of its atoms pay for themselves all the same."""
    x = causes.null(6000, 12, seed, "isotropic").activations.values
    few = atoms.sparse(x, seed)
    assert len(few.dictionary) < 12
    assert evaluate(few, x.split(1000)).fvu > 0.8


@pytest.mark.parametrize("name", MAKE)
def test_units_of_other_sizes_get_the_same_codes(name):
    """Scales are in the atoms: a code is the length of its part along an atom, in the units it came in."""
    world = causes.rotated(4000, 8, 0, active=1.5)
    x = world.activations.values
    plain, scaled = MAKE[name](x, 0), MAKE[name](8 * x, 0)
    one, other = (c.encode(v).dense() * c.dictionary.atoms.norm(dim=1) for c, v in ((plain, x), (scaled, 8 * x)))
    torch.testing.assert_close(one.sum(1) * 8, other.sum(1), rtol=0.01, atol=0.02)


def test_too_little_data_is_refused():
    for name, make in MAKE.items():
        with pytest.raises(ConfigError, match="at least"):
            make(torch.randn(8, 8, generator=rng.stream(0, name)), 0)
