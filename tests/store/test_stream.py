"""Reading rows at random: complete, resumable, as well mixed as promised, in memory that does not grow."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from digon import rng
from digon.errors import CorruptError
from digon.store import stream, weights
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter

WIDTH = 4


def write(root: Path, lengths: list[int], width: int = WIDTH, dtype: str = "float32") -> ActivationStore:
    """Shards whose rows are the numbers of the rows."""
    writer = ShardWriter(root, HarvestPlan({"a": width}, dtype, "model", "data", {}))
    start = 0
    for cursor, n in enumerate(lengths, 1):
        numbers = torch.arange(start, start + n)
        values = numbers[:, None].expand(n, width).float()
        writer.append(Rows({"a": values}, numbers, numbers, numbers), [], cursor)
        start += n
    return writer.finish()


@pytest.fixture
def small_pools(monkeypatch):
    """Blocks of 5 rows, pools of about 100."""
    monkeypatch.setattr(stream, "BLOCK", 5 * 4 * WIDTH)
    monkeypatch.setattr(stream, "POOL", 100 * 4 * WIDTH)


def first_units(batches, count: int) -> torch.Tensor:
    return torch.stack([x[:, 0] for x in itertools.islice(batches, count)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("lengths", [[400, 3, 100], [64], [1, 250]])
def test_every_epoch_is_all_rows_once_and_starts_anywhere(tmp_path, small_pools, lengths, dtype):
    store = write(tmp_path / "s", lengths, dtype=dtype)
    n, size = sum(lengths), 8
    per_epoch = n // size
    read = first_units(store.shuffled("a", size, seed=3), 3 * per_epoch)
    rows = torch.arange(n).to(getattr(torch, dtype)).float()  # what the type makes of their numbers
    for epoch in read.view(3, -1):
        assert len(epoch) == per_epoch * size
        counts = [torch.bincount(part.long(), minlength=n) for part in (rows, epoch)]
        assert int((counts[0] - counts[1]).sum()) == n % size
        assert (counts[1] <= counts[0]).all()
    if n > size:
        assert not torch.equal(*read.view(3, -1)[:2].sort(stable=True).indices)
    for start in (1, per_epoch - 1, per_epoch, 2 * per_epoch + 3):
        again = first_units(store.shuffled("a", size, 3, start), 2)
        assert torch.equal(again[: 3 * per_epoch - start], read[start : start + 2])
    assert torch.equal(torch.cat(list(store.batches("a", 7))), store.values("a"))


def test_a_store_of_one_pool_is_permuted_as_a_whole(tmp_path):
    store = write(tmp_path / "s", [50, 33])
    wanted = [torch.randperm(83, generator=rng.stream(5, "shuffle", epoch))[:80].view(-1, 20) for epoch in (0, 1)]
    got = first_units(store.shuffled("a", 20, seed=5), 8)
    assert torch.equal(got, torch.cat(wanted).sort(1).values.float())


def test_the_shuffle_is_as_good_as_promised(tmp_path, small_pools):
    n, size = 2000, 20
    store = write(tmp_path / "s", [n])
    order = stream.Order.of(n, size, 4 * WIDTH, 0)
    assert (order.block, order.pool, order.pools) == (5, 100, 20)
    seen = [b.long() for seed in range(12) for b in first_units(store.shuffled("a", size, seed), n // size)]
    pairs = torch.stack([(b[:, None] // 5 == b // 5).sum() - size for b in seen]).double()
    share = float(pairs.mean()) / (size * (size - 1))
    # (B − 1)/(P − 1) with blocks of 5 and pools of 100; 24,000 rows leave an error of about two percent.
    assert share == pytest.approx(4 / 99, rel=0.1)
    # Blocks that are neighbors on disk are not neighbors in the order, but for chance.
    far = torch.stack([(b // 5).double().std() for b in seen]).mean() / (n / 5 / 12**0.5)
    assert float(far) > 0.9
    # Blocks are read in rising order within a pool, and whole but for those at its borders.
    spans = order.spans(0, 3)
    assert spans == sorted(spans)
    assert sum(b - a == 5 for a, b in spans) >= len(spans) - 2
    assert sum(b - a for a, b in spans) == 100


MEMORY = """
import itertools, json, sys
from pathlib import Path
from digon.store import stream
from digon.store.shards import ActivationStore
stream.BLOCK, stream.POOL = 1 << 14, 1 << 20
page = 4096

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * page

peaks = []
for root in sys.argv[1:]:
    store = ActivationStore.open(Path(root))
    n, peak = len(store) // 256, 0
    for x in itertools.islice(store.shuffled("a", 256, 0), n):
        peak = max(peak, resident())
    for x in store.batches("a", 256):
        peak = max(peak, resident())
    peaks.append(peak)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_store(tmp_path):
    write(tmp_path / "short", [8192], width=256)
    write(tmp_path / "long", [8192] * 12, width=256)
    places = [str(tmp_path / "short"), str(tmp_path / "long")]
    told = subprocess.run([sys.executable, "-c", MEMORY, *places], capture_output=True, text=True, check=True)
    short, long = json.loads(told.stdout)
    assert long - short < 24 << 20  # of 88 MiB more on disk; the first steps need some room of their own


def test_a_shard_that_shrinks_is_an_error(tmp_path):
    store = write(tmp_path / "s", [100])
    batches = store.shuffled("a", 10, seed=0)
    path = store.root / "sites/a/00000.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptError, match=r"00000\.safetensors is truncated"):
        next(batches)


def test_places_of_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7)}
    weights.write_tensors(path, tensors)
    for name, tensor in tensors.items():
        place = weights.locate(path, name)
        assert (place.dtype, place.shape) == (tensor.dtype, tuple(tensor.shape))
        raw = path.read_bytes()[place.offset : place.offset + tensor.nbytes]
        assert raw == tensor.numpy().tobytes()
    for damage in (b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}"):
        path.write_bytes(damage)
        with pytest.raises(CorruptError, match="no readable tensor 'a'"):
            weights.locate(path, "a")
