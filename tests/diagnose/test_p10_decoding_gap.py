import pytest
import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.decoding import decoding_gap
from digon.worlds import causes


def check_of(world, seed, labels=None):
    labels = (world.truth.features > 0).long() if labels is None else labels
    return decoding_gap(Evidence(world.activations, seed, labels=labels))


@pytest.mark.parametrize("seed", range(3))
def test_for_superposition(seed):
    check = check_of(causes.superposition(5000, 8, seed), seed)
    assert check.verdict == "for"
    assert check.excludes == ("none", "monosemantic", "rotated")
    assert "per dimension" in check.sentence


@pytest.mark.parametrize("seed", range(3))
def test_no_gap_where_features_have_a_dimension_each(seed):
    for world in (causes.rotated(3000, 8, seed), causes.monosemantic(3000, 8, seed)):
        check = check_of(world, seed)
        assert check.verdict == "against"
        assert check.excludes == ()
    noisy = causes.observed(causes.rotated(3000, 8, seed, basis="oblique"), ["noise"], seed)
    assert check_of(noisy, seed).verdict != "for"


@pytest.mark.parametrize("seed", range(2))
def test_rectified_rotations_exclude_nothing_true(seed):
    check = check_of(causes.observed(causes.rotated(3000, 8, seed), ["relu"], seed), seed)
    assert check.verdict != "for"


@pytest.mark.parametrize("seed", range(3))
def test_silent_on_variables_that_are_not_coded(seed):
    world = causes.relational(2000, 8, seed)
    assert check_of(world, seed, world.labels).verdict == "silent"


def test_not_applicable():
    world = causes.rotated(1000, 4, 0)
    assert "access B" in decoding_gap(Evidence(world.activations)).sentence
    assert check_of(world, 0, torch.zeros(1000, 1, dtype=torch.long)).verdict == "not applicable"
    small = causes.rotated(60, 4, 0)
    assert "too few" in check_of(small, 0).sentence
