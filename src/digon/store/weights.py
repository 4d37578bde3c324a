"""Named tensors on disk: safetensors, written atomically, read through memory maps, never a pickle."""

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import CorruptError, PathError
from . import files


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, *, flush: bool = True
) -> str:
    """Write a safetensors file atomically and return its SHA-256. Raises: StorageError."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, metadata)
    files.write_bytes(path, data, flush=flush)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file into memory.

    Raises: PathError if it is missing; CorruptError if it is damaged or of another format.
    """
    if not path.is_file():
        raise PathError(f"no file at {path}", expected="a safetensors file")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CorruptError(
            f"{path} is not a readable safetensors file: {error}",
            expected="a whole safetensors file (other formats, pickles above all, are never opened)",
        ) from None
