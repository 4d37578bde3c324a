import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.dictionary import code_length
from digon.worlds import causes


def check_of(world, seed):
    return code_length(Evidence(world.activations, seed))


@pytest.mark.parametrize("seed", range(3))
def test_for_more_atoms_than_dimensions(seed):
    check = check_of(causes.superposition(10_000, 12, seed, load=2.5, active=2.0), seed)
    assert check.verdict == "for"
    assert set(check.excludes) == {"none", "monosemantic", "rotated"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dependence", ["none", "pairs", "copula", "hierarchy"])
def test_against_it_for_rotated_features(dependence, seed):
    check = check_of(causes.rotated(8000, 12, seed, active=1.5, dependence=dependence), seed)
    assert check.verdict == "against"
    assert "superposition" in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_silent_on_noise_and_never_for_a_rectified_rotation(seed):
    assert check_of(causes.null(6000, 12, seed, "elliptical"), seed).verdict == "silent"
    bent = causes.observed(causes.rotated(10_000, 12, seed, active=1.5), ["relu"], seed)
    assert "rotated" not in check_of(bent, seed).excludes


def test_not_applicable_with_too_few_rows():
    assert check_of(causes.superposition(60, 8, 0), 0).verdict == "not applicable"
