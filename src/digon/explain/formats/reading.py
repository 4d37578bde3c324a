"""JSON of others, read without trusting it: every error names the file, the line and the field.

A number is a float or an int that a float can hold; true and "1" are none. NaN (also as the bare word that Python writes) and
null are missing. Tokens may be pieces of characters: what is no text by itself is spelled as `bytes:\\xe2\\x80`, which is how
the OpenAI API spells it, so that every token can be written again.
"""

import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import CorruptError, PathError
from ...store import files

LINE = 1 << 28
"""Bytes of a line, or of a file with one value, that are read at most."""
_BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")


@dataclass
class Row:
    """An object of a file. It remembers which fields were asked for, so that what was not understood can be said."""

    values: dict[str, Any]
    place: str
    """File, line and path in it."""
    asked: set[str] = field(default_factory=set)

    def wrong(self, name: str, expected: str) -> CorruptError:
        """The error of a field."""
        found = self.values.get(name, MISSING)
        what = "is missing" if found is MISSING else f"is {_short(found)}"
        return CorruptError(f"{self.place}: {name!r} {what}", expected=expected, hint="fetch or write the file again")

    def get(self, name: str) -> Any:
        """A field as it stands; None if it is missing or null."""
        self.asked.add(name)
        return self.values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A string. Raises: CorruptError."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return safe(value)

    def whole(self, name: str) -> int:
        """A number from 0 to 2⁶³, or its digits. Raises: CorruptError."""
        value = self.get(name)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
            value = int(value)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self.wrong(name, "a whole number from 0 to 2⁶³")
        return value

    def number(self, name: str) -> float:
        """A float; NaN where it is missing or null. Raises: CorruptError."""
        return self._floats(name, [self.get(name)])[0]

    def numbers(self, name: str, length: int | None = None) -> tuple[float, ...]:
        """Floats. Raises: CorruptError, also if there are not `length` of them."""
        return tuple(self._floats(name, self._list(name, length)))

    def texts(self, name: str, length: int | None = None) -> tuple[str, ...]:
        """Tokens. Raises: CorruptError."""
        values = self._list(name, length)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of texts")
        return tuple(map(safe, values))

    def rows(self, name: str) -> "list[Row]":
        """Objects; none where the field is missing or null. Raises: CorruptError."""
        values = self._list(name, None)
        return [inside(value, f"{self.place}: {name}[{i}]") for i, value in enumerate(values)]

    def row(self, name: str) -> "Row":
        """An object. Raises: CorruptError."""
        if not isinstance(self.get(name), dict):
            raise self.wrong(name, "an object")
        return inside(self.values[name], f"{self.place}: {name}")

    def unknown(self) -> list[str]:
        """Fields that hold something and were not asked for."""
        return sorted(k for k, v in self.values.items() if k not in self.asked and v not in (None, [], "", {}))

    def _list(self, name: str, length: int | None) -> list[Any]:
        value = self.get(name)
        if value is None and not length:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        if length is not None and len(value) != length:
            raise CorruptError(f"{self.place}: {name!r} has {len(value)} entries", expected=f"{length}, one per token")
        return value

    def _floats(self, name: str, values: Sequence[Any]) -> list[float]:
        if not set(map(type, values)) <= {float, int, type(None)}:
            raise self.wrong(name, "numbers or null")
        try:
            return [math.nan if v is None else float(v) for v in values]
        except OverflowError:
            raise CorruptError(f"{self.place}: {name!r} holds a number that is too large", expected="floats") from None


def inside(value: object, place: str) -> Row:
    """An object as a row. Raises: CorruptError."""
    if not isinstance(value, dict):
        raise CorruptError(f"{place}: {_short(value)}", expected="an object")
    return Row(value, place)


def read_value(path: Path) -> Any:
    """Whatever JSON is in a file. Raises: PathError; CorruptError."""
    with _opened(path) as file:
        text = file.read(LINE + 1)
    if len(text) > LINE:
        raise CorruptError(f"{path} is longer than {LINE:,} bytes", expected="one unit")
    return _parsed(text, str(path))


def read_json(path: Path) -> Row:
    """The object in a file. Raises: PathError; CorruptError."""
    return inside(read_value(path), str(path))


def read_lines(path: Path) -> Iterator[Row]:
    """The objects in a file of lines, gzipped or not; empty lines are passed over. Raises: PathError; CorruptError."""
    with _opened(path) as file:
        number = 0
        while True:
            number += 1
            try:
                line = file.readline(LINE + 1)
            except (EOFError, OSError, zlib.error) as error:
                raise CorruptError(
                    f"{path}, line {number}: cannot be unpacked: {error}", expected="a whole gzip file",
                    hint="fetch or write the file again",
                ) from None  # fmt: skip
            if not line:
                return
            place = f"{path}, line {number}"
            if len(line) > LINE:
                raise CorruptError(f"{place} is longer than {LINE:,} bytes", expected="one unit per line")
            if line.strip():
                yield inside(_parsed(line, place), place)


def write_json(path: Path, value: object) -> None:
    """Write one object atomically; NaN becomes null. Raises: StorageError."""
    files.write_text(path, dumped(value) + "\n")


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write objects line by line atomically, gzipped if the name ends in .gz; equal objects give equal bytes."""
    with files.replacing(path) as temporary, temporary.open("wb") as raw:
        lines = (dumped(value).encode() + b"\n" for value in values)
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                packed.writelines(lines)
        else:
            raw.writelines(lines)


def safe(token: str) -> str:
    """A token that can be written as UTF-8: halves of a character as their bytes.

    >>> safe("ab"), safe("\\ud83d")
    ('ab', 'bytes:\\\\xed\\\\xa0\\\\xbd')
    """
    try:
        token.encode()
    except UnicodeEncodeError:
        return spelled(token.encode("utf-8", "surrogatepass"))
    return token


def spelled(data: bytes) -> str:
    """Bytes as a token."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def text_of(tokens: Sequence[str]) -> str:
    """The text of tokens, those that are spelled as bytes put together.

    >>> text_of(["it", "bytes:\\\\xe2\\\\x80", "bytes:\\\\x99", "s"])
    'it’s'
    """
    pieces = [
        bytes.fromhex(found[1].replace("\\x", "")) if (found := _BYTES.fullmatch(token)) else token.encode()
        for token in tokens
    ]
    return b"".join(pieces).decode("utf-8", "replace")


def document_of(tokens: Sequence[str]) -> str:
    """What stands for the document of an excerpt whose document is not known: the hash of its text."""
    return hashlib.blake2b(text_of(tokens).encode(), digest_size=16).hexdigest()


def unheld(record: object, held: set[str]) -> list[str]:
    """Fields of a record that hold something and are not among those that a format holds."""
    found = []
    for one in fields(record):  # type: ignore[arg-type]
        default = one.default if one.default_factory is MISSING else one.default_factory()
        value = getattr(record, one.name)
        nothing = value in (None, (), "", {}) or (isinstance(value, float) and math.isnan(value))
        if one.name not in held and not nothing and repr(value) != repr(default):
            found.append(one.name)
    return found


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    if not path.is_file():
        raise PathError(f"no file at {path}", expected="a file of units")
    return gzip.GzipFile(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _parsed(text: bytes, place: str) -> Any:
    def constant(name: str) -> float:
        if name == "NaN":
            return math.nan
        raise ValueError(f"{name} is no activation")

    def decimal(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"{digits[:20]} is too large for a float")
        return value

    try:
        return json.loads(text.decode(), parse_constant=constant, parse_float=decimal)
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"{place} is damaged: {' '.join(str(error).split())[:200]}",
            expected="JSON",
            hint="fetch or write the file again",
        ) from None


def dumped(value: object) -> str:
    """JSON on one line; NaN becomes null."""
    return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return value


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"
