import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digon.errors import PathError, StorageError
from digon.store import files


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail_midway():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        files.write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_real_full_device():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(PathError, match="cannot write"):
        files.write_text(tmp_path / "a" / "b", "y")


def test_litter_of_a_kill_is_used_up_by_the_next_write(tmp_path):
    code = "import os, signal; from pathlib import Path; from digon.store import files\n"
    code += f"with files.replacing(Path({str(tmp_path / 'a')!r})) as t: t.write_text('half a file'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert [p.name for p in tmp_path.iterdir()] == [".a.part"]
    files.write_text(tmp_path / "a", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "x"


def test_two_writers_of_one_path_do_not_mix(tmp_path):
    path = tmp_path / "a"
    with files.replacing(path) as one:
        one.write_text("one, and more")
        with files.replacing(path) as two:
            assert one != two
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one, and more"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
