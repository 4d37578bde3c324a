"""Sparse autoencoders on disk, in the directory layout of SAELens (version 6 and later).

    <folder>/cfg.json                   architecture, sizes, metadata; written last, so a folder with it is whole
    <folder>/sae_weights.safetensors    W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec, and per latent what the
                                        architecture has: b_enc, threshold; b_gate, r_mag, b_mag

Plain formulas, for raw activations: z = (x − b_dec) W_enc + b_enc; standard keeps ReLU(z), topk ReLU of the k largest,
jumprelu (which is how a batchtopk SAE is deployed) z·1[z > threshold]; gated keeps ReLU(e^r_mag (x − b_dec) W_enc + b_mag)
where (x − b_dec) W_enc + b_gate is positive; x̂ = f W_dec + b_dec. Pickled weights are never opened.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..config import from_dict, to_dict
from ..errors import ConfigError, CorruptError, ModelError, PathError
from ..store import files, weights
from .sae import SAE, SAEConfig

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
_ARCHITECTURE = {
    "relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu", "gated": "gated"
}  # fmt: skip
_ACTIVATION = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_OTHER_NAMES = {"gated": {"b_enc": "b_gate"}}
"""Architecture → our name of a tensor → its name in the file."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save(sae: SAE, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a deployed SAE, read it back and compare what both do.

    Raises: StorageError if the disk refuses; CorruptError if what was read back does something else.
    """
    activation = sae.config.activation
    names = _OTHER_NAMES.get(_ARCHITECTURE[activation], {})
    tensors = {names.get(name, name): tensor for name, tensor in sae.state_dict().items()}
    tensors["W_enc"] = tensors["W_enc"].T
    weights.write_tensors(path / WEIGHTS, tensors)
    own = {"config": to_dict(sae.config), "sha256": files.sha256(path / WEIGHTS)} | (metadata or {})
    about = {"sae_lens_version": "6.54.12", "training_architecture": activation, "l0": sae.config.l0, "digon": own}
    values: dict[str, Any] = {
        "architecture": _ARCHITECTURE[activation],
        "d_in": sae.config.d_in,
        "d_sae": sae.config.width,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": about,
    }
    if activation == "topk":
        values |= {"k": sae.config.l0, "rescale_acts_by_decoder_norm": False}
    files.write_text(path / CONFIG, json.dumps(values, indent=1) + "\n")
    _compare(sae, load(path), path)


def load(path: Path) -> SAE:
    """Read an SAE from a folder in SAELens' layout (standard, topk, jumprelu or gated), frozen, on the CPU.

    Raises: PathError if nothing is there; CorruptError if it is damaged; ModelError if its architecture is unknown or
    its weights are a pickle.
    """
    values = _read_config(path)
    own = values.get("metadata", {}).get("digon", {})
    tensors = _read_weights(path, own.get("sha256"))
    try:
        config = from_dict(SAEConfig, own["config"]) if "config" in own else _foreign_config(values)
        sae = SAE(config)
        tensors = _plain(tensors, values)
        names = _OTHER_NAMES.get(values["architecture"], {})
        state = {name: tensors[names.get(name, name)] for name in sae.state_dict()}
        state["W_enc"] = state["W_enc"].T
        sae.load_state_dict({name: tensor.float().contiguous() for name, tensor in state.items()})
    except (KeyError, RuntimeError, ConfigError) as error:
        problem = f"missing {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise CorruptError(
            f"{path} does not hold one whole SAE: {problem}",
            expected=f"the sizes in {CONFIG} and the tensors of its architecture",
        ) from None
    return sae.requires_grad_(False).eval()


def read_metadata(path: Path) -> dict[str, Any]:
    """What digon noted when it wrote the SAE; empty for other tools' files."""
    return _read_config(path).get("metadata", {}).get("digon", {})


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise PathError(f"no SAE at {path}", expected=f"a folder with {CONFIG} and {WEIGHTS}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{file} is damaged: {error}", expected="JSON") from None
    if not isinstance(values, dict) or not isinstance(values.get("metadata", {}), dict):
        raise CorruptError(f"{file} is damaged", expected="a JSON object with an object `metadata`")
    return values


def _read_weights(path: Path, expected: str | None) -> dict[str, Tensor]:
    file = path / WEIGHTS
    hint = "convert them to safetensors with the tool that wrote them, in a place where its code may run"
    if not file.is_file():
        pickles = [p.name for p in sorted(path.iterdir()) if p.suffix in _PICKLES]
        if pickles:
            raise ModelError(f"{path / pickles[0]} is a pickle: loading it could run code", expected=WEIGHTS, hint=hint)
        raise PathError(f"no weights at {file}", expected=f"{WEIGHTS} beside {CONFIG}")
    with file.open("rb") as opened:
        if opened.read(4).startswith(_PICKLE_STARTS):
            raise ModelError(f"{file} is a pickle: loading it could run code", expected="safetensors", hint=hint)
    if expected is not None and files.sha256(file) != expected:
        raise CorruptError(f"{file} does not match its checksum", expected=f"SHA-256 {expected[:16]}…")
    return weights.read_tensors(file)


def _foreign_config(values: dict[str, Any]) -> SAEConfig:
    architecture = values["architecture"]
    if architecture not in _ACTIVATION:
        raise ModelError(f"an SAE of architecture {architecture!r}", expected=" or ".join(_ACTIVATION))
    if values.get("normalize_activations", "none") != "none":
        raise ModelError(
            f"an SAE that normalizes activations by {values['normalize_activations']!r}",
            expected="normalization folded into the weights",
            hint="fold it with the tool that wrote it",
        )
    l0 = values["k"] if architecture == "topk" else values.get("metadata", {}).get("l0")
    known = {"d_in": values["d_in"], "width": values["d_sae"], "l0": None if l0 is None else round(l0)}
    return from_dict(SAEConfig, known | {"activation": _ACTIVATION[architecture]})


def _plain(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Tensor]:
    """Weights for the plain formulas: options of other tools are folded in."""
    plain = dict(tensors)
    if not values.get("apply_b_dec_to_input", True):
        shift = tensors["b_dec"] @ tensors["W_enc"]
        for name in plain.keys() & {"b_enc", "b_gate"}:
            plain[name] = plain[name] + shift
        if "b_mag" in plain:
            plain["b_mag"] = plain["b_mag"] + tensors["r_mag"].exp() * shift
    if values["architecture"] == "topk" and values.get("rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].norm(dim=1)
        plain |= {"W_enc": plain["W_enc"] * norms, "b_enc": plain["b_enc"] * norms}
        plain["W_dec"] = plain["W_dec"] / norms[:, None]
    return plain


def _compare(written: SAE, read: SAE, path: Path) -> None:
    noise = torch.randn(64, written.config.d_in, generator=rng.stream(0, "round trip"))
    x = noise + written.b_dec.detach().cpu()
    with torch.no_grad():
        ours, theirs = (sae.decode(sae.encode(x)) for sae in (written.scaled(1.0).to("cpu"), read))
    if not torch.equal(ours, theirs):
        gap = float((ours - theirs).abs().max())
        raise CorruptError(f"{path} was written but does something else when read: largest difference {gap:.2g}")
