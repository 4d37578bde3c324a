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
    assert "up to 256" in independent_features(wide).sentence
    short = Evidence(causes.rotated(100, 8, 0).activations, 0)
    assert "at least 400" in independent_features(short).sentence
    one = causes.rotated(2000, 8, 0).activations
    assert "documents" in independent_features(Evidence(replace(one, documents=None), 0)).sentence
