import pytest
import torch

from digon.worlds import causes


@pytest.mark.parametrize("make", [causes.monosemantic, causes.rotated, causes.superposition])
def test_rows_are_features_times_atoms(make):
    world = make(2000, 8, 0)
    truth = world.truth
    torch.testing.assert_close(world.activations.values, truth.features @ truth.atoms)
    assert truth.atoms.shape == (truth.n_features, 8)
    assert torch.linalg.matrix_rank(truth.atoms) == truth.rank
    torch.testing.assert_close(truth.atoms.norm(dim=1), torch.ones(truth.n_features))
    active = (truth.features > 0).float().mean()
    assert active == pytest.approx(0.05, abs=0.01)
    assert truth.features[truth.features > 0].mean() == pytest.approx(0.5, abs=0.03)


def test_causes_differ_where_they_should():
    assert causes.superposition(100, 8, 0, load=3.0).truth.n_features == 24
    assert causes.rotated(100, 8, 0).truth.atoms.abs().max() < 0.999
    assert causes.null(100, 8, 0).truth.n_features == 0
    one, two = causes.rotated(100, 8, 0), causes.rotated(100, 8, 1)
    assert torch.equal(one.activations.values, causes.rotated(100, 8, 0).activations.values)
    assert not torch.equal(one.activations.values, two.activations.values)
