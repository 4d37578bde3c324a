"""dictionary_learning: a pickled state dict, `ae.pt`, that only `load_pt` opens, and `config.json` with its class.

    AutoEncoder               encoder.weight [k, d], encoder.bias, decoder.weight [d, k], bias      relu
    AutoEncoderNew            the same with decoder.bias instead of bias, which is not subtracted   relu
    GatedAutoEncoder          encoder.weight, decoder.weight, decoder_bias, gate_bias, mag_bias, r_mag
    JumpReluAutoEncoder       W_enc [d, k], W_dec [k, d], b_enc, b_dec (not subtracted), threshold [k]
    AutoEncoderTopK           encoder.*, decoder.weight, b_dec, k
    BatchTopKSAE              the same, deployed with a threshold for all latents, which is −1 as long as it is not set
    MatryoshkaBatchTopKSAE    W_enc, W_dec, b_enc, b_dec, k, threshold, group_sizes

Except where noted the encoder reads x − b_dec.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CorruptError, ModelError, PathError
from .reading import one_per_latent, open_pickle, read_json, renamed, turned, whole_number
from .stored import Stored

WEIGHTS = "ae.pt"
CONFIG = "config.json"
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_GATED = {
    "W_enc": "encoder.weight", "b_enc": "gate_bias", "W_dec": "decoder.weight", "b_dec": "decoder_bias",
    "r_mag": "r_mag", "b_mag": "mag_bias",
}  # fmt: skip
CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)  # fmt: skip


def fits(found: dict[str, Any]) -> bool:
    """Whether a state dict is of this kind."""
    return {"encoder.weight", "decoder.weight"} <= found.keys() or {"W_enc", "W_dec"} <= found.keys()


def read(path: Path) -> Stored:
    """From a folder with `ae.pt` or from such a file. Raises: PathError, CorruptError or ModelError."""
    file = path if path.is_file() else path / WEIGHTS
    found = open_pickle(file)
    config = file.parent / CONFIG
    trainer = read_json(config).get("trainer") if config.is_file() else None
    if trainer is not None and not isinstance(trainer, dict):
        raise CorruptError(f"{config} is damaged", expected="an object `trainer`")
    kind = str(trainer["dict_class"]) if trainer and "dict_class" in trainer else _kind(found, file)
    if kind not in CLASSES:
        raise ModelError(f"{path} is of class {kind!r}", expected=" | ".join(CLASSES))
    stored = _stored(kind, found, file)
    if trainer and "activation_dim" in trainer:
        stated = [whole_number(trainer, name, config) for name in ("dict_size", "activation_dim")]
        if stated != list(stored.tensors["W_enc"].shape):
            raise CorruptError(
                f"{path} does not hold one whole SAE: {CONFIG} says {stated} latents and units, "
                f"its weights {list(stored.tensors['W_enc'].shape)}",
                expected="a config and weights of one SAE",
            )
    return stored


def _kind(found: dict[str, Any], file: Path) -> str:
    """The class by its tensors, where nothing states it."""
    if "gate_bias" in found:
        return "GatedAutoEncoder"
    if "W_enc" in found:
        return "MatryoshkaBatchTopKSAE" if "group_sizes" in found else "JumpReluAutoEncoder"
    if "k" in found:
        raise PathError(
            f"{file} may be topk or batchtopk", expected=f"{CONFIG} beside it, which says which of them it is"
        )
    return "AutoEncoderNew" if "decoder.bias" in found else "AutoEncoder"


def _stored(kind: str, found: dict[str, Any], file: Path) -> Stored:
    if kind == "AutoEncoder":
        return Stored("relu", _turned(renamed(found, _LINEAR | {"b_dec": "bias"}, file), "W_dec"))
    if kind == "AutoEncoderNew":
        tensors = _turned(renamed(found, _LINEAR | {"b_dec": "decoder.bias"}, file), "W_dec")
        return Stored("relu", tensors, centered=False)
    if kind == "GatedAutoEncoder":
        return Stored("gated", _turned(renamed(found, _GATED, file), "W_dec"))
    if kind == "JumpReluAutoEncoder":
        tensors = _turned(renamed(found, _PLAIN | {"threshold": "threshold"}, file), "W_enc")
        return Stored("jumprelu", tensors, centered=False)
    k = whole_number(found, "k", file)
    if kind == "AutoEncoderTopK":
        return Stored("topk", _turned(renamed(found, _LINEAR | {"b_dec": "b_dec"}, file), "W_dec"), l0=k)
    if kind == "BatchTopKSAE":
        tensors = _turned(renamed(found, _LINEAR | {"b_dec": "b_dec", "threshold": "threshold"}, file), "W_dec")
        return Stored("batchtopk", one_per_latent(tensors, "threshold"), l0=k)
    tensors = _turned(renamed(found, _PLAIN | {"threshold": "threshold"}, file), "W_enc")
    return Stored("batchtopk", one_per_latent(tensors, "threshold"), l0=k, nested=_prefixes(found, file))


def _turned(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return tensors | {name: turned(tensors[name])}


def _prefixes(found: dict[str, Any], file: Path) -> tuple[int, ...]:
    groups = found.get("group_sizes")
    if not isinstance(groups, Tensor) or groups.ndim != 1 or not len(groups) or bool((groups < 1).any()):
        raise CorruptError(f"group_sizes in {file} is {groups!r}", expected="a vector of positive whole numbers")
    return tuple(accumulate(int(size) for size in groups[:-1]))
