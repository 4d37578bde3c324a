import itertools

import pytest

from digon.diagnose import Evidence, diagnose, run_checks
from digon.records import CAUSES, Check
from digon.worlds import causes


def outcome(id, verdict, *excludes):
    return Check(id, "t", "c", verdict, "s", excludes=excludes)


def every_outcome():
    """Everything that the three checks can say, with what each outcome excludes."""
    p01 = [outcome("P01", "for", "none"), outcome("P01", "silent"), outcome("P01", "not applicable")]
    p02 = [
        outcome("P02", "for", "none"),
        outcome("P02", "silent", "monosemantic"),
        outcome("P02", "not applicable"),
    ]
    common = ("none", "superposition", "manifold", "magnitude", "relational", "mixed")
    p03 = [
        outcome("P03", "for", *common, side, *lookup)
        for side in ("rotated", "monosemantic")
        for lookup in ((), ("lookup",))
    ]
    p03 += [
        outcome("P03", "against"),
        outcome("P03", "silent", *(c for c in CAUSES if c != "none")),
        outcome("P03", "not applicable"),
    ]
    return itertools.product(p01, p02, p03)


def test_superposition_never_stands_alone_and_no_verdict_is_empty():
    for checks in every_outcome():
        verdict = diagnose("s", checks)
        assert verdict.causes
        assert verdict.causes != ("superposition",)
        assert bool(verdict.undecided) == (len(verdict.causes) > 1)
        assert bool(verdict.next_experiment) == bool(verdict.undecided)


def test_polysemanticity_alone_decides_nothing():
    verdict = diagnose("s", [outcome("P01", "for", "none")])
    assert set(verdict.causes) == set(CAUSES) - {"none"}
    assert "undecided" in verdict.sentence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "expected"),
    [(causes.null, {"none"}), (causes.monosemantic, {"monosemantic"}), (causes.rotated, {"rotated"})],
)
def test_known_causes_are_named(make, expected, seed):
    verdict = diagnose("world", run_checks(Evidence(make(8000, 10, seed).activations, seed)))
    assert set(verdict.causes) == expected


@pytest.mark.parametrize("seed", range(3))
def test_superposition_is_left_undecided_with_an_experiment(seed):
    verdict = diagnose("world", run_checks(Evidence(causes.superposition(8000, 10, seed, load=3.0).activations, seed)))
    assert verdict.undecided
    assert "superposition" in verdict.causes
    assert "monosemantic" not in verdict.causes
    assert "dictionary" in verdict.next_experiment
