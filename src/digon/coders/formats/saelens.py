"""SAELens (version 6 and later, and what it still reads of earlier ones): the layout that digon itself writes.

    <folder>/cfg.json                   architecture, sizes, metadata; written last, so a folder with it is whole
    <folder>/sae_weights.safetensors    W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec, and per latent what the
                                        architecture has: b_enc, threshold; b_gate, r_mag, b_mag
    <folder>/activation_scaler.json     only in checkpoints of a training: the factor that activations are multiplied by

For raw activations: z = (x − b_dec) W_enc + b_enc; standard keeps ReLU(z), topk ReLU of the k largest, jumprelu (which is
how a batchtopk SAE is deployed) z·1[z > threshold]; gated keeps ReLU((x − b_dec)(e^r_mag W_enc) + b_mag) where
(x − b_dec) W_enc + b_gate is positive; x̂ = f W_dec + b_dec. Transcoders write another site than they read, with d_out
units; b_dec is then not subtracted, and with skip connection W_skip [d_out, d_in] x is added. SAELens has none with topk
or gates: topk_transcoder and so on are our own names, which it refuses.

A crosscoder is an autoencoder on rows of several sites side by side, and other tools read it as that; metadata.digon holds
the units of every site, and the scales that atoms were multiplied by. Encoders that refine do something else than the same
weights do in other tools, so their architecture is called refined_jumprelu and so on, which other tools refuse.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import to_dict
from ...errors import CorruptError, ModelError
from ...store import files
from ..sae import SAE, SAEConfig
from ..sae.config import ActivationName
from .reading import read_json, read_safetensors, renamed, settings_of, untouched, whole_number, write_safetensors
from .stored import PER_LATENT, ROWS, Rows, Stored

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
VERSION = "6.54.12"
"""The version of SAELens whose files ours were compared with."""
ARCHITECTURE: dict[str, str] = {
    "relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu", "gated": "gated"
}  # fmt: skip
ACTIVATION: dict[str, ActivationName] = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
REFINED = "refined_"
SITE_SCALE = "site_scale"


def fits(path: Path) -> bool:
    """Whether a folder has this layout."""
    return (path / CONFIG).is_file()


def write(sae: SAE, path: Path, metadata: dict[str, Any]) -> None:
    """Write a deployed SAE. Raises: StorageError if the disk refuses."""
    sae = sae.scaled(1.0)  # folds what the file does not hold
    config, state = sae.config, sae.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in _names(config.activation, "W_skip" in state).items()}
    tensors["W_enc"] = tensors["W_enc"].T
    own = {"config": to_dict(config), "sha256": write_safetensors(path / WEIGHTS, tensors)} | metadata
    if config.sites:
        own[SITE_SCALE] = sae.site_scale.tolist()
    about = {"sae_lens_version": VERSION, "training_architecture": config.activation, "l0": config.l0, "digon": own}
    values: dict[str, Any] = {
        "architecture": _architecture(config),
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


def read(path: Path) -> Stored:
    """Raises: PathError, CorruptError or ModelError."""
    file = path / CONFIG
    values = _today(read_json(file), file)
    own = _own(values, file)
    config, found = settings_of(own, file), read_safetensors(path / WEIGHTS)
    if not untouched(path / WEIGHTS, own) and config is not None:
        config = _resaved(config, values)
    activation, transcoder, skip = _parsed(str(values["architecture"]), path, refined=config is not None)
    tensors = renamed(found, _names(activation, skip), path)
    _check_sizes(values, tensors["W_enc"].shape, path)
    _check_finetuning(found, path)
    tensors["W_enc"] = tensors["W_enc"].T
    if config is not None and config.sites:
        tensors["site_scale"] = _site_scale(own, path)
    l0 = values.get("metadata", {}).get("l0")
    return Stored(
        activation if config is None else config.activation,
        tensors,
        l0=whole_number(values, "k", file) if activation == "topk" else _rounded(l0),
        centered=not transcoder and bool(values.get("apply_b_dec_to_input", True)),
        scale=_scale(values, path),
        by_norm=activation == "topk" and bool(values.get("rescale_acts_by_decoder_norm", False)),
        rows=_rows(values),
        transcoder=transcoder,
        config=config,
    )


def _architecture(config: SAEConfig) -> str:
    """What the file says it holds. SAELens leaves "standard" out of a transcoder's name, and we follow."""
    name = ARCHITECTURE[config.activation]
    if config.target is not None:
        kind = "skip_transcoder" if config.target.skip else "transcoder"
        name = kind if name == "standard" else f"{name}_{kind}"
    return f"{REFINED}{name}" if config.refinements else name


def _parsed(architecture: str, path: Path, *, refined: bool) -> tuple[ActivationName, bool, bool]:
    """Activation, whether it is a transcoder, and whether that has a skip matrix. Raises: ModelError."""
    name, found, _ = architecture.removeprefix(REFINED if refined else "").partition("transcoder")
    name = name.removesuffix("_") if found else name
    skip = found != "" and (name == "skip" or name.endswith("_skip"))
    plain = name.removesuffix("skip").removesuffix("_") if skip else name
    activation = ACTIVATION.get(plain or "standard")
    if activation is None:
        known = [*ACTIVATION, "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
        raise ModelError(f"{path} is an SAE of architecture {architecture!r}", expected=" or ".join(known))
    return activation, found != "", skip


def _site_scale(own: dict[str, Any], path: Path) -> Tensor:
    try:
        return torch.tensor(own[SITE_SCALE], dtype=torch.float32)
    except (KeyError, TypeError, ValueError):
        raise CorruptError(f"{path / CONFIG} is damaged", expected=f"the scales of all sites, {SITE_SCALE}") from None


def own_metadata(path: Path) -> dict[str, Any]:
    """What digon noted when it wrote the SAE; empty for other tools' files. Raises: CorruptError."""
    return _own(read_json(path / CONFIG), path / CONFIG)


def _own(values: dict[str, Any], file: Path) -> dict[str, Any]:
    about = values.get("metadata", {})
    own = about.get("digon", {}) if isinstance(about, dict) else None
    if not isinstance(own, dict):
        raise CorruptError(f"{file} is damaged", expected="a JSON object with an object `metadata`")
    return own


def _names(activation: str, skip: bool) -> dict[str, str]:
    """Our names of the tensors → theirs."""
    names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_gate" if activation == "gated" else "b_enc"}
    names |= {"W_skip": "W_skip"} if skip else {}
    return names | {"b_dec": "b_dec"} | {name: name for name in PER_LATENT.get(activation, ())}


def _today(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """The config in the words of version 6; before, topk was an activation function of the standard architecture."""
    today = dict(values)
    if values.get("activation_fn_str", values.get("activation_fn")) == "topk":
        keywords = values.get("activation_fn_kwargs")
        if not isinstance(keywords, dict):
            raise CorruptError(f"{file} is damaged", expected="an object `activation_fn_kwargs` with k")
        today |= {"architecture": "topk", "k": keywords.get("k")}
    normalization = values.get("normalize_activations")
    if normalization is None or isinstance(normalization, bool):
        today["normalize_activations"] = "expected_average_only_in" if normalization else "none"
    today.setdefault("architecture", "standard")
    return today


def _check_sizes(values: dict[str, Any], shape: tuple[int, ...], path: Path) -> None:
    stated = [whole_number(values, name, path / CONFIG) for name in ("d_in", "d_sae")]
    if stated != list(shape):
        raise CorruptError(
            f"{path} does not hold one whole SAE: {CONFIG} says d_in, d_sae = {stated}, W_enc is {list(shape)}",
            expected="a config and weights of one SAE",
        )


def _check_finetuning(found: dict[str, Any], path: Path) -> None:
    factor = found.get("scaling_factor", found.get("finetuning_scaling_factor"))
    if factor is not None and bool((factor != 1).any()):
        raise ModelError(
            f"the codes of {path} are rescaled after the encoder (finetuning_scaling_factor)",
            expected="plain codes",
            hint="multiply the rows of W_dec by the factors",
        )


def _scale(values: dict[str, Any], path: Path) -> float:
    """The factor of the activations that training has not folded in yet."""
    factor = read_json(path / SCALER).get("scaling_factor") if (path / SCALER).is_file() else None
    wanted = values["normalize_activations"] == "expected_average_only_in"
    if not wanted and factor is not None:
        raise ModelError(
            f"{path / SCALER} scales activations by {factor!r}, {CONFIG} says they are not scaled",
            expected="one of the two",
            hint=f"delete {SCALER} if the factor is folded into the weights already",
        )
    if not wanted:
        return 1.0
    if factor is None:
        raise ModelError(
            f"{path} wants activations multiplied by a factor that it does not hold",
            expected=f"{SCALER} beside it, or the factor folded into the weights",
            hint="save it with the tool that trained it, after the training has ended",
        )
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise CorruptError(f"scaling_factor = {factor!r} in {path / SCALER}", expected="a positive number")
    return float(factor)


def _rows(values: dict[str, Any]) -> Rows:
    name = values["normalize_activations"]
    if name in ("none", "expected_average_only_in"):
        return "raw"
    for kind in ROWS:
        if name == kind and kind != "raw":
            return kind
    raise ModelError(
        f"an SAE that normalizes activations by {name!r}",
        expected="normalization folded into the weights",
        hint="fold it with the tool that wrote it",
    )


def _resaved(config: SAEConfig, values: dict[str, Any]) -> SAEConfig | None:
    """What is left of our settings where another tool has written the weights anew: nothing, if it made something else of them."""
    if values["architecture"] != _architecture(config):
        return None
    l0 = values.get("k") if config.activation == "topk" else config.l0
    return replace(config, tied=False, l0=l0 if isinstance(l0, int) else config.l0)


def _rounded(l0: Any) -> int | None:
    number = isinstance(l0, int | float) and not isinstance(l0, bool) and l0 == l0 and 0.5 <= l0 < float("inf")
    return round(l0) if number else None
