"""A target is found by its name, read without loss, and refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from digon.errors import ConfigError, DigonError, PathError, SiteError
from digon.store.shards import HarvestPlan, Rows, ShardWriter
from digon.studies import annotations, targets
from digon.studies.targets import Wanted, build_world, read_target
from digon.worlds import causes


def no_scratch() -> Path:
    raise AssertionError("nothing is to be written")


def read(target, **wanted):
    return read_target(str(target), Wanted(**wanted), no_scratch)


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    values = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    plan = HarvestPlan({"a": 4, "layers.0.mlp.act": 4}, "float32", "model", "data")
    writer = ShardWriter(tmp_path / "run" / "activations", plan)
    row = torch.arange(300)
    writer.append(Rows({"a": values, "layers.0.mlp.act": 2 * values}, row % 7, row // 30, row % 30), [f"d{i}" for i in range(10)], 1)  # fmt: skip
    writer.finish()
    (tmp_path / "run" / "config.toml").write_text("")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_is_read_as_it_is(tmp_path, matrix, kind, order):
    np.save(tmp_path / "x.npy", np.asarray(matrix.astype(kind), order=order))
    found = read(tmp_path / "x.npy")
    wide = np.float64 if kind == "float64" else np.float32
    np.testing.assert_array_equal(found.activations.values.numpy(), matrix.astype(kind).astype(wide))
    assert found.activations.values.dtype == (torch.float64 if kind == "float64" else torch.float32)
    assert found.activations.documents.unique(return_counts=True)[1].tolist() == [20] * 25
    assert found.inputs is None


def test_rows_are_spread_evenly_and_ids_follow_them(tmp_path, matrix):
    np.save(tmp_path / "x.npy", matrix)
    found = read(tmp_path / "x.npy", rows=100)
    assert found.rows.tolist() == list(range(0, 500, 5))
    np.testing.assert_array_equal(found.activations.values.numpy(), matrix[::5])
    names = [f"input {i % 10}" for i in range(500)]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n")
    ids = annotations.read_ids(str(tmp_path / "ids.txt"), found)
    assert torch.equal(ids, (torch.arange(0, 500, 5) % 10 > 0).long())


def test_safetensors_by_the_only_matrix_or_by_key(tmp_path, matrix):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    safetensors.numpy.save_file({"acts": matrix, "mean": matrix.mean(0)}, one)
    safetensors.numpy.save_file({"acts": matrix, "other": 2 * matrix}, two)
    np.testing.assert_array_equal(read(one).activations.values.numpy(), matrix)
    np.testing.assert_array_equal(read(two, key="other").activations.values.numpy(), 2 * matrix)
    with pytest.raises(ConfigError, match="2 matrices") as refused:
        read(two)
    assert "--key" in refused.value.hint
    with pytest.raises(ConfigError, match="no tensor 'othr'") as refused:
        read(two, key="othr")
    assert "did you mean other" in refused.value.hint


WRONG = {
    "one axis": (np.zeros(5, np.float32), r"\[5\]"),
    "three axes": (np.zeros((2, 3, 4), np.float32), "reshape"),
    "integers": (np.zeros((5, 2), np.int64), "astype"),
    "truth values": (np.zeros((5, 2), bool), "astype"),
    "complex": (np.zeros((5, 2), np.complex64), "imaginary"),
    "no rows": (np.zeros((0, 2), np.float32), "empty"),
    "no units": (np.zeros((5, 0), np.float32), "empty"),
    "text": (np.array([["a"]]), "astype"),
    "objects": (np.array([[1, None]], dtype=object), "never unpickled"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path, name):
    array, said = WRONG[name]
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ConfigError, match=said) as refused:
        read(tmp_path / "x.npy")
    assert refused.value.expected


def test_files_that_are_missing_damaged_or_of_another_kind(tmp_path, matrix):
    np.save(tmp_path / "acts.npy", matrix)
    with pytest.raises(PathError, match="no file at") as refused:
        read(tmp_path / "act.npy")
    assert "acts.npy" in refused.value.hint
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY junk")
    (tmp_path / "bad.safetensors").write_bytes(b"junk")
    (tmp_path / "w.pt").write_bytes(b"junk")
    (tmp_path / "x.tab").write_text("1 2")
    for name in ("bad.npy", "bad.safetensors", "w.pt", "x.tab"):
        with pytest.raises(DigonError):
            read(tmp_path / name)


def test_a_run_and_its_shards_give_their_sites(store):
    for place in (store, store / "activations"):
        with pytest.raises(SiteError, match="2 sites"):
            read(place)
        with pytest.raises(SiteError, match="no activations of site") as refused:
            read(place, site="layers.0.mlp.akt")
        assert "did you mean layers.0.mlp.act" in refused.value.hint
        found = read(place, site="layers.0.mlp.act", rows=100)
        assert len(found.activations) == 100
        assert found.total == 300
        assert found.documents
        assert torch.equal(annotations.read_ids("own", found), torch.arange(0, 300, 3) % 7)
        with pytest.raises(ConfigError, match="no labels of its own"):
            annotations.read_labels("own", found)


def test_a_run_without_activations_says_so(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(PathError, match="no harvested activations"):
        read(tmp_path)


def test_a_network_is_harvested_at_one_site(tiny, texts, tmp_path):
    with pytest.raises(SiteError, match="many sites") as refused:
        read(tiny)
    assert "layers.1.mlp.act" in refused.value.expected
    with pytest.raises(SiteError, match="fits 2 sites"):
        read(tiny, site="layers.*.mlp.act")
    wanted = Wanted(site="layers.1.mlp.act", tokens=2000, data=texts)
    found = read_target(str(tiny), wanted, lambda: tmp_path)
    assert found.activations.values.shape == (len(found.activations), 24)
    assert found.documents
    assert (tmp_path / "activations" / "manifest.json").is_file()


DRAWN = ["null", "monosemantic", "rotated", "superposition", "manifold", "polygon", "magnitude", "relational", "lookup"]
"""Generators that draw; those that train a network take seconds."""


def test_generators_are_found():
    assert set(DRAWN) <= set(targets.generators())
    assert not {"observed", "world", "check_size"} & set(targets.generators())


@pytest.mark.parametrize("name", [*DRAWN, "mixed"])
def test_every_generator_is_a_target(name):
    found = read(f"world:{name}?rows=300&d=8")
    assert len(found.activations) == 300
    assert found.activations.d == (16 if name == "mixed" else 8)
    assert found.name == f"world:{name}"


def test_options_reach_the_generator_in_their_types():
    one = build_world("world:superposition?load=3&active=2&d=16&rows=500&seed=1&values=half-normal")
    two = causes.superposition(500, 16, 1, 3.0, active=2.0, values="half-normal")
    assert torch.equal(one.activations.values, two.activations.values)
    seen = build_world("world:rotated?basis=oblique&n=5&d=8&rows=500&observed=relu+noise")
    same = causes.observed(causes.rotated(500, 8, 0, basis="oblique", n=5), ["relu", "noise"], 0)
    assert torch.equal(seen.activations.values, same.activations.values)
    table = read("world:lookup?points=12&d=8&rows=500", rows=250)
    assert len(annotations.read_ids("own", table).unique()) == 12
    bits = read("world:relational?kind=xor&d=8&rows=500", rows=250)
    assert annotations.read_labels("own", bits).shape == (250, 8)


def test_a_view_of_a_world_and_a_trained_network():
    seen = build_world("world:rotated?d=8&rows=500&projected=5")
    assert torch.equal(seen.activations.values, causes.projected(causes.rotated(500, 8, 0), 5, 0).activations.values)
    assert {"autoencoder", "memorizer", "clock"} <= set(targets.generators())
    network = read("world:extraction?rows=300&d=8").network
    assert network is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("world:rotated?d=8&projected=9", "1 to 7"),
        ("world:superpos", "did you mean superposition"),
        ("world:", "no world"),
        ("world:rotated?basi=haar", "did you mean basis"),
        ("world:rotated?basis=hair", "haar"),
        ("world:superposition?load=many", "load=many"),
        ("world:superposition?values=unifrom", "values=unifrom"),
        ("world:superposition?d=1.5", "d=1.5"),
        ("world:superposition?load=3&load=4", "each once"),
        ("world:superposition?load", "name=value|load="),
        ("world:superposition?observed=rel", "relu"),
        ("world:mixed?part=rotated", "parts"),
        ("world:mixed?parts=rotated", "at least two"),
        ("world:mixed?parts=rotated+roted", "did you mean"),
        ("world:null?rows=0", "at least one"),
    ],
)
def test_wrong_worlds_name_the_right_ones(text, said):
    with pytest.raises(ConfigError, match=said):
        build_world(text)


def test_ids_of_any_kind(tmp_path, matrix):
    np.save(tmp_path / "x.npy", matrix)
    target = read(tmp_path / "x.npy")
    owner = np.arange(500) // 2
    np.save(tmp_path / "numbers.npy", owner)
    np.save(tmp_path / "names.npy", np.array([f"a{i:03d}" for i in owner]))
    np.save(tmp_path / "pairs.npy", np.stack([owner, owner % 3], 1))
    (tmp_path / "ids.csv").write_text("id\n" + "".join(f"a{i:03d}\n" for i in owner))
    (tmp_path / "bare.csv").write_text("".join(f"a{i:03d},x\n" for i in owner))
    for name in ("numbers.npy", "names.npy", "pairs.npy", "ids.csv", "bare.csv"):
        assert torch.equal(annotations.read_ids(str(tmp_path / name), target), torch.from_numpy(owner)), name


def test_labels_are_columns_numbered_in_order(tmp_path, matrix):
    np.save(tmp_path / "x.npy", matrix)
    target = read(tmp_path / "x.npy")
    size, color = np.arange(500) % 12, np.array(["red", "green"])[np.arange(500) % 2]
    np.save(tmp_path / "one.npy", size)
    assert torch.equal(annotations.read_labels(str(tmp_path / "one.npy"), target)[:, 0], torch.arange(500) % 12)
    (tmp_path / "two.csv").write_text("size,color\n" + "".join(f"{s},{c}\n" for s, c in zip(size, color, strict=True)))
    found = annotations.read_labels(str(tmp_path / "two.csv"), target)
    assert torch.equal(found, torch.stack([torch.arange(500) % 12, 1 - torch.arange(500) % 2], 1))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("short.txt", "a\n" * 499, "499 ids"),
        ("none.txt", None, "no file"),
        ("ids.json", "[]", r"\.npy, \.txt"),
    ],
)
def test_wrong_ids(tmp_path, matrix, name, text, said):
    np.save(tmp_path / "x.npy", matrix)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DigonError, match=said):
        annotations.read_ids(str(tmp_path / name), read(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n" * 500, "no header"),
        ("a,b\n" + "1,2\n" * 499 + "1\n", "line 501"),
        ("a\n" + "1\n" * 400, "400 labels"),
        ("", "line 1|0 labels"),
    ],
)
def test_wrong_labels(tmp_path, matrix, text, said):
    np.save(tmp_path / "x.npy", matrix)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        annotations.read_labels(str(tmp_path / "labels.csv"), read(tmp_path / "x.npy"))


def test_measurements_are_no_labels(tmp_path, monkeypatch, matrix):
    monkeypatch.setattr(annotations, "MOST_VALUES", 100)
    np.save(tmp_path / "x.npy", matrix)
    with pytest.raises(ConfigError, match="500 different values"):
        annotations.read_labels(str(tmp_path / "x.npy"), read(tmp_path / "x.npy"))


def test_some_units_by_number_or_as_one_of_equal_parts(tmp_path, matrix):
    np.save(tmp_path / "m.npy", matrix)
    wanted = torch.from_numpy(matrix[:, 2:4])
    for text in ("2:4", "1/3"):
        target = read(tmp_path / "m.npy", units=text)
        assert torch.equal(target.activations.values, wanted)
        assert target.name == "m.npy#2:4"
    assert target.fingerprint != read(tmp_path / "m.npy").fingerprint


@pytest.mark.parametrize(
    ("units", "message"),
    [("4:2", "no range"), ("3/3", "no range"), ("a", "no range"), ("0/4", "4 equal parts"), ("5:9", "which has 6")],
)
def test_units_that_are_not_there(tmp_path, matrix, units, message):
    np.save(tmp_path / "m.npy", matrix)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "m.npy", units=units)
