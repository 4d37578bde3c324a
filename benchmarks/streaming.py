"""Rows per second that training gets from a store in random order, against reading its files from start to end.

Both read what the system has not cached (where it lets itself be told to forget) and what it has. Also the peak memory of
a process that streams a tenth of the rows, and of one that streams all of them: the difference should be nothing.

    python benchmarks/streaming.py                                    2 GiB, 768 units
    python benchmarks/streaming.py --rows 100000000 --units 4         10⁸ rows
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from digon import rng
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter

SHARD = 1 << 28
"""Bytes per shard."""
PIECE = 1 << 20
"""Bytes that the plain reader reads at once."""


def write(root: Path, rows: int, units: int) -> None:
    """Noise in bfloat16."""
    writer = ShardWriter(root, HarvestPlan({"site": units}, "bfloat16", "noise", "noise", {}))
    per_shard = max(SHARD // (2 * units), 1)
    for cursor, start in enumerate(range(0, rows, per_shard), 1):
        if cursor > writer.cursor:
            n = min(per_shard, rows - start)
            noise = torch.randint(2**15, (n, units), generator=rng.stream(0, cursor), dtype=torch.int16)
            labels = torch.zeros(n, dtype=torch.int32)
            values = {"site": noise.view(torch.bfloat16).nan_to_num(0, 0, 0)}
            writer.append(Rows(values, labels, labels, labels), [], cursor)
    writer.finish()


def forget(root: Path) -> None:
    """Ask the system to drop the cached pages of the store."""
    for path in root.glob("sites/*/*"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def plain(root: Path) -> int:
    """Read all files of the site from start to end."""
    room, total = bytearray(PIECE), 0
    for path in sorted(root.glob("sites/*/*")):
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(room):
                total += got
    return total


def streamed(root: Path, batch: int, share: float = 1.0) -> int:
    """Read a share of an epoch in random order."""
    store = ActivationStore.open(root, verify=False)
    count = int(len(store) * share) // batch
    batches: Iterator[torch.Tensor] = itertools.islice(store.shuffled("site", batch, 0), count)
    return sum(len(x) for x in batches)


def seconds(work, *arguments) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def peak(root: Path, batch: int, share: float) -> float:
    """MiB of a process of its own that streams."""
    words = [sys.executable, __file__, "--peak", str(root), "--batch", str(batch), "--share", str(share)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=(2 << 30) // 1536)
    parser.add_argument("--units", type=int, default=768)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write the store; default: a temporary folder")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=1.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        streamed(args.peak, args.batch, args.share)
        status = Path("/proc/self/status").read_text().split()
        print(int(status[status.index("VmHWM:") + 1]) / 1024)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder) / "store"
        write(root, args.rows, args.units)
        size = plain(root)
        print(f"{args.rows:,} rows of {args.units} units in bfloat16, {size / 2**30:.2f} GiB, batches of {args.batch}")
        print(f"{'':<8} {'plain MB/s':>11} {'random MB/s':>12} {'rows/s':>13} {'share':>6}")
        for state in ("cold", "cached"):
            times = []
            for _ in range(args.rounds):
                took = []
                for work in ((plain, root), (streamed, root, args.batch)):
                    if state == "cold":
                        forget(root)
                    took.append(seconds(*work))
                times.append(took)
            bare, ours = (min(t[i] for t in times) for i in (0, 1))
            rates = f"{size / bare / 1e6:11,.0f} {size / ours / 1e6:12,.0f} {args.rows / ours:13,.0f}"
            print(f"{state:<8} {rates} {bare / ours:6.0%}", flush=True)
        few, all_ = (peak(root, args.batch, share) for share in (0.1, 1.0))
        print(f"peak memory: {few:.0f} MiB after a tenth of the rows, {all_:.0f} MiB after all")


if __name__ == "__main__":
    main()
