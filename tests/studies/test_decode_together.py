"""`torchrun -m digon.cli decode`: the files of one process, and words when a process is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from digon import rng
from digon.cli import main
from digon.coders import formats
from digon.store.shards import HarvestPlan, Rows, ShardWriter

FLAGS = ("--site", "mlp", "--latents", "32", "--l0", "2", "--batch", "64", "--json")


def write(root: Path) -> Path:
    writer = ShardWriter(root, HarvestPlan({"mlp": 16}, "float32", "model", "data", {}))
    rows = torch.arange(700)
    writer.append(
        Rows({"mlp": torch.randn(700, 16, generator=rng.stream(0, "rows"))}, rows, rows // 10, rows % 10),
        [f"document {i}" for i in range(70)],
        1,
    )
    writer.finish()
    return root


def started(root: Path, *flags: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "-m", "digon.cli", "decode", str(root), *FLAGS, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_torchrun_gives_what_one_process_gives(tmp_path, capsys):
    here, there = write(tmp_path / "here"), write(tmp_path / "there")
    assert main(["decode", str(here), *FLAGS, "--steps", "20"]) == 0
    alone = json.loads(capsys.readouterr().out)
    out, err = (process := started(there, "--steps", "20", "--shards", "2")).communicate()
    assert process.returncode == 0, err
    together = json.loads(out)  # one document, from the first process alone
    assert together["sentences"] == alone["sentences"]
    one, two = (formats.load(Path(found["weights"])).state_dict() for found in (alone, together))
    for name, wanted in one.items():
        torch.testing.assert_close(two[name], wanted, rtol=1e-4, atol=1e-5)
    files = [sorted(str(p.relative_to(root)) for p in root.rglob("*.*")) for root in (here, there)]
    assert files[0] == files[1]


def test_a_killed_process_ends_all(tmp_path):
    root = write(tmp_path / "store")
    process = started(root, "--steps", "1000000")
    log = root / "sae" / "mlp.recommended-32-l0-2" / "metrics.jsonl"
    for _ in range(600):
        if log.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert log.exists(), process.communicate()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    by_rank = {rank(child): int(child) for child in children}
    os.kill(by_rank["1"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out == ""
    assert "another process of this run has stopped" in err or "SIGKILL" in err


def rank(pid: str) -> str | None:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((word[5:].decode() for word in words if word.startswith(b"RANK=")), None)
