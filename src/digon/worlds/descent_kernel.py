"""Minimize the exact loss of many toy networks, one network per thread at a time, without a step of Python.

    1. warm     some steps of Adam: they find better basins than L-BFGS from the start (noise on top did not help)
    2. descend  L-BFGS with few nodes per row
    3. polish   nodes are added where a row needs them, then L-BFGS to the end
    4. judge    the loss, with nodes added until it holds

Networks do not know of each other: results do not depend on how they are divided among threads.

This module imports numba; import it lazily.
"""

import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .eights import compiled, pasted
from .exact_kernel import evaluate
from .exact_law import Law, rare, scratch

SUFFICIENT = 1e-4
"""Share of the predicted decrease that a step must reach."""
NOISE = 1e-8
"""Relative error of the loss at few nodes that no step should fail for."""
TRIALS = 12
TINY = 1e-300
MOST = 16384
FLOOR = 1e-3
"""Part of E[x²] that is added to a loss before something is called small against it: losses can be 0."""


class Plan(NamedTuple):
    """How to minimize."""

    warm: int
    """Steps of Adam."""
    rate: float
    coarse: int
    """Nodes per row at first."""
    most: int
    """Nodes per row at last."""
    steps: int
    """Most iterations of either descent."""
    tolerance: float
    """Relative decrease of the loss that counts as none."""
    memory: int
    """Moves that L-BFGS remembers."""
    judge: float
    """Relative change of the loss under doubled nodes that counts as none; 0: the coarse loss is enough."""


class Memory(NamedTuple):
    """Scratch space of a descent; d parameters."""

    moved: np.ndarray
    """[memory, d]."""
    turned: np.ndarray
    curvature: np.ndarray
    pull: np.ndarray
    line: np.ndarray
    """[5, d]: gradient, step, trial point, its gradient, square average."""
    nodes: np.ndarray


@pasted
def _warm(theta, task, law, plan, memory, work):
    """Adam on the coarse loss, with fading steps."""
    gradient, mean, square = memory.line[0], memory.line[1], memory.line[4]
    mean[:] = 0.0
    square[:] = 0.0
    fade, fade2 = 1.0, 1.0
    for step in range(plan.warm):
        evaluate(theta, task, law, memory.nodes, (0.0, 0), work, gradient)
        fade *= 0.9
        fade2 *= 0.99
        left = 1 - step / plan.warm
        rate = plan.rate * (0.1 + 0.9 * left) * min(1.0, (step + 1) / 10)
        for i in range(len(theta)):
            g = gradient[i]
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.99 * square[i] + 0.01 * g * g
            if square[i] > 0:
                theta[i] -= rate * mean[i] / (1 - fade) / (math.sqrt(square[i] / (1 - fade2)) + 1e-12)


@pasted
def _direction(stored, oldest, memory):
    """Put the L-BFGS step into line[1]; return its slope."""
    gradient, step = memory.line[0], memory.line[1]
    room, width = len(memory.curvature), len(gradient)
    for i in range(width):
        step[i] = -gradient[i]
    for back in range(stored):
        k = (oldest + stored - 1 - back) % room
        total = 0.0
        for i in range(width):
            total += memory.moved[k, i] * step[i]
        total /= memory.curvature[k]
        memory.pull[k] = total
        for i in range(width):
            step[i] -= total * memory.turned[k, i]
    if stored > 0:
        k, size = (oldest + stored - 1) % room, 0.0
        for i in range(width):
            size += memory.turned[k, i] ** 2
        size = memory.curvature[k] / size
        for i in range(width):
            step[i] *= size
    for forth in range(stored):
        k, total = (oldest + forth) % room, 0.0
        for i in range(width):
            total += memory.turned[k, i] * step[i]
        total = memory.pull[k] - total / memory.curvature[k]
        for i in range(width):
            step[i] += total * memory.moved[k, i]
    slope = 0.0
    for i in range(width):
        slope += step[i] * gradient[i]
    return slope


@pasted
def _remember(stored, oldest, memory):
    """Keep the move from the last point to the trial point, if the slope grew along it; make the trial point the last."""
    gradient, after = memory.line[0], memory.line[3]
    room, width = len(memory.curvature), len(gradient)
    k = (oldest + stored) % room
    bend, length, turn = 0.0, 0.0, 0.0
    for i in range(width):
        memory.turned[k, i] = after[i] - gradient[i]
        bend += memory.moved[k, i] * memory.turned[k, i]
        length += memory.moved[k, i] ** 2
        turn += memory.turned[k, i] ** 2
    gradient[:] = after
    if bend <= 1e-10 * math.sqrt(length * turn) or bend < TINY:
        return stored, oldest
    memory.curvature[k] = bend
    return (stored + 1, oldest) if stored < room else (stored, (oldest + 1) % room)


@compiled
def descend(theta, task, law, steps, tolerance, memory, work):
    """L-BFGS from `theta`, in place; returns the loss and the evaluations."""
    gradient, step, trial, after = memory.line[0], memory.line[1], memory.line[2], memory.line[3]
    work.period[:] = TINY  # the first evaluation sets it, with some room
    value = evaluate(theta, task, law, memory.nodes, (0.0, 0), work, gradient)
    stored, oldest, idle, calls = 0, 0, 0, 1
    room, width = len(memory.curvature), len(theta)
    for _ in range(steps):
        slope = _direction(stored, oldest, memory)
        if slope >= 0:
            stored = 0
            slope = _direction(0, 0, memory)
        if -slope < TINY:
            break
        length = 1.0
        if stored == 0:
            length = min(1.0, 0.1 / math.sqrt(-slope))
        found, lower = 0.0, False
        for _ in range(TRIALS):
            for i in range(width):
                trial[i] = theta[i] + length * step[i]
            found = evaluate(trial, task, law, memory.nodes, (0.0, 0), work, after)
            calls += 1
            if found <= value + SUFFICIENT * length * slope + NOISE * abs(value):
                lower = True
                break
            curve = found - value - length * slope
            best = -slope * length / (2 * curve) if curve > 0 else 0.5
            length *= min(max(best, 0.1), 0.5)
        if not lower:
            if stored == 0:
                break
            stored = 0
            continue
        k = (oldest + stored) % room
        for i in range(width):
            memory.moved[k, i] = trial[i] - theta[i]
            theta[i] = trial[i]
        idle = idle + 1 if value - found <= tolerance * abs(value) else 0
        value = found
        stored, oldest = _remember(stored, oldest, memory)
        if idle >= 3:
            break
    work.period[:] = 0.0
    return value, calls


def sources() -> int:
    """Checksum of the compiled modules: numba's cache looks at the file of the outermost function alone."""
    here, total = Path(__file__).parent, 0
    for name in ("eights", "few_kernel", "exact_law", "exact_kernel", "descent_kernel"):
        total = zlib.crc32((here / f"{name}.py").read_bytes(), total)
    return total


def _compile(version: int) -> Any:
    """The outermost function; `version` becomes a part of its key in numba's cache."""

    @compiled
    def minimize(theta, task, tables, plan, span, out):
        """Minimize networks span[0] … span[1] of `theta` in place.

        `tables`: density and importance, [1 or instances, n]. `out` is filled: loss, gradient, evaluations.
        """
        assert version >= 0
        width, n = theta.shape[1], task.n
        memory = Memory(
            np.empty((plan.memory, width)), np.empty((plan.memory, width)), np.empty(plan.memory), np.empty(plan.memory),
            np.empty((5, width)), np.empty(n, np.int64),
        )  # fmt: skip
        work, stages = scratch(n), 1 if task.few or task.linear else 2
        density, importance = tables
        losses, slopes, calls = out
        for i in range(span[0], span[1]):
            p = density[min(i, len(density) - 1)]
            law = Law(p, importance[min(i, len(importance) - 1)], rare(p, task, work.one))
            memory.nodes[:] = plan.coarse
            _warm(theta[i], task, law, plan, memory, work)
            calls[i], value, floor = plan.warm, 0.0, 0.0
            for j in range(n):
                floor += FLOOR * law.importance[j] * p[j] * task.square
            for stage in range(stages):
                value = evaluate(theta[i], task, law, memory.nodes, (0.0, 0), work, slopes[i])
                if plan.steps == 0:
                    break
                if stage == 1:
                    limits = (1e-6 * (value + floor) / math.sqrt(n), plan.most)
                    evaluate(theta[i], task, law, memory.nodes, limits, work, slopes[i])
                tolerance = plan.tolerance * (1 if stage == stages - 1 else 100)
                value, used = descend(theta[i], task, law, plan.steps, tolerance, memory, work)
                calls[i] += used
            if stages > 1 and plan.judge > 0:
                memory.nodes[:] = np.maximum(memory.nodes // 2, 64)
                limits = (plan.judge * (abs(value) + floor) / math.sqrt(n), MOST)
                value = evaluate(theta[i], task, law, memory.nodes, limits, work, slopes[i])
            losses[i] = value

    return minimize


minimize = _compile(sources())
