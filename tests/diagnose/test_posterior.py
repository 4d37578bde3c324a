"""The posterior on tables whose law is known: right, calibrated, honest about what cannot be told apart, silent outside."""

from functools import cache

import numpy as np
import pytest

from digon import rng
from digon.diagnose.posterior import CONFIDENCE, Reference, fit, kind_of, load_reference
from digon.errors import ConfigError, PathError
from digon.measures.calibration import conformal_rank
from digon.records import CAUSES

NAMES = (*(f"s{i}" for i in range(10)), "A+:reuse", "B:interaction")
ALIKE = {
    "superposition": frozenset({"superposition", "lookup"}),
    "lookup": frozenset({"superposition", "lookup"}),
    "relational": frozenset({"rotated", "relational"}),
}
LOOK = {"lookup": "superposition", "relational": "rotated"}
"""Causes whose activations look like those of another one."""


def table(seed, per_cause=40, spread=1.0):
    """Gaussian clouds around one corner per cause, of which some share a corner and differ only in the last two."""
    g = rng.numpy_stream(seed, "table")
    centers = {c: 2.2 * rng.numpy_stream(7, "center", c).normal(size=10) for c in CAUSES}
    rows, causes = [], []
    for cause in CAUSES:
        x = centers[LOOK.get(cause, cause)] + spread * g.normal(size=(per_cause, 10))
        reuse = (0.0 if cause == "lookup" else 4.0) + g.normal(size=(per_cause, 1))
        interaction = (6.0 if cause == "relational" else 0.0) + g.normal(size=(per_cause, 1))
        rows.append(np.concatenate([x, reuse, interaction], 1))
        causes += [cause] * per_cause
    x = np.concatenate(rows).astype(np.float32)
    x[g.random(x.shape[0]) < 0.2, 3] = np.nan
    alike = tuple(ALIKE.get(c, frozenset()) for c in causes)
    return Reference(NAMES, x, tuple(causes), alike, tuple(causes), "digest")


@cache
def trained(seed=0, spread=1.0):
    return fit(table(seed, 60, spread))


def opinions(posterior, test, access):
    return list(zip(test.causes, posterior.of_table(test.statistics, access), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_what_can_be_told_apart_is(seed):
    posterior, test = trained(seed), table(seed + 50)
    for access, least in (("A", 0.0), ("A+", 0.9), ("B", 0.9)):
        told = [c == o.top for c, o in opinions(posterior, test, access) if c in ("superposition", "lookup")]
        assert np.mean(told) >= (least or 0.3)
    assert np.mean([c == o.top for c, o in opinions(posterior, test, "B")]) > 0.93


def test_from_activations_alone_tables_and_superposition_stand_together():
    for cause, opinion in opinions(trained(), table(51), "A"):
        assert ("lookup" in opinion.causes) == ("superposition" in opinion.causes)
        if cause in ("superposition", "lookup"):
            assert opinion.probabilities["lookup"] == pytest.approx(opinion.probabilities["superposition"])
    decided = [
        {"lookup", "superposition"} <= set(o.causes)
        for c, o in opinions(trained(), table(51), "A+")
        if c in ("superposition", "lookup")
    ]
    assert np.mean(decided) < 0.25


def test_relations_come_apart_with_labels_only():
    for access, apart in (("A", 0.0), ("A+", 0.0), ("B", 0.9)):
        found = [o.causes == ("relational",) for c, o in opinions(trained(), table(52), access) if c == "relational"]
        assert np.mean(found) >= apart
        assert apart or not any(found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("access", ["A", "B"])
def test_sets_cover_and_probabilities_mean_what_they_say(seed, access):
    """Clouds that overlap: nobody can be sure."""
    posterior, test = trained(seed, 2.5), table(seed + 60, 150, 2.5)
    found = opinions(posterior, test, access)
    for cause in CAUSES:
        held = [c in o.causes for c, o in found if c == cause]
        assert np.mean(held) >= 0.82, cause
    assert np.mean([c in o.causes for c, o in found]) >= 0.88
    confidence = np.array([o.plausible[o.top] for _, o in found])
    right = np.array([o.top in kind_of(c, ALIKE.get(c, ()), access) for c, o in found])
    assert abs(confidence.mean() - right.mean()) < 0.06
    assert 0.3 < right.mean() < 0.95


def test_probabilities_sum_to_one_and_sets_are_never_empty():
    for _, opinion in opinions(trained(), table(53), "A"):
        assert sum(opinion.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert opinion.top in opinion.causes


def test_a_site_unlike_all_worlds_is_novel():
    posterior = trained()
    inside = np.mean([o.novel for _, o in opinions(posterior, table(54), "A")])
    assert inside < 0.06
    far = table(54).statistics.copy()
    far[:, :10] += 40 * rng.numpy_stream(0, "far").choice([-1, 1], size=(len(far), 10))
    assert np.mean([o.novel for o in posterior.of_table(far, "A")]) > 0.99


def test_statistics_that_are_missing_or_unknown_do_no_harm():
    posterior = trained()
    assert posterior.of({}, "B").top in CAUSES
    row = dict(zip(NAMES, table(0).statistics[0].tolist(), strict=True))
    assert posterior.of(row | {"s3": float("inf"), "new": 1.0}).top == "none"


def test_higher_statistics_say_nothing_at_lower_access():
    posterior, row = trained(), table(55).statistics[:1]
    other = row.copy()
    other[0, -2:] = 1e6
    assert posterior.of_table(row, "A") == posterior.of_table(other, "A")


def test_another_prior():
    opinion = trained().of_table(table(56).statistics[:1])[0]
    assert opinion.under({}) == pytest.approx(opinion.probabilities)
    odds = {c: opinion.under({"rotated": 10.0})[c] for c in ("rotated", "none")}
    before = opinion.probabilities
    assert odds["rotated"] / odds["none"] == pytest.approx(10 * before["rotated"] / before["none"])


def test_reference_survives_the_disk(tmp_path):
    reference = table(3)
    (tmp_path / "reference.safetensors").write_bytes(reference.to_bytes())
    back = load_reference(tmp_path / "reference.safetensors")
    assert back.names == reference.names
    assert back.causes == reference.causes
    assert back.families == reference.families
    assert back.cells == "digest"
    assert back.alike == reference.alike
    np.testing.assert_array_equal(back.statistics, reference.statistics)
    assert fit(back).of_table(reference.statistics[:3]) == fit(reference).of_table(reference.statistics[:3])
    with pytest.raises(PathError, match="no reference"):
        load_reference(tmp_path / "none")


def test_parts_of_a_reference():
    reference = table(3).without(["s3", "A+:reuse"])
    assert len(reference.names) == len(NAMES) - 2 == reference.statistics.shape[1]
    assert set(reference.take(np.array(reference.causes) != "mixed").causes) == set(CAUSES) - {"mixed"}


def test_requests_that_cannot_be_met():
    with pytest.raises(ConfigError, match="reference worlds"):
        fit(table(0, 3))
    with pytest.raises(ConfigError, match="access"):
        trained().of({}, "E")


def test_kinds():
    assert kind_of("superposition", {"superposition", "manifold", "lookup"}, "A") == {
        "superposition", "manifold", "lookup",
    }  # fmt: skip
    assert kind_of("superposition", {"superposition", "manifold", "lookup"}, "B") == {"superposition", "manifold"}
    assert kind_of("superposition", {"superposition", "manifold", "lookup"}, "C") == {"superposition"}
    assert kind_of("mixed", {"mixed", "rotated"}, "A") == {"mixed", "rotated"}
    assert kind_of("mixed", {"mixed", "superposition", "lookup"}, "A+") == {"mixed"}
    assert kind_of("none", (), "A") == {"none"}
    assert conformal_rank(80, confidence=CONFIDENCE) >= 4
