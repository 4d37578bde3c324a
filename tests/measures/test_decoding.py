import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.metrics import roc_auc_score

from digon import rng
from digon.errors import ConfigError
from digon.measures.decoding import decoding, nonnegative_codes, skill
from digon.worlds import causes


def of(world, labels, seed, atoms=None):
    atoms = world.truth.atoms if atoms is None else atoms
    rows = torch.arange(len(labels))
    return decoding(world.activations.values, labels, rows, atoms, rng.stream(seed, "test"))


@pytest.mark.parametrize("seed", range(3))
def test_superposition_is_read_by_sparse_codes_and_its_load_by_leverage(seed):
    world = causes.superposition(3000, 8, seed, load=2.0)
    found = of(world, (world.truth.features > 0).long(), seed)
    assert found.sparse_gap > 0.05
    assert found.sparse > found.linear
    # the shares of 16 features in 8 dimensions sum to 8, noise-free
    assert found.load == pytest.approx(2, rel=0.15)
    assert found.unexplained < 1e-2
    assert found.control < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_rotated_features_have_a_dimension_each(seed):
    world = causes.rotated(2500, 8, seed)
    found = of(world, (world.truth.features > 0).long(), seed)
    assert found.linear > 0.99
    assert abs(found.network_gap) < 0.02
    assert found.load == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_no_direction_only_a_network_reads(seed):
    world = causes.rotated(5000, 6, seed, values="symmetric", density=0.5)
    f = world.truth.features
    labels = (f[:, :3] * f[:, 3:] > 0).long()
    found = of(world, labels, seed)
    assert found.linear < 0.1
    assert found.network > 0.9
    assert found.sparse < 0.35


@pytest.mark.parametrize("seed", range(3))
def test_skill_is_that_of_scikit_learn(seed):
    g = rng.stream(seed, "skill")
    truth = torch.rand(300, 2, generator=g) < 0.3
    read = (torch.randn(300, 2, generator=g) + truth).mul(3).round()
    for column in range(2):
        expected = 2 * roc_auc_score(truth[:, column], read[:, column]) - 1
        assert float(skill(read, truth)[column]) == pytest.approx(expected)
    assert math.isnan(float(skill(read[:, :1], torch.zeros(300, 1, dtype=torch.bool))))


@pytest.mark.parametrize("seed", range(3))
def test_codes_agree_with_nonnegative_least_squares(seed):
    g = rng.stream(seed, "codes")
    atoms = torch.nn.functional.normalize(torch.randn(5, 8, generator=g, dtype=torch.float64), dim=1)
    truth = torch.rand(20, 5, generator=g, dtype=torch.float64) + 0.5
    x = truth @ atoms
    codes = nonnegative_codes(x, atoms)
    expected = np.stack([nnls(atoms.T.numpy(), row.numpy())[0] for row in x])
    assert torch.allclose(codes, torch.from_numpy(expected), atol=5e-3)


def test_labels_that_cannot_be_scored():
    world = causes.rotated(1000, 4, 0, density=0.3)
    with pytest.raises(ConfigError):
        of(world, torch.zeros(1000, 2, dtype=torch.long), 0)
    empty = of(world, (world.truth.features > 0).long(), 0, world.truth.atoms[:0])
    assert math.isnan(empty.sparse)
    assert math.isnan(empty.load)
