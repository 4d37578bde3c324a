"""The compiled exact loss and its minimization, for tensors: tables of the law, threads, pieces, progress.

This module imports numba; import it lazily.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .descent_kernel import Plan, minimize
from .exact_law import ANTICORRELATED, CORRELATED, SINGLE, Task
from .features import Features, moments

SMALL = 2**14
"""Parameters times features below which threads cost more than they bring."""
Progress = Callable[[int, int], None]
KINDS = {"correlated": CORRELATED, "anticorrelated": ANTICORRELATED}
COARSE = 16
"""Nodes per row while the basin is open."""
FIRST, JUDGE = 64, 1e-9
"""Nodes for a first look at a loss, and the relative change under doubled nodes at which it is believed."""


def task_of(law: Features, m: int, *, tied: bool = True, biased: bool = True, linear: bool = False) -> Task:
    """What the kernel needs to know, apart from densities and importances."""
    inside = {i for group in law.sets for i in group.members}
    groups = [((i,), SINGLE) for i in range(law.n) if i not in inside]
    groups += [(group.members, KINDS[group.kind]) for group in law.sets]
    of = np.zeros(law.n, np.int64)
    for number, (members, _) in enumerate(groups):
        of[list(members)] = number
    mean, square = moments(law.values)
    return Task(
        n=law.n, m=m, tied=tied, biased=biased, linear=linear,
        few=law.n in (2, 3) and not law.sets and law.values == "uniform" and not linear,
        sets=bool(law.sets), symmetric=law.values == "symmetric", mean=float(mean), square=float(square),
        order=np.array([i for members, _ in groups for i in members], np.int64),
        first=np.cumsum([0, *(len(members) for members, _ in groups)], dtype=np.int64),
        kinds=np.array([kind for _, kind in groups], np.int64), of=of,
    )  # fmt: skip


def solve(
    theta: np.ndarray, task: Task, law: Features, plan: Plan, *, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize every row of `theta` (W, V unless tied, b) in place; losses and gradients at the end.

    As many threads as torch uses; what comes out does not depend on them.
    """
    count, small = len(theta), plan.steps == 0 and theta.size * task.n < SMALL
    threads = 1 if small else torch.get_num_threads()
    density, importance = (np.ascontiguousarray(np.atleast_2d(v.double())) for v in (law.density, law.importance))
    out = loss, slopes, _ = np.empty(count), np.empty_like(theta), np.zeros(count, np.int64)
    whole = threads == 1 and progress is None
    size = max(1, count if whole else min(math.ceil(count / (16 * threads)), 1024))

    def work(start: int) -> int:
        end = min(start + size, count)
        minimize(theta, task, (density, importance), plan, (start, end), out)
        return end - start

    if count <= size or threads == 1:
        done = 0
        for start in range(0, count, size):
            done += work(start)
            if progress is not None:
                progress(done, count)
        return loss, slopes
    pool, done = ThreadPoolExecutor(threads), 0
    try:
        for future in as_completed([pool.submit(work, start) for start in range(0, count, size)]):
            done += future.result()
            if progress is not None:
                progress(done, count)
    finally:
        pool.shutdown(cancel_futures=True)
    return loss, slopes


def losses(
    parts: list[Tensor], law: Features, *, linear: bool, nodes: int | None
) -> tuple[Float[Tensor, " i"], list[Tensor]]:
    """Loss and gradients of networks with parts W, V unless tied, b."""
    theta = torch.cat([part.detach().flatten(1) for part in parts], 1).numpy()
    task = task_of(law, parts[0].shape[2], tied=len(parts) == 2, linear=linear)
    plan = Plan(0, 0.0, nodes or FIRST, 0, 0, 0.0, 1, 0.0 if nodes else JUDGE)
    loss, slopes = solve(theta, task, law, plan)
    split = torch.from_numpy(slopes).split([part[0].numel() for part in parts], 1)
    return torch.from_numpy(loss), [s.view(part.shape) for s, part in zip(split, parts, strict=True)]
