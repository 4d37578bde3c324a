import pytest
import torch

from digon import rng
from digon.coders.effective import effective
from digon.errors import ConfigError
from digon.measures.effective import effective_count, effective_features
from digon.worlds import causes


def psi(world, seed):
    return effective(world.activations.values, rng.stream(seed, "psi"), repeats=1)


def test_closed_forms():
    equal = torch.eye(6)
    assert float(effective_count(equal)) == pytest.approx(6)
    assert float(effective_features(-equal * 3, 2)) == pytest.approx(3)
    assert float(effective_count(torch.zeros(4, 5))) == 0
    share = torch.tensor([0.5, 0.25, 0.25])
    assert float(effective_count(share[None])) == pytest.approx(2**1.5)


@pytest.mark.parametrize("seed", range(3))
def test_noise_reads_two_and_a_rotation_one(seed):
    noise = psi(causes.null(6000, 8, seed, "isotropic"), seed)
    assert noise.data[0].tolist() == pytest.approx([2, 2], abs=0.1)
    assert noise.gaussian[0].tolist() == pytest.approx([2, 2], abs=0.1)
    rotation = psi(causes.rotated(6000, 8, seed), seed)
    assert rotation.data[0].tolist() == pytest.approx([1, 1], abs=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_superposition_reads_less_than_noise_without_features(seed):
    found = psi(causes.superposition(6000, 8, seed), seed)
    assert float(found.data.mean()) > 1.4
    assert float((found.data - found.null).mean()) < 0.1


def test_too_few_rows_are_refused():
    with pytest.raises(ConfigError):
        effective(torch.randn(50, 4, generator=rng.stream(0, "few")), rng.stream(0, "few"))
