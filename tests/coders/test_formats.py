import json
import zipfile

import pytest
import safetensors.torch
import torch

from digon import rng
from digon.coders import formats
from digon.coders.sae import SAE, SAEConfig
from digon.errors import CorruptError, ModelError, PathError

ARCHITECTURES = {
    "relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu", "gated": "gated"
}  # fmt: skip
PER_LATENT = {
    "standard": {"b_enc"}, "topk": {"b_enc"}, "jumprelu": {"b_enc", "threshold"}, "gated": {"b_gate", "r_mag", "b_mag"}
}  # fmt: skip


def plain(path, x):
    """SAELens' formulas, from the files alone."""
    cfg = json.loads((path / "cfg.json").read_text())
    w = safetensors.torch.load_file(path / "sae_weights.safetensors")
    inputs = x - w["b_dec"] if cfg["apply_b_dec_to_input"] else x
    z = inputs @ w["W_enc"]
    if cfg["architecture"] == "gated":
        f = (z * w["r_mag"].exp() + w["b_mag"]).relu() * (z + w["b_gate"] > 0)
        return f @ w["W_dec"] + w["b_dec"]
    z = z + w["b_enc"]
    if cfg["architecture"] == "topk":
        norms = w["W_dec"].norm(dim=1) if cfg["rescale_acts_by_decoder_norm"] else torch.ones(z.shape[1])
        kept = (z * norms).topk(cfg["k"], dim=1)
        f = torch.zeros_like(z).scatter(1, kept.indices, kept.values.relu()) / norms
    else:
        f = z.relu() * (z > w.get("threshold", torch.zeros(())))
    return f @ w["W_dec"] + w["b_dec"]


@pytest.fixture(params=list(ARCHITECTURES))
def written(request, tmp_path, perturbed) -> tuple[SAE, object]:
    sae = perturbed(request.param)
    formats.save(sae, tmp_path / "sae", {"note": 1})
    return sae, tmp_path / "sae"


X = torch.randn(100, 8, generator=rng.stream(0, "x"))


def test_layout_and_formulas(written):
    sae, path = written
    cfg = json.loads((path / "cfg.json").read_text())
    assert cfg["architecture"] == ARCHITECTURES[sae.config.activation]
    shapes = {k: tuple(v.shape) for k, v in safetensors.torch.load_file(path / "sae_weights.safetensors").items()}
    wanted = {"W_enc": (8, 32), "W_dec": (32, 8), "b_dec": (8,)}
    assert shapes == wanted | dict.fromkeys(PER_LATENT[cfg["architecture"]], (32,))
    torch.testing.assert_close(sae.decode(sae.encode(X)), plain(path, X), rtol=1e-5, atol=1e-5)


def test_round_trip_is_exact(written):
    sae, path = written
    read = formats.load(path)
    assert read.config == sae.config
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, sae.state_dict()[name]), name
    again = path.parent / "again"
    formats.save(read, again, {"note": 1})
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (again / name).read_bytes() == (path / name).read_bytes()
    assert formats.read_metadata(path)["note"] == 1


@pytest.mark.parametrize("b_dec", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_files_of_other_tools(written, b_dec, rescale):
    # Strip what only digon writes, and switch on options that digon folds away.
    sae, path = written
    cfg = json.loads((path / "cfg.json").read_text())
    cfg |= {"metadata": {"sae_lens_version": "6.0.0"}, "apply_b_dec_to_input": b_dec, "unknown": 3}
    if sae.config.activation == "topk":
        cfg["rescale_acts_by_decoder_norm"] = rescale
    (path / "cfg.json").write_text(json.dumps(cfg))
    w = safetensors.torch.load_file(path / "sae_weights.safetensors")
    w["W_dec"] = w["W_dec"] * torch.linspace(0.5, 2, 32)[:, None]
    safetensors.torch.save_file(w, path / "sae_weights.safetensors")
    read = formats.load(path)
    torch.testing.assert_close(read.decode(read.encode(X)), plain(path, X), rtol=1e-4, atol=1e-5)
    assert read.config.l0 == (3 if sae.config.activation == "topk" else None)
    assert read.config.activation == {"batchtopk": "jumprelu"}.get(sae.config.activation, sae.config.activation)


def test_an_autoencoder_without_a_target_comes_back(tmp_path):
    sae = SAE(SAEConfig(8, 16, l0=None, activation="relu"))
    formats.save(sae, tmp_path / "sae")
    assert formats.load(tmp_path / "sae").config == sae.config


def test_damage_is_named(written):
    _, path = written
    weights = path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7] + b"\x00" * 7)
    with pytest.raises(CorruptError, match="checksum"):
        formats.load(path)
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(cfg | {"metadata": {}}))
    weights.write_bytes(whole[:200])
    with pytest.raises(CorruptError):
        formats.load(path)
    weights.write_bytes(whole)
    (path / "cfg.json").write_text(json.dumps(cfg | {"metadata": {}, "d_sae": 31}))
    with pytest.raises(CorruptError, match="does not hold one whole SAE"):
        formats.load(path)
    (path / "cfg.json").write_text('{"architecture": ')
    with pytest.raises(CorruptError, match="damaged"):
        formats.load(path)


def test_a_tool_that_saves_an_export_again_is_recognized(written):
    # As SAELens does it: our notes stay in the config, the weights are written anew in another order, without our mark.
    sae, path = written
    weights = path / "sae_weights.safetensors"
    w = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(dict(reversed(w.items())), weights)
    with pytest.warns(UserWarning, match="written by another tool"):
        read = formats.load(path)
    assert torch.equal(read.encode(X).dense(), sae.encode(X).dense())
    assert read.config == sae.config
    # What it changed counts, not what we noted.
    safetensors.torch.save_file(w | {"b_dec": w["b_dec"] + 1}, weights)
    cfg = json.loads((path / "cfg.json").read_text())
    if sae.config.activation == "topk":
        (path / "cfg.json").write_text(json.dumps(cfg | {"k": 2}))
    with pytest.warns(UserWarning, match="another tool"):
        changed = formats.load(path)
    torch.testing.assert_close(changed.decode(changed.encode(X)), plain(path, X), rtol=1e-5, atol=1e-5)
    if sae.config.activation == "gated":
        return
    # Made into another architecture: none of our settings is left.
    w.pop("threshold", None)
    safetensors.torch.save_file(w, weights)
    other = "topk" if sae.config.activation == "relu" else "standard"
    (path / "cfg.json").write_text(
        json.dumps(cfg | {"architecture": other, "k": 4, "rescale_acts_by_decoder_norm": False})
    )
    with pytest.warns(UserWarning, match="another tool"):
        made = formats.load(path)
    assert made.config.activation == {"topk": "topk", "standard": "relu"}[other]
    torch.testing.assert_close(made.decode(made.encode(X)), plain(path, X), rtol=1e-5, atol=1e-5)


def test_sparsify_may_save_again(tmp_path, perturbed):
    sae = perturbed("topk")
    formats.save(sae, tmp_path, layout="sparsify")
    weights = tmp_path / "sae.safetensors"
    w = safetensors.torch.load_file(weights)
    safetensors.torch.save_file(w, weights)
    with pytest.warns(UserWarning, match="another tool"):
        assert torch.equal(formats.load(tmp_path).encode(X).dense(), sae.encode(X).dense())
    formats.save(sae, tmp_path, layout="sparsify")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7] + b"\x00" * 7)
    with pytest.raises(CorruptError, match="checksum"):
        formats.load(tmp_path)


def test_missing_tensors_are_named(written):
    _, path = written
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(cfg | {"metadata": {}}))
    w = safetensors.torch.load_file(path / "sae_weights.safetensors")
    missing = next(name for name in w if name in ("b_enc", "b_gate"))
    del w[missing]
    safetensors.torch.save_file(w, path / "sae_weights.safetensors")
    with pytest.raises(CorruptError, match=f"missing '{missing}'"):
        formats.load(path)


def test_pickles_are_never_opened(written):
    _, path = written
    weights = path / "sae_weights.safetensors"
    weights.unlink()
    with zipfile.ZipFile(path / "sae_weights.pt", "w") as archive:
        archive.writestr("data.pkl", b"boom")
    with pytest.raises(ModelError, match="pickle"):
        formats.load(path)
    (path / "sae_weights.pt").rename(weights)
    with pytest.raises(ModelError, match="pickle"):
        formats.load(path)


def test_unknown_or_absent(written, tmp_path):
    _, path = written
    with pytest.raises(PathError, match="no SAE"):
        formats.load(tmp_path / "nothing")
    cfg = json.loads((path / "cfg.json").read_text()) | {"metadata": {}}
    for change in ({"architecture": "temporal"}, {"normalize_activations": "layer_norm"}):
        (path / "cfg.json").write_text(json.dumps(cfg | change))
        with pytest.raises(ModelError):
            formats.load(path)
