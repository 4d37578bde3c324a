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
def test_table_codes_that_collide_are_codes_too(seed):
    for d, points in ((8, 128), (16, 512)):
        check = check_of(causes.lookup(4000, d, seed, "product", points=points), seed)
        assert check.verdict == "for"
    assert check_of(causes.lookup(4000, 16, seed, "index", points=256), seed).verdict == "for"


@pytest.mark.parametrize("seed", range(3))
def test_nuisances_do_not_hide_a_table(seed):
    table = causes.lookup(4000, 16, seed, points=128)
    for nuisance in ("noise", "eight_bits", "gains", "relu", "outliers"):
        check = check_of(causes.observed(table, [nuisance], seed), seed)
        assert check.verdict == "for", nuisance


@pytest.mark.parametrize("seed", range(3))
def test_silent_where_nothing_is_shared_and_nothing_recurs(seed):
    for kind in ("isotropic", "colored", "elliptical"):
        check = check_of(causes.null(4000, 8, seed, kind), seed)
        assert check.verdict == "silent"
        assert check.excludes == ()


@pytest.mark.parametrize("seed", range(3))
def test_never_for_without_a_table(seed):
    for world in (
        causes.rotated(5000, 8, seed),
        causes.monosemantic(5000, 8, seed),
        causes.manifold(5000, 8, seed),
        causes.polygon(5000, 8, seed),
        causes.magnitude(5000, 8, seed),
        causes.relational(5000, 8, seed, "gated"),
        causes.mixed([causes.superposition(5000, 4, seed), causes.lookup(5000, 4, seed)], seed),
    ):
        assert check_of(world, seed).verdict != "for"
        if world.truth.cause in ("magnitude", "mixed"):
            continue  # sixty inputs of symbols in eight units: nothing returns, as in a table; half of the other is one
        again = torch.randint(60, (3000,), generator=rng.stream(seed, "again"))
        recurring = distinct_inputs(Evidence(world.activations.take(again), seed, inputs=again))
        assert recurring.verdict != "for", world.truth.cause


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
