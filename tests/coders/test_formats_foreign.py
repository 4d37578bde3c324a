"""Files as other tools write them, made by hand, against those tools' formulas written down here a second time."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, relu

from digon import rng
from digon.coders import formats
from digon.errors import CorruptError, ModelError, PathError

D, K, L0 = 6, 20, 4
X = 2 * torch.randn(200, D, generator=rng.stream(0, "x"))


def draw(*shape: int, name: str) -> Tensor:
    return torch.randn(shape, generator=rng.stream(1, name))


E, F = draw(K, D, name="enc"), draw(D, K, name="dec")  # the shapes of two linear layers
B, C = 0.5 * draw(K, name="b"), draw(D, name="c")
THETA = 1 + draw(K, name="theta").abs()
NORMS = torch.linspace(0.5, 2, D)[:, None]


def top(z: Tensor, k: int = L0) -> Tensor:
    kept = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, kept.indices, kept.values)


def same(sae, codes: Tensor, expected: Tensor, l0: int | None = None) -> None:
    assert (codes > 0).sum() > len(X), "the fixture is silent, so it checks nothing"
    torch.testing.assert_close(sae.encode(X).dense(), codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.decode(sae.encode(X)), expected, rtol=1e-4, atol=1e-5)
    assert sae.config.l0 == l0
    assert not any(p.requires_grad for p in sae.parameters())


def writes(sae, expected: Tensor) -> None:
    """A transcoder, with its skip connection."""
    assert sae.config.target is not None
    torch.testing.assert_close(sae.write(X, sae.encode(X)), expected, rtol=1e-4, atol=1e-4)


# ---- sparsify


def sparsify(folder: Path, changes: dict | None = None, **tensors: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": K, "k": L0}
    config |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps(config | (changes or {})))
    weights = {"encoder.weight": E, "encoder.bias": B, "W_dec": F.T.contiguous(), "b_dec": C} | tensors
    save_file(weights, folder / "sae.safetensors")
    return folder


@pytest.mark.parametrize("changes", [{}, {"num_latents": 0, "expansion_factor": 1}])
def test_sparsify(tmp_path, changes):
    wide = changes == {}
    e, f, b = (E, F, B) if wide else (E[:D], F[:, :D], B[:D])
    part = {"encoder.weight": e.contiguous(), "encoder.bias": b.contiguous(), "W_dec": f.T.contiguous()}
    sae = formats.load(sparsify(tmp_path / "layers.3", changes, **part))
    codes = top(relu(linear(X - C, e, b)))
    same(sae, codes, codes @ f.T + C, L0)


def test_what_is_written_for_sparsify_follows_its_formula(tmp_path, perturbed):
    sae = perturbed("topk", d=D, width=K, l0=L0)
    formats.save(sae, tmp_path / "out", {"note": 2}, layout="sparsify")
    assert formats.read_metadata(tmp_path / "out")["note"] == 2
    assert formats.load(tmp_path / "out").config == sae.config
    w = formats.FORMATS["sparsify"].read(tmp_path / "out").tensors
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    from safetensors.torch import load_file

    w = load_file(tmp_path / "out" / "sae.safetensors")
    assert {name: tuple(t.shape) for name, t in w.items()} == {
        "encoder.weight": (K, D), "encoder.bias": (K,), "W_dec": (K, D), "b_dec": (D,),
    }  # fmt: skip
    codes = top(relu(linear(X - w["b_dec"], w["encoder.weight"], w["encoder.bias"])), config["k"])
    same(sae.requires_grad_(False), codes, codes @ w["W_dec"] + w["b_dec"], L0)
    with pytest.raises(ModelError, match="no place for a gated SAE"):
        formats.save(perturbed("gated"), tmp_path / "gated", layout="sparsify")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"activation": "groupmax"}, ModelError, "groupmax"),
        ({"signed": True}, ModelError, "signed"),
        ({"num_latents": K + 1}, CorruptError, "21, 6. latents and units"),
        ({"d_in": D + 1}, CorruptError, "20, 7. latents and units"),
        ({"k": 0}, CorruptError, "k = 0"),
        ({"k": K + 1}, CorruptError, "21 of 20 latents are active"),
        ({"k": "many"}, CorruptError, "k = 'many'"),
    ],
)
def test_sparsify_that_ours_cannot_hold(tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        formats.load(sparsify(tmp_path / "sae", changes))


def test_transcoders_of_sparsify(tmp_path):
    skip = draw(D, D, name="skip")
    codes = top(relu(linear(X, E, B)))
    writes(formats.load(sparsify(tmp_path / "a", {"transcode": True})), codes @ F.T + C)
    both = sparsify(tmp_path / "b", {"transcode": True, "skip_connection": True}, W_skip=skip)
    writes(formats.load(both), codes @ F.T + C + X @ skip.T)


# ---- Gemma Scope


def gemma_codes() -> Tensor:
    z = X @ E.T + B
    return z * (z > THETA)


@pytest.mark.parametrize("as_file", [False, True])
def test_gemma_scope_npz(tmp_path, as_file):
    arrays = {"W_enc": E.T, "W_dec": F.T, "b_enc": B, "b_dec": C, "threshold": THETA}
    np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    sae = formats.load(tmp_path / "params.npz" if as_file else tmp_path)
    same(sae, gemma_codes(), gemma_codes() @ F.T + C)
    assert sae.config.activation == "jumprelu"


@pytest.mark.parametrize("as_file", [False, True])
def test_gemma_scope_2(tmp_path, as_file):
    tensors = {"w_enc": E.T.contiguous(), "w_dec": F.T.contiguous(), "b_enc": B, "b_dec": C, "threshold": THETA}
    save_file(tensors, tmp_path / "params.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "jump_relu"}')
    same(formats.load(tmp_path / "params.safetensors" if as_file else tmp_path), gemma_codes(), gemma_codes() @ F.T + C)
    skip = draw(D, D, name="skip")  # [d_in, d_out]
    save_file(tensors | {"affine_skip_connection": skip}, tmp_path / "params.safetensors")
    writes(formats.load(tmp_path), gemma_codes() @ F.T + C + X @ skip)


# ---- circuit-tracer


def test_circuit_tracer_is_recognized(tmp_path):
    tensors = {"W_enc": E, "W_dec": F.T.contiguous(), "b_enc": B, "b_dec": C}
    (tmp_path / "config.yaml").write_text("model_kind: transcoder_set\n")
    save_file(tensors, tmp_path / "layer_0.safetensors")
    writes(formats.load(tmp_path), relu(linear(X, E, B)) @ F.T + C)
    save_file(tensors | {"W_skip": torch.eye(D)}, tmp_path / "layer_1.safetensors")
    with pytest.raises(PathError, match=r"(?s)holds 2 transcoders.*layer_0"):
        formats.load(tmp_path)
    writes(formats.load(tmp_path / "layer_1.safetensors"), relu(linear(X, E, B)) @ F.T + C + X)
    (tmp_path / "clt").mkdir()
    save_file({"W_enc_0": E}, tmp_path / "clt" / "W_enc_0.safetensors")
    with pytest.raises(ModelError, match="cross-layer"):
        formats.load(tmp_path / "clt")


@pytest.mark.parametrize("threshold", [None, THETA, torch.tensor(1.5)])
def test_the_formula_of_circuit_tracer(tmp_path, threshold):
    skip = draw(D, D, name="skip")
    tensors = {"W_enc": E, "W_dec": F.T.contiguous(), "b_enc": B, "b_dec": C, "W_skip": skip}
    if threshold is not None:
        tensors["activation_function.threshold"] = threshold
    save_file(tensors, tmp_path / "layer_7.safetensors")
    stored = formats.FORMATS["circuit_tracer"].read(tmp_path / "layer_7.safetensors")
    z = linear(X, E, B)
    codes = relu(z) if threshold is None else z * (z > threshold)
    torch.testing.assert_close(formats.reconstruct(stored, X), codes @ F.T + C + X @ skip.T, rtol=1e-4, atol=1e-4)


# ---- dictionary_learning

LINEAR = {"encoder.weight": E, "encoder.bias": B, "decoder.weight": F}
PLAIN = {"W_enc": E.T, "b_enc": B, "W_dec": F.T, "b_dec": C}
TOP = {"k": torch.tensor(L0, dtype=torch.int), "threshold": torch.tensor(1.5)}
GATED = {
    "encoder.weight": E,
    "decoder.weight": F,
    "decoder_bias": C,
    "r_mag": 0.3 * THETA,
    "gate_bias": B,
    "mag_bias": -B,
}
Z = linear(X - C, E, B)
DICTIONARIES = {
    "AutoEncoder": (LINEAR | {"bias": C}, relu(Z), None),
    "AutoEncoderNew": (LINEAR | {"decoder.bias": C}, relu(linear(X, E, B)), None),
    "GatedAutoEncoder": (GATED, (Z > 0) * relu((0.3 * THETA).exp() * linear(X - C, E) - B), None),
    "JumpReluAutoEncoder": (PLAIN | {"threshold": THETA}, relu((X @ E.T + B) * (X @ E.T + B > THETA)), None),
    "AutoEncoderTopK": (LINEAR | {"b_dec": C} | TOP, top(relu(Z)), L0),
    "BatchTopKSAE": (LINEAR | {"b_dec": C} | TOP, relu(Z) * (relu(Z) > 1.5), L0),
    "MatryoshkaBatchTopKSAE": (PLAIN | TOP | {"group_sizes": torch.tensor([2, 3, 15])}, relu(Z) * (relu(Z) > 1.5), L0),
}


def dictionary(folder: Path, kind: str, tensors: dict, stated: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(OrderedDict(tensors), folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": K, "k": L0} | (stated or {})
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return folder


@pytest.mark.parametrize("kind", list(DICTIONARIES))
def test_dictionary_learning(tmp_path, kind):
    tensors, codes, l0 = DICTIONARIES[kind]
    folder = dictionary(tmp_path / "trainer_0", kind, tensors)
    with pytest.raises(ModelError, match=r"(?s)pickle.*load_pt"):
        formats.load(folder)
    sae = formats.load_pt(folder)
    same(sae, codes, codes @ F.T + C, l0)
    assert (sae.config.nested.sizes if sae.config.nested else ()) == ((2, 5) if "Matryoshka" in kind else ())
    if kind not in ("AutoEncoderTopK", "BatchTopKSAE"):
        (folder / "config.json").unlink()
        assert torch.equal(formats.load_pt(folder / "ae.pt").encode(X).dense(), sae.encode(X).dense())


def test_dictionary_learning_says_what_does_not_fit(tmp_path):
    folder = dictionary(tmp_path / "a", "AutoEncoderTopK", LINEAR | {"b_dec": C} | TOP)
    (folder / "config.json").unlink()
    with pytest.raises(PathError, match="topk or batchtopk"):
        formats.load_pt(folder)
    for stated, says in (
        ({"activation_dim": D + 1}, r"\[20, 7\] latents and units"),
        ({"dict_size": 0}, "dict_size = 0"),
    ):
        with pytest.raises(CorruptError, match=says):
            formats.load_pt(dictionary(tmp_path / "b", "AutoEncoder", LINEAR | {"bias": C}, stated))
    with pytest.raises(ModelError, match="IdentityDict"):
        formats.load_pt(dictionary(tmp_path / "c", "IdentityDict", {"encoder.weight": E, "decoder.weight": F}))
    with pytest.raises(CorruptError, match="missing 'bias'"):
        formats.load_pt(dictionary(tmp_path / "d", "AutoEncoder", LINEAR))
    (tmp_path / "d" / "config.json").write_text('{"trainer": 3}')
    with pytest.raises(CorruptError, match="trainer"):
        formats.load_pt(tmp_path / "d")
    torch.save({"weights": E}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="no SAE that is known: weights"):
        formats.load_pt(tmp_path / "x.pt")


def test_a_threshold_that_was_never_set_lets_every_positive_code_pass(tmp_path):
    unset = LINEAR | {"b_dec": C} | TOP | {"threshold": torch.tensor(-1.0)}
    sae = formats.load_pt(dictionary(tmp_path / "a", "BatchTopKSAE", unset))
    same(sae, relu(Z), relu(Z) @ F.T + C, L0)


# ---- openai

OPENAI = {
    "pre_bias": C,
    "encoder.weight": E,
    "latent_bias": B,
    "decoder.weight": F,
    "stats_last_nonzero": torch.ones(K),
}


def test_openai_relu(tmp_path):
    torch.save(OPENAI | {"activation": "ReLU", "activation_state_dict": {}}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"(?s)pickle.*load_pt"):
        formats.load(tmp_path / "a.pt")
    same(formats.load_pt(tmp_path / "a.pt"), relu(Z), relu(Z) @ F.T + C)
    tied = {name: tensor for name, tensor in OPENAI.items() if name != "decoder.weight"}
    torch.save(tied, tmp_path / "tied.pt")
    same(formats.load_pt(tmp_path / "tied.pt"), relu(Z), relu(Z) @ E + C)


def test_openai_topk_wants_normalized_rows(tmp_path):
    state = OPENAI | {"activation": "TopK", "activation_state_dict": {"k": L0, "postact_fn": "ReLU"}}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"(?s)normalizes every row.*rows='layer_norm', not 'raw'"):
        formats.load_pt(tmp_path / "a.pt")
    sae = formats.load_pt(tmp_path / "a.pt", rows="layer_norm")
    mean = X.mean(-1, keepdim=True)
    deviation = (X - mean).std(-1, keepdim=True)
    codes = relu(top(linear((X - mean) / (deviation + 1e-5) - C, E, B)))
    rows, shift, scale = formats.normalize_rows(X, "layer_norm")
    torch.testing.assert_close(sae.encode(rows).dense(), codes, rtol=1e-4, atol=1e-5)
    expected = (codes @ F.T + C) * deviation + mean
    torch.testing.assert_close(sae.decode(sae.encode(rows)) * scale + shift, expected, rtol=1e-4, atol=1e-4)
    for change, says in (
        ({"activation": "Identity"}, "Identity"),
        ({"activation_state_dict": {"k": L0, "postact_fn": "Identity"}}, "signed"),
    ):
        torch.save(state | change, tmp_path / "b.pt")
        with pytest.raises(ModelError, match=says):
            formats.load_pt(tmp_path / "b.pt", rows="layer_norm")
    torch.save(state | {"activation_state_dict": 3}, tmp_path / "b.pt")
    with pytest.raises(CorruptError, match="how many"):
        formats.load_pt(tmp_path / "b.pt", rows="layer_norm")
