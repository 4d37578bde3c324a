import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.effective import effective_features
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(2))
def test_noise_reads_as_noise_and_a_rotation_less(seed):
    noise = effective_features(Evidence(causes.null(3000, 8, seed).activations, seed))
    assert noise.verdict == "silent"
    assert noise.statistic is not None
    assert noise.statistic.value == pytest.approx(0, abs=0.15)
    rotated = effective_features(Evidence(causes.rotated(3000, 8, seed).activations, seed))
    assert rotated.verdict == "against"
    assert rotated.statistic is not None
    assert rotated.statistic.value < -0.5
    for check in (noise, rotated):
        assert check.excludes == ()
        assert "noise" in check.sentence


def test_superposition_does_not_read_more_than_noise():
    check = effective_features(Evidence(causes.superposition(3000, 8, 0).activations))
    assert check.verdict != "for"
    assert check.excludes == ()


def test_not_applicable():
    assert effective_features(Evidence(causes.null(300, 8, 0).activations)).verdict == "not applicable"
    assert "256" in effective_features(Evidence(causes.null(3000, 300, 0).activations)).sentence
