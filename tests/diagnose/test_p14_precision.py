import pytest
import torch

from digon import rng
from digon.diagnose import Evidence
from digon.diagnose.checks.precision import needed_precision
from digon.tensors import Activations
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_for_bit_extraction(seed):
    entries = 512
    rows = torch.randn(entries, 4, generator=rng.stream(seed, "table"))
    index = torch.randint(entries, (3000,), generator=rng.stream(seed, "index"))
    h = torch.stack([(index + 0.5) / entries, torch.rand(3000, generator=rng.stream(seed, "rest"))], 1)
    read = lambda h: rows[(h[:, 0] * entries).floor().clamp(0, entries - 1).long()]  # noqa: E731
    check = needed_precision(Evidence(Activations(h), seed, network=read))
    assert check.verdict == "for"
    assert "lookup" not in check.excludes
    assert check.statistic is not None
    assert 9 <= check.statistic.value <= 11


@pytest.mark.parametrize("seed", range(3))
def test_networks_of_features_degrade_gracefully(seed):
    for world in (causes.superposition(4000, 16, seed), causes.rotated(4000, 16, seed)):
        for read in (lambda h, w=world: (h @ w.truth.atoms.T - 0.3).relu(), lambda h: h):
            check = needed_precision(Evidence(world.activations, seed, network=read))
            assert check.verdict != "for"
            assert check.excludes == ()


def test_not_applicable():
    world = causes.rotated(500, 4, 0)
    assert "access C" in needed_precision(Evidence(world.activations)).sentence
    assert "too few" in needed_precision(Evidence(causes.rotated(50, 4, 0).activations, network=lambda h: h)).sentence
    constant = needed_precision(Evidence(world.activations, network=lambda h: 0 * h))
    assert constant.verdict == "not applicable"
