"""circuit-tracer: a transcoder per layer, relu or jumprelu.

    <folder>/config.yaml                what network they are of
    <folder>/layer_<i>.safetensors      W_enc [k, d], W_dec [k, d], b_enc, b_dec; activation_function.threshold, W_skip [d, d]
    <folder>/W_enc_<i>.safetensors      the layers of a cross-layer transcoder, which writes all later layers at once

f = codes of x W_encᵀ + b_enc, y = f W_dec + b_dec + W_skip x.
"""

from pathlib import Path

from ...errors import ModelError, PathError
from .reading import one_per_latent, read_safetensors, renamed
from .stored import Stored

THRESHOLD = "activation_function.threshold"
LAYERS = "layer_*.safetensors"


def fits(path: Path) -> bool:
    """Whether a folder holds transcoders of this kind, or a file is one."""
    if path.is_file():
        return path.match(LAYERS)
    return any(path.glob(LAYERS)) or any(path.glob("W_enc_[0-9]*.safetensors"))


def read(path: Path) -> Stored:
    """Raises: PathError, CorruptError or ModelError."""
    file = path if path.is_file() else _only_layer(path)
    found = read_safetensors(file)
    names = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    names |= {"threshold": THRESHOLD} if THRESHOLD in found else {}
    names |= {"W_skip": "W_skip"} if "W_skip" in found else {}
    tensors = renamed(found, names, file)
    if "threshold" in tensors:
        tensors = one_per_latent(tensors, "threshold")
        if bool((tensors["threshold"] < 0).any()):
            raise ModelError(f"{file} has thresholds below 0, so codes may be negative", expected="thresholds ≥ 0")
    activation = "jumprelu" if "threshold" in tensors else "relu"
    return Stored(activation, tensors, centered=False, transcoder=True)


def _only_layer(path: Path) -> Path:
    layers = sorted(path.glob(LAYERS))
    if not layers:
        raise ModelError(f"{path} holds a cross-layer transcoder", expected="one that writes one site")
    if len(layers) > 1:
        raise PathError(
            f"{path} holds {len(layers)} transcoders", expected="one of them", hint=f"load {layers[0]}, for example"
        )
    return layers[0]
