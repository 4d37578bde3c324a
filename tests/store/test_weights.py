import pickle
from pathlib import Path

import pytest
import torch

from digon.errors import CorruptError
from digon.store import weights


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
