import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.atoms import lines_of, single_sources
from digon.worlds import causes


def check_of(world, seed):
    return single_sources(Evidence(world.activations, seed))


@pytest.mark.parametrize("seed", range(3))
def test_for_more_rays_than_dimensions(seed):
    check = check_of(causes.superposition(10_000, 12, seed, active=1.0), seed)
    assert check.verdict == "for"
    assert "rotated" in check.excludes
    assert "superposition" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_against_it_for_rotated_features(seed):
    check = check_of(causes.rotated(10_000, 16, seed, active=1.5), seed)
    assert check.verdict == "against"
    assert check.excludes == ("none",)


@pytest.mark.parametrize("seed", range(3))
def test_features_of_one_size_make_rays_of_their_sums_and_that_excludes_nothing(seed):
    check = check_of(causes.rotated(10_000, 8, seed, density=0.13, values="constant"), seed)
    assert "rotated" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_silent_on_noise(seed):
    assert check_of(causes.null(6000, 12, seed), seed).verdict == "silent"


def test_not_applicable_with_too_few_rows_and_opposite_rays_are_one_line():
    assert check_of(causes.superposition(60, 8, 0), 0).verdict == "not applicable"
    world = causes.rotated(10_000, 8, 0, active=0.8, values="symmetric")
    found = Evidence(world.activations, 0).rays
    assert found is not None
    assert lines_of(found.directions) == 8
