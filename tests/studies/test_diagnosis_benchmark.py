"""The benchmark: cells that never change, runs that resume, numbers that follow from records by hand."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from digon import rng
from digon.cli import main
from digon.diagnose.posterior import Opinion, Posterior, Reference, fit
from digon.errors import ConfigError
from digon.records import CAUSES
from digon.studies.diagnosis_benchmark import runner, scores, study
from digon.studies.diagnosis_benchmark.acceptance import promises
from digon.studies.diagnosis_benchmark.baselines import cheap, fit_and_call
from digon.studies.diagnosis_benchmark.cells import GRIDS, SPLITS, cells, digest, world_of
from digon.studies.diagnosis_benchmark.report import markdown
from digon.studies.diagnosis_benchmark.runner import Job, job_of, measure
from digon.studies.jobs import run
from digon.worlds.causes import NUISANCES

DIGEST = "c4800037976fd86b8bab1031018cc943"
FAMILIES = {
    "null", "monosemantic", "rotated", "superposition", "manifold", "polygon", "magnitude", "relational", "lookup", "mixed",
}  # fmt: skip
EVERY = [cell for split in SPLITS + GRIDS for cell in cells(split)]
CENTERS = {cause: 3 * rng.numpy_stream(1, "center", cause).normal(size=6) for cause in CAUSES}


def small(split, family, count=1):
    """The first small cells of a family."""
    fitting = [c for c in cells(split) if c.family == family and c.d <= 16 and c.n_rows <= 10_000]
    return fitting[:count]


def fake(job):
    """A cell measured in no time: Gaussian statistics around a corner per cause, a look-up's near superposition's."""
    cell, g = job.cell, rng.numpy_stream(job.cell.seed, "fake")
    cause = cell.cause
    alike = {"superposition": ["lookup", "superposition"], "lookup": ["lookup", "superposition"]}.get(cause, [])
    x = CENTERS["superposition" if cause == "lookup" else cause] + 0.7 * g.normal(size=6)
    numbers = {f"s{i}": float(value) for i, value in enumerate(x)} | {
        "A+:reuse": 9.0 * (cause == "lookup") + g.normal()
    }
    verdict = {"causes": alike or [cause], "posterior": {}, "n_features": {"lower": 10.0, "point": 20.0, "upper": None}}
    return {
        "statistics": numbers,
        "baselines": {
            "participation ratio": float(x[0]),
            "token kurtosis": 3.0,
            "moment x": float(x[1]),
            "moment y": 0.0,
        },
        "verdicts": dict.fromkeys(job.access, verdict),
        "alike": alike,
        "truth": {"n": 20, "rank": 10, "active": 1.0},
        "recovered": {"rays": 1.0} if cause == "superposition" else {},
        "seconds": {"statistics": 1.0},
    }


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(study, "measure", fake)


def test_cells_are_what_they_were():
    assert digest() == DIGEST


def test_splits_share_no_seeds_and_hardly_any_parameters():
    seeds = [cell.seed for cell in EVERY]
    assert len(set(seeds)) == len(seeds)
    drawn = [json.dumps([c.kwargs, c.n_rows, c.d, c.nuisances], sort_keys=True) for s in SPLITS for c in cells(s)]
    twice = [count for count in Counter(drawn).values() if count > 1]
    assert sum(twice) < 0.07 * len(drawn)  # nulls have few parameters


@pytest.mark.parametrize(("split", "count"), [("dev", 100), ("calibration", 80), ("test", 60)])
def test_every_split_has_every_family(split, count):
    assert Counter(cell.family for cell in cells(split)) == dict.fromkeys(FAMILIES, count)
    assert {cell.cause for cell in cells(split)} == set(CAUSES)


def test_fewer_cells_are_the_first_ones():
    few = cells("dev", 3)
    assert len(few) == 3 * len(FAMILIES)
    assert all(cell in cells("dev") for cell in few)


def test_grids_hold_what_the_diagnosis_is_accepted_by():
    calm = cells("calm")
    assert {c.family for c in calm} == {"null", "rotated", "monosemantic"}
    assert {c.d for c in calm} == {8, 16, 32, 64, 128}
    assert {c.n_rows for c in calm} == {10_000}
    assert {c.nuisances for c in calm} == {(), *((name,) for name in NUISANCES)}
    assert {c.kwargs["dependence"] for c in calm if "dependence" in c.kwargs} == {
        "none",
        "pairs",
        "copula",
        "hierarchy",
    }
    loads = {(c.kwargs["load"], c.kwargs["active"], c.d) for c in cells("loads")}
    assert len(loads) == len(cells("loads")) == 5 * 4 * 5
    assert {c.family for c in cells("identity")} == {"lookup", "superposition"}
    assert {c.family for c in cells("corners")} == {"polygon", "manifold"}


def test_an_unknown_split_is_named():
    with pytest.raises(ConfigError, match="no split 'tests'"):
        cells("tests")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_worlds_of_every_family_are_as_their_cells_say_and_repeat(family):
    for cell in small("test", family, 3):
        world, again = world_of(cell), world_of(cell)
        values = world.activations.values
        assert values.shape == (cell.n_rows, cell.d)
        assert bool(values.isfinite().all())
        assert world.truth.cause == cell.cause
        assert torch.equal(values, again.activations.values)
        assert len(world.truth.features) == cell.n_rows


def test_repeated_inputs_could_be_a_table():
    cell = next(c for c in EVERY if c.repeats > 1 and c.family == "rotated" and not c.nuisances)
    world = world_of(cell)
    rows, inputs = world.activations.values, world.activations.tokens
    assert inputs is not None
    assert len(inputs.unique()) <= cell.n_rows // cell.repeats
    first = {}
    for i, token in enumerate(inputs[:2000].tolist()):
        assert torch.equal(rows[i], rows[first.setdefault(token, i)])
    assert world.truth.alike == {"rotated", "lookup"}


def test_parts_that_share_a_cause_could_be_one_world():
    cell = next(
        c for c in EVERY
        if c.family == "mixed" and {p["family"] for p in c.kwargs["parts"]} == {"rotated", "relational"}
    )  # fmt: skip
    assert world_of(cell).truth.alike == {"mixed", "rotated"}


def test_labels_of_all_worlds_so_that_having_them_says_nothing():
    for family in FAMILIES:
        cell = small("test", family)[0]
        labels = runner._labels(world_of(cell), cell)
        assert len(labels) == cell.n_rows
        assert 1 <= labels.shape[1] <= runner.VARIABLES


def test_a_real_cell_in_a_process_of_its_own(tmp_path):
    cell = replace(small("dev", "rotated")[0], n_rows=2000, d=8, kwargs={"density": 0.1}, nuisances=(), repeats=1)
    (record,) = run([Job(cell, ("A",))], measure, tmp_path / "dev.jsonl", 1)
    assert "error" not in record, record.get("error")
    assert record["truth"] == {"n": 8, "rank": 8, "active": pytest.approx(0.8, abs=0.1)}
    assert record["recovered"]["any"] > 0.8
    assert "rotated" in record["verdicts"]["A"]["causes"]
    assert {"world", "statistics", "verdict A"} <= record["seconds"].keys()


def records_of(split, count):
    chosen = [job_of(c) for c in cells(split, count)]
    return [{**head(job.cell), **fake(job)} for job in chosen]


def head(cell):
    return {"id": cell.id, "split": cell.split, "family": cell.family, "cause": cell.cause, "kwargs": cell.kwargs,
            "nuisances": list(cell.nuisances), "d": cell.d, "n_rows": cell.n_rows}  # fmt: skip


def test_scores_follow_from_records():
    reference = scores.reference_of(records_of("dev", 40), records_of("calibration", 40))
    test = records_of("test", 30)
    judged = scores.judge(fit(reference), test, "A")
    assert scores.confusion(judged).sum() == len(test) == 300
    assert np.trace(scores.confusion(judged)) == judged.right.sum() > 270
    assert judged.covered.mean() > 0.88
    assert judged.reliability.error < 0.08
    known = scores.judge(fit(reference), test, "A+")
    tables = [o.causes for o, r in zip(known.opinions, known.records, strict=True) if r["cause"] == "lookup"]
    assert np.mean([causes == ("lookup",) for causes in tables]) > 0.8
    made, wrong = judged.abstaining()
    assert wrong[-1] == pytest.approx(1 - judged.right.mean(), abs=1e-6)
    assert made[-1] == 1


def test_a_family_that_was_never_seen_is_novel_or_wrong():
    reference = scores.reference_of(records_of("dev", 25), records_of("calibration", 25))
    found = scores.leave_one_family_out(reference, records_of("test", 10), ["magnitude"])
    assert found["magnitude"]["right"] == 0
    worth = scores.ablation(reference, records_of("test", 10), ["A+:reuse"])
    assert worth["A+:reuse"][0] < 0 < worth["A+:reuse"][1]


def test_baselines_learn_what_their_number_says():
    g = rng.numpy_stream(0, "baselines")
    causes = np.array(["none", "rotated"] * 100, dtype=object)
    table = {"participation ratio": np.where(causes == "none", 1.0, 0.2) + 0.05 * g.normal(size=200)}
    table["moment x"] = np.full(200, np.nan)
    table["moment x"][::3] = table["participation ratio"][::3]
    develop = np.arange(200) < 100
    called = fit_and_call("participation ratio", table, develop, causes, ~develop)
    assert (called == causes[~develop]).mean() > 0.97
    assert set(fit_and_call("majority", table, develop, causes, ~develop)) <= {"none", "rotated"}
    assert 0.4 < (fit_and_call("raw moments", table, develop, causes, ~develop) == causes[~develop]).mean() < 0.95


def test_moments_see_a_cell_apart_from_its_scale():
    values = world_of(small("test", "rotated")[0]).activations.values
    mine, scaled = cheap(values), cheap(7 * values)
    assert mine == pytest.approx(scaled, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("causes", "posterior", "told"),
    [
        (["superposition"], {}, (True, True)),
        (["superposition", "lookup"], {}, (True, True)),
        (["lookup"], {}, (False, False)),
        (["rotated", "superposition"], {"rotated": 0.6, "superposition": 0.4}, (False, True)),
        (["rotated", "superposition"], {"rotated": 0.4, "superposition": 0.6}, (True, True)),
        (["undecided"], {"superposition": 0.9}, (False, False)),
    ],
)
def test_two_readings_of_a_verdict(causes, posterior, told):
    assert scores.claims_superposition({"causes": causes, "posterior": posterior}) == told


def test_the_command_writes_a_report(tmp_path, quick, capsys):
    report = tmp_path / "diagnosis.md"
    given = ["benchmark", "diagnosis", "--size", "smoke", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main([*given, "--report", str(report), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == []
    text = report.read_text()
    for title in ("What was promised", "What is called what", "False superposition", "counted", "Look-up or superposition", "Polygon",
                  "Calibration", "Sets that promise", "surest", "Baselines", "Seconds per cell"):  # fmt: skip
        assert title in text, title
    assert f"--report {report}" in text
    assert (tmp_path / "run" / "figures.json").is_file()


def test_the_report_counts_false_superposition_by_hand(quick):
    records = {split: records_of(split, 20) for split in ("dev", "calibration", "test")} | {
        "calm": records_of("calm", 30)
    }
    for record in records["calm"][:5]:
        record["verdicts"]["A"] = {**record["verdicts"]["A"], "causes": ["superposition", "rotated"]}
    records["calm"][0]["verdicts"]["A"]["causes"] = ["superposition"]
    text = markdown(study.findings(records, "digon benchmark diagnosis", small=True))
    assert "As the only or most probable cause: 1.1 % [0, 6] (1/90); anywhere in the set: 5.6 % [2, 12] (5/90)." in text


def test_promises_are_counted_by_hand():
    records = {
        "loads": records_of("loads", 100),
        "identity": records_of("identity", 60),
        "calm": records_of("calm", 10),
    }
    for record in records["loads"][:8]:
        record["verdicts"]["A"] = {**record["verdicts"]["A"], "causes": ["rotated"]}
        record["recovered"] = {"any": 0.5}
    for record in records["loads"][8:]:
        record["recovered"] = {"any": 1.0}
        record["verdicts"]["A"] = {**record["verdicts"]["A"], "n_features": {"point": 21.9, "lower": 0, "upper": None}}
    found = {p.what: p for p in promises(records, {})}
    named = found["superposition named in the set, load ≥ 1.5, active ≤ 4"]
    assert (named.measured, named.cells, named.kept) == (pytest.approx(0.92), 100, False)
    near = found["number of features within ±10 %, load ≤ 4"]
    assert (near.measured, near.cells) == (1.0, 80)
    assert found["share of features found at load 5, mean over cells"].kept
    assert found["one of both without the other, without identity"].kept
    assert found["look-up told from superposition with identity"].measured == 0
    assert found["superposition where there is none, only or first"].cells == 30


def test_requests_that_cannot_be_met(tmp_path):
    with pytest.raises(ConfigError, match="no split"):
        cells("exam")
    with pytest.raises(ConfigError, match="workers"):
        study.DiagnosisBenchmark(workers=-1)
    with pytest.raises(ConfigError, match="part of the cells"):
        study.run_benchmark(study.DiagnosisBenchmark("smoke", update_reference=True), tmp_path)
    with pytest.raises(ConfigError, match="report"):
        study.run_benchmark(study.DiagnosisBenchmark("smoke"), tmp_path, tmp_path / "report.txt")


def test_a_verdict_is_concluded_again_from_what_its_checks_excluded(monkeypatch):
    share = {c: float(c in ("superposition", "mixed")) / 2 for c in CAUSES}
    opinion = Opinion(share, ("superposition", "mixed"), share, False, 0.5, {})
    monkeypatch.setattr(Posterior, "of", lambda self, numbers, access: opinion)
    told = {"causes": ["rotated"], "excluded": sorted(set(CAUSES) - {"superposition"})}
    record = {"statistics": {"atoms": 3.0}, "verdicts": {"A": told, "B": {"causes": ["rotated"]}}}
    posterior = Posterior(Reference((), np.zeros((0, 0)), (), (), ()))
    again = scores.concluded(posterior, record)["verdicts"]
    assert set(again["A"]["causes"]) == {"superposition", "lookup"}  # what activations alone cannot tell apart
    assert again["B"]["causes"] == ["rotated"]
    assert scores.concluded(posterior, {"error": "failed"}) == {"error": "failed"}
