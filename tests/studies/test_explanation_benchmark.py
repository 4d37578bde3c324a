"""The explanation benchmark: what is tried, how one unit is judged, what the report claims; the puzzles."""

import json
import math

import pytest
import torch

from digon.cli import main
from digon.errors import ConfigError
from digon.explain.explainers import LookUp, NGrams
from digon.studies.explanation_benchmark import puzzles, report, texts
from digon.studies.explanation_benchmark.study import run_explanation, trials
from digon.studies.explanation_benchmark.trial import Trial, measure
from digon.studies.settings import ExplanationBenchmark

SMALL = 300


def test_every_trial_is_tried_once():
    found = trials(ExplanationBenchmark())
    assert len({t.key for t in found}) == len(found) == 2 * 3 * 13
    assert {t.about for t in trials(ExplanationBenchmark(kinds=("gated", "noise")))} == {"gated", "noise"}
    abouts = {t.about for t in found}
    assert {"union of 5", "union 0.7/0.2/0.1", "single", "long-range"} <= abouts


def unit(n_eff=2.0, truth=0.9, foil=0.5, tied=0.9, reached=1.0, **changes):
    ranked = {
        "population": {"truth": truth, "foil": foil, "silent": None},
        "top and random": {"truth": 0.9, "foil": tied},
    }
    found = {
        "effective": 2.0, "n_eff": n_eff, "n_eff at 0.5": 1.0, "n_eff at 0.9": 2.0, "ranked": ranked, "reachable": 0.9,
        "rho": {"one": 0.9 * reached, "two": 0.45}, "best": "one",
    }  # fmt: skip
    return found | changes


def record(*units, about="union of 2", text="topics"):
    return {"key": about, "text": text, "about": about, "seed": 0, "found": list(units)}


def test_what_is_reached_is_told_and_what_is_not():
    good = report.cells_of([record(*[unit(2 + 0.02 * i) for i in range(5)]), record(*[unit() for _ in range(5)])])
    (cell,) = good
    assert len(cell.units) == 10
    assert cell.ranked("population").value == 1
    assert cell.ranked("top and random").value == 0
    assert cell.ranked("top and random", ties=True).value == 1
    assert cell.counted.value == pytest.approx(2.02)
    assert cell.near.value == 1
    assert cell.reached.value == 1
    assert cell.of_rung("two").value == pytest.approx(0.5)
    text = " ".join(report.verdicts(good))
    assert text.count(": reached") == 3
    assert "not reached" not in text
    bad = report.cells_of([record(*[unit(3.0, foil=0.95, reached=0.8) for _ in range(4)])])
    told = " ".join(report.verdicts(bad))
    assert told.count("**not reached**") == 3
    assert "(union of 2)" in told
    assert "at most 1.00 from K" in told


def test_noise_is_right_when_nothing_is_found():
    nothing = {"effective": None, "reachable": None, "ranked": {}, "rho": {"one": 0.0, "two": None}}
    (cell,) = report.cells_of(
        [record(unit(None, **nothing), unit(1.0, **nothing), unit(2.0, **nothing), about="noise")]
    )
    assert math.isnan(cell.effective)
    assert cell.near.value == pytest.approx(2 / 3)
    assert math.isnan(cell.reached.value)
    assert math.isnan(cell.ranked("population").value)


def test_a_unit_is_judged_against_its_truth():
    found = measure(Trial("topics", 3 * SMALL, "conjunction", (1.0,), 1, 0.2, 0.0, 0))["found"]
    assert len(found) == 1
    for one in found:
        assert one["effective"] == 1
        assert one["rho"][one["best"]] > 0.95 * one["reachable"] > one["rho"]["token look-up"]
        whole = one["ranked"]["population"]
        assert report.truth_first(whole)
        assert whole["without the gate"] < whole["truth"]
        assert one["n_eff"] == pytest.approx(1, abs=0.3)


def test_families_are_spellings_of_frequent_words():
    names = ["the", " The", "a", "def", "12", "  12", "only"]
    some = [torch.tensor([0, 1, 2, 3, 6, 6, 4, 5]) for _ in range(60)]
    assert texts.families(some, names) == [[0, 1]]
    assert texts.families(some[:39], names) == []  # too few files
    tokens = texts.python(40)
    assert tokens.vocabulary == texts.VOCABULARY
    assert int(torch.bincount(tokens.documents).max()) <= texts.LENGTH


@pytest.fixture(scope="module")
def given():
    return puzzles.puzzles(texts.text("topics", SMALL, 0))


def test_puzzles_keep_documents_apart(given):
    assert len(given) == 8
    for puzzle in given:
        shown, judged = ({e.document for e in side} for side in (puzzle.shown, puzzle.judged))
        assert not shown & judged
        assert {e.split for e in puzzle.judged} == {"test"}
        assert {e.split for e in puzzle.shown} <= {"fit", "select"}
        values = puzzle.unit.values[puzzle.rows].tolist()
        assert values == pytest.approx([v for e in puzzle.judged for v in e.activations], abs=1e-4)
        assert puzzle.description not in puzzle.false_descriptions


def test_an_explainer_solves_what_it_can_express(given):
    share, reached = puzzles.solve(puzzles.of_rung(LookUp()), given)
    assert reached["single"] > 0.9 > reached["conjunction"]
    assert share.value == sum(r >= 0.9 for r in reached.values()) / 8
    assert puzzles.solve(puzzles.of_rung(NGrams()), given)[1]["conjunction"] > 0.9
    silent, nothing = puzzles.solve(lambda p: [[math.nan] * len(e.tokens) for e in p.judged], given)
    assert silent.value == 0
    assert all(math.isnan(r) for r in nothing.values())


def test_a_judge_that_knows_the_truth_ranks_it_first(given):
    truths = {p.description for p in given}
    assert puzzles.rank(lambda text, _: float(text in truths), given).value == 1
    assert puzzles.rank(lambda *_: 0.0, given).value == 0


def test_requests_that_cannot_be_met(tmp_path):
    for wrong in ({"seeds": 0}, {"units": 0}, {"documents": 0}, {"noise": -1.0}, {"workers": -1}):
        with pytest.raises(ConfigError):
            ExplanationBenchmark(**wrong)
    with pytest.raises(ConfigError, match=r"\.md"):
        run_explanation(ExplanationBenchmark(), tmp_path, tmp_path / "report.txt")


def test_the_command_runs_judges_and_can_judge_again(tmp_path, capsys):
    words = ["benchmark", "explanation", "--texts", "topics", "--kinds", "single", "--documents", "200"]
    words += ["--seeds", "1", "--units", "1", "--workers", "0", "--out", str(tmp_path), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == []
    lines = (tmp_path / "trials.jsonl").read_text()
    text = (tmp_path / "report.md").read_text()
    assert (tmp_path / "explanation-number.svg").read_text().startswith("<?xml")
    assert main(words) == 0
    assert (tmp_path / "trials.jsonl").read_text() == lines
    assert main([*words, "--only-done"]) == 0
    again = (tmp_path / "report.md").read_text()
    assert [x for x in again.splitlines() if x.startswith("|")] == [x for x in text.splitlines() if x.startswith("|")]
