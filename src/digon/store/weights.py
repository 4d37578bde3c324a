"""Named tensors on disk: safetensors, written atomically, read through memory maps, never a pickle.

Writing streams every tensor from where it lies; the library's own writer first copies everything.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CorruptError, PathError
from . import files

PIECE = 1 << 22
"""Bytes that are hashed or written together."""
HEADER = 1 << 26
"""Bytes that a header may have."""
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Element types by their names in the format."""


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    flush: bool = True,
    direct: bool = False,
) -> None:
    """Write a safetensors file atomically; `direct` as in `files.Sink`. Raises: StorageError."""
    with files.replacing(path, flush=flush) as temporary, files.Sink(temporary, direct=direct) as sink:
        for piece in _pieces(tensors, metadata):
            sink.write(piece)


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """SHA-256 of the file that `write_tensors` writes."""
    digest = hashlib.sha256()
    for piece in _pieces(tensors, metadata):
        digest.update(piece)
    return digest.hexdigest()


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


def read_notes(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself beside its tensors. Raises: CorruptError if it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CorruptError(f"{path} is not a readable safetensors file: {error}") from None


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file."""

    offset: int
    """Bytes before it."""
    dtype: torch.dtype
    shape: tuple[int, ...]


def locate(path: Path, name: str) -> Place:
    """Find a tensor in a safetensors file, to read parts of it.

    Raises: PathError if the file is missing; CorruptError if it is damaged or has no such tensor.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(min(length, HEADER)))[name]
        kinds = {text: kind for kind, text in TYPES.items()}
        return Place(8 + length + found["data_offsets"][0], kinds[found["dtype"]], tuple(found["shape"]))
    except FileNotFoundError:
        raise PathError(f"no file at {path}", expected="a safetensors file") from None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CorruptError(f"{path} holds no readable tensor {name!r}: {error}") from None


def _pieces(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> Iterator[memoryview]:
    """The bytes of a safetensors file: length of the header, header, tensors.

    The header ends on a block, and the largest tensor comes first: so a direct write needs no copy of it.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    names = sorted(tensors, key=lambda name: (-tensors[name].nbytes, name))
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % files.Sink.BLOCK)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        data = memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
