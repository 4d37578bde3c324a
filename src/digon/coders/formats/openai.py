"""openai/sparse_autoencoder: a pickled state dict that only `load_pt` opens.

    pre_bias [d], encoder.weight [k, d], latent_bias [k], decoder.weight [d, k] (absent if tied)
    activation "ReLU" or "TopK", and for the latter activation_state_dict with k and postact_fn

z = (x − pre_bias) encoder.weightᵀ + latent_bias, f = codes of z, x̂ = f decoder.weightᵀ + pre_bias. The topk ones
normalize every row first, to mean 0 and deviation 1, and undo that at the end.
"""

from pathlib import Path
from typing import Any

from ...errors import CorruptError, ModelError
from .reading import renamed, turned, whole_number
from .stored import Stored


def fits(found: dict[str, Any]) -> bool:
    """Whether a state dict is of this kind."""
    return {"pre_bias", "latent_bias"} <= found.keys()


def stored(found: dict[str, Any], file: Path) -> Stored:
    """Raises: CorruptError or ModelError."""
    tied = "decoder.weight" not in found
    names = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}
    tensors = renamed(found, names | ({} if tied else {"W_dec": "decoder.weight"}), file)
    tensors["W_dec"] = tensors["W_enc"] if tied else turned(tensors["W_dec"])
    activation = found.get("activation", "ReLU")
    if activation == "ReLU":
        return Stored("relu", tensors)
    details = found.get("activation_state_dict")
    if activation != "TopK":
        raise ModelError(f"{file} has the activation {activation!r}", expected="ReLU or TopK")
    if not isinstance(details, dict):
        raise CorruptError(f"{file} does not say how many latents are active", expected="activation_state_dict with k")
    if details.get("postact_fn", "ReLU") != "ReLU":
        raise ModelError(f"{file} has signed codes ({details['postact_fn']})", expected="topk of ReLU")
    return Stored("topk", tensors, l0=whole_number(details, "k", file), rows="layer_norm")
