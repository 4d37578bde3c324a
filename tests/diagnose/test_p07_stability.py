import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.dictionary import stability
from digon.worlds import causes


def check_of(world, seed):
    return stability(Evidence(world.activations, seed))


@pytest.mark.parametrize("seed", range(3))
def test_atoms_of_features_are_found_again(seed):
    check = check_of(causes.rotated(10_000, 12, seed, active=1.0), seed)
    assert check.verdict == "for"
    assert check.statistic is not None
    assert check.statistic.value == 1


@pytest.mark.parametrize("seed", range(3))
def test_atoms_on_circles_are_a_matter_of_choice(seed):
    check = check_of(causes.manifold(8000, 24, seed), seed)
    assert check.verdict != "for"
    assert check.excludes == ()


def test_not_applicable_without_atoms():
    assert check_of(causes.null(60, 8, 0), 0).verdict == "not applicable"
