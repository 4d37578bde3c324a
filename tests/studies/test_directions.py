import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from digon.cli import main
from digon.errors import ConfigError, PathError, SiteError
from digon.explain.directions import SearchConfig, judge
from digon.records import Measurement, UnitCard
from digon.store import weights
from digon.store.runs import Run
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from digon.studies.directions import benchmark, report, study
from digon.studies.directions.place import Place
from digon.studies.settings import DirectionsConfig
from digon.studies.sources import Directions

SITE, VOCABULARY = "mlp", 40


def store(folder, documents=60, d=8, length=60, constant=False):
    """Rows in which three tokens each drive a direction, behind a rotation, among noise."""
    draw = torch.Generator().manual_seed(1)
    n = documents * length
    tokens = torch.randint(VOCABULARY, (n,), generator=draw)
    sources = torch.randn(n, d, generator=draw)
    for i in range(min(3, d)):
        sources[:, i] = 6 * (tokens == i + 5) + 0.5 * sources[:, i]
    values = sources @ torch.linalg.qr(torch.randn(d, d, generator=draw))[0]
    values = torch.ones_like(values) if constant else values
    row = torch.arange(n)
    writer = ShardWriter(folder, HarvestPlan({SITE: d, "single": 1}, "float32", "made", "made"))
    rows = Rows({SITE: values, "single": values[:, :1]}, tokens, row // length, row % length)
    writer.append(rows, [f"document {i}" for i in range(documents)], 1)
    return writer.finish()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return store(tmp_path_factory.mktemp("made") / "shards").root


def config(shards, **changes) -> DirectionsConfig:
    return replace(
        DirectionsConfig(str(shards), SITE, count=4, bits=40.0, controls=2, starts=2, sae_steps=20), **changes
    )


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "found"
    return out, study.run_directions(config(shards), out, lambda line: None)


def numbers(run, group):
    columns = run.read_table("measurements")
    return {n: v for s, n, v in zip(columns["site"], columns["name"], columns["value"], strict=True) if s == group}


def test_planted_directions_are_found_judged_and_drawn(finished):
    out, result = finished
    run = Run.open(out)
    own = numbers(run, f"{SITE}.directions")
    units = run.read_table("units")
    assert (units["rho_population"][:3] > 0.85).all()
    assert not units["rho_population"][3] > 0.15  # there are three; of the fourth nothing can be said
    assert units["bare_token"][0] in {" <5>", " <6>", " <7>"}
    assert (
        units["bare_token_cosine"][:3] > 0.6
    ).all()  # 1/√2 where one direction reads two of the three against each other
    assert ((units["one_token_share"][:3] > 0.4) & (units["token_share"][:3] > 0.95)).all()
    assert own["cosine_max"] < 1e-9
    for kind in ("neurons", "random", "pca", "ica", "latents", "bare-tokens"):
        assert (out / f"against/{kind}.json").is_file()
    assert numbers(run, "neurons")["unexplained_ratio"] < 0.8
    assert numbers(run, "bare tokens")["bare tokens: population"] < own["token look-up of 40 bits: population"] + 0.05
    assert abs(own["rho_other_directions"]) < 0.1
    assert abs(own["rho_displaced"]) < 0.1
    chance = numbers(run, "shuffled text")["shuffled: population"]
    assert math.isnan(chance) or abs(chance) < 0.1
    cards = run.read_json(f"cards/{SITE}.directions/all", list[UnitCard])
    assert [card.kind for card in cards] == ["direction"] * 4
    assert cards[0].exemplars
    assert cards[0].explanations[0].bits <= 40
    assert cards[0].explanations[0].score.population.value == pytest.approx(units["rho_population"][0])
    assert len(result["sentences"]) == 9


def test_directions_file_reads_the_rows_again(finished, shards):
    out, _ = finished
    kept = weights.read_tensors(out / "directions.safetensors")
    place = Place.of(config(shards), lambda: out)
    found = Directions.read(out, ActivationStore.open(shards), SITE)
    values = found.columns(0, 4)
    white = place.white @ kept["theta"].T.float()
    assert torch.allclose(values - values.mean(0), white - white.mean(0), atol=1e-4)
    assert torch.allclose(judge.cosines(kept["theta"]), torch.eye(4, dtype=torch.float64), atol=1e-9)


def test_a_search_that_is_killed_goes_on_with_the_same_result(finished, shards, tmp_path):
    out, _ = finished
    again = tmp_path / "again"
    run = Run.create(again, config(shards))
    shutil.copytree(out / "search", again / "search")
    (again / "search/002.safetensors").unlink()
    (again / "search/003.safetensors").unlink()
    key = Run.open(out).stages()["search begun"]["key"]
    with run.stage("search begun", key):
        pass
    asked = replace(config(shards))
    study.run_directions(asked, again, lambda line: None)
    for name in (
        "search/003.safetensors",
        "directions.safetensors",
        f"cards/{SITE}.directions/all.json",
        "units.parquet",
    ):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    before = (again / "stages.json").read_bytes()
    study.run_directions(asked, again, lambda line: None)
    assert (again / "stages.json").read_bytes() == before


def test_the_verb_prints_json_and_builds_a_page(shards, tmp_path, capsys):
    out = tmp_path / "phrases"
    words = [
        "directions",
        str(shards),
        "--site",
        SITE,
        "--count",
        "2",
        "--explainer",
        "n-grams",
        "--against",
        "neurons",
    ]
    assert main([*words, "--controls", "0", "--starts", "2", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run"] == str(out)
    page = (out / "page.html").read_text()
    assert f"{SITE}.directions#1" in page
    assert main(["explain", str(shards), "--site", SITE, "--directions", str(out), "--units", "all", "--rungs", "token look-up",
                 "--out", str(tmp_path / "explained"), "--json"]) == 0  # fmt: skip


def test_benchmark_reports_what_runs_found(finished, tmp_path):
    out, _ = finished
    cell = benchmark.read(Run.open(out))
    cells = [
        {**cell, "directions": {**cell["directions"], "seconds": Measurement("seconds", s)}} for s in (7.0, 3.0, 4.0)
    ]
    text = benchmark.markdown({("tinylm", "look-up-100"): cells}, "the command")
    assert "; search 3 to 7 s." in text
    rho = cell["directions"]["population"].value
    assert f"| directions | {rho:.3g} [{rho:.3g}, {rho:.3g}]" in text
    bare = cell["bare tokens"]["unexplained_ratio"].value
    line = next(line for line in text.splitlines() if line.startswith("| tinylm | look-ups of at most 100 bits | 3 |"))
    assert line.split(" | ")[3] == f"{rho:.3g} [{rho:.3g}, {rho:.3g}]"
    assert line.endswith(f"{bare:.3g} [{bare:.3g}, {bare:.3g}] |")
    assert "of it." in benchmark.verdicts("tinylm", "look-up-100", [cell])[0]
    ratio = cell["neurons"]["rho_ratio"].value
    met = "holds" if ratio >= 2 else "does not hold"
    assert f"{met}: {ratio:.3f} times" in benchmark.verdicts("tinylm", "look-up-100", [cell])[1]


def test_means_and_ratios():
    found = report.mean("x", np.array([1.0, 3.0, math.nan]), 0)
    assert (found.value, found.n) == (2.0, 2)
    assert "1 without the number" in found.method
    assert math.isnan(report.mean("x", np.array([math.nan]), 0).value)
    many = np.random.default_rng(0)
    above, below = many.normal(1, 0.1, 400), many.normal(2, 0.1, 400)
    ratio = report.ratio("x", above, below, 0, "ratio")
    assert ratio.low < 0.5 < ratio.high
    assert ratio.high - ratio.low == pytest.approx(2 * 1.96 * 0.5 * math.sqrt((0.1**2 + 0.05**2) / 400), rel=0.2)


def test_what_makes_no_sense_is_refused_before_any_work(shards, tmp_path):
    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            study.run_directions(config(shards, **changes), tmp_path / "refused", lambda line: None)
        assert not (tmp_path / "refused/search").exists()

    refused(SiteError, "no site 'layers'", site="layers")
    refused(ConfigError, "single has one unit", site="single")
    refused(ConfigError, "9 directions of mlp, which varies in 8 dimensions", count=9)
    refused(ConfigError, "10 bits do not hold a single token", bits=10.0)
    flat = store(tmp_path / "flat", constant=True).root
    few = store(tmp_path / "few", documents=4).root
    refused(ConfigError, "0 of 8 units vary", target=str(flat))
    refused(ConfigError, "too few documents", target=str(few))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.toml").write_text("")
    refused(PathError, "no harvested activations", target=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="'count': 0"):
        DirectionsConfig(str(shards), SITE, count=0)
    with pytest.raises(ConfigError, match="'iterations': 0"):
        SearchConfig(iterations=0)
