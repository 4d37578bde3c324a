"""Running studies: what is done is not done again, a failing study does not take the others along."""

import json
import sys
import types

import pytest

from digon.errors import ConfigError, NonFiniteError, PathError
from digon.records import Figure, Frame, Panel
from digon.studies.toys import reproduce as module
from digon.studies.toys.base import Outcome, measured
from digon.studies.toys.claims import Statement
from digon.studies.toys.reproduce import ReproduceConfig, report, reproduce


@pytest.fixture
def studies(monkeypatch):
    """Two studies: one that counts its runs, one that fails."""
    calls = []

    def good(config, say):
        calls.append(config.size)
        say("measuring")
        figure = Figure("X1-a", "a", "", "see", "caution", (Frame("", (Panel("p", "x", "y"),)),))
        return Outcome({"q": measured("q", [1.0, 1.1, 0.9], method="test")}, {"q": 1.0, "nan": float("nan")}, (figure,))

    def bad(config, say):
        raise NonFiniteError("the loss became NaN")

    for name, run in {"fine": good, "broken": bad}.items():
        study = types.ModuleType(f"digon.studies.toys.{name}")
        study.run = run
        monkeypatch.setitem(sys.modules, study.__name__, study)
    rows = [
        Statement("X1.1", "It is one.", "paper", "q", "published", 1.0, 0.05, study="fine"),
        Statement("X1.2", "It is | two.", "paper", "q", "published", 2.0, 0.05, study="fine"),
        Statement("X2.1", "It works.", "paper", "r", "ours", 1.0, 0.0, study="broken"),
    ]
    monkeypatch.setattr(module, "statements", lambda: rows)
    monkeypatch.setattr(module, "module_of", lambda study: f"digon.studies.toys.{study}")
    return calls


def test_claims_are_judged_and_studies_reused(studies, tmp_path):
    said = []
    claims, failed = reproduce([], tmp_path / "run", ReproduceConfig("smoke"), said.append)
    assert [c.verdict for c in claims] == ["holds", "differs", "not reached"]
    assert claims[0].low < 1 < claims[0].high
    assert failed == ["broken"]
    assert any("the loss became NaN" in line for line in said)
    again, _ = reproduce(["X1.2"], tmp_path / "run", ReproduceConfig("smoke"), said.append)
    assert studies == ["smoke"]
    assert [c.id for c in again] == ["X1.2"]
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert facts["verdicts"] == "1 hold, 1 differ, 1 not reached"


def test_other_settings_need_another_folder(studies, tmp_path):
    reproduce(["X1"], tmp_path / "run", ReproduceConfig("smoke"), lambda line: None)
    with pytest.raises((ConfigError, PathError)):
        reproduce(["X1"], tmp_path / "run", ReproduceConfig("smoke", seed=1), lambda line: None)


def test_an_unknown_name_is_refused_before_any_work(studies, tmp_path):
    with pytest.raises(ConfigError, match="no claim 'X9'"):
        reproduce(["X9"], tmp_path / "run", ReproduceConfig("smoke"), lambda line: None)
    assert not (tmp_path / "run").exists()


def test_the_report_shows_what_differs_first(studies, tmp_path):
    claims, _ = reproduce([], tmp_path / "run", ReproduceConfig("smoke"), lambda line: None)
    text = report(claims, "digon reproduce --all")
    assert text.index("## What differs") < text.index("X1.2") < text.index("## All claims") < text.rindex("X1.1")
    assert "It is \\| two." in text
    assert "| X1.1 | It is one. | paper | published | 1 | 1 | 1 [0.7516, 1.248] | holds |" in text
