import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.atoms import quartic
from digon.worlds import causes


def check_of(world, seed):
    return quartic(Evidence(world.activations, seed))


@pytest.mark.parametrize("seed", range(3))
def test_for_more_features_than_dimensions(seed):
    check = check_of(causes.superposition(12_000, 8, seed, active=0.8), seed)
    assert check.verdict == "for"
    assert check.statistic is not None
    assert check.statistic.value == pytest.approx(16, abs=1)
    assert check.excludes == ("none",)


@pytest.mark.parametrize("seed", range(3))
def test_against_it_for_rotated_features(seed):
    assert check_of(causes.rotated(12_000, 8, seed, active=0.8), seed).verdict == "against"


@pytest.mark.parametrize("seed", range(3))
def test_silent_for_elliptical_data_and_noise(seed):
    for kind in ("elliptical", "isotropic"):
        check = check_of(causes.null(8000, 8, seed, kind), seed)
        assert check.verdict == "silent"
        assert check.excludes == ()


def test_not_applicable_with_too_few_rows():
    assert check_of(causes.superposition(20, 8, 0), 0).verdict == "not applicable"
