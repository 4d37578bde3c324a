import pytest
import torch

from digon import rng
from digon.diagnose import Evidence
from digon.diagnose.checks.unseen import unseen_features, unseen_of
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_rare_features_are_announced(seed):
    share = torch.arange(1, 401).double() ** -1.0
    fired = torch.multinomial(share, 2000, replacement=True, generator=rng.stream(seed, "fired"))
    counts = torch.bincount(fired, minlength=400)
    check = unseen_of(counts, 1, seed)
    assert check.verdict == "for"
    assert check.statistic is not None
    assert int((counts > 0).sum()) < check.statistic.value < 440
    assert check.excludes == ()


@pytest.mark.parametrize("seed", range(3))
def test_silent_where_all_features_are_frequent(seed):
    world = causes.superposition(8000, 8, seed)
    check = unseen_features(Evidence(world.activations, seed))
    assert check.verdict == "silent"
    assert check.statistic is not None
    assert 14 <= check.statistic.value <= 18
    assert "Nothing bounds" in check.sentence


def test_not_applicable():
    assert unseen_features(Evidence(causes.null(2000, 8, 0).activations)).verdict == "not applicable"
    assert unseen_features(Evidence(causes.null(50, 8, 0).activations)).verdict == "not applicable"
    assert unseen_of(torch.zeros(4), 1).verdict == "not applicable"
