"""How a file comes to be: whole or not at all.

Every write goes to a temporary neighbor, is flushed to the disk and then renamed over the target, so that a reader or
a restart after a kill sees the old file or the new one, never half of one. A disk that refuses is a `StorageError`.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import PathError, StorageError

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


@contextlib.contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    What a kill in the middle leaves behind is taken over by the next write of the same path.
    Without `flush` the file survives a kill but maybe not a power cut: for files that a checksum guards.

    Raises: StorageError if the disk refuses; PathError if a folder on the way is a file.
    """
    temporary: Path | None = None
    handle = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
        yield temporary
        if flush:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
            raise PathError(f"cannot write {path}: {error.strerror}", expected="a path in a folder") from None
        if error.errno in _REFUSED:
            raise StorageError(
                f"cannot write {path}: {error.strerror}",
                expected="room and permission to write",
                hint="free some space or choose another --out, then run the same command: it resumes",
            ) from None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _temporary(path: Path) -> tuple[int, Path]:
    """An empty temporary file beside `path` and a handle that holds a lock on it.

    Its name is always the same, so that litter of a killed process is used up; only if another process holds the lock,
    as it is writing the same path, does the file get a name of its own.
    """
    temporary = path.with_name(f".{path.name}.part")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), temporary.stat()):  # or else it was renamed before it was locked
            os.ftruncate(handle, 0)
            return handle, temporary
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    return handle, Path(name)


def write_bytes(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write a file atomically. Raises: StorageError."""
    with replacing(path, flush=flush) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically. Raises: StorageError."""
    write_bytes(path, text.encode())


class Sink:
    """A file that is written from start to end; with `direct`, past the page cache where the system can.

    Copying into the page cache costs a core about as much as hashing does, for bytes that nobody reads soon; a direct
    write costs none, but wants aligned memory and lengths: what is not aligned is gathered in memory that is, and the
    last block is written padded and then cut.
    """

    BLOCK = 4096
    ROOM = 1 << 22

    def __init__(self, path: Path, *, direct: bool = False) -> None:
        self._handle = _open_direct(path) if direct else None
        self._direct = self._handle is not None
        if self._handle is None:
            self._handle = os.open(path, os.O_WRONLY)
        self._room = memoryview(mmap.mmap(-1, self.ROOM)) if self._direct else memoryview(b"")
        self._held = self._length = 0

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._handle is not None
        try:
            if self._held and kind is None:
                self._put(self._room[: -(-self._held // self.BLOCK) * self.BLOCK])
                os.ftruncate(self._handle, self._length)
        finally:
            os.close(self._handle)

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        self._length += len(data)
        if not self._direct:
            self._put(data)
            return
        if not self._held and np.frombuffer(data, np.uint8).ctypes.data % self.BLOCK == 0:
            whole = len(data) // self.BLOCK * self.BLOCK
            self._put(data[:whole])
            data = data[whole:]
        while len(data):
            taken = min(len(data), self.ROOM - self._held)
            self._room[self._held : self._held + taken] = data[:taken]
            self._held, data = self._held + taken, data[taken:]
            if self._held == self.ROOM:
                self._put(self._room)
                self._held = 0

    def _put(self, data: memoryview) -> None:
        assert self._handle is not None
        while len(data):
            data = data[os.write(self._handle, data) :]


def _open_direct(path: Path) -> int | None:
    """A handle past the page cache, or None where system or file system have none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (AttributeError, OSError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
