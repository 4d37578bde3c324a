"""Gemma Scope: jumprelu.

    params.npz              (1)  W_enc [d, k], W_dec [k, d], b_enc, b_dec, threshold [k]
    params.safetensors      (2)  the same with w_enc and w_dec; of transcoders also affine_skip_connection [d_in, d_out]

z = x W_enc + b_enc (b_dec is not subtracted), f = z·1[z > threshold], x̂ = f W_dec + b_dec. The files of the transcoders of
the first release look the same: that they write another site is known from their repository alone.
"""

from pathlib import Path

from torch import Tensor

from .reading import read_npz, read_safetensors, renamed, turned
from .stored import Stored

FIRST = "params.npz"
SECOND = "params.safetensors"
SKIP = "affine_skip_connection"


def fits_first(path: Path) -> bool:
    """Whether a file or folder is of the first release."""
    return path.suffix == ".npz" if path.is_file() else (path / FIRST).is_file()


def fits_second(path: Path) -> bool:
    """Whether a file or folder is of the second release."""
    return path.name == SECOND if path.is_file() else (path / SECOND).is_file()


def read_first(path: Path) -> Stored:
    """Raises: PathError, CorruptError or ModelError."""
    return _stored(read_npz(path if path.is_file() else path / FIRST), {"W_enc": "W_enc", "W_dec": "W_dec"}, path)


def read_second(path: Path) -> Stored:
    """Raises: PathError, CorruptError or ModelError."""
    found = read_safetensors(path if path.is_file() else path / SECOND)
    return _stored(found, {"W_enc": "w_enc", "W_dec": "w_dec"}, path)


def _stored(found: dict[str, Tensor], matrices: dict[str, str], path: Path) -> Stored:
    skip = {"W_skip": SKIP} if SKIP in found else {}
    vectors = {name: name for name in ("b_enc", "b_dec", "threshold")}
    tensors = renamed(found, matrices | vectors | skip, path)
    for name in {"W_enc", *skip}:
        tensors[name] = turned(tensors[name])
    other = tensors["W_enc"].shape[-1] != tensors["W_dec"].shape[-1]
    return Stored("jumprelu", tensors, centered=False, transcoder=bool(skip) or other)
