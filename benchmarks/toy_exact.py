"""The exact engine against the training loop of the public notebook, on the same cores in the same run.

Speed. The notebook's loop (batched instances, autograd, AdamW, batch 1024) is timed for some steps and extrapolated to
10,000; for phase diagrams also from some of the networks to all of them, in the chunk that suits it best. The exact
engine is timed whole: 100 × 100 pixels × 10 starts, from the same random starts.

Quality. The best loss of ten starts, both judged exactly, pixel by pixel. For the 10,000 steps of Adam on samples our
sampled engine stands in, which runs the same algorithm; for phase diagrams on a coarser grid.

    OMP_NUM_THREADS=2 python benchmarks/toy_exact.py            # --quick: small grids; --rounds: repeat the timings
    OMP_NUM_THREADS=2 python benchmarks/toy_exact.py --monte-carlo   # the loss against ten million samples
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from digon import rng
from digon.worlds.features import Features, features
from digon.worlds.fit import FitConfig, best_of, fit
from digon.worlds.population import expected_loss
from digon.worlds.toys import Toy, loss

STEPS, BATCH, STARTS = 10_000, 1024, 10
EXACT = FitConfig(engine="exact")
SHORT = FitConfig(engine="exact", steps=50)
"""Fifty steps of L-BFGS with few nodes and fifty with more: not the last digit of every minimum, but below the loop's."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    return min(seconds(work) for _ in range(rounds))


def limits() -> None:
    """What this machine can do at best."""
    threads, size = torch.get_num_threads(), 2048
    print(f"machine: {threads} threads")
    for kind, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        a = torch.randn(size, size, dtype=kind)
        took = best_seconds(lambda a=a: a @ a, 3)
        print(f"  matrix product {name:<8} {2 * size**3 / took / 1e9:8.0f} GFLOP/s")
    x, y = torch.ones(2**25), torch.ones(2**25)
    took = best_seconds(lambda: torch.add(x, y, alpha=2.0, out=y), 3)
    print(f"  memory, triad           {3 * 4 * len(x) / took / 1e9:8.0f} GB/s")
    took = best_seconds(lambda: torch.rand(2**24), 3)
    print(f"  uniform numbers, torch  {2**24 / took / 1e9:8.2f} G/s\n")


def notebook(law: Features, m: int, instances: int) -> Callable[[], None]:
    """One step of the loop of the public notebook: batched instances, autograd, AdamW."""
    n, density, importance = law.n, law.density.float(), law.importance.float()
    W = torch.nn.Parameter(torch.empty(instances, n, m))
    torch.nn.init.xavier_normal_(W)
    b = torch.nn.Parameter(torch.zeros(instances, n))
    optimizer = torch.optim.AdamW([W, b], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        x = torch.rand(BATCH, instances, n)
        x = torch.where(torch.rand(BATCH, instances, n) <= density, x, torch.zeros(()))
        hidden = torch.einsum("bif,ifh->bih", x, W)
        out = torch.relu(torch.einsum("bih,ifh->bif", hidden, W) + b)
        error = importance * (x - out).square()
        error.mean((0, 2)).sum().backward()
        optimizer.step()

    return step


def loop_seconds(law: Features, m: int, instances: int, steps: int) -> float:
    """Seconds of 10,000 steps, from `steps` of them."""
    step = notebook(law, m, instances)
    step()
    return statistics.median(seconds(step) for _ in range(steps)) * STEPS


def grid(size: int, n: int) -> Features:
    """The phase diagram: importance of the last feature 0.1 to 10, density 1 to 0.01, ten starts per pixel."""
    density, last = np.meshgrid(np.logspace(0, -2, size), np.logspace(-1, 1, size), indexing="ij")
    importance = torch.ones(size * size, n, dtype=torch.float64)
    importance[:, -1] = torch.from_numpy(last.ravel())
    wide = torch.from_numpy(density.ravel())[:, None].expand(-1, n)
    return Features(wide.repeat_interleave(STARTS, 0), importance.repeat_interleave(STARTS, 0))


def trained(law: Features, m: int, instances: int) -> Tensor:
    """Exact losses after 10,000 steps on samples."""
    toy = Toy(law.n, m, instances)
    fit(toy, law, FitConfig(steps=STEPS, batch=BATCH, optimizer="adamw", weight_decay=0.01))
    return expected_loss(toy.W.detach(), toy.b.detach(), law)


def diagram(n: int, m: int, args: argparse.Namespace) -> None:
    size, coarse, chunk = (20, 4, 500) if args.quick else (100, 10, 1000)
    law, times = grid(size, n), []
    fit(Toy(n, m, STARTS), grid(1, n), EXACT)  # compiles
    for _ in range(args.rounds):
        toy = Toy(n, m, len(law.density))
        times.append(seconds(lambda toy=toy: fit(toy, law, EXACT)))
    few = Features(law.density[:chunk], law.importance[:chunk])
    pieces = [Features(few.density[:k], few.importance[:k]) for k in (chunk // 10, chunk)]
    loop = min(loop_seconds(p, m, len(p.density), 20) * len(law.density) / len(p.density) for p in pieces)
    took = statistics.median(times)
    print(
        f"n={n} m={m}: {size} x {size} pixels x {STARTS} starts: exact {took:.1f} s (of {[round(t, 1) for t in times]}),"
    )
    print(f"  notebook loop {loop:,.0f} s (extrapolated): ratio {loop / took:,.0f}")
    law = grid(coarse, n)
    ours = best_of(fit(Toy(n, m, len(law.density)), law, EXACT), STARTS)
    theirs = trained(law, m, len(law.density)).view(-1, STARTS).min(1).values
    good = (ours.loss <= theirs * (1 + 1e-6)).double().mean().item()
    print(f"  equal or lower exact loss in {good:.1%} of {coarse} x {coarse} pixels (others: at most", end=" ")
    worst = (ours.loss / theirs - 1).max().item()
    print(f"{max(worst, 0):.1e} higher); share of starts at the best {ours.share.mean().item():.0%}\n", flush=True)


def single(n: int, m: int, args: argparse.Namespace) -> None:
    print(f"n={n} m={m}, importance 0.7^i, {STARTS} starts, descents of at most {SHORT.steps} steps")
    print(
        f"{'density':>8} {'exact s':>8} {'loop s':>8} {'ratio':>7} {'best, exact':>12} {'best, loop':>12}  share at the best"
    )
    for density in (1.0, 0.3, 0.1, 0.01):
        law, times, found = features(n, density, 0.7 ** torch.arange(n)), [], None
        for _ in range(args.rounds):
            toy = Toy(n, m, STARTS)
            start = time.perf_counter()
            found = fit(toy, law, SHORT)
            times.append(time.perf_counter() - start)
        assert found is not None
        took, loop = statistics.median(times), loop_seconds(law, m, STARTS, 50 if args.quick else 200)
        theirs = math.nan if args.quick else trained(law, m, STARTS).min().item()
        print(
            f"{density:8} {took:8.3f} {loop:8.1f} {loop / took:7,.0f} {found.loss.min().item():12.6g} {theirs:12.6g}  "
            f"{found.share:.0%}",
            flush=True,
        )
    print()


def monte_carlo(samples: int) -> None:
    """Distance of the exact loss from samples, in standard errors: random networks and trained ones."""
    print(f"exact loss against {samples:,} samples: difference in standard errors (random network, trained network)")
    rows = 40_000
    for n, m in ((2, 1), (5, 2), (20, 5), (80, 20)):
        for density in (1.0, 0.3, 0.1, 0.01):
            law, scores = features(n, density, 0.9 ** torch.arange(n)), []
            for engine in ("random", "trained"):
                toy = Toy(n, m, 1, seed=n)
                with torch.no_grad():
                    toy.b.copy_(0.1 * torch.randn(1, n, generator=rng.stream(n, "b")) - 0.05)
                if engine == "trained":
                    fit(toy, law, EXACT)
                g, parts = rng.stream(1, "samples", n, engine), []
                for _ in range(samples // rows):
                    x = law.sample(rows, g)
                    with torch.no_grad():
                        parts.append(loss(toy(x), x, law.importance).item())
                exact = expected_loss(toy.W.detach(), toy.b.detach(), law).item()
                error = np.std(parts, ddof=1) / math.sqrt(len(parts))
                scores.append((np.mean(parts) - exact) / error if error > 1e-12 else 0.0)
            print(f"  n={n:<3} density {density:<5} {scores[0]:+.2f} {scores[1]:+.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--monte-carlo", action="store_true", help="ten million samples per cell instead of timings")
    args = parser.parse_args()
    if args.monte_carlo:
        monte_carlo(200_000 if args.quick else 10_000_000)
        return
    limits()
    for n, m in ((2, 1), (3, 2)):
        diagram(n, m, args)
    single(20, 5, args)


if __name__ == "__main__":
    main()
