"""An SAE as one folder, in the manner of model libraries; the hub is a folder here."""

import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from digon import rng
from digon.coders import formats
from digon.coders.sae import SAE
from digon.errors import ModelError, PathError

X = torch.randn(50, 8, generator=rng.stream(0, "x"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are folders; it delivers what is asked for, by the rules of the real one."""
    import huggingface_hub

    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        source, target = tmp_path / "hub" / name, tmp_path / "cache" / name
        if not source.is_dir():
            raise OSError(f"401 Client Error. Repository Not Found: {name}")
        target.mkdir(parents=True, exist_ok=True)
        for file in source.rglob("*"):
            inside = str(file.relative_to(source))
            if file.is_file() and any(fnmatch(inside, pattern) for pattern in allow_patterns):
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / inside)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub", tmp_path / "cache", asked


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_a_folder_and_back(perturbed, tmp_path, activation):
    sae = perturbed(activation)
    sae.save_pretrained(str(tmp_path / "mine"), site="minilm/layers.3.mlp.act", note=[1, 2])
    read = SAE.from_pretrained(tmp_path / "mine")
    assert isinstance(read, SAE)
    assert read.config == sae.config
    assert all(torch.equal(tensor, sae.state_dict()[name]) for name, tensor in read.state_dict().items())
    assert formats.read_metadata(tmp_path / "mine")["note"] == [1, 2]
    assert torch.equal(SAE.from_pretrained(str(tmp_path), folder="mine").W_dec, read.W_dec)


def test_a_repository_of_the_hub(perturbed, hub):
    store, cache, asked = hub
    sae = perturbed("topk")
    sae.save_pretrained(store / "someone" / "saes")
    for name in ("weights.bin", "README.md"):
        (store / "someone" / "saes" / name).write_bytes(b"boom")
    perturbed("gated").save_pretrained(store / "someone" / "saes" / "layer_3" / "wide")
    read = SAE.from_pretrained("someone/saes")
    assert torch.equal(read.encode(X).dense(), sae.encode(X).dense())
    fetched = {str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()}
    assert fetched == {"someone/saes/cfg.json", "someone/saes/sae_weights.safetensors"}, "only what was asked for"
    assert SAE.from_pretrained("someone/saes", folder="layer_3/wide").config.activation == "gated"
    assert asked == ["someone/saes", "someone/saes"]


def test_what_the_hub_does_not_have(perturbed, hub):
    store, _, asked = hub
    perturbed("topk").save_pretrained(store / "someone" / "saes" / "layer_3")
    with pytest.raises(PathError, match=r"(?s)someone/saes holds no SAE.*folder="):
        SAE.from_pretrained("someone/saes")
    with pytest.raises(PathError, match="in layer_4"):
        SAE.from_pretrained("someone/saes", folder="layer_4")
    with pytest.raises(ModelError, match=r"nothing here is called 'no/body', and the hub did not deliver .*401"):
        SAE.from_pretrained("no/body")
    assert len(asked) == 3


def test_slips_never_reach_the_hub(perturbed, hub):
    _, _, asked = hub
    perturbed("topk").save_pretrained(Path("runs") / "mine")
    for source, error in (
        ("runs/mime", PathError),
        (Path("someone/saes"), PathError),
        ("mime", PathError),
        ("../someone/saes", PathError),
        ("runs", PathError),
    ):
        with pytest.raises(error, match="no SAE at"):
            SAE.from_pretrained(source)
    assert asked == []


def test_without_the_hub_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"(?s)is not installed.*pip install 'digon\[hf\]'"):
        SAE.from_pretrained("someone/saes")


def test_offline_is_said(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra `hf` is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="the hub did not deliver 'someone/saes-that-are-not-cached'"):
        SAE.from_pretrained("someone/saes-that-are-not-cached")
