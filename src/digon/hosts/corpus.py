"""Which text? Documents from files, folders, JSONL and parquet, and the text that every CPython carries.

A document is one file, one line of JSONL or one row of parquet. Text that cannot be used (empty, not UTF-8, too large,
a repetition) is counted and left out; it is an error only if nothing is left. A corpus is read from disk each time it
is iterated, in the same order, so it never has to fit into memory. A document is known by the hash of its text.
"""

import hashlib
import json
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from .. import rng
from ..errors import CorpusError, PathError, did_you_mean

MAX_BYTES = 16 * 2**20
"""Documents above this many bytes are left out: logs and dumps, and no tokenizer should meet them in one piece."""
_SKIPPED_FOLDERS = frozenset(
    (
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "pydoc_data",  # one file of string literals; they are added as the texts that they are
    )
)

Piece = tuple[str, bytes | str | None]
"""Where it comes from, and its text; None where there is something that cannot be read as text."""


@dataclass(frozen=True)
class Document:
    """One text."""

    id: str
    """BLAKE2b-128 of the text, in hexadecimal."""
    text: str
    origin: str
    """The file it comes from, with the line or row where the file holds many."""


@dataclass(frozen=True)
class CorpusReport:
    """What was found, and what was left out for which reason."""

    documents: int
    """Documents that can be used."""
    characters: int
    """Their length in characters."""
    empty: int = 0
    """Left out: nothing but white space."""
    undecodable: int = 0
    """Left out: not UTF-8, holding NUL characters, or not the record it should be."""
    duplicates: int = 0
    """Left out: the same text came before."""
    oversized: int = 0
    """Left out: larger than `MAX_BYTES`."""

    def __str__(self) -> str:
        left_out = [f"{n} {k}" for k in ("empty", "undecodable", "duplicates", "oversized") if (n := getattr(self, k))]
        return f"{self.documents} documents, {self.characters:,} characters" + (
            f" (left out: {', '.join(left_out)})" if left_out else ""
        )


class Corpus:
    """Documents in a fixed order, with a fingerprint and a report.

    Raises: CorpusError that says what was found if there is no usable document.
    """

    def __init__(self, name: str, pieces: Callable[[], Iterable[Piece]]) -> None:
        self.name = name
        self._pieces = pieces
        counts: Counter[str] = Counter()
        digest = hashlib.blake2b(digest_size=16)
        self.sizes: dict[str, int] = {}
        """Document id → characters."""
        for document in self._usable(counts):
            digest.update(bytes.fromhex(document.id))
            self.sizes[document.id] = len(document.text)
        names = ("documents", "characters", "empty", "undecodable", "duplicates", "oversized")
        self.report = CorpusReport(**{key: counts[key] for key in names})
        self.fingerprint = digest.hexdigest()
        if not self.report.documents:
            raise CorpusError(
                f"no usable text in {name}: {self.report}",
                expected="at least one document of UTF-8 text",
                hint="digon reads text files, folders of them, .jsonl and .parquet",
            )

    def __len__(self) -> int:
        return self.report.documents

    def __iter__(self) -> Iterator[Document]:
        return self._usable(Counter())

    def _usable(self, counts: Counter[str]) -> Iterator[Document]:
        seen: set[bytes] = set()
        for origin, content in self._pieces():
            text = _decoded(content)
            key = b"" if text is None else hashlib.blake2b(text.encode(), digest_size=16).digest()
            if text is None:
                counts["undecodable"] += 1
            elif not text.strip():
                counts["empty"] += 1
            elif len(text) > MAX_BYTES:
                counts["oversized"] += 1
            elif key in seen:
                counts["duplicates"] += 1
            else:
                seen.add(key)
                counts["documents"] += 1
                counts["characters"] += len(text)
                yield Document(key.hex(), text, origin)


def read_corpus(path: Path, field: str = "text") -> Corpus:
    """The documents of a file or folder; `field` names the text in JSONL and parquet.

    Raises: PathError if there is no such path; CorpusError if it holds no usable text.
    """
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise PathError(f"no text at {path}", expected="a file or folder", hint=did_you_mean(path.name, near))
    if path.is_dir() and not any(_files(path)):
        raise CorpusError(f"no usable text in {path}: it holds no files", expected="at least one text file")
    return Corpus(str(path), lambda: _read_tree(path, field))


def python_corpus(limit_bytes: int | None = None) -> Corpus:
    """The library source of the running Python with its docstrings, and the topics of `pydoc`.

    `limit_bytes` draws documents by their hash until so many bytes are reached, so it samples all of it.
    """
    if limit_bytes is None:
        return Corpus("python", _python_pieces)

    # Chosen once: reading all of it takes a second.
    sized = [(hashlib.blake2b(_bytes(text)).digest(), origin, len(_bytes(text))) for origin, text in _python_pieces()]
    chosen: set[str] = set()
    room = limit_bytes
    for _, origin, size in sorted(sized):
        if size <= room:
            chosen.add(origin)
            room -= size
    return Corpus(f"python[:{limit_bytes}]", lambda: (piece for piece in _python_pieces() if piece[0] in chosen))


def split(documents: Iterable[Document], held_out: float, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """Documents for fitting and documents held out, decided for each by its hash alone.

    A document stays on its side however the rest of the corpus changes.
    """
    assert 0 <= held_out <= 1, f"held_out = {held_out} is no share"
    sides: tuple[list[Document], list[Document]] = ([], [])
    for document in documents:
        sides[rng.derive(seed, "held out", document.id) < held_out * 2**63].append(document)
    return sides


def _read_tree(path: Path, field: str) -> Iterator[Piece]:
    for file in _files(path) if path.is_dir() else [path]:
        origin = file.relative_to(path).as_posix() if path.is_dir() else file.name
        if file.suffix in (".jsonl", ".ndjson"):
            yield from _read_lines(file, origin, field)
        elif file.suffix == ".parquet":
            yield from _read_rows(file, origin, field)
        elif file.stat().st_size > 4 * MAX_BYTES:  # no UTF-8 character has more than four bytes
            yield origin, "x" * (MAX_BYTES + 1)
        else:
            yield origin, file.read_bytes()


def _files(folder: Path, skipped: frozenset[str] = frozenset()) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in skipped:
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead back up
            yield from _files(entry, skipped)
        elif entry.is_file():
            yield entry


def _read_lines(file: Path, origin: str, field: str) -> Iterator[Piece]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            text = record.get(field) if isinstance(record, dict) else None
            if isinstance(record, dict) and field not in record and number == 1:
                raise _no_field(file, field, list(record))
            yield f"{origin}:{number}", text if isinstance(text, str) else None


def _read_rows(file: Path, origin: str, field: str) -> Iterator[Piece]:
    quoted = "'" + str(file).replace("'", "''") + "'"
    with duckdb.connect() as db:
        try:
            rows = db.execute(f"select * from read_parquet({quoted}) limit 0")
            columns = [column[0] for column in rows.description or []]
        except duckdb.Error:
            yield origin, None
            return
        if field not in columns:
            raise _no_field(file, field, columns)
        name = field.replace('"', '""')
        rows = db.execute(f'select cast("{name}" as varchar) from read_parquet({quoted})')
        number = 0
        while chunk := rows.fetchmany(1024):
            for (text,) in chunk:
                number += 1
                yield f"{origin}:{number}", "" if text is None else text


def _no_field(file: Path, field: str, known: list[str]) -> CorpusError:
    return CorpusError(
        f"{file} has no field {field!r}",
        expected=f"the text in one of {', '.join(known)}",
        hint=did_you_mean(field, known) or "rename the field that holds the text",
    )


def _python_pieces() -> Iterator[Piece]:
    library = Path(sysconfig.get_path("stdlib"))
    for file in _files(library, _SKIPPED_FOLDERS):
        if file.suffix == ".py":
            yield file.relative_to(library).as_posix(), file.read_bytes()
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"pydoc/{topic}", topics[topic]


def _decoded(content: bytes | str | None) -> str | None:
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None
    if content is None or "\0" in content:
        return None
    try:
        content.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        return None
    return content


def _bytes(content: bytes | str | None) -> bytes:
    return content if isinstance(content, bytes) else (content or "").encode()
