"""Files that are cut short, were made to harm, or contradict themselves: a clear error, and nothing is run."""

import contextlib
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from digon import rng
from digon.coders import formats
from digon.errors import CorruptError, DigonError, ModelError, NonFiniteError, PathError

D, K = 8, 32
X = torch.randn(50, D, generator=rng.stream(0, "x"))


@pytest.fixture
def folder(perturbed, tmp_path):
    """An SAE as SAELens writes it: without what digon notes."""
    path = tmp_path / "sae"
    formats.save(perturbed("jumprelu"), path)
    rewrite(path, metadata={"sae_lens_version": "6.54.12"})
    return path


def rewrite(path, **changes):
    file = path / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_tensors(path, **changes):
    file = path / "sae_weights.safetensors"
    save_file(load_file(file) | changes, file)


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, where):
        self.where = str(where)

    def __reduce__(self):
        return os.mkdir, (self.where,)


@pytest.mark.parametrize("wrap", ["state dict", "bare", "legacy"])
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path, wrap):
    file, trap = tmp_path / "ae.pt", tmp_path / "sprung"
    state = {"encoder.weight": torch.zeros(K, D), "decoder.weight": Harm(trap)}
    if wrap == "bare":
        file.write_bytes(pickle.dumps(Harm(trap)))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=wrap == "state dict")
    for load in (formats.load_pt, formats.load):
        with pytest.raises(ModelError, match="could run code"):
            load(file)
    with pytest.raises(ModelError, match="pickle"):
        formats.load(tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 500, 0.5, 0.99])
@pytest.mark.parametrize("name", ["ae.pt", "params.npz", "sae_weights.safetensors"])
def test_a_file_that_was_cut_short_is_corrupt(folder, name, kept):
    tensors = load_file(folder / "sae_weights.safetensors")
    file = folder / name
    if name == "ae.pt":
        torch.save({"encoder.weight": tensors["W_enc"].T, **tensors}, file)
    elif name == "params.npz":
        np.savez(file, **{key: tensor.numpy() for key, tensor in tensors.items()})
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    where = folder if name == "sae_weights.safetensors" else file
    with pytest.raises(CorruptError, match=r"ae\.pt|params\.npz|sae_weights\.safetensors"):
        (formats.load_pt if name == "ae.pt" else formats.load)(where)


def test_objects_and_bombs_in_npz(tmp_path):
    file, trap = tmp_path / "params.npz", tmp_path / "sprung"
    np.savez(file, W_enc=np.array([Harm(trap)], dtype=object))
    with pytest.raises(ModelError, match="pickle"):
        formats.load(file)
    assert not trap.exists()
    np.savez_compressed(file, W_enc=np.zeros(2**25))
    with pytest.raises(ModelError, match="unpacks to 268,435"):
        formats.load(file)
    np.savez(file, W_enc=np.zeros((2, 3), dtype=int))
    with pytest.raises(CorruptError, match=r"W_enc .* of type int64"):
        formats.load(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("W_enc.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'shape': (1000000000000,)}")
    with pytest.raises(CorruptError):
        formats.load(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"W_enc": torch.zeros(D + 1, K)}, r"d_in, d_sae = \[8, 32\], W_enc is \[9, 32\]"),
        ({"W_dec": torch.zeros(K, D + 1)}, r"W_dec is \[32, 9\]"),
        ({"W_dec": torch.zeros(K)}, r"W_dec is \[32\]"),
        ({"b_dec": torch.zeros(D + 1)}, r"b_dec is \[9\]"),
        ({"b_enc": torch.zeros(1)}, r"b_enc is \[1\]"),
        ({"threshold": torch.zeros(())}, r"threshold is \[\]"),
        ({"threshold": torch.zeros(K, dtype=torch.long)}, "no tensor of floats"),
    ],
)
def test_weights_of_the_wrong_size_are_named(folder, change, says):
    with_tensors(folder, **change)
    with pytest.raises(CorruptError, match=says):
        formats.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    threshold = load_file(folder / "sae_weights.safetensors")["threshold"]
    threshold[3] = value
    with_tensors(folder, threshold=threshold)
    with pytest.raises(NonFiniteError, match=r"threshold .* has 1 values"):
        formats.load(folder)


def test_normalization_that_does_not_match(folder):
    raw = formats.load(folder)
    rewrite(folder, normalize_activations="expected_average_only_in")
    with pytest.raises(ModelError, match="a factor that it does not hold"):
        formats.load(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    scaled = formats.load(folder)
    torch.testing.assert_close(scaled.encode(X).dense(), raw.encode(2.5 * X).dense(), rtol=1e-4, atol=1e-4)
    expected = raw.decode(raw.encode(2.5 * X)) / 2.5
    torch.testing.assert_close(scaled.decode(scaled.encode(X)), expected, rtol=1e-4, atol=1e-4)
    for factor in ("-1", '"a"', "NaN", "true"):
        (folder / "activation_scaler.json").write_text(f'{{"scaling_factor": {factor}}}')
        with pytest.raises(CorruptError, match="scaling_factor"):
            formats.load(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    rewrite(folder, normalize_activations="none")
    with pytest.raises(ModelError, match=r"scales activations by 2\.5, cfg\.json says they are not"):
        formats.load(folder)


def test_rows_are_what_the_file_wants(folder):
    with pytest.raises(ModelError, match="takes raw rows"):
        formats.load(folder, rows="layer_norm")
    rewrite(folder, normalize_activations="constant_norm_rescale")
    with pytest.raises(ModelError, match=r"(?s)norm √d.*rows='constant_norm_rescale'"):
        formats.load(folder)
    sae = formats.load(folder, rows="constant_norm_rescale")
    rows, shift, scale = formats.normalize_rows(X, "constant_norm_rescale")
    torch.testing.assert_close(rows.norm(dim=1), torch.full((50,), D**0.5))
    torch.testing.assert_close(rows * scale + shift, X)
    assert sae.encode(rows).dense().isfinite().all()
    same, none, one = formats.normalize_rows(X, "raw")
    assert torch.equal(same * one + none, X)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"architecture": ["standard"]}, ModelError, "architecture"),
        ({"d_in": "8"}, CorruptError, "d_in = '8'"),
        ({"d_sae": 1e400}, CorruptError, "d_sae = inf"),
        ({"metadata": [1]}, CorruptError, "metadata"),
        ({"metadata": {"digon": 5}}, CorruptError, "metadata"),
        ({"metadata": {"digon": {"config": {"d_in": 8}}}}, CorruptError, "damaged"),
        ({"metadata": {"digon": {"config": {"d_in": 9, "width": 32, "l0": 3}}}}, CorruptError, "32 latents on 9"),
        ({"metadata": {"digon": {"sha256": 5}}}, CorruptError, "checksum"),
        ({"activation_fn": "topk", "activation_fn_kwargs": 3}, CorruptError, "activation_fn_kwargs"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 99}}, CorruptError, "99 of 32"),
        ({"architecture": "skip_transcoder"}, CorruptError, "missing 'W_skip'"),
    ],
)
def test_a_config_that_makes_no_sense(folder, changes, error, says):
    rewrite(folder, **changes)
    with pytest.raises(error, match=says):
        formats.load(folder)


def test_a_config_of_before_version_6(folder):
    new = formats.load(folder)
    values = json.loads((folder / "cfg.json").read_text())
    old = {name: values[name] for name in ("d_in", "d_sae", "dtype")} | {"hook_point": "blocks.0.hook_resid_pre"}
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(old))
    sae = formats.load(folder)
    assert (sae.config.activation, sae.config.l0) == ("topk", 5)
    kept = (X - new.b_dec) @ new.W_enc.T + new.b_enc
    assert torch.allclose(sae.encode(X).dense().sum(1), kept.topk(5).values.relu().sum(1), atol=1e-4)
    with_tensors(folder, scaling_factor=torch.full((K,), 2.0))
    with pytest.raises(ModelError, match="finetuning"):
        formats.load(folder)
    with_tensors(folder, scaling_factor=torch.ones(K))
    assert torch.equal(formats.load(folder).W_enc, sae.W_enc)


def test_random_damage_never_surprises(folder):
    """Any byte changed: the SAE is read, as a weight may be any number, or an error of ours says what is wrong."""
    for name in ("cfg.json", "sae_weights.safetensors"):
        whole = (folder / name).read_bytes()
        places = torch.randint(min(len(whole), 5000), (40, 2), generator=rng.stream(0, name))
        for place, value in places.tolist():
            (folder / name).write_bytes(whole[:place] + bytes([value % 256]) + whole[place + 1 :])
            with contextlib.suppress(DigonError):
                formats.load(folder)
        (folder / name).write_bytes(whole)


def test_a_wrong_import_would_be_noticed(folder, monkeypatch):
    from digon.coders.formats import stored

    honest = stored._folded
    monkeypatch.setattr(stored, "_folded", lambda s: honest(s) | {"b_dec": honest(s)["b_dec"] * 1.5})
    with pytest.raises(CorruptError, match="something else than its own formula"):
        formats.load(folder)


def test_what_is_not_there(tmp_path, folder):
    with pytest.raises(PathError, match=r"(?s)no SAE at .*sbe.*did you mean sae"):
        formats.load(tmp_path / "sbe")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(PathError, match="no weights"):
        formats.load(folder)
    with pytest.raises(PathError, match="no file"):
        formats.load_pt(tmp_path)
    with pytest.raises(PathError, match="no SAE"):
        formats.read_metadata(tmp_path)
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds a list"):
        formats.load_pt(tmp_path / "list.pt")
