import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.magnitudes import magnitudes
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nuisance", [[], ["gains"], ["eight_bits"]])
def test_for_an_onion(seed, nuisance):
    world = causes.observed(causes.magnitude(8000, 16, seed), nuisance, seed)
    check = magnitudes(Evidence(world.activations, seed))
    assert check.verdict == "for"
    assert "16 symbols" in check.sentence
    assert "superposition" in check.excludes
    assert "magnitude" not in check.excludes
    assert "mixed" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_silent_elsewhere(seed):
    worlds = (
        causes.superposition(5000, 8, seed),
        causes.lookup(5000, 16, seed),
        causes.rotated(5000, 8, seed, values="constant"),
    )
    for world in worlds:
        check = magnitudes(Evidence(world.activations, seed))
        assert check.verdict == "silent"
        assert check.excludes == ()


def test_not_applicable():
    world = causes.magnitude(500, 8, 0)
    assert magnitudes(Evidence(world.activations)).verdict == "not applicable"
    still = causes.magnitude(2000, 8, 0).activations
    still.values.zero_()
    assert magnitudes(Evidence(still)).verdict == "not applicable"
