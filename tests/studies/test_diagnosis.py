"""The study behind `digon diagnose`: one verdict, records in a run, nothing confident on bad input."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from digon.diagnose import Evidence
from digon.errors import ConfigError
from digon.records import Diagnosis
from digon.store.runs import Run
from digon.studies import diagnosis
from digon.studies.commands import command
from digon.studies.diagnosis import DiagnoseConfig, document, explained, judge, run_diagnosis
from digon.tensors import Activations
from digon.worlds import causes

ROTATED = "world:rotated?d=8&rows=6000"


@pytest.fixture
def quick(monkeypatch):
    """A verdict that depends on the number of units only, so that only the study is tested."""
    seen = []

    def verdict(evidence, site, say, *, ids=None):
        seen.append(evidence)
        say("P99 Quick")
        causes = ("rotated",) if evidence.activations.d == 16 else ("superposition", "lookup")
        return Diagnosis(site, causes, f"{site} is what it is.", evidence.access)

    monkeypatch.setattr(diagnosis, "diagnose", verdict)
    monkeypatch.setattr(diagnosis, "senses", lambda activations, seed: None)
    return seen


def test_a_world_is_diagnosed_into_a_run(tmp_path):
    said = []
    result = run_diagnosis(DiagnoseConfig(ROTATED), tmp_path / "run", said.append)
    found = result["diagnosis"]
    assert "rotated" in found.causes
    assert "monosemantic" not in found.causes
    assert found.site == "world:rotated"
    assert any(line.startswith("P03 ") and line.endswith(" s") for line in said)
    run = Run.open(tmp_path / "run")
    assert run.read_json("diagnoses", list[Diagnosis]) == [found]
    assert run.read_json("facts", dict)["kind"] == "diagnosis"
    assert {"distinct_rows", "numeric_rank", "tail_index"} <= {m.name for m in found.measurements}
    again = []
    assert run_diagnosis(DiagnoseConfig(ROTATED), tmp_path / "run", again.append)["diagnosis"] == found
    assert again == []


def test_the_document_is_one_json_object_with_causes_first(tmp_path, quick):
    found = run_diagnosis(DiagnoseConfig(ROTATED), tmp_path / "run", print)["diagnosis"]
    found = dataclasses.replace(found, budget={"rotated": (1.0, float("nan"))})
    plain = json.loads(json.dumps(document(found), allow_nan=False))
    keys = ["causes", "posterior", "access", "n_features", "rank", "load", "active", "checks", "blocks", "undecided", "next_experiment"]  # fmt: skip
    assert list(plain)[: len(keys)] == keys
    assert set(plain["n_features"]) == {"lower", "point", "upper"}
    assert "budget" not in plain
    assert document(found, budget=True)["budget"] == {"rotated": [1.0, None]}


def test_ids_and_labels_raise_the_access(tmp_path, quick):
    rows = 1000
    (tmp_path / "ids.txt").write_text("\n".join(str(i // 2) for i in range(rows)))
    (tmp_path / "labels.csv").write_text("kind\n" + "\n".join(str(i % 3) for i in range(rows)))
    base = DiagnoseConfig(f"world:rotated?d=8&rows={rows}")
    ids, labels = str(tmp_path / "ids.txt"), str(tmp_path / "labels.csv")
    for i, (config, access) in enumerate(
        [
            (base, "A"),
            (dataclasses.replace(base, ids=ids), "A+"),
            (dataclasses.replace(base, ids="own"), "A+"),
            (dataclasses.replace(base, labels=labels), "B"),
            (dataclasses.replace(base, ids=ids, labels=labels), "B"),
        ]
    ):
        assert run_diagnosis(config, tmp_path / str(i), print)["diagnosis"].access == access
    assert len(quick[1].inputs.unique()) == rows // 2
    assert quick[4].labels.shape == (rows, 1)


def test_seconds_of_every_step_are_said(quick):
    said = []
    judge(Evidence(Activations(torch.randn(100, 3))), "x", said.append)
    assert [line.split(":")[0] for line in said] == ["preflight", "P99 Quick"]
    assert all(line.endswith(" s") for line in said)


BAD = {
    "d > N": torch.randn(50, 64),
    "few rows": torch.randn(150, 40),
    "constant": torch.ones(500, 6),
    "one unit": torch.randn(500, 1),
    "NaN": torch.full((500, 6), float("nan")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_never_gets_a_verdict(name):
    verdict = judge(Evidence(Activations(BAD[name])), "bad")
    assert verdict.causes == ("undecided",)
    assert verdict.sentence.startswith("undecided: ")
    assert not verdict.decided
    assert verdict.checks == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_how_much_of_a_part_the_whole_explains(seed):
    g = torch.Generator().manual_seed(seed)
    whole = torch.randn(4000, 16, generator=g).double() + 3
    view = torch.randn(16, 6, generator=g).double()
    noise = torch.randn(4000, 6, generator=g).double()
    signal = whole @ view
    assert explained(Activations(signal + 5), Activations(whole)) == pytest.approx(1, abs=1e-6)
    assert explained(Activations(whole[:, :3]), Activations(whole)) == pytest.approx(1, abs=1e-6)
    ratio = 0.5 * signal.std(0)
    mixed = explained(Activations(signal + ratio * noise), Activations(whole))
    assert mixed == pytest.approx(1 / 1.25, abs=0.03)
    assert explained(Activations(noise), Activations(whole)) == pytest.approx(0, abs=0.03)
    assert explained(Activations(whole), Activations(signal)) < 0.8
    assert np.isnan(explained(Activations(signal[:100]), Activations(whole[:100])))


def saved(tmp_path, seed=0):
    """A rotated code of 16 features, and what 8 of its dimensions show."""
    world = causes.rotated(6000, 16, seed)
    view = torch.linalg.qr(torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)))[0]
    whole = world.activations.values
    np.save(tmp_path / "whole.npy", whole.numpy())
    np.save(tmp_path / "part.npy", (whole @ view).numpy())
    np.save(tmp_path / "other.npy", torch.randn(6000, 16).numpy())
    np.save(tmp_path / "short.npy", whole[:100].numpy())
    np.save(tmp_path / "turned.npy", (whole @ torch.linalg.qr(torch.randn(16, 16))[0]).numpy())
    return lambda part, full: DiagnoseConfig(str(tmp_path / f"{part}.npy"), full=str(tmp_path / f"{full}.npy"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_projection_is_judged_by_the_whole(tmp_path, quick, seed):
    config = saved(tmp_path, seed)("part", "whole")
    found = run_diagnosis(config, tmp_path / "run", print)["diagnosis"]
    alone = Run.open(tmp_path / "run").read_json("diagnoses", list[Diagnosis])[1]
    assert alone.site == "part.npy (the projection alone)"
    assert "superposition" in alone.causes
    assert "rotated" in found.causes
    assert "superposition" not in found.causes
    assert "is a projection (8 units of 16 dimensions)" in found.sentence
    assert "Superposition seen in the part is made by the projection." in found.sentence
    assert any("taken alone, part.npy reads" in note for note in found.notes)


def test_a_whole_that_is_none_is_not_used(tmp_path, quick):
    config = saved(tmp_path)
    found = run_diagnosis(config("part", "other"), tmp_path / "1", print)["diagnosis"]
    assert any("no linear function of it, so it is not used" in note for note in found.notes)
    found = run_diagnosis(config("turned", "whole"), tmp_path / "2", print)["diagnosis"]
    assert any("nothing was projected away" in note for note in found.notes)
    with pytest.raises(ConfigError, match="100 rows"):
        run_diagnosis(config("part", "short"), tmp_path / "3", print)
    assert not (tmp_path / "3").exists()


def test_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in (
        DiagnoseConfig("world:superpos"),
        DiagnoseConfig(ROTATED, ids="nowhere.txt"),
        DiagnoseConfig(ROTATED, labels="own"),
        DiagnoseConfig(ROTATED, rows=0),
    ):
        with pytest.raises(Exception, match=r"no world|no file|no labels|0 rows"):
            run_diagnosis(config, None, print)
    assert not list(tmp_path.iterdir())


def test_the_command_can_be_typed_again(tmp_path):
    config = DiagnoseConfig("world:lookup?d=8&points=9", ids="own", seed=3)
    line = command("diagnose", config, out=tmp_path / "a b")
    assert line == f"digon diagnose 'world:lookup?d=8&points=9' --ids own --seed 3 --out '{tmp_path}/a b'"


def test_a_network_behind_the_site_is_access_c(tmp_path, quick):
    config = DiagnoseConfig("world:extraction?rows=500&d=8", network=True)
    assert run_diagnosis(config, tmp_path / "run", print)["diagnosis"].access == "C"
    values = quick[0].activations.values
    assert len(quick[0].network(values)) == len(values)
    with pytest.raises(ConfigError, match="no network follows"):
        run_diagnosis(DiagnoseConfig(ROTATED, network=True), tmp_path / "other", print)
