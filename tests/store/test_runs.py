from dataclasses import dataclass

import numpy as np
import pytest

from digon.errors import ConfigError, CorruptError, PathError
from digon.records import Measurement
from digon.store.runs import Run, list_runs


@dataclass(frozen=True)
class Settings:
    steps: int = 1


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", Settings())


def test_create_continues_equal_settings_and_refuses_others(run):
    assert Run.create(run.path, Settings()).path == run.path
    with pytest.raises(ConfigError, match="steps = 1"):
        Run.create(run.path, Settings(steps=2))


def test_folders_with_something_else_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(PathError, match="is not a run"):
        Run.create(tmp_path, Settings())


def test_open_lists_the_runs_that_exist(run):
    with pytest.raises(PathError, match=r"runs here: .*run"):
        Run.open(run.path.parent / "nope")
    assert [r.path for r in list_runs(run.path.parent)] == [run.path]


def test_tables_are_queried_and_rewritten_to_equal_bytes(run):
    columns = {
        "unit": np.array(["a", "b'", "<c>"]),
        "x": np.array([1.0, np.nan, 3.0]),
        "ok": np.array([True, False, True]),
        "index": np.arange(3),
    }
    run.write_table("units", columns)
    data = (run.path / "units.parquet").read_bytes()
    run.write_table("units", columns)
    assert (run.path / "units.parquet").read_bytes() == data
    got = run.query('select unit, x, ok, "index" from units where "index" > 0')
    assert got["unit"].tolist() == ["b'", "<c>"]
    assert np.isnan(got["x"][0])
    assert got["x"][1] == 3
    assert got["ok"].tolist() == [False, True]


def test_wrong_sql_and_damaged_tables(run):
    run.write_table("units", {"x": np.arange(3)})
    with pytest.raises(ConfigError, match="cannot answer"):
        run.query("select nothing from units")
    (run.path / "units.parquet").write_bytes(b"not parquet at all, not even near")
    with pytest.raises(CorruptError, match="damaged"):
        run.query("select * from units")


def test_records_and_damage(run):
    run.write_json("m", [Measurement(name="l0", value=2.0)])
    assert run.read_json("m", list[Measurement])[0].value == 2
    with pytest.raises(PathError, match=r"no x\.json"):
        run.read_json("x", list[Measurement])
    (run.path / "m.json").write_text("[{]")
    with pytest.raises(CorruptError, match=r"m\.json"):
        run.read_json("m", list[Measurement])


def test_a_stage_runs_once_per_key_and_again_after_an_error(run):
    with pytest.raises(ZeroDivisionError), run.stage("fit", "k"):
        _ = 1 / 0
    for key, expected in [("k", True), ("k", False), ("other", True)]:
        with run.stage("fit", key) as needed:
            assert needed is expected
    assert run.stages()["fit"]["key"] == "other"
