"""Sparse autoencoders on disk, in the directory layout of SAELens (version 6 and later).

    <folder>/cfg.json                   architecture, sizes, metadata; written last, so a folder with it is whole
    <folder>/sae_weights.safetensors    W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec, and per latent what the
                                        architecture has: b_enc, threshold; b_gate, r_mag, b_mag

Plain formulas, for raw activations: z = (x − b_dec) W_enc + b_enc; standard keeps ReLU(z), topk ReLU of the k largest,
jumprelu (which is how a batchtopk SAE is deployed) z·1[z > threshold]; gated keeps ReLU(e^r_mag (x − b_dec) W_enc + b_mag)
where (x − b_dec) W_enc + b_gate is positive; x̂ = f W_dec + b_dec. Pickled weights are never opened.

Other modes
    transcoder    transcoder, skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder: W_dec [d_sae, d_out], b_dec
                  [d_out] and W_skip [d_out, d_in]; x goes into the encoder as it is, and x W_skipᵀ is added to ŷ. SAELens has
                  none with topk or gates: topk_transcoder and so on are our own names, which it refuses
    crosscoder    an autoencoder on rows of several sites side by side, d_in = Σ units, and other tools read it as that;
                  `metadata.digon.config.sites` are the units of every site, `metadata.digon.site_scale` the scales that the
                  atoms were multiplied by
    refinements   no other tool knows them, and without them the same weights do something else: the architecture is called
                  refined_jumprelu and so on, which other tools refuse; `metadata.digon` holds what digon needs
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
_NOT_IN_FILE = frozenset({"b_in", "site_scale"})
"""Folded into the others, or kept beside them."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def save(sae: SAE, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a deployed SAE, read it back and compare what both do.

    Raises: StorageError if the disk refuses; CorruptError if what was read back does something else.
    """
    sae = sae.scaled(1.0)  # folds what the file does not hold
    config, architecture = sae.config, _architecture(sae.config)
    names = _OTHER_NAMES.get(_ARCHITECTURE[config.activation], {})
    tensors = {names.get(name, name): t for name, t in sae.state_dict().items() if name not in _NOT_IN_FILE}
    tensors["W_enc"] = tensors["W_enc"].T
    weights.write_tensors(path / WEIGHTS, tensors)
    own = {"config": to_dict(config), "sha256": files.sha256(path / WEIGHTS)} | (metadata or {})
    if config.sites:
        own["site_scale"] = sae.site_scale.tolist()
    about = {"sae_lens_version": "6.54.12", "training_architecture": config.activation, "l0": config.l0, "digon": own}
    values: dict[str, Any] = {
        "architecture": architecture,
        "d_in": config.d_in,
        "d_sae": config.width,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": config.target is None,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": about,
    }
    if config.target is not None:
        values["d_out"] = config.d_out
    if config.activation == "topk":
        values |= {"k": config.l0, "rescale_acts_by_decoder_norm": False}
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
        names = _OTHER_NAMES.get(_ARCHITECTURE[config.activation], {})
        state = {name: tensors[names.get(name, name)] for name in sae.state_dict().keys() - _NOT_IN_FILE}
        state["W_enc"] = state["W_enc"].T
        state |= {name: sae.state_dict()[name] for name in sae.state_dict().keys() & _NOT_IN_FILE}
        if config.sites:
            state["site_scale"] = torch.tensor(own["site_scale"])
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


def _architecture(config: SAEConfig) -> str:
    """What the file says it holds. SAELens leaves "standard" out of a transcoder's name, and we follow."""
    name = _ARCHITECTURE[config.activation]
    if config.target is not None:
        kind = "skip_transcoder" if config.target.skip else "transcoder"
        name = kind if name == "standard" else f"{name}_{kind}"
    return f"refined_{name}" if config.refinements else name


def transcoder_settings(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture of the latents in a file of any tool, and what makes it a transcoder, if it is one.

    >>> transcoder_settings({"architecture": "jumprelu_skip_transcoder", "d_out": 5})
    ('jumprelu', {'target': {'d_out': 5, 'skip': True}})
    """
    name, found, _ = values["architecture"].partition("transcoder")
    if not found:
        return name, {}
    plain = name.removesuffix("_").removesuffix("skip").removesuffix("_")
    return plain or "standard", {"target": {"d_out": values["d_out"], "skip": name.endswith("skip_")}}


def _foreign_config(values: dict[str, Any]) -> SAEConfig:
    architecture, mode = transcoder_settings(values)
    if architecture not in _ACTIVATION:
        hint = "only digon can run an encoder that refines" if architecture.startswith("refined_") else None
        raise ModelError(f"an SAE of architecture {architecture!r}", expected=" or ".join(_ACTIVATION), hint=hint)
    if values.get("normalize_activations", "none") != "none":
        raise ModelError(
            f"an SAE that normalizes activations by {values['normalize_activations']!r}",
            expected="normalization folded into the weights",
            hint="fold it with the tool that wrote it",
        )
    l0 = values["k"] if architecture == "topk" else values.get("metadata", {}).get("l0")
    known = {"d_in": values["d_in"], "width": values["d_sae"], "l0": None if l0 is None else round(l0)}
    return from_dict(SAEConfig, known | mode | {"activation": _ACTIVATION[architecture]})


def _plain(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Tensor]:
    """Weights for the plain formulas: options of other tools are folded in."""
    plain = dict(tensors)
    if not values.get("apply_b_dec_to_input", True) and "transcoder" not in values["architecture"]:
        shift = tensors["b_dec"] @ tensors["W_enc"]
        for name in plain.keys() & {"b_enc", "b_gate"}:
            plain[name] = plain[name] + shift
        if "b_mag" in plain:
            plain["b_mag"] = plain["b_mag"] + tensors["r_mag"].exp() * shift
    if values["architecture"].startswith("topk") and values.get("rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].norm(dim=1)
        plain |= {"W_enc": plain["W_enc"] * norms, "b_enc": plain["b_enc"] * norms}
        plain["W_dec"] = plain["W_dec"] / norms[:, None]
    return plain


def _compare(written: SAE, read: SAE, path: Path) -> None:
    noise = torch.randn(64, written.config.d_in, generator=rng.stream(0, "round trip"))
    x = noise if written.config.target is not None else noise + written.b_dec.detach().cpu()
    with torch.no_grad():
        ours, theirs = (sae.write(x, sae.encode(x)) for sae in (written.to("cpu"), read))
    if not torch.equal(ours, theirs):
        gap = float((ours - theirs).abs().max())
        raise CorruptError(f"{path} was written but does something else when read: largest difference {gap:.2g}")
