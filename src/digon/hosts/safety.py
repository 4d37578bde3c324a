"""What is refused before a model is loaded: pickles, damaged files, NaN; and the fingerprint of what is loaded."""

import hashlib
import json
from pathlib import Path

import safetensors
from torch import nn

from ..errors import DigonError, ModelError, NonFiniteError, PathError, did_you_mean

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
IDENTITY = ("*.safetensors", "config.json", "tinylm.json", "token*", "vocab.*", "merges.txt", "special_tokens_map.json")
"""Files that activations depend on."""


def near(path: Path) -> str | None:
    """A hint with the neighbors of a missing path that are called alike."""
    parent = path.parent
    return did_you_mean(path.name, [entry.name for entry in parent.iterdir()]) if parent.is_dir() else None


def refusal_of_file(path: Path) -> DigonError:
    """Why a file, where a model folder should be, is not opened."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix in PICKLES or start == b"PK\x03\x04" or start[:1] == b"\x80":
        return _pickle_error(path)
    hint = f"name its folder: {path.parent}" if path.suffix == ".safetensors" else None
    return PathError(f"{path} is a file", expected="the folder of a model", hint=hint)


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles. Raises: ModelError."""
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []
    if pickled and not any(folder.glob("*.safetensors")):
        raise _pickle_error(pickled[0])


def check_weights(folder: Path) -> None:
    """Make sure that there are safetensors, all of them, whole. Raises: ModelError that names the file."""
    refuse_pickles(folder)
    found = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else []
        missing = sorted(set(parts) - {path.name for path in found})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged: {error}", hint="download the model again") from None
    if missing or not found:
        raise ModelError(
            f"{folder} has no {missing[0] if missing else 'weights'}", expected="config.json and *.safetensors"
        )
    for path in found:
        try:
            with safetensors.safe_open(path, framework="pt"):  # compares the file's size with its header
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} is damaged or cut short: {error}",
                expected="a whole safetensors file",
                hint="copy or download it again",
            ) from None


def check_finite(model: nn.Module, origin: str) -> None:
    """Refuse weights with NaN or infinity. Raises: NonFiniteError that names the tensor."""
    for name, parameter in model.named_parameters():
        bad = int(parameter.numel() - parameter.isfinite().sum())
        if bad:
            raise NonFiniteError(
                f"weight {name} of {origin} has {bad} values that are NaN or infinite",
                expected="finite weights",
                hint="the model is broken as it is stored: download or train it again",
            )


def fingerprint(folder: Path) -> str:
    """BLAKE2b-128 over the files that activations depend on: config, weights, tokenizer."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in IDENTITY for path in folder.glob(pattern) if path.is_file()}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _pickle_error(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a pickle, which can run code when it is opened: refused",
        expected="weights as safetensors",
        hint="convert it where you trust it: load it there and call save_pretrained(folder, safe_serialization=True)",
    )
