import pytest
import torch

from digon import rng
from digon.diagnose import Evidence
from digon.diagnose.checks.inputs import distinct_inputs
from digon.worlds import causes


def check_of(world, seed, access="A+"):
    return distinct_inputs(
        Evidence(world.activations, seed, inputs=world.activations.tokens if access == "A+" else None)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "points"), [("random", 16), ("random", 64), ("hash", 16), ("hash", 64)])
def test_for_look_up_codes(seed, kind, points):
    check = check_of(causes.lookup(3000, 8, seed, kind, points=points), seed)
    assert check.verdict == "for"
    assert "superposition" in check.excludes
    assert "lookup" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_against_it_where_inputs_share_features(seed):
    check = check_of(causes.superposition(6000, 8, seed), seed)
    assert check.verdict == "against"
    assert check.excludes == ("lookup",)


@pytest.mark.parametrize("seed", range(3))
def test_silent_without_directions_and_where_codes_collide(seed):
    for world in (causes.null(2000, 6, seed), causes.manifold(3000, 8, seed), causes.polygon(4000, 8, seed)):
        check = check_of(world, seed)
        assert check.verdict == "silent"
        assert check.excludes == ()
    table = causes.lookup(4000, 8, seed, "product", points=128)
    assert "lookup" not in check_of(table, seed).excludes


@pytest.mark.parametrize("seed", range(3))
def test_features_of_inputs_that_recur_are_no_look_up_code(seed):
    once = causes.superposition(60, 8, seed).activations
    again = torch.randint(60, (3000,), generator=rng.stream(seed, "again"))
    check = distinct_inputs(Evidence(once.take(again), seed, inputs=again))
    assert check.verdict != "for"
    assert "superposition" not in check.excludes


def test_never_a_guess_without_the_identity_of_the_inputs():
    world = causes.lookup(2000, 8, 0)
    check = check_of(world, 0, access="A")
    assert check.verdict == "not applicable"
    assert "A+" in check.sentence
    assert "at least 12" in check_of(causes.lookup(2000, 8, 0, points=5), 0).sentence
    assert "too few" in check_of(causes.lookup(50, 8, 0), 0).sentence
