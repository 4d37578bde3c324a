"""Time per row of the tree world against a dense generator of the same law, on the same cores.

The dense generator takes the steps of the law as they are written: all normal variables, all strengths, gates and choices
level by level, one product with all atoms. Both take turns, so that other load on the machine hits both; the ratio
is the median over rounds. On a busy machine look at the ratio of processor times. `tests/worlds/test_tree.py` checks that both draw from one law.

Then where the compiled sampler's time goes, on one thread: which features are active, and the sum of their atoms; the same sum if
all atoms were in the nearest cache, and the time that reading these atoms alone takes. What is left is arithmetic that a
dense generator has to do as well, once per root and lone feature.

    python benchmarks/world_sampling.py [--size full] [--rows 8192] [--rounds 5] [--threads 4]
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from digon import rng
from digon.worlds.tree import FULL, SMALL, TreeConfig, TreeWorld

SIZES = {"small": SMALL, "full": FULL}


class DenseTree:
    """Every feature of every row, as tensors [rows, features]."""

    def __init__(self, world: TreeWorld) -> None:
        law, self.dictionary, self.scale = world.law, world.dictionary, world.config.scale_children
        self.mixing, self.residue = law.mixing.float(), law.residue.float()
        self.threshold, self.mean, self.spread = law.threshold.float(), law.mean.float(), law.spread.float()
        self.levels: list[tuple[Tensor, Tensor]] = []
        parents = ((law.parent < 0) & (law.children > 0)).nonzero().squeeze(1)
        while len(parents):
            some = int(law.children.max())
            group = law.first_child[parents, None] + torch.arange(some)
            group = torch.where(torch.arange(some) < law.children[parents, None], group, -1)
            self.levels.append((parents, group))
            parents = group[group >= 0]
            parents = parents[law.children[parents] > 0]

    def strengths(self, rows: int, generator: torch.Generator) -> Tensor:
        """Strength of every feature."""
        n, rank = self.mixing.shape
        normal = torch.randn(rows, n, generator=generator).mul_(self.residue)
        fires = torch.addmm(normal, torch.randn(rows, rank, generator=generator), self.mixing.T) > self.threshold
        active = torch.randn(rows, n, generator=generator).mul_(self.spread).add_(self.mean).relu_().mul_(fires)
        for parents, group in self.levels:
            above = active[:, parents, None]
            gate = above / self.mean[parents, None] if self.scale else (above > 0).float()
            own = active[:, group.clamp(min=0)] * gate * (group >= 0)
            lots = torch.rand(own.shape, generator=generator).mul_(own > 0)
            own *= lots == lots.amax(-1, keepdim=True)
            active[:, group[group >= 0]] = own[:, group >= 0]
        return active

    def sample(self, rows: int, generator: torch.Generator) -> Tensor:
        """Rows of the world."""
        return torch.addmm(self.dictionary.bias, self.strengths(rows, generator), self.dictionary.atoms)


def seconds(task: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of all processors."""
    start, work = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - start, time.process_time() - work


def race(world: TreeWorld, rows: int, rounds: int) -> None:
    """Print rows per second of both, and their ratio by the clock and by processor time."""
    dense, share = DenseTree(world), max(1, rows // 64)
    slow: list[tuple[float, float]] = []
    fast: list[tuple[float, float]] = []
    for r in range(rounds + 1):  # the first round warms up
        slow.append(seconds(lambda r=r: dense.sample(share, rng.stream(r, "dense"))))
        fast.append(seconds(lambda r=r: world.sample(rows, rng.stream(r, "lazy"))))
    for kind, name in enumerate(("by the clock", "processor time")):
        theirs, ours = ([t[kind] / n for t in times[1:]] for times, n in ((slow, share), (fast, rows)))
        ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
        print(
            f"{name:<15} dense {1e6 * statistics.median(theirs):>8.2f} µs/row   lazy "
            f"{1e6 * statistics.median(ours):>7.3f} µs/row   ratio {statistics.median(ratios):.0f} "
            f"({ratios[0]:.0f} to {ratios[-1]:.0f})"
        )


def parts(world: TreeWorld, rows: int, rounds: int) -> None:
    """Print processor time per row of the parts of the compiled sampler, the least of the rounds."""
    from digon.worlds.tree import kernel

    room, plan, key = 256, world._plan, np.uint64(1)
    x, counts = np.empty((rows, world.config.d), np.float32), np.zeros(rows, np.int64)
    values, indices = np.zeros((rows, room), np.float32), np.zeros((rows, room), np.int32)
    none = values[:, :0]  # no room: who is active is drawn and counted, but nothing is kept or mixed
    drawn = least(lambda: kernel.draw(plan, key, 0, x, values, indices, counts), rows, rounds)
    roots = least(lambda: kernel.draw(plan, key, 0, x, none, none.astype(np.int32), counts.copy()), rows, rounds)
    mixed = least(lambda: kernel.mix(plan, values, indices, counts, x), rows, rounds)
    near = indices % 8
    cached = least(lambda: kernel.mix(plan, values, near, counts, x), rows, rounds)
    active, size = float(counts.mean()), plan.atoms.shape[1] * plan.atoms.itemsize
    products = len(plan.tops) * plan.rank
    print(
        f"one thread, µs/row: whole {drawn:.2f} = {products:,} products for roots and lone features {roots:.2f} + descent "
        f"{drawn - roots - mixed:.2f} + sum of atoms {mixed:.2f} (in cache {cached:.2f}; {active:.1f} atoms of {size:,} bytes "
        f"come at {active * size / mixed / 1e3:.1f} GB/s)"
    )


def least(task: Callable[[], object], rows: int, rounds: int) -> float:
    """Processor time per row in µs, the least of the rounds after one to warm up."""
    task()
    return min(seconds(task)[1] for _ in range(rounds)) / rows * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config: TreeConfig = SIZES[args.size]
    start = time.perf_counter()
    world = TreeWorld(config)
    print(
        f"{config.features:,} features in {config.d} dimensions, {args.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"built in {time.perf_counter() - start:.1f} s"
    )
    race(world, args.rows, args.rounds)
    parts(world, args.rows, args.rounds)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MiB (both generators)")


if __name__ == "__main__":
    main()
