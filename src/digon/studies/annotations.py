"""What is known about the rows of a target: which input each of them is, and labels of the inputs.

Identity of the inputs: a file with one id per row (.npy, .txt, .csv), equal ids being equal inputs. Labels: a file with a
column per variable (.npy, or .csv with a header). `own` stands for what the target knows itself: tokens of a harvest,
inputs and labels of a world.
"""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import ConfigError, PathError
from .targets import Target, neighbors, read_array

OWN = "own"
MOST_VALUES = 10_000
"""Different values that a label may have: more of them are a measurement, not a label."""


def read_ids(source: str, target: Target) -> Int[Tensor, " n"]:
    """A number per row of the target: rows with equal entries of the file get the same one.

    Raises: PathError or ConfigError if there is no such file, or it has not one entry per row.
    """
    if source == OWN:
        if target.inputs is None:
            raise ConfigError(f"{target.name} does not know its inputs", expected="--ids FILE with one id per row")
        return target.inputs.unique(return_inverse=True)[1]
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npy":
        array = read_array(path)
        if array.ndim not in (1, 2):
            raise ConfigError(f"{path.name} has the shape {list(array.shape)}", expected="one id per row: [rows]")
        entries = np.array(array)
    else:
        lines = [",".join(row) for row in _lines(path)]
        entries = np.array(lines[1:] if path.suffix.lower() == ".csv" and len(lines) == target.total + 1 else lines)
    _check_length(path, "ids", len(entries), target.total)
    return _codes(entries[target.rows.numpy()])


def read_labels(source: str, target: Target) -> Int[Tensor, "n v"]:
    """A column per variable of the inputs, their values numbered in order.

    Raises: PathError or ConfigError if the file is missing, has not one entry per row, or holds measurements.
    """
    if source == OWN:
        if target.labels is None:
            raise ConfigError(f"{target.name} has no labels of its own", expected="--labels FILE with one row per row")
        return target.labels
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npy":
        array = np.array(read_array(path))
        if array.ndim not in (1, 2) or 0 in array.shape:
            raise ConfigError(f"{path.name} has the shape {list(array.shape)}", expected="[rows] or [rows, variables]")
        columns, names = array.reshape(len(array), -1), [str(i) for i in range(array.reshape(len(array), -1).shape[1])]
    else:
        lines = _lines(path)
        if len(lines) == target.total:
            raise ConfigError(
                f"{path.name} has no header", expected="a first line with the variables' names, then one per row"
            )
        names, body = (lines[0], lines[1:]) if lines else ([], [])
        ragged = [i for i, row in enumerate(body, 2) if len(row) != len(names)]
        if ragged or not names:
            raise ConfigError(
                f"{path.name}, line {ragged[0] if ragged else 1}: not {len(names)} values", expected="one per column"
            )
        columns = np.array(body)
    _check_length(path, "labels", len(columns), target.total)
    chosen = [_codes(_numbers(column)) for column in columns[target.rows.numpy()].T]
    for name, column in zip(names, chosen, strict=True):
        if int(column.max()) >= MOST_VALUES:
            raise ConfigError(
                f"variable {name} of {path.name} has {int(column.max()) + 1} different values",
                expected=f"at most {MOST_VALUES}: categories or whole numbers",
                hint="group a measurement into a few levels first",
            )
    return torch.stack(chosen, 1)


def _codes(entries: np.ndarray) -> Int[Tensor, " n"]:
    """Numbers of the different entries, in their order."""
    axis = 0 if entries.ndim == 2 else None
    return torch.from_numpy(
        np.unique(entries, axis=axis, return_inverse=True)[1].reshape(len(entries)).astype(np.int64)
    )


def _numbers(entries: np.ndarray) -> np.ndarray:
    """Text that is all numbers as numbers, so that 10 comes after 9."""
    try:
        return entries.astype(float) if entries.dtype.kind == "U" else entries
    except ValueError:
        return entries


def _lines(path: Path) -> list[list[str]]:
    if path.suffix.lower() not in (".txt", ".csv", ".tsv"):
        raise ConfigError(f"cannot read {path.name}", expected="a .npy, .txt or .csv file")
    if not path.is_file():
        raise PathError(f"no file at {path}", expected="a .npy, .txt or .csv file", hint=neighbors(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name} is not text in UTF-8", expected="a text file") from None
    if path.suffix.lower() == ".txt":
        return [[line] for line in text.splitlines()]
    return [
        row for row in csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",") if row
    ]


def _check_length(path: Path, what: str, found: int, rows: int) -> None:
    if found != rows:
        raise ConfigError(
            f"{path.name} has {found} {what}, the target {rows} rows", expected="one per row, in their order"
        )
