import os
import pickle
from pathlib import Path

import pytest
import safetensors
import torch

from digon.errors import CorruptError
from digon.store import files, weights


def test_tensors_survive(tmp_path):
    x = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T
    weights.write_tensors(tmp_path / "x.safetensors", {"x": x})
    assert torch.equal(weights.read_tensors(tmp_path / "x.safetensors")["x"], x)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/digon-was-unpickled"),))


def test_pickles_are_refused_unopened(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CorruptError, match="not a readable safetensors"):
        weights.read_tensors(path)
    assert not Path("/tmp/digon-was-unpickled").exists()


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.write_tensors(path, {"x": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptError):
        weights.read_tensors(path)


MANY = {
    "wide": torch.linspace(-1, 1, 7, dtype=torch.float64),
    "bits": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 5),
    "scalar": torch.tensor(3),
    "big": torch.arange(2_200_001, dtype=torch.float16),
}


@pytest.mark.parametrize("direct", [False, True])
def test_the_library_reads_what_we_write_and_checksums_agree(tmp_path, direct):
    path = tmp_path / "many.safetensors"
    weights.write_tensors(path, MANY, {"site": "embed"}, direct=direct)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"site": "embed"}
        assert set(file.keys()) == set(MANY)
        for name, tensor in MANY.items():
            assert torch.equal(file.get_tensor(name), tensor), name
    assert files.sha256(path) == weights.checksum(MANY, {"site": "embed"})


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, files.Sink.ROOM, files.Sink.ROOM + 1])
def test_direct_writes_end_where_the_data_ends(tmp_path, length):
    path, data = tmp_path / "data", bytes(range(256)) * (length // 256 + 1)
    path.touch()
    with files.Sink(path, direct=True) as sink:
        sink.write(memoryview(data)[: length // 3])
        sink.write(memoryview(data)[length // 3 : length])
    assert path.read_bytes() == data[:length]


def test_file_systems_without_direct_writes_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "O_DIRECT", 1 << 30, raising=False)  # a flag that open refuses or ignores
    weights.write_tensors(tmp_path / "x", {"x": torch.arange(5)}, direct=True)
    assert torch.equal(weights.read_tensors(tmp_path / "x")["x"], torch.arange(5))
