import torch

from digon.diagnose import Evidence
from digon.diagnose.checks.meanings import several_meanings
from digon.records import Measurement
from digon.tensors import Activations

NOTHING = Activations(torch.zeros(4, 2))


def share(value, low, high, n=100):
    return Evidence(NOTHING, 0, Measurement("polysemantic_share", value, low, high, n, null=0.05))


def test_for_when_the_interval_lies_above_chance():
    check = several_meanings(share(0.4, 0.3, 0.5))
    assert check.verdict == "for"
    assert "40 % [30, 50] of 100" in check.sentence
    assert "superposition" not in check.excludes


def test_silent_at_chance_and_excludes_nothing():
    check = several_meanings(share(0.06, 0.02, 0.12))
    assert check.verdict == "silent"
    assert check.excludes == ()


def test_not_applicable_without_tested_units():
    assert several_meanings(Evidence(NOTHING, 0)).verdict == "not applicable"
    assert several_meanings(share(float("nan"), float("nan"), float("nan"), n=0)).verdict == "not applicable"
