"""A disk that refuses a checkpoint, and activations that are not those of the checkpoint: nothing good is lost."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from together import endless, full_for_the_first, run

from digon.coders import formats
from digon.coders.sae import SAEConfig
from digon.coders.train import CHECKPOINTS, TrainConfig, train
from digon.errors import ConfigError, StorageError

SMALL = SAEConfig(16, 64, 2, dead_after=512)
CONFIG = TrainConfig(steps=60, log_every=60, checkpoint_every=10)


def kept(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / CHECKPOINTS).iterdir()}


def goes_on(folder: Path, whole: Path) -> bool:
    """Whether training ends, in the bytes of training that was never disturbed."""
    for out in (folder, whole):
        train(SMALL, endless, CONFIG, out)
    return all(
        (folder / name).read_bytes() == (whole / name).read_bytes() for name in (formats.WEIGHTS, formats.CONFIG)
    )


def test_a_full_disk_is_said_and_keeps_the_last_checkpoints(tmp_path, monkeypatch):
    seen = []

    def watched(start):
        for step, x in enumerate(endless(start), start):
            if step == 37:
                seen.append(kept(tmp_path / "sae"))
                monkeypatch.setattr(os, "write", refuse)
            yield x

    def refuse(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot write .*00000040.*No space left"):
        train(SMALL, watched, CONFIG, tmp_path / "sae")
    monkeypatch.undo()
    assert sorted(seen[0]) == ["00000020.safetensors", "00000030.safetensors"]
    assert kept(tmp_path / "sae") == seen[0]
    assert goes_on(tmp_path / "sae", tmp_path / "whole")


def test_a_limit_of_the_kernel_is_no_different(tmp_path):
    # Files may not grow past a page from step 37 on: the next checkpoint is refused half written.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(start):
        for step, x in enumerate(endless(start), start):
            if step == 37:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            yield x

    try:
        with pytest.raises(StorageError, match="File too large"):
            train(SMALL, limited, CONFIG, tmp_path / "sae")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(kept(tmp_path / "sae")) == ["00000020.safetensors", "00000030.safetensors"]
    assert goes_on(tmp_path / "sae", tmp_path / "whole")


def mount(folder: Path, options: str) -> bool:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


def test_one_of_two_processes_has_no_disk(tmp_path):
    (first, said), (other, also) = run(2, full_for_the_first, tmp_path / "sae", SMALL, CONFIG)
    assert (first, other) == ("StorageError", "PeerError")
    assert "File too large" in said
    assert "another process of this run has stopped" in also
    assert sorted(kept(tmp_path / "sae")) == ["00000020.safetensors", "00000030.safetensors"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_full(tmp_path):
    size = _checkpoint_bytes(tmp_path / "size")
    if not mount(tmp_path / "disk", f"size={int(2.6 * size)}"):
        pytest.skip("mounting is not allowed here")
    try:
        folder = tmp_path / "disk" / "sae"
        with pytest.raises(StorageError, match="No space left"):
            train(SMALL, endless, CONFIG, folder)
        assert sorted(kept(folder)) == ["00000010.safetensors", "00000020.safetensors"]
        assert mount(tmp_path / "disk", f"remount,size={int(10 * size)}")
        assert goes_on(folder, tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def _checkpoint_bytes(folder: Path) -> int:
    def stopped(start):
        yield from (x for _, x in zip(range(15), endless(start), strict=False))

    with pytest.raises(ConfigError, match="ended before step 15"):
        train(SMALL, stopped, CONFIG, folder)
    return next((folder / CHECKPOINTS).iterdir()).stat().st_size


def test_other_normalization_is_recognized(tmp_path):
    def normalized(start):
        return (x / 4 for x in endless(start))

    def stopped(start):
        yield from (x for _, x in zip(range(15), endless(start), strict=False))

    with pytest.raises(ConfigError, match="ended before"):
        train(SMALL, stopped, CONFIG, tmp_path)
    said = r"the activations \(their scale was (\S+) and is (\S+): were they normalized otherwise\?\)"
    with pytest.raises(ConfigError, match=said) as stopped_there:
        train(SMALL, normalized, CONFIG, tmp_path)
    train(SMALL, endless, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match=said) as finished:
        train(SMALL, normalized, CONFIG, tmp_path)
    for error in (stopped_there, finished):
        was, now = (float(word.strip(":")) for word in str(error.value).split() if word.strip(":")[:1] == "0")
        assert was == pytest.approx(4 * now, rel=0.01)
