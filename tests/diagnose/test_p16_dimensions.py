import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.dimensions import dimensions
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_few_active_features_have_thin_neighborhoods(seed):
    for world in (causes.superposition(2000, 16, seed, active=2.0), causes.rotated(2000, 16, seed, active=1.0)):
        check = dimensions(Evidence(world.activations, seed))
        assert check.verdict == "against"
        assert check.excludes == ("none",)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["isotropic", "power law", "elliptical"])
def test_noise_is_never_called_thin(seed, kind):
    world = causes.null(1500, 16, seed, kind)
    assert dimensions(Evidence(world.activations, seed)).verdict == "for"
    for name in ("relu", "gelu", "outliers"):
        check = dimensions(Evidence(causes.observed(world, [name], seed).activations, seed))
        assert check.excludes == ()


def test_not_applicable():
    assert dimensions(Evidence(causes.null(100, 8, 0).activations)).verdict == "not applicable"
    points = causes.lookup(3000, 8, 0, points=6)
    assert dimensions(Evidence(points.activations)).verdict == "not applicable"
