import pytest
import torch

from digon import rng
from digon.diagnose import Evidence
from digon.diagnose.checks.additivity import encoding_additivity
from digon.worlds import causes


def check_of(world, seed, labels=None):
    return encoding_additivity(Evidence(world.activations, seed, labels=world.labels if labels is None else labels))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["xor", "product", "gated"])
@pytest.mark.parametrize("d", [8, 32])
def test_for_relations(seed, kind, d):
    check = check_of(causes.relational(5000, d, seed, kind), seed)
    assert check.verdict == "for"
    assert set(check.excludes).isdisjoint({"relational", "mixed"})
    assert len(check.excludes) == 7


@pytest.mark.parametrize("seed", range(3))
def test_features_add_up(seed):
    for world in (
        causes.superposition(5000, 16, seed),
        causes.superposition(5000, 16, seed, dictionary="pentagon"),
        causes.rotated(5000, 16, seed),
        causes.rotated(5000, 16, seed, dependence="hierarchy"),
        causes.monosemantic(5000, 16, seed),
    ):
        labels = (world.truth.features > 0).long()
        check = check_of(world, seed, labels)
        assert check.verdict == "against"
        assert check.excludes == ("relational",)
        rectified = check_of(causes.observed(world, ["relu"], seed), seed, labels)
        assert rectified.verdict != "for"


@pytest.mark.parametrize("seed", range(3))
def test_magnitudes_are_named(seed):
    check = check_of(causes.magnitude(5000, 16, seed), seed)
    assert check.verdict == "against"
    assert "magnitude" in check.sentence
    assert "magnitude" not in check.excludes
    assert {"relational", "superposition", "rotated"} <= set(check.excludes)


@pytest.mark.parametrize("seed", range(3))
def test_silent_on_labels_that_are_not_coded(seed):
    labels = torch.randint(2, (4000, 6), generator=rng.stream(seed, "random"))
    check = check_of(causes.superposition(4000, 8, seed), seed, labels)
    assert check.verdict == "silent"
    assert check.excludes == ()


def test_not_applicable():
    world = causes.relational(2000, 8, 0)
    assert "access B" in encoding_additivity(Evidence(world.activations)).sentence
    assert world.labels is not None
    assert check_of(world, 0, world.labels[:, :1]).verdict == "not applicable"
    assert check_of(world, 0, torch.zeros(2000, 3, dtype=torch.long)).verdict == "not applicable"
