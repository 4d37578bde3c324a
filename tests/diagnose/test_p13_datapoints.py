import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.inputs import data_points
from digon.worlds import causes


def check_of(world, seed, access="A+"):
    return data_points(Evidence(world.activations, seed, inputs=world.activations.tokens if access == "A+" else None))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "points"), [("random", 16), ("random", 64), ("hash", 32)])
def test_a_look_up_code_spends_dimensions_on_inputs(seed, kind, points):
    check = check_of(causes.lookup(3000, 8, seed, kind, points=points), seed)
    assert check.verdict == "for"
    assert "lookup" not in check.excludes
    assert "superposition" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_features_are_shared(seed):
    check = check_of(causes.superposition(6000, 8, seed), seed)
    assert check.verdict == "against"
    assert check.excludes == ("lookup",)
    collide = check_of(causes.polygon(4000, 8, seed), seed)
    assert collide.verdict == "silent"
    assert collide.excludes == ()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_to_compare_with(seed):
    assert check_of(causes.null(2000, 6, seed), seed).verdict == "not applicable"
    assert check_of(causes.lookup(2000, 8, seed), seed, access="A").verdict == "not applicable"
