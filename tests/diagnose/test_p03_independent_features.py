from dataclasses import replace

import pytest
import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.independence import independent_features
from digon.tensors import Activations
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_for_linear_mixtures_against_overcomplete_ones(seed):
    rotated = independent_features(Evidence(causes.rotated(8000, 8, seed).activations, seed))
    assert rotated.verdict == "for"
    assert "monosemantic" in rotated.excludes
    assert "rotated" not in rotated.excludes
    over = independent_features(Evidence(causes.superposition(8000, 8, seed).activations, seed))
    assert over.verdict == "against"
    assert over.excludes == ()


def test_gaussian_parts_leave_no_features():
    check = independent_features(Evidence(causes.null(8000, 8, 0).activations, 0))
    assert check.verdict == "silent"
    assert "Gaussian" in check.sentence
    assert "none" not in check.excludes


def test_not_applicable_says_why():
    wide = Evidence(Activations(torch.zeros(10, 300)), 0)
    assert "0 of 300 units vary" in independent_features(wide).sentence
    short = Evidence(causes.rotated(100, 8, 0).activations, 0)
    assert "at least 400" in independent_features(short).sentence


def test_stretches_of_rows_take_the_place_of_missing_documents():
    one = causes.rotated(4000, 8, 0).activations
    check = independent_features(Evidence(replace(one, documents=None), 0))
    assert check.verdict == "for"
    assert "for want of documents" in check.sentence


@pytest.mark.parametrize("seed", range(3))
def test_repeated_constant_and_missing_dimensions(seed):
    h = causes.rotated(8000, 8, seed).activations.values
    documents = torch.arange(8000) // 50
    repeated = torch.cat([h, h[:, :2], torch.full((8000, 1), 2.0)], 1)
    check = independent_features(Evidence(Activations(repeated, documents=documents), seed))
    assert check.verdict == "for"
    assert "all dimensions of 11 units" in check.sentence
    few = causes.rotated(8000, 12, seed, n=5)
    assert independent_features(Evidence(few.activations, seed)).verdict == "for"


def test_what_cannot_be_unmixed_is_said():
    g = torch.Generator().manual_seed(0)
    line = torch.randn(3000, 1, generator=g) * torch.ones(1, 4)
    for values, words in (
        (torch.randn(20, 50, generator=g), "too few to unmix 50 units"),
        (torch.full((500, 3), torch.nan), "NaN"),
        (line, "one dimension"),
    ):
        evidence = Evidence(Activations(values), 0)
        check = independent_features(evidence)
        assert check.verdict == "not applicable"
        assert words in check.sentence
        assert evidence.blocks is None
        assert evidence.dependence is None


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_one_unmixing(seed):
    evidence = Evidence(causes.superposition(8000, 8, seed).activations, seed)
    numbers = evidence.dependence
    assert numbers is not None
    assert numbers.parts == numbers.largest_block == 8
    assert numbers.giant_share == 1
    assert numbers.excess > 5
    assert numbers.excess_normed > 2
    assert numbers.gaussian_share == numbers.sub_gaussian_share == 0
    assert numbers.kurtosis[0] < numbers.kurtosis[2] < numbers.kurtosis[4]
    again = evidence.unmixing
    assert evidence.unmixing is again
    rotated = Evidence(causes.rotated(8000, 8, seed).activations, seed).dependence
    assert rotated is not None
    assert rotated.largest_block == 1
    assert rotated.blocks == 0
    assert rotated.excess_normed < 1.5
    assert rotated.energy_excess < 2


def test_beyond_256_units_nothing_is_cut_off():
    h = causes.rotated(30_000, 300, 0).activations
    check = independent_features(Evidence(h, 0))
    assert check.verdict == "for"
    assert "300 best linear parts" in check.sentence
    assert "monosemantic" in check.excludes
