"""Training steps of sparse autoencoders per second, beside those of other libraries and the machine's limit.

Every contestant has a process of its own and the same batches. They take turns, one step or a few at a time, and the
others wait; so other load on the machine hits all. Ratios are medians over rounds, of times by the clock and of
processor times; on a busy machine the latter are steadier.
Ours is the whole step of `Trainer.advance`: search, forward, backward, projection, clipping, Adam, unit norm, metrics.

    float32      the latents that float32 products choose (found by bfloat16 products with a bound, where those are fast)
    plain        the same with float32 products alone
    bfloat16     the latents that bfloat16 products choose
    forced       the default: no latent stays dead (float32)
    dense        ours, written with dense products and autograd

    python benchmarks/sae.py [--peers PYTHON] [--threads 2] [--rounds 5] [--d-in 512 --width 8192 --l0 32 --batch 4096]

PYTHON is the interpreter of an environment with the other libraries; `make peers` makes one that is found.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peers.protocol import Size, Step, serve
from torch import Tensor

HERE = Path(__file__).parent
PEERS = {
    "topk": ("saelens", "dictionary_learning", "sparsify", "overcomplete"),
    "batchtopk": ("saelens", "dictionary_learning", "overcomplete"),
}
OURS = ("float32", "plain", "bfloat16", "forced", "dense")


def ours(size: Size, kind: str, way: str) -> Step:
    from digon.coders.sae import SAEConfig
    from digon.coders.sparse import blocks
    from digon.coders.train import Calibration, TrainConfig, Trainer

    if way == "dense":
        return dense(size, kind)
    if way == "plain":
        blocks.has_bfloat16 = lambda: False
    config = SAEConfig(size.d_in, size.width, size.l0, kind, revival="forced" if way == "forced" else "none")
    train = TrainConfig(steps=10**6, l0_start=1.0, precision="bfloat16" if way == "bfloat16" else "float32")
    data = Calibration(torch.zeros(size.d_in), (1.0,), "", torch.zeros(2, size.d_in))
    return Trainer(config, train, data).advance


def dense(size: Size, kind: str) -> Step:
    """Every product dense, every gradient by autograd."""
    from digon.coders.sae import SAE, SAEConfig

    sae = SAE(SAEConfig(size.d_in, size.width, size.l0, kind))
    optimizer = torch.optim.Adam(sae.parameters(), lr=4e-4, fused=True)

    def step(x: Tensor) -> None:
        z = torch.nn.functional.linear(x - sae.b_dec, sae.W_enc, sae.b_enc)
        rows, count = (z, size.l0) if kind == "topk" else (z.view(1, -1), size.l0 * len(x))
        kept = rows.topk(count, dim=1, sorted=False)
        codes = torch.zeros_like(rows).scatter(1, kept.indices, kept.values.relu()).view_as(z)
        loss = (codes @ sae.W_dec + sae.b_dec - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        sae.free_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalize_atoms()

    return step


class Contestant:
    """A process that makes steps when it is told to."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": command[-1]}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self.wall: list[float] = []
        self.work: list[float] = []
        self.peak = 0.0

    def run(self, steps: int, counted: bool = True) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                wall, work, self.peak = json.loads(line.removeprefix("answer "))
                if counted:
                    self.wall.append(wall / steps)
                    self.work.append(work / steps)
                return
        self.log.seek(0)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}: {self.log.read()[-500:]}")

    def close(self) -> None:
        self.process.communicate()


def rates(size: Size, seconds: float = 2.0) -> dict[str, float]:
    """FLOP per second of the encoder's product, the best of several."""
    torch.set_num_threads(size.threads)
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        x, w = torch.randn(size.batch, size.d_in).to(kind), torch.randn(size.width, size.d_in).to(kind)
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best = min(best, time.perf_counter() - start)
        found[str(kind).removeprefix("torch.")] = 2 * size.batch * size.d_in * size.width / best
    return found


def race(size: Size, kind: str, args: argparse.Namespace) -> None:
    field = [
        Contestant(way, [sys.executable, __file__, "--serve", way, kind, *size.words()])
        for way in OURS
        if not args.only or way in args.only
    ]
    if args.peers:
        steps = str(HERE / "peers" / "steps.py")
        field += [
            Contestant(name, [args.peers, steps, name, kind, *size.words()])
            for name in PEERS[kind]
            if not args.only or name in args.only
        ]
    for each in field:
        each.run(args.steps, counted=False)
    for _ in range(args.rounds):
        for each in field:
            each.run(args.steps)
    for each in field:
        each.close()
    show(size, kind, field, rates(size))


def show(size: Size, kind: str, field: list[Contestant], limit: dict[str, float]) -> None:
    peers = [c for c in field if c.name in PEERS[kind]]
    best = min(peers, key=lambda c: statistics.median(c.wall), default=None)
    work = 2 * size.batch * size.d_in * size.width
    print(
        f"\n{kind}: encoder product at {limit['float32'] / 1e9:,.0f} GFLOP/s in float32, {limit['bfloat16'] / 1e9:,.0f} in bfloat16;"
    )
    print(
        f"fastest peer: {best.name if best else 'none'}. Ratios to it: median (range), by the clock and by processor time"
    )
    print(f"{'who':<20} {'ms/step':>8} {'cpu ms':>8} {'rows/s':>8} {'peak MiB':>9} {'floor':>6}  ratio")
    for c in field:
        wall = statistics.median(c.wall)
        floor = (
            work
            / limit[
                "bfloat16"
                if c.name in ("float32", "bfloat16", "forced") and limit["bfloat16"] > limit["float32"]
                else "float32"
            ]
            / wall
        )
        line = f"{c.name:<20} {1e3 * wall:>8.0f} {1e3 * statistics.median(c.work):>8.0f} {size.batch / wall:>8,.0f} {c.peak:>9,.0f} {floor:>6.0%}"
        if best is not None:
            ratios = [
                sorted(b / a for a, b in zip(x, y, strict=True)) for x, y in ((c.wall, best.wall), (c.work, best.work))
            ]
            line += "  " + ", ".join(f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in ratios)
        print(line, flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        way, kind, *words = sys.argv[2:]
        return serve(lambda size: ours(size, kind, way), Size.read(words))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("d-in", 512), ("width", 8192), ("l0", 32), ("batch", 4096), ("rounds", 5), ("steps", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    found = HERE.parent / ".venv-peers" / "bin" / "python"
    parser.add_argument(
        "--peers",
        default=str(found) if found.is_file() else None,
        help="interpreter of an environment with the other libraries",
    )
    parser.add_argument("--kinds", nargs="*", default=["topk", "batchtopk"], choices=["topk", "batchtopk"])
    parser.add_argument("--only", nargs="*", help="names of contestants")
    args = parser.parse_args()
    size = Size(args.d_in, args.width, args.l0, args.batch, args.threads)
    print(
        f"{size.d_in} -> {size.width}, l0 {size.l0}, batch {size.batch}, {size.threads} threads, load {os.getloadavg()[0]:.1f}"
    )
    for kind in args.kinds:
        race(size, kind, args)
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
