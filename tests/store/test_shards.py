import itertools
import json
from dataclasses import replace

import pytest
import torch

from digon import rng
from digon.errors import ConfigError, CorruptError, PathError, SiteError
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter

PLAN = HarvestPlan({"a": 6, "b": 3}, "float32", "model", "data", {"context": 10})


def shard(i):
    g = rng.stream(i, "shard")
    n = 40 + i
    values = {"a": torch.randn(n, 6, generator=g), "b": torch.randn(n, 3, generator=g)}
    return values, torch.arange(n), torch.arange(n) // 10 + 5 * i, torch.arange(n) % 10, [f"{i}-{j}" for j in range(5)]


def write(root, stop=3, plan=PLAN):
    writer = ShardWriter(root, plan)
    for i in range(writer.cursor, stop):
        values, *labels, names = shard(i)
        writer.append(Rows(values, *labels), names, cursor=i + 1)
    return writer


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "s").finish()


def test_rows_come_back_in_any_order(store):
    whole = torch.cat([shard(i)[0]["a"] for i in range(3)])
    assert torch.equal(store.values("a"), whole)
    rows = torch.tensor([120, 0, 41, 40, 0])
    assert torch.equal(store.values("a", rows), whole[rows])
    assert torch.equal(store.values("a", store.tokens == 3), whole[store.tokens == 3])
    assert torch.equal(store.columns("a", 2, 4), whole[:, 2:4])
    assert torch.equal(torch.cat(list(store.batches("a", 33))), whole)
    assert store.activations("b", rows).documents.tolist() == store.documents[rows].tolist()


def test_moments_equal_those_of_the_rows(store):
    n, mean, second = store.moments("a")
    x = store.values("a").double()
    assert n == len(x)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second, x.square().mean(0), rtol=1e-5, atol=1e-6)


def test_shuffle_is_global_complete_and_resumable(store):
    n = len(store)
    first = list(itertools.islice(store.shuffled("a", 10, seed=1), 2 * (n // 10)))
    seen = torch.cat(first[: n // 10])
    assert len(torch.unique(seen[:, 0])) == 10 * (n // 10)
    assert not torch.equal(first[0], first[n // 10])
    again = next(store.shuffled("a", 10, seed=1, start=17))
    assert torch.equal(again, first[17])
    # a batch mixes all shards: its rows are spread over the store
    position = {float(v): i for i, v in enumerate(store.values("a")[:, 0])}
    spread = [position[float(v)] for v in first[0][:, 0]]
    assert max(spread) - min(spread) > n / 3


def test_interrupted_harvest_ends_in_the_same_bytes(tmp_path):
    whole = write(tmp_path / "whole").finish().root
    write(tmp_path / "cut", stop=2)
    stray = tmp_path / "cut/sites/a/00002.safetensors"
    stray.write_bytes(b"half a shard that was never committed")
    write(tmp_path / "cut").finish()
    for path in whole.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(whole)).read_bytes()


def test_unfinished_store_is_not_read(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(PathError, match="not finished"):
        ActivationStore.open(tmp_path / "s")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_shard_is_named(store, damage):
    path = store.root / "sites/b/00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    match damage:
        case "flip":
            path.write_bytes(data)
        case "truncate":
            path.write_bytes(data[:-9])
        case _:
            path.unlink()
    with pytest.raises(CorruptError, match=r"shard 1 .* sites/b/00001"):
        ActivationStore.open(store.root)


def test_damaged_manifest(store):
    (store.root / "manifest.json").write_text(json.dumps({"plan": 3}))
    with pytest.raises(CorruptError, match="manifest"):
        ActivationStore.open(store.root)


def test_another_harvest_is_refused(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(ConfigError, match="different model"):
        ShardWriter(tmp_path / "s", replace(PLAN, model="other"))
    with pytest.raises(ConfigError, match="float64"):
        ShardWriter(tmp_path / "t", replace(PLAN, dtype="float64"))


def test_unknown_site_and_too_large_batches(store):
    with pytest.raises(SiteError, match="no activations of site 'c'"):
        store.values("c")
    with pytest.raises(ConfigError, match="batches of 1000 rows"):
        next(store.shuffled("a", 1000, seed=0))
