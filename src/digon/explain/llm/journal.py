"""What was asked and answered, on disk: a cache, the way to resume, to replay without a server, and the bill.

One SQLite file in write-ahead mode; a reply is in it before anyone sees it.

    replies   identity → request, response, tokens, cost, latency, attempts
    flights   identity → when it was sent, what it may cost: removed together with the arrival of its reply
    doubts    attempts whose reply never came whole: the server may have charged for them
    facts     what was found out about a server

A process that is killed leaves its flights behind; whoever opens the journal next turns them into doubts. So a call
whose reply arrived is never sent again, and one whose reply was on its way is counted as paid although nobody knows.
A journal has one writer at a time: two could pay for the same call. Keys of servers never reach the file.
"""

import fcntl
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CorruptError, PathError, RunError, StorageError
from .wire import Call, Reply, Server, Usage, canonical

VERSION = 1
HIDDEN = "[key]"
_TABLES = """
create table if not exists replies (
    identity text primary key, server text, model text, endpoint text, sample integer, request blob, response blob,
    tokens_in integer, tokens_out integer, usd real, latency real, attempts integer, at real) without rowid;
create table if not exists flights (identity text primary key, tokens integer, usd real, at real) without rowid;
create table if not exists doubts (identity text, tokens integer, usd real, at real, why text);
create table if not exists facts (name text primary key, value text) without rowid;
"""


@dataclass(frozen=True)
class Totals:
    """The bill. `tokens`, `usd` and `calls` include what is in doubt, at its estimate."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0
    doubts: int = 0
    """Calls that may have been charged and brought nothing."""


class Journal:
    """The journal at `path`, opened for one writer; with `read_only`, for anyone at any time.

    Raises: RunError if another process writes to it; CorruptError if it is no journal; StorageError; PathError.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = -1
        if read_only and not path.is_file():
            raise PathError(f"no journal at {path}", expected="a file that a client has written")
        if not read_only:
            self._lock = _locked(path)
        try:
            with self._guarded():
                self._db = _connected(path, read_only)
                if not read_only:
                    self._settle_flights()
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write."""
        self._db.close()
        self._unlock()

    def find(self, identity: str) -> Reply | None:
        """The reply to a call, if it was ever given."""
        with self._guarded():
            row = self._db.execute(
                "select response, tokens_in, tokens_out, usd, latency, attempts from replies where identity = ?",
                (identity,),
            ).fetchone()
        if row is None:
            return None
        packed, tokens_in, tokens_out, usd, latency, attempts = row
        return Reply(_unpacked(self.path, packed), Usage(tokens_in, tokens_out), usd, latency, attempts, cached=True)

    def depart(self, identity: str, tokens: int, usd: float) -> None:
        """Note that a call is about to be sent, and what it may cost at most."""
        self._write("insert or replace into flights values (?, ?, ?, ?)", (identity, tokens, usd, time.time()))

    def arrive(self, identity: str, server: Server, call: Call, reply: Reply) -> None:
        """Keep a reply; its flight has ended."""
        clean = _scrubber(server.secrets)
        request = zlib.compress(clean(canonical(call.body)).encode("utf-8", "surrogatepass"), 1)
        response = zlib.compress(clean(canonical(reply.raw)).encode("utf-8", "surrogatepass"), 1)
        row = (
            identity, clean(server.identity), clean(server.model), call.endpoint, call.sample, request, response,
            reply.usage.tokens_in, reply.usage.tokens_out, reply.usd, reply.latency, reply.attempts, time.time(),
        )  # fmt: skip
        with self._guarded(), self._db:
            self._db.execute(f"insert or replace into replies values ({', '.join('?' * len(row))})", row)
            self._db.execute("delete from flights where identity = ?", (identity,))

    def lose(self, identity: str, why: str, *, charged: bool) -> None:
        """End a flight without a reply; `charged` if the server may ask for money all the same."""
        with self._guarded(), self._db:
            if charged:
                self._db.execute(
                    "insert into doubts select identity, tokens, usd, at, ? from flights where identity = ?",
                    (why, identity),
                )
            self._db.execute("delete from flights where identity = ?", (identity,))

    def totals(self) -> Totals:
        """The bill so far, of all runs that wrote to this journal."""
        with self._guarded():
            n, tokens, usd = self._db.execute(
                "select count(*), total(tokens_in + tokens_out), total(usd) from replies"
            ).fetchone()
            doubts, more, paid = self._db.execute("select count(*), total(tokens), total(usd) from doubts").fetchone()
        return Totals(n + doubts, int(tokens + more), usd + paid, doubts)

    def doubtful(self) -> list[str]:
        """Identities of the calls that may have been charged without bringing a reply, oldest first."""
        with self._guarded():
            return [row[0] for row in self._db.execute("select identity from doubts order by at, rowid")]

    def rows(self) -> Iterator[dict[str, Any]]:
        """All that was asked and answered, oldest first."""
        names = ("identity", "server", "model", "endpoint", "sample", "request", "response", "usd", "at")
        with self._guarded():
            for row in self._db.execute(f"select {', '.join(names)} from replies order by at"):
                found = dict(zip(names, row, strict=True))
                yield found | {name: _unpacked(self.path, found[name]) for name in ("request", "response")}

    def fact(self, name: str) -> str | None:
        """What was noted under a name."""
        with self._guarded():
            row = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return row[0] if row else None

    def note(self, name: str, value: str) -> None:
        """Note a fact."""
        self._write("insert or replace into facts values (?, ?)", (name, value))

    def _settle_flights(self) -> None:
        with self._db:
            self._db.execute(
                "insert into doubts select identity, tokens, usd, at, 'the process ended before the reply' from flights"
            )
            self._db.execute("delete from flights")

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._guarded(), self._db:
            self._db.execute(statement, values)

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "readonly" in str(error) or "disk I/O" in str(error) or "open" in str(error):
                raise StorageError(
                    f"cannot write the journal {self.path}: {error}", expected="room and permission to write",
                    hint="free some space, then run the same command: what is paid for is kept",
                ) from None  # fmt: skip
            raise
        except sqlite3.DatabaseError as error:
            raise CorruptError(
                f"{self.path} is no journal: {error}", expected="a SQLite file that digon wrote",
                hint="move it away, then run the same command: it starts a new one",
            ) from None  # fmt: skip


def _connected(path: Path, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30, check_same_thread=False)
    found = db.execute("pragma user_version").fetchone()[0]
    if found not in (0, VERSION):
        raise CorruptError(f"{path} is a journal of version {found}", expected=f"version {VERSION}")
    if not read_only:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")  # a kill loses nothing; a power cut may lose the last replies
        db.executescript(_TABLES)
        db.execute(f"pragma user_version = {VERSION}")
    return db


def _locked(path: Path) -> int:
    """A handle that holds the journal's lock; the system lets go of it when the process ends, however it does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot open the journal {path}: {error.strerror}", expected="a writable folder") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(
            f"another process writes to the journal {path}", expected="one writer, or calls could be paid for twice",
            hint="wait for it, give this run a journal of its own, or open it read-only",
        ) from None  # fmt: skip
    return handle


def _scrubber(secrets: tuple[str, ...]) -> Callable[[str], str]:
    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, HIDDEN).replace(json.dumps(secret)[1:-1], HIDDEN)
        return text

    return clean


def scrubbed(text: str, server: Server) -> str:
    """The text without the server's secrets."""
    return _scrubber(server.secrets)(text)


def _unpacked(path: Path, packed: bytes) -> Mapping[str, Any]:
    try:
        return json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))
    except (zlib.error, ValueError) as error:
        raise CorruptError(
            f"a reply in {path} is damaged: {error}", hint="delete the file: replies are asked for again"
        ) from None
