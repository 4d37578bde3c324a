import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.training import random_label_control
from digon.worlds import causes


def check_of(world, control, seed):
    site = world.activations
    return random_label_control(Evidence(site, seed, inputs=site.tokens, control=control.activations))


@pytest.mark.parametrize("seed", range(3))
def test_for_a_table_that_shuffled_labels_make_too(seed):
    check = check_of(causes.lookup(4000, 8, seed), causes.lookup(4000, 8, seed + 50), seed)
    assert check.verdict == "for"
    assert "lookup" not in check.excludes


@pytest.mark.parametrize("seed", range(3))
def test_features_that_shuffled_labels_do_not_make(seed):
    check = check_of(causes.superposition(8000, 8, seed), causes.lookup(8000, 8, seed), seed)
    assert check.verdict == "against"
    assert check.excludes == ("lookup",)


@pytest.mark.parametrize("seed", range(3))
def test_features_of_the_inputs_are_in_both(seed):
    check = check_of(causes.superposition(8000, 8, seed), causes.superposition(8000, 8, seed + 50), seed)
    assert check.verdict in ("silent", "against")
    assert check.excludes == ()
    noise = check_of(causes.null(4000, 8, seed), causes.null(4000, 8, seed + 50), seed)
    assert noise.verdict == "silent"


def test_not_applicable():
    world = causes.lookup(1000, 8, 0)
    assert "access D" in random_label_control(Evidence(world.activations)).sentence
    assert "not the same site" in check_of(world, causes.lookup(1000, 6, 0), 0).sentence
    assert check_of(world, causes.lookup(20, 8, 0), 0).verdict == "not applicable"
