import pytest
import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.basis import privileged_basis
from digon.tensors import Activations
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_for_monosemantic_silent_for_rotated_and_null(seed):
    verdict = {
        make.__name__: privileged_basis(Evidence(make(8000, 12, seed).activations, seed))
        for make in (causes.monosemantic, causes.rotated, causes.null, causes.superposition)
    }
    assert verdict["monosemantic"].verdict == "for"
    assert verdict["monosemantic"].excludes == ("none",)
    for name in ("rotated", "null", "superposition"):
        assert verdict[name].verdict == "silent"
        assert verdict[name].excludes == ("monosemantic",)


@pytest.mark.parametrize("seed", range(3))
def test_nineteen_rotations_of_wide_sites_are_enough(seed):
    wide = privileged_basis(Evidence(causes.monosemantic(2000, 200, seed).activations, seed))
    assert wide.statistic is not None
    assert wide.statistic.p == 0.05  # the least that 19 rotations can give
    assert (wide.verdict, wide.excludes) == ("for", ("none",))
    turned = privileged_basis(Evidence(causes.rotated(2000, 200, seed).activations, seed))
    assert (turned.verdict, turned.excludes) == ("silent", ("monosemantic",))


def test_not_applicable_with_few_rows():
    check = privileged_basis(Evidence(causes.rotated(40, 16, 0).activations, 0))
    assert check.verdict == "not applicable"
    assert "40 rows are too few for 16 units" in check.sentence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("basis", ["partial", "block"])
def test_turned_neighbors_are_no_neurons(seed, basis):
    check = privileged_basis(Evidence(causes.rotated(8000, 16, seed, basis=basis).activations, seed))
    assert check.verdict == "for"
    assert "rotated" not in check.excludes
    assert "monosemantic" in check.excludes
    assert "neighboring pairs" in check.sentence


@pytest.mark.parametrize("dependence", ["pairs", "copula", "hierarchy"])
def test_dependent_neurons_stay_neurons(dependence):
    for seed in range(3):
        world = causes.monosemantic(8000, 16, seed, dependence=dependence)
        check = privileged_basis(Evidence(world.activations, seed))
        assert check.verdict == "for"
        assert check.excludes == ("none",)


def test_units_that_cannot_be_compared():
    h = causes.monosemantic(4000, 8, 0).activations.values
    for values, words in (
        (torch.ones(500, 4), "0 of 4 units vary"),
        (h[:, :1], "1 of 1 units vary"),
        (torch.cat([h[:100], torch.full((1, 8), torch.nan)]), "NaN"),
        (torch.zeros(0, 4), "no rows"),
    ):
        check = privileged_basis(Evidence(Activations(values), 0))
        assert check.verdict == "not applicable"
        assert words in check.sentence
    repeated = torch.cat([h, h[:, :2], torch.full((4000, 1), 2.0)], 1)
    assert privileged_basis(Evidence(Activations(repeated), 0)).verdict == "for"
