"""Reading what others wrote, without trusting it: JSON, safetensors, npz; pickles only in `open_pickle`.

Nothing in a file is ever run, a damaged file is named, and so is a tensor that is missing.
"""

import json
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # what torch's own restricted reader raises; nothing else here unpickles
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import from_dict
from ...errors import ConfigError, CorruptError, ModelError, PathError
from ...store import files, weights
from ..sae import SAEConfig

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
MARK = {"written_by": "digon"}
"""In the header of weights that digon wrote."""
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_INFLATION = 64
"""Weights hardly compress; a file that unpacks to more than so many times its size was made to fill the memory."""


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: CorruptError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{file} is damaged: {error}", expected="JSON") from None
    if not isinstance(values, dict):
        raise CorruptError(f"{file} is damaged", expected="a JSON object")
    return values


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises: PathError if it is missing; ModelError if it is a pickle; CorruptError if it is damaged."""
    if not file.is_file():
        refuse_pickles(file.parent)
        raise PathError(f"no weights at {file}", expected="safetensors")
    with file.open("rb") as opened:
        if opened.read(4).startswith(_PICKLE_STARTS):
            raise refusal(file)
    return weights.read_tensors(file)


def write_safetensors(file: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors with a mark that other tools do not keep; returns the file's SHA-256. Raises: StorageError."""
    weights.write_tensors(file, tensors, MARK)
    return files.sha256(file)


def untouched(file: Path, own: dict[str, Any]) -> bool:
    """Whether weights are those whose checksum digon noted, if it did; a warning where another tool wrote them since.

    Tools that load an export and save it again keep our notes but write the weights anew, without our mark: their
    checksum then says nothing. With the mark they are damaged. Raises: CorruptError.
    """
    noted = own.get("sha256")
    if noted is None or not file.is_file() or files.sha256(file) == str(noted):
        return True
    if MARK.items() <= weights.read_notes(file).items():
        raise CorruptError(f"{file} does not match its checksum", expected=f"SHA-256 {str(noted)[:16]}…")
    warnings.warn(
        f"{file} was written by another tool since digon exported it: its checksum is not compared", stacklevel=2
    )
    return False


def settings_of(own: dict[str, Any], file: Path) -> SAEConfig | None:
    """All settings of an SAE, from digon's notes in a file. Raises: CorruptError."""
    try:
        # what is None is not written
        return from_dict(SAEConfig, {"l0": None} | own["config"]) if "config" in own else None
    except ConfigError as error:
        raise CorruptError(f"{file} is damaged: {error.problem}", expected=error.expected) from None


def read_npz(file: Path) -> dict[str, Tensor]:
    """The arrays of an npz file. Raises: ModelError if one is made of objects; CorruptError if the file is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _INFLATION * max(file.stat().st_size, 2**20):
            raise ModelError(f"{file} unpacks to {size:,} bytes", expected="weights, which hardly compress")
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, NotImplementedError) as error:
        raise CorruptError(f"{file} is not a readable npz file: {error}", expected="a whole npz file") from None
    except ValueError as error:
        if "pickle" in str(error):
            raise refusal(file) from None
        raise CorruptError(f"{file} is not a readable npz file: {error}", expected="a whole npz file") from None
    strange = [name for name, array in found.items() if array.dtype.kind != "f"]
    if strange:
        raise CorruptError(f"{strange[0]} in {file} is of type {found[strange[0]].dtype}", expected="floats")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


def open_pickle(file: Path) -> dict[str, Any]:
    """What a `.pt` file holds, by a reader that builds tensors and plain values and refuses everything else.

    Raises: PathError if it is missing; ModelError if it asks for anything else; CorruptError if it is damaged.
    """
    if not file.is_file():
        raise PathError(f"no file at {file}", expected="a file written by torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is an error anyway
            found = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _unreadable(file, error.__context__ or error) from None
    except Exception as error:  # the reader raises whatever the damage makes it stumble over
        raise CorruptError(f"{file} is damaged: {_first_line(error)}", expected="a whole file of torch.save") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds a {type(found).__name__}", expected="a state dict: tensors by name")
    return found


def refuse_pickles(folder: Path) -> None:
    """Raises: ModelError if there are pickles in the folder."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in PICKLES] if folder.is_dir() else []
    if found:
        raise refusal(found[0])


def refusal(file: Path) -> ModelError:
    """Why a pickle is not opened."""
    return ModelError(
        f"{file} is a pickle: loading it could run code",
        expected="safetensors or npz",
        hint="digon.coders.formats.load_pt opens files of tensors with a reader that runs nothing",
    )


def renamed(found: dict[str, Any], names: dict[str, str], origin: Path) -> dict[str, Tensor]:
    """Tensors by our names, from the names in the file. Raises: CorruptError if one is missing or no tensor of floats."""
    tensors: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        if theirs not in found:
            raise CorruptError(
                f"{origin} does not hold one whole SAE: missing {theirs!r}",
                expected=f"tensors {', '.join(names.values())}",
            )
        tensor = found[theirs]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_sparse:
            raise CorruptError(f"{theirs!r} in {origin} is no tensor of floats", expected="weights")
        tensors[ours] = tensor
    return tensors


def turned(tensor: Tensor) -> Tensor:
    """The transpose of a matrix; anything else stays as it is, for the check of the shapes to name."""
    return tensor.T if tensor.ndim == 2 else tensor


def one_per_latent(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A single number spread over all latents; what there is per latent stays as it is."""
    number = tensors[name]
    return tensors | {name: number.reshape(-1).expand(len(tensors["W_enc"]))} if number.numel() == 1 else tensors


def whole_number(values: dict[str, Any], name: str, origin: Path) -> int:
    """A size or count. Raises: CorruptError if it is missing or no positive whole number."""
    value = values.get(name)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value < 1
        or not value < 2**62
        or value != round(value)
    ):
        raise CorruptError(f"{name} = {value!r} in {origin}", expected="a positive whole number")
    return round(value)


def _unreadable(file: Path, error: BaseException) -> ModelError | CorruptError:
    """A pickle that asks for more than it may, or something that is no pickle at all."""
    with file.open("rb") as opened:
        pickled = opened.read(1) == b"\x80"
    if "operand" in str(error) and not pickled:
        return CorruptError(f"{file} is damaged: {_first_line(error)}", expected="a whole file of torch.save")
    return ModelError(
        f"{file} holds more than tensors and plain values, and opening that could run code: {_first_line(error)}",
        expected="a state dict of tensors",
        hint="convert it to safetensors where you trust it",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
