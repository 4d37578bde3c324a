import pytest

from digon.diagnose import Evidence
from digon.diagnose.checks.basis import privileged_basis
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


def test_not_applicable_with_few_rows():
    check = privileged_basis(Evidence(causes.rotated(40, 16, 0).activations, 0))
    assert check.verdict == "not applicable"
    assert "40 rows are too few for 16 units" in check.sentence
