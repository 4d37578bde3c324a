from dataclasses import replace

import pytest
import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.blocks import dependent_blocks
from digon.tensors import Activations
from digon.worlds import causes


def check_of(world, seed):
    return dependent_blocks(Evidence(world.activations, seed))


@pytest.mark.parametrize("seed", range(3))
def test_for_curves(seed):
    check = check_of(causes.manifold(8000, 8, seed), seed)
    assert check.verdict == "for"
    assert {"rotated", "superposition"} <= set(check.excludes)
    assert "manifold" not in check.excludes
    assert check_of(causes.manifold(8000, 9, seed, "sphere"), seed).verdict == "for"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("corners", [3, 4, 6, 12])
def test_polygons_are_never_decided(seed, corners):
    world = causes.polygon(8000, 8, seed, corners)
    check = check_of(world, seed)
    assert check.verdict == "silent"
    assert not set(check.excludes) & {world.truth.cause, *world.truth.alike}


@pytest.mark.parametrize("seed", range(3))
def test_features_that_are_active_together_are_no_curve(seed):
    check = check_of(causes.rotated(8000, 8, seed, dependence="pairs"), seed)
    assert check.verdict == "silent"
    assert check.excludes == ("none",)
    assert "active together" in check.sentence


@pytest.mark.parametrize("seed", range(3))
def test_no_blocks(seed):
    rotated = check_of(causes.rotated(8000, 8, seed), seed)
    assert rotated.verdict == "against"
    # one pair of parts in twenty may look dependent by chance
    assert set(rotated.excludes) in ({"manifold"}, {"none", "manifold"})
    for kind in ("colored", "elliptical"):
        nothing = check_of(causes.null(8000, 8, seed, kind), seed)
        assert nothing.verdict == "silent"
        assert nothing.excludes == ()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_too_large_to_have_a_shape_stays_undecided(seed):
    for world in (
        causes.superposition(8000, 8, seed),
        causes.lookup(8000, 8, seed),
        causes.manifold(8000, 8, seed, count=8),
    ):
        check = check_of(world, seed)
        assert check.verdict == "silent"
        assert check.excludes == ("none",)


def test_not_applicable_says_why():
    assert "0 of 300 units vary" in dependent_blocks(Evidence(Activations(torch.zeros(10, 300)), 0)).sentence
    assert "at least 400" in dependent_blocks(Evidence(causes.rotated(100, 8, 0).activations, 0)).sentence


def test_stretches_of_rows_take_the_place_of_missing_documents():
    one = causes.rotated(4000, 8, 0).activations
    check = dependent_blocks(Evidence(replace(one, documents=None), 0))
    assert check.verdict == "against"
