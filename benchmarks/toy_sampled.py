"""Steps per second of sampled training against a plain batched torch loop, as public notebooks have it.

Same networks, same law of features, batch 1,024, Adam, the same cores. Both take turns, so that other load on the
machine hits both; the loop gets what is faster, one thread or all of them. The ratio is the median over rounds.
Threads wait for cores that others use, one thread hardly does: on a busy machine look at the ratio of processor times
too (times the cores, it is what an idle machine would give the loop's one thread against all of ours).
From the same starts both then train the same number of steps, and their exact losses are compared. Adam's noise makes
them differ a little: z is the mean difference in standard errors over the instances.

    python benchmarks/toy_sampled.py [--quick] [--rounds 5] [--only 5 20]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from torch import Tensor

from digon import rng
from digon.worlds import sampled, sampled_draws, sampled_kernel
from digon.worlds.features import Features, features
from digon.worlds.lanes import fused, kernel, load, splat, store
from digon.worlds.population import expected_loss
from digon.worlds.recipe import Recipe
from digon.worlds.toys import Toy

BATCH, RATE, TOTAL = 1024, 1e-3, 10_000


@dataclass(frozen=True)
class Size:
    n: int
    m: int
    instances: int
    steps: int
    """Steps of sampled training per round."""
    slow_steps: int
    """Steps of the loop per round."""
    compared: int
    """Steps after which losses are compared."""
    floor: float
    """Ratio that digon promises."""


SIZES = (
    Size(5, 2, 10, TOTAL, 100, TOTAL, 50),
    Size(20, 5, 10, TOTAL, 50, 2000, 20),
    Size(100, 20, 20, 1000, 8, 100, 10),
    Size(200, 20, 20, 500, 4, 50, 5),
)


class Loop:
    """The loop of the notebooks: draw, multiply, differentiate, step, for all instances at once."""

    def __init__(self, toy: Toy, law: Features) -> None:
        self.W = toy.W.detach().mT.clone().requires_grad_()
        self.b = toy.b.detach().clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.W, self.b], lr=RATE)
        self.density, self.importance = law.density.float(), law.importance.float()
        self.shape, self.data = (BATCH, *toy.b.shape), rng.stream(0, "notebook")

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            value, draw = (torch.rand(self.shape, generator=self.data) for _ in range(2))
            x = torch.where(draw <= self.density, value, torch.zeros(()))
            h = torch.einsum("bin,imn->bim", x, self.W)
            y = torch.relu(torch.einsum("bim,imn->bin", h, self.W) + self.b)
            error = (self.importance * (x - y).square()).sum(-1).mean(0).sum()
            self.optimizer.zero_grad()
            error.backward()
            self.optimizer.step()


def start(size: Size, density: float) -> tuple[Toy, Features, Loop, sampled.Run]:
    toy, law = Toy(size.n, size.m, size.instances, seed=0), features(size.n, density)
    steps = max(10**6, size.compared)
    return toy, law, Loop(toy, law), sampled.Run(toy, law, Recipe(BATCH, np.full(steps, RATE), np.zeros(steps + 1)))


def seconds(task: Callable[[], object]) -> float:
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin


Times = list[tuple[float, float]]
"""Seconds by the clock and of the processors."""


def both(task: Callable[[], object], steps: int) -> tuple[float, float]:
    begin = time.process_time()
    clock = seconds(task)
    return clock / steps, (time.process_time() - begin) / steps


def race(size: Size, density: float, rounds: int) -> tuple[Times, Times, int]:
    """Times per step of the loop and of sampled training in every round, and the threads of the loop."""
    cores = torch.get_num_threads()
    _, _, loop, run = start(size, density)
    run.advance(10)
    tried: dict[int, float] = {}
    for threads in {1, cores}:
        torch.set_num_threads(threads)
        loop(1)
        tried[threads] = seconds(lambda: loop(1 + size.slow_steps // 10))
    threads = min(tried, key=lambda k: tried[k])
    slow, fast = Times(), Times()
    for _ in range(rounds):
        torch.set_num_threads(threads)
        slow.append(both(lambda: loop(size.slow_steps), size.slow_steps))
        torch.set_num_threads(cores)
        end = run.step + size.steps
        fast.append(both(lambda end=end: run.advance(end), size.steps))
    return slow, fast, threads


def compare(size: Size, density: float) -> str:
    """Mean exact losses of both after the same number of steps from the same starts."""
    toy, law, loop, run = start(size, density)
    torch.set_num_threads(1 if size.n <= 20 else torch.get_num_threads())
    loop(size.compared)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    run.advance(size.compared)
    run.write()
    some = slice(0, 10 if size.n <= 20 else 4)  # exact losses of large networks take longer than training

    def exact(W: Tensor, b: Tensor) -> Tensor:
        return expected_loss(W.detach()[some], b.detach()[some], law)

    theirs, ours = exact(loop.W.mT, loop.b), exact(toy.W, toy.b)
    gap = ours - theirs
    z = gap.mean() / (gap.std() / len(gap) ** 0.5)
    return f"{theirs.mean():.5f} {ours.mean():.5f} {ours.mean() / theirs.mean():.3f} {z:+.1f} ({size.compared:,})"


@kernel
@no_type_check
def multiply_add(values, times):
    a = load(values, 0), load(values, 16), load(values, 32), load(values, 48)
    b = load(values, 64), load(values, 80), load(values, 96), load(values, 112)
    c = splat(np.float32(0.999))
    for _ in range(times):
        a = fused(a[0], c, c), fused(a[1], c, c), fused(a[2], c, c), fused(a[3], c, c)
        b = fused(b[0], c, c), fused(b[1], c, c), fused(b[2], c, c), fused(b[3], c, c)
    for i in range(4):
        store(values, 16 * i, a[i])
        store(values, 64 + 16 * i, b[i])


def limits() -> str:
    """What this machine can do at most, now: arithmetic, memory, random numbers."""
    a = torch.randn(1536, 1536)
    product = 2 * 1536**3 / min(seconds(lambda: torch.mm(a, a)) for _ in range(4)) / 1e9
    multiply_add(np.zeros(128, np.float32), 1)
    times = 2_000_000
    fma = 2 * 128 * times / min(seconds(lambda: multiply_add(np.zeros(128, np.float32), times)) for _ in range(4)) / 1e9
    long = torch.zeros(2**26)
    copy = torch.empty_like(long)
    memory = 8 * len(long) / min(seconds(lambda: copy.copy_(long)) for _ in range(4)) / 1e9
    torches = 2**24 / min(seconds(lambda: torch.rand(2**24)) for _ in range(3)) / 1e9
    run = sampled.Run(Toy(200, 2), features(200, 0.5), Recipe(BATCH, np.ones(1), np.zeros(2)))
    scratch = sampled_kernel.prepare(run.plan, run.law)

    def draw() -> None:
        for _ in range(100):
            sampled_draws.draw(run.plan, run.law, scratch, 0, run.state.words[0, 0], run.plan.tiles)

    draw()
    ours = 100 * run.plan.tiles * 16 * 200 / min(seconds(draw) for _ in range(4)) / 1e9
    return (
        f"torch product {product:,.0f} GFLOP/s; compiled multiply-add, one thread, {fma:,.0f} GFLOP/s; copy {memory:.0f} GB/s;\n"
        f"random numbers per second: torch {torches:.2f} G, ours, one thread, into features {ours:.2f} G"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="three rounds, density 0.1 only, no comparison of losses")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of features")
    args = parser.parse_args()
    rounds, densities = (3, (0.1,)) if args.quick else (args.rounds, (1.0, 0.1, 0.01))
    compiling = seconds(lambda: start(SIZES[0], 0.1)[3].advance(1))
    cores = torch.get_num_threads()
    print(f"{cores} threads; load {os.getloadavg()[0]:.1f} before; compiling or loading took {compiling:.1f} s")
    print(limits())
    print(
        f"{'n, m, instances':<16} {'density':>7} {'loop ms':>9} {'digon ms':>9} {'GFLOP/s':>8} {'cpu ratio':>9} {'ratio':>7}  range, floor; loop's threads",
        end="",
    )
    print("" if args.quick else "; exact loss of loop, of digon, ratio, z (steps)")
    for size in SIZES:
        if args.only and size.n not in args.only:
            continue
        for density in densities:
            slow, fast, threads = race(size, density, rounds)
            ratios = [sorted(s[k] / f[k] for s, f in zip(slow, fast, strict=True)) for k in (0, 1)]
            ours = statistics.median(f[0] for f in fast)
            work = 10 * BATCH * size.n * size.m * size.instances / ours / 1e9
            print(
                f"{f'{size.n}, {size.m}, {size.instances}':<16} {density:>7} {1e3 * statistics.median(s[0] for s in slow):>9.3f}"
                f" {1e3 * ours:>9.4f} {work:>8.0f} {statistics.median(ratios[1]):>9.1f} {statistics.median(ratios[0]):>7.1f}"
                f"  {ratios[0][0]:.1f} to {ratios[0][-1]:.1f}, {size.floor:.0f}; {threads}",
                end="", flush=True,
            )  # fmt: skip
            print("" if args.quick else f"; {compare(size, density)}", flush=True)
            torch.set_num_threads(cores)
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
