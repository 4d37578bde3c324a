"""The decoding benchmark: what is tried, how one trial is judged, what the report claims."""

import json
from dataclasses import replace

import pytest

from digon.cli import main
from digon.coders.base import evaluate
from digon.coders.classic import identity
from digon.errors import ConfigError
from digon.records import Measurement
from digon.studies.decoding_benchmark import published, real, report
from digon.studies.decoding_benchmark.arena import WorldTrial
from digon.studies.decoding_benchmark.entrants import ENTRANTS, entrant
from digon.studies.decoding_benchmark.study import run_decoding
from digon.studies.decoding_benchmark.trial import measure
from digon.studies.decoding_benchmark.trials import ARENAS, STEPPED, SWEEPS, swept, swept_name, trials
from digon.studies.settings import DecodingBenchmark
from digon.worlds.tree import TreeConfig

TINY = TreeConfig(features=24, d=12, roots=0, rank=0, most=0.06, least=0.04)


def trial(coder, **changes):
    return replace(WorldTrial("tiny", coder, 1, 0, TINY, 24, 60, 256, 8_000), **changes)


def test_every_trial_is_tried_once():
    for size, arena in ARENAS.items():
        found = trials(size, tuple(ENTRANTS), 3)
        assert len({t.key for t in found}) == len(found) == len(ENTRANTS) * len(arena.l0) * 3
    found = list(swept(tuple(ENTRANTS), 2))
    worlds = {swept_name(name, value) for name, its in SWEEPS.items() for value in its}
    assert len(found) == len(STEPPED) * 2 * len(worlds) == len({t.key for t in found})
    assert len(worlds) == sum(map(len, SWEEPS.values())) - len(SWEEPS) + 1
    assert {t.about for t in found} == worlds


def test_true_atoms_are_found_and_random_ones_are_not(tmp_path):
    truth, random = (measure(trial(coder, l0=3), tmp_path) for coder in ("truth", "random"))
    assert truth["scores"]["mcc"] == pytest.approx(1, abs=1e-5)
    assert truth["scores"]["f1"] > 0.85
    assert truth["failures"]["fine"] > 0.95
    assert random["scores"]["f1"] < truth["scores"]["f1"] / 2
    assert random["scores"]["mcc"] < 0.7


@pytest.mark.parametrize("coder", ["standard", "matryoshka", "digon"])
def test_a_trained_entrant_learns_and_goes_on_where_it_was(coder, tmp_path):
    long = trial(coder, steps=400)
    found = measure(long, tmp_path)
    assert found["scores"]["fvu"] < 0.85
    assert found["scores"]["mcc"] > measure(trial("random"), tmp_path)["scores"]["mcc"] - 0.1
    assert found["latents"] == 24
    again = measure(long, tmp_path)
    assert again["scores"] == found["scores"]
    assert long.home(tmp_path).is_dir()


@pytest.mark.parametrize("coder", ["pca", "ica", "dictionary"])
def test_a_decomposition_is_fitted_and_judged(coder, tmp_path):
    assert 0 <= measure(trial(coder), tmp_path)["scores"]["f1"] <= 1


def record(coder, l0, seed, f1, mcc, **changes):
    scores = dict.fromkeys(("f1", "latent_f1", "public_f1"), f1) | dict.fromkeys(("mcc", "public_mcc"), mcc)
    scores |= {"fvu": 0.1, "l0": float(l0), "l0_true": 1.5, "slope": None}
    failures = dict.fromkeys(report.LABELS, 0.0) | {"fine": 1.0}
    head = {"key": f"{coder} {l0} {seed}", "about": "small", "coder": coder, "l0": l0, "seed": seed, "seconds": 1.0}
    return head | {"scores": scores, "failures": failures} | changes


def runs(coder, f1, spread=0.01):
    return [record(coder, l0, seed, f1 + spread * seed, f1) for l0 in (2, 3) for seed in range(3)]


def test_a_clear_lead_is_told_and_an_unclear_one_is_not():
    ahead = report.cells_of([*runs("digon", 0.9), *runs("topk", 0.5)])
    assert "above every other coder" in report.verdict(ahead)
    assert report.verdict(report.cells_of([*runs("digon", 0.9), *runs("truth", 0.95), *runs("pca", 0.1)])).startswith(
        "**"
    )
    close = report.cells_of([*runs("digon", 0.9, 0.05), *runs("topk", 0.88, 0.05)])
    assert "not above topk (f1 at l0 = 2, 3)" in report.verdict(close)
    single = report.cells_of([record("digon", 2, 0, 0.9, 0.9), record("topk", 2, 0, 0.1, 0.1)])
    assert "0 of 2 comparisons; for 2 there are too few seeds to tell" in report.verdict(single)


def test_the_report_shows_every_number_with_its_interval():
    broken = {"key": "x", "about": "small", "coder": "topk", "l0": 2, "seed": 0, "error": "ValueError: no"}
    step = [record("digon", 4, seed, 0.8, 0.8, about=f"load {load}") for load in (1, 2) for seed in range(3)]
    text = report.markdown([*runs("digon", 0.9), *step, broken], "digon benchmark decoding", "a machine")
    assert "0.910 ± 0.025" in text
    assert "Failed trials: 1" in text
    assert "## Sweep: load" in text
    (figure,) = report.figures(report.cells_of(runs("digon", 0.9)))
    assert [panel.title for panel in figure.frames[0].panels] == ["reconstruction", "recovery", "directions"]


def test_means_of_few_seeds_have_no_interval():
    (cell,) = report.cells_of([record("topk", 2, seed, 0.5, 0.5) for seed in range(2)])
    assert isinstance(cell.scores["f1"], Measurement)
    assert cell.scores["f1"].low != cell.scores["f1"].low  # NaN


def test_requests_that_cannot_be_met(tmp_path):
    with pytest.raises(ConfigError, match="no coder 'topp'"):
        entrant("topp")
    with pytest.raises(ConfigError, match="no coder"):
        run_decoding(DecodingBenchmark(coders=("nix",)), tmp_path)
    with pytest.raises(ConfigError, match="seeds"):
        DecodingBenchmark(seeds=0)
    with pytest.raises(ConfigError, match=r"\.md"):
        run_decoding(DecodingBenchmark(), tmp_path, tmp_path / "report.txt")


def test_the_command_runs_judges_and_can_judge_again(tmp_path, capsys):
    words = [
        "benchmark",
        "decoding",
        "--sizes",
        "smoke",
        "--coders",
        "truth",
        "random",
        "--out",
        str(tmp_path),
        "--workers",
        "0",
        "--json",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == []
    text = (tmp_path / "report.md").read_text()
    assert (tmp_path / "decoding-smoke.svg").read_text().startswith("<?xml")
    assert main([*words, "--only-done"]) == 0
    assert main([word for word in (*words, "--only-done") if word != "--json"]) == 0
    again = (tmp_path / "report.md").read_text()
    assert [line for line in again.splitlines() if line.startswith("|")] == [
        line for line in text.splitlines() if line.startswith("|")
    ]


@pytest.fixture
def place(tiny, texts, monkeypatch):
    """The small network in the place of a real one, on its own text."""
    from digon.hosts.corpus import read_corpus

    monkeypatch.setattr(real, "python_corpus", lambda: read_corpus(texts))
    small = real.Place("a tiny network", str(tiny), "layers.0.resid", 2, (2,), 60, 128, 6000)
    monkeypatch.setitem(real.PLACES, "tinylm", small)
    return small


def test_a_real_site_is_decoded_and_seeds_are_compared(place, tmp_path):
    wanted = real.site_trials("tinylm", ("batchtopk", "dictionary"), 2)
    assert len({trial.key for trial in wanted}) == len(wanted) == 4
    real.harvest_place("tinylm", tmp_path / "activations" / "tinylm")
    records = [{"key": trial.key, **trial.head, **measure(trial, tmp_path)} for trial in wanted]
    assert all(0 < r["scores"]["fvu"] < 1 for r in records)
    assert all(1 < r["scores"]["l0"] < 3 for r in records if r["coder"] == "batchtopk")
    cells = real.with_agreement(report.cells_of(records), wanted, tmp_path)
    assert [(cell.coder, cell.l0) for cell in cells] == [("batchtopk", 2), ("dictionary", 2)]
    found = cells[1].scores["agreement"]
    assert found.null is not None
    assert found.null < found.value <= 1
    assert found.low != found.low  # two trainings have no interval
    text = real.section(cells)
    assert "a tiny network" in text
    assert text.count("| batchtopk |") == text.count("| dictionary |") == 1
    (figure,) = real.figures(cells)
    assert [panel.title for panel in figure.frames[0].panels] == ["reconstruction", "agreement of seeds"]
    assert [series.name for series in figure.frames[0].panels[0].series] == ["batchtopk"]


def test_rows_that_judge_come_from_other_documents(place, tmp_path):
    real.harvest_place("tinylm", tmp_path)
    fit, judge = real._stores(tmp_path)
    assert not set(fit.document_ids) & set(judge.document_ids)
    assert len(judge) < len(fit)
    scores = real.reconstruction(identity(16), judge, place.site)
    assert scores["fvu"] == pytest.approx(0, abs=1e-9)
    assert scores["l0"] == evaluate(identity(16), [judge.values(place.site).float()]).l0


def test_another_recipe_is_another_trial(monkeypatch):
    before = trial("digon").key
    monkeypatch.setitem(ENTRANTS, "digon", ENTRANTS["topk"])
    assert trial("digon").key != before


def test_published_numbers_stand_beside_ours_with_their_order():
    grid = (1, 2, 3)
    told = [
        record(coder, l0, 0, published.F1[coder][i], published.MCC[coder][i])
        for coder in published.F1
        for i, l0 in enumerate(grid)
    ]
    text = published.beside(report.cells_of(told))
    assert "It is another" not in text
    assert "0.88 (0.88)" in text
    turned = [r | {"scores": r["scores"] | {"public_f1": -r["scores"]["public_f1"]}} for r in told]
    text = published.beside(report.cells_of(turned))
    assert "F1 at l0 = 2 (25 there): standard > jumprelu > batchtopk > matryoshka" in text
    assert "The order is the published one in MCC" in text
    assert published.beside(report.cells_of(told[:1])) == ""
