"""What the compiled exact loss knows about a law of features: moments, ranges, rare events. Its scratch space.

This module imports numba; import it lazily.
"""

import math
from typing import NamedTuple

import numpy as np

from .eights import WIDTH, compiled, inlined

TAIL = 30.0
"""|z| may exceed the period with probability e^{−TAIL}."""
SINGLE, CORRELATED, ANTICORRELATED = 0, 1, 2


class Task(NamedTuple):
    """What is the same for all instances."""

    n: int
    m: int
    tied: bool
    biased: bool
    """Whether the biases are free."""
    linear: bool
    """Whether the output is not clipped."""
    few: bool
    """Whether the closed form for up to three features holds."""
    sets: bool
    """Whether some features are correlated or anticorrelated."""
    symmetric: bool
    mean: float
    """E[value] of an active feature."""
    square: float
    """E[value²]."""
    order: np.ndarray
    """Features, group by group; a group is a single feature or a set."""
    first: np.ndarray
    """Where every group starts in `order`, and the end."""
    kinds: np.ndarray
    of: np.ndarray
    """The group of every feature."""


class Law(NamedTuple):
    """What belongs to one instance."""

    p: np.ndarray
    """Densities."""
    importance: np.ndarray
    none: float
    """P(no feature active)."""


class Work(NamedTuple):
    """Scratch space of one thread; the first five hold eights."""

    turn: np.ndarray
    """e^{as} of every feature, and e^{bs}, at the nodes in turn."""
    value: np.ndarray
    slope: np.ndarray
    before: np.ndarray
    """Product of the factors of all groups before a group."""
    factor: np.ndarray
    jump: np.ndarray
    """[n + 1, 2]: what turns e^{as} on by eight nodes."""
    part: np.ndarray
    """[4, n]: greatest, least, mean and variance of what every group adds to z."""
    line: np.ndarray
    """Period, and least and greatest |s| of eight nodes."""
    period: np.ndarray
    """Period of every row; 0 takes what the weights need. A descent holds it, lest its gradient miss a part."""
    one: np.ndarray
    """P(only feature i active) where that event is done in closed form."""
    gram: np.ndarray
    push: np.ndarray
    """Slope of a row's loss by the inner products."""


@compiled
def scratch(n):
    """Empty scratch space for n features."""
    wide = 2 * WIDTH
    return Work(
        np.empty((n + 1) * wide), np.empty(n * wide), np.empty(n * wide), np.empty(n * wide), np.empty(n * wide),
        np.empty((n + 1, 2)), np.empty((4, max(n, 5))), np.empty(3), np.zeros(n), np.empty(n), np.empty((n, n)), np.empty(n),
    )  # fmt: skip


@compiled
def rare(p, task, one):
    """Fill `one` with P(only feature i active) where that is done in closed form; return P(none active)."""
    none = 1.0
    for g in range(-1, len(task.kinds)):
        others = 1.0
        for other in range(len(task.kinds)):
            if other != g:
                idle = 1.0
                for t in range(task.first[other], task.first[other + 1]):
                    idle -= p[task.order[t]]
                    if task.kinds[other] == CORRELATED:
                        break
                others *= max(idle, 0.0)
        if g < 0:
            none = others
            continue
        for t in range(task.first[g], task.first[g + 1]):
            one[task.order[t]] = 0.0 if task.kinds[g] == CORRELATED else p[task.order[t]] * others
    return none


@compiled
def spread(a, p, task, g):
    """Greatest, least, mean and mean square of the part that group g adds to z."""
    up, down, mean, square, total, squares = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    together = task.kinds[g] == CORRELATED
    for t in range(task.first[g], task.first[g + 1]):
        i = task.order[t]
        high = abs(a[i]) if task.symmetric else max(a[i], 0.0)
        low = -high if task.symmetric else min(a[i], 0.0)
        up = up + high if together else max(up, high)
        down = down + low if together else min(down, low)
        mean += p[i] * a[i] * task.mean
        square += p[i] * a[i] * a[i] * task.square
        total += a[i] * task.mean
        squares += a[i] * a[i] * (task.square - task.mean**2)
    if together:
        square = p[task.order[task.first[g]]] * (total * total + squares)
    return up, down, mean, square


@compiled
def span(a, b, p, task, part):
    """Period T with |z| ≤ T except with probability e^{−TAIL}; greatest and least z, E[a·x] and E[(a·x)²].

    Large parts of z count at their worst, small ones by Bernstein's inequality.
    """
    groups = len(task.kinds)
    if task.sets:
        for g in range(groups):
            part[0, g], part[1, g], part[2, g], square = spread(a, p, task, g)
            part[3, g] = square - part[2, g] ** 2
    else:
        for g in range(groups):
            ag, size = a[g], abs(a[g])
            mean = p[g] * ag * task.mean
            part[0, g] = size if task.symmetric else (ag if ag > 0 else 0.0)
            part[1, g] = -size if task.symmetric else (ag if ag < 0 else 0.0)
            part[2, g], part[3, g] = mean, p[g] * ag * ag * task.square - mean * mean
    high, low, mean, square, largest = b, b, 0.0, 0.0, 0.0
    for g in range(groups):
        high += part[0, g]
        low += part[1, g]
        mean += part[2, g]
        square += part[3, g]
        largest = max(largest, part[0, g] - part[1, g])
    period = max(high, -low)
    for step in range(4 if groups > 4 and low < 0 < high else 0):
        cut = largest * 0.4**step
        top, bottom, variance = b, b, 0.0
        for g in range(groups):
            big = part[0, g] - part[1, g] > cut
            top += part[0, g] if big else part[2, g]
            bottom += part[1, g] if big else part[2, g]
            variance += 0.0 if big else part[3, g]
        third = cut * TAIL / 3
        slack = third + math.sqrt(third * third + 2 * TAIL * max(variance, 0.0))
        period = min(period, max(top + slack, slack - bottom))
    return max(period, 1e-9), high, low, mean, square + mean * mean


@inlined
def pull(i, a, p, task, level):
    """E[xᵢ a·x], where `level` is E[a·x]."""
    if not task.sets:
        return p[i] * (task.mean * (level - p[i] * a[i] * task.mean) + a[i] * task.square)
    g = task.of[i]
    mine, total = 0.0, 0.0
    for t in range(task.first[g], task.first[g + 1]):
        k = task.order[t]
        mine += p[k] * a[k] * task.mean
        total += a[k] * task.mean
    outside = p[i] * task.mean * (level - mine)
    if task.kinds[g] == CORRELATED:
        return outside + p[i] * (task.mean * total + a[i] * (task.square - task.mean**2))
    return outside + p[i] * a[i] * task.square


@inlined
def second_moment(i, k, p, task):
    """E[xᵢ xₖ]."""
    if i == k:
        return p[i] * task.square
    if not task.sets or task.of[i] != task.of[k]:
        return p[i] * p[k] * task.mean**2
    return p[i] * task.mean**2 if task.kinds[task.of[i]] == CORRELATED else 0.0
