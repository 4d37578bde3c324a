"""sparsify (the package eai-sparsify): topk only.

    <folder>/cfg.json            activation ("topk" or "groupmax"), d_in, num_latents or expansion_factor, k, transcode, skip_connection
    <folder>/digon.json          what digon notes; sparsify reads over it
    <folder>/sae.safetensors     encoder.weight [k, d], encoder.bias [k], W_dec [k, d], b_dec [d]; W_skip [d, d]

f = the k largest of ReLU((x − b_dec) encoder.weightᵀ + encoder.bias), x̂ = f W_dec + b_dec. With `transcode` b_dec is not
subtracted; with `skip_connection` W_skip x is added to what is decoded.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...config import to_dict
from ...errors import CorruptError, ModelError
from ...store import files
from ..sae import SAE
from .reading import read_json, read_safetensors, renamed, settings_of, untouched, whole_number, write_safetensors
from .stored import Stored

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
OWN = "digon.json"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}


def fits(path: Path) -> bool:
    """Whether a folder has this layout."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def write(sae: SAE, path: Path, metadata: dict[str, Any]) -> None:
    """Write a deployed topk SAE. Raises: ModelError for another activation; StorageError if the disk refuses."""
    if sae.config.activation != "topk":
        raise ModelError(
            f"sparsify has no place for a {sae.config.activation} SAE", expected="topk", hint="write it for SAELens"
        )
    state = sae.state_dict()
    digest = write_safetensors(path / WEIGHTS, {theirs: state[ours] for ours, theirs in NAMES.items()})
    own = {"config": to_dict(sae.config), "sha256": digest} | metadata
    values = {
        "activation": "topk",
        "expansion_factor": max(sae.config.width // sae.config.d_in, 1),
        "normalize_decoder": True,
        "num_latents": sae.config.width,
        "k": sae.config.l0,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.config.d_in,
    }
    files.write_text(path / OWN, json.dumps(own, indent=1) + "\n")
    files.write_text(path / CONFIG, json.dumps(values, indent=1) + "\n")


def read(path: Path) -> Stored:
    """Raises: PathError, CorruptError or ModelError."""
    file = path / CONFIG
    values = read_json(file)
    own = own_metadata(path)
    activation = values.get("activation", "topk")
    if activation != "topk" or values.get("signed", False):
        kind = "signed codes" if activation == "topk" else f"the activation {activation!r}"
        raise ModelError(f"{path} has {kind}", expected="topk of ReLU")
    config, found = settings_of(own, path / OWN), read_safetensors(path / WEIGHTS)
    if not untouched(path / WEIGHTS, own) and config is not None:
        config = replace(config, tied=False, l0=whole_number(values, "k", file))
    skip = {"W_skip": "W_skip"} if values.get("skip_connection", False) else {}
    tensors = renamed(found, NAMES | skip, path)
    _check_sizes(values, tensors["W_enc"].shape, path)
    transcoder = bool(values.get("transcode", False)) or bool(skip)
    return Stored(
        "topk",
        tensors,
        l0=whole_number(values, "k", file),
        centered=not values.get("transcode", False),
        transcoder=transcoder,
        config=config,
    )


def own_metadata(path: Path) -> dict[str, Any]:
    """What digon noted when it wrote the SAE; empty for sparsify's own. Raises: CorruptError."""
    return read_json(path / OWN) if (path / OWN).is_file() else {}


def _check_sizes(values: dict[str, Any], shape: tuple[int, ...], path: Path) -> None:
    width = values.get("num_latents") or whole_number(values, "d_in", path) * whole_number(
        values, "expansion_factor", path
    )
    stated = [width, whole_number(values, "d_in", path)]
    if stated != list(shape):
        raise CorruptError(
            f"{path} does not hold one whole SAE: {CONFIG} says {stated} latents and units, its weights {list(shape)}",
            expected="a config and weights of one SAE",
        )
