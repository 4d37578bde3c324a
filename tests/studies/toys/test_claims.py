"""Claims: every row is sound, and a verdict follows from three numbers and nothing else."""

import importlib
import math

import pytest

from digon.errors import ConfigError
from digon.studies.toys.base import Outcome, measured
from digon.studies.toys.claims import Statement, chosen, judge, module_of, natural, statements

ROW = Statement("E0.1", "A claim.", "A paper", "quantity", "published", expected=2.0, tolerance=0.1)


def outcome(value, exact=None):
    return Outcome(
        {"quantity": measured("quantity", value, method="test")}, {} if exact is None else {"quantity": exact}
    )


@pytest.mark.parametrize(
    ("value", "exact", "verdict"),
    [
        (2.05, 2.0, "holds"),
        (2.5, 2.0, "not reached"),  # calculation agrees with the paper, our experiment fell short
        (2.5, 2.5, "differs"),
        (2.5, None, "differs"),
        (2.05, 2.5, "holds"),
    ],
)
def test_verdicts_on_a_published_number(value, exact, verdict):
    assert judge(ROW, outcome(value, exact), "paper").verdict == verdict


@pytest.mark.parametrize(
    ("compare", "value", "verdict"),
    [
        ("at least", 1.95, "holds"),
        ("at least", 1.8, "differs"),
        ("at most", 2.05, "holds"),
        ("at most", 2.2, "differs"),
    ],
)
def test_bounds(compare, value, verdict):
    row = Statement("E0.1", "A claim.", "A paper", "quantity", "published", 2.0, 0.1, compare)
    assert judge(row, outcome(value), "paper").verdict == verdict


def test_relative_tolerance():
    row = Statement("E0.1", "A claim.", "A paper", "quantity", "ours", 100.0, 0.05, relative=True)
    assert judge(row, outcome(104.0), "smoke").verdict == "holds"
    assert judge(row, outcome(106.0), "smoke").verdict == "differs"


def test_nothing_measured_is_not_reached():
    paper = Statement("E0.1", "A claim.", "A paper", "quantity", "published", 2.0, 0.1, size="paper")
    assert judge(ROW, None, "paper").verdict == "not reached"
    assert judge(paper, outcome(2.0), "smoke").verdict == "not reached"
    assert judge(ROW, outcome(math.nan), "paper").verdict == "not reached"


def test_an_exact_claim_shows_its_value_as_exact():
    row = Statement("E0.1", "A claim.", "derived", "quantity", "exact", 2.0, 0.1)
    claim = judge(row, outcome(2.0), "paper")
    assert math.isnan(claim.published)
    assert claim.exact == 2.0


def test_choosing():
    rows = [
        ROW,
        Statement("E0.2", "b", "s", "q", "ours", 1.0, 0.0, study="opening"),
        Statement("E10.1", "c", "s", "q", "ours", 1.0, 0.0),
    ]
    assert [r.id for r in chosen(rows, ["E0"])] == ["E0.1", "E0.2"]
    assert [r.id for r in chosen(rows, ["opening"])] == ["E0.2"]
    with pytest.raises(ConfigError, match=r"no claim .E10\.2."):
        chosen(rows, ["E10.2"])


def test_every_row_is_sound():
    rows = statements()
    assert [row.id for row in rows] == sorted((row.id for row in rows), key=natural)
    for row in rows:
        assert math.isfinite(row.expected), row.id
        assert row.tolerance >= 0, row.id
        assert row.statement.endswith("."), row.id
        assert row.source, row.id
        assert callable(importlib.import_module(module_of(row.study)).run), row.id


def test_there_are_enough_claims_and_every_section_of_the_paper_has_some():
    rows = statements()
    sections = {row.id.split(".")[0] for row in rows}
    assert len(rows) >= 100
    assert {f"E{i}" for i in range(13)} <= sections
