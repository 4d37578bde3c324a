import math

import pytest
import torch

from digon.diagnose import Evidence, diagnose
from digon.diagnose.checks import CHECKS, DECIDING, run_checks
from digon.diagnose.posterior import Opinion
from digon.diagnose.statistics import statistics
from digon.diagnose.verdict import conclude, next_experiment
from digon.records import CAUSES, Check
from digon.tensors import Activations
from digon.worlds import causes


def outcome(id, verdict, *excludes):
    return Check(id, "t", "c", verdict, "s", excludes=excludes)


def opinion(*chosen, novel=False):
    share = {c: 1 / len(chosen) if c in chosen else 0.0 for c in CAUSES}
    return Opinion(share, chosen, share, novel, 2.0 if novel else 0.5, {})


def test_the_set_is_what_worlds_allow_without_what_checks_contradict():
    checks = [outcome("P06", "for", "none", "monosemantic", "rotated")]
    found, questions = conclude(checks, opinion("rotated", "superposition"), "A+", {})
    assert found == ("superposition",)
    assert questions == ()


def test_a_table_and_sparse_features_stand_together_until_inputs_are_known():
    for chosen in ("superposition", "lookup"):
        found, questions = conclude([], opinion(chosen), "A", {"atoms": 2.0})
        assert set(found) == {"superposition", "lookup"}
        assert "A+" in questions[0]
        assert "--ids" in next_experiment(found, "A")
        assert conclude([], opinion(chosen), "A+", {"atoms": 2.0})[0] == (chosen,)


def test_polygons_and_circles_stand_together_until_the_network_is_asked():
    corners = {"exclusive": 1.0}
    for access in ("A", "A+", "B"):
        assert {"superposition", "manifold"} <= set(conclude([], opinion("superposition"), access, corners)[0])
        assert {"superposition", "manifold"} <= set(conclude([], opinion("manifold"), access, corners)[0])
    assert conclude([], opinion("manifold"), "C", corners)[0] == ("manifold",)
    assert conclude([], opinion("manifold"), "A", {"exclusive": 0.0})[0] == ("manifold",)


def test_contradictions_novelty_and_disagreement_end_undecided():
    everything = [outcome("P02", "for", *CAUSES)]
    assert conclude(everything, opinion("rotated"), "A", {})[0] == ("undecided",)
    found, questions = conclude([], opinion("rotated", novel=True), "A", {})
    assert found == ("undecided",)
    assert "unlike every world" in questions[0]
    found, questions = conclude([outcome("P03", "for", "superposition")], opinion("superposition"), "A+", {})
    assert found == ("undecided",)
    assert "disagree" in questions[0]


def test_polysemanticity_alone_decides_nothing():
    found, questions = conclude([outcome("P01", "for", "none")], None, "A", {})
    assert set(found) == set(CAUSES) - {"none"}
    assert questions
    assert next_experiment(found)


def test_every_check_has_a_number_and_those_that_decide_are_among_them():
    assert list(CHECKS) == [f"P{i:02d}" for i in range(1, 20)]
    assert set(DECIDING) < set(CHECKS)
    world = causes.rotated(2000, 6, 0)
    checks = run_checks(Evidence(world.activations, 0), ("P02", "P06"))
    assert [check.id for check in checks] == ["P02", "P06"]


def test_statistics_are_plain_numbers_whatever_is_given():
    for world in (causes.null(400, 4, 0), causes.superposition(3000, 6, 0)):
        evidence = Evidence(world.activations, 0, inputs=world.activations.tokens)
        numbers = statistics(evidence)
        assert all(isinstance(value, float) for value in numbers.values())
        assert {"gain", "rays", "P06", "A+:P12", "B:P09"} <= set(numbers)
        assert math.isnan(numbers["B:P09"])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("make", "expected"),
    [(causes.null, "none"), (causes.monosemantic, "monosemantic"), (causes.rotated, "rotated")],
)
def test_superposition_is_never_named_where_there_is_none(make, expected, seed):
    verdict = diagnose(Evidence(make(10_000, 12, seed).activations, seed))
    assert expected in verdict.causes
    assert "superposition" not in verdict.causes


@pytest.mark.parametrize("seed", range(2))
def test_superposition_is_named_counted_and_told_from_a_table_by_the_inputs(seed):
    world = causes.superposition(12_000, 12, seed, load=2.0, active=1.5)
    bag = diagnose(Evidence(world.activations, seed))
    assert {"superposition", "lookup"} <= set(bag.causes)
    assert bag.access == "A"
    known = diagnose(Evidence(world.activations, seed, inputs=torch.arange(12_000)))
    assert "superposition" in known.causes
    assert "lookup" not in known.causes
    assert known.n_features.point == pytest.approx(24, abs=2)
    assert known.n_features.lower <= known.n_features.point
    assert known.rank == 12
    assert known.load == pytest.approx(2, abs=0.2)
    assert known.active == pytest.approx(1.5, rel=0.3)


def test_the_budget_of_every_unit_sums_to_one_and_parts_have_labels_of_their_own():
    parts = [causes.rotated(8000, 6, 0, active=0.8), causes.superposition(8000, 6, 1, active=0.8)]
    verdict = diagnose(Evidence(causes.mixed(parts, 0, rotate=False).activations, 0))
    total = [sum(shares) for shares in zip(*verdict.budget.values(), strict=True)]
    assert total == pytest.approx([1.0] * 12, abs=1e-4)
    found = {block.cause: block for block in verdict.blocks}
    crowded = max(verdict.blocks, key=lambda b: b.n_features / b.rank)
    assert crowded.n_features == pytest.approx(12, abs=1)
    assert crowded.rank == 6
    assert set(crowded.units) == set(range(6, 12))
    assert {"rotated", "monosemantic"} & set(found)


def test_bad_input_gets_no_confident_verdict():
    few = diagnose(Evidence(Activations(torch.randn(30, 20)), 0))
    assert few.causes == ("undecided",)
    assert "too few" in few.sentence
    broken = torch.randn(1000, 4)
    broken[::10] = math.nan
    assert diagnose(Evidence(Activations(broken), 0)).causes == ("undecided",)
    constant = causes.rotated(4000, 6, 0).activations.values
    constant = torch.cat([constant, torch.ones(4000, 1)], 1)
    verdict = diagnose(Evidence(Activations(constant), 0))
    assert any("never vary" in note for note in verdict.notes)
    assert all(math.isnan(shares[6]) for shares in verdict.budget.values())


def test_only_quick_checks_give_causes_and_no_numbers():
    verdict = diagnose(Evidence(causes.rotated(4000, 6, 0).activations, 0), ids=("P02", "P03"))
    assert verdict.causes == ("rotated", "relational")
    assert verdict.posterior == {}
    assert math.isnan(verdict.n_features.point)
