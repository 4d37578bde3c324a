"""Compiled loops over the rows on which concepts hold; a concept is a list of disjoint intervals of rows.

Sums over intervals are differences of one running sum, so a sum for every concept costs one pass over all intervals.

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import kernel


@kernel
@no_type_check
def sums(values, offsets, starts, stops):
    """Sum of the values over the rows of every concept; the total of all rows comes last."""
    running = np.empty(len(values) + 1)
    total = 0.0
    running[0] = 0.0
    for i in range(len(values)):
        total += values[i]
        running[i + 1] = total
    out = np.empty(len(offsets))
    for c in range(len(offsets) - 1):
        s = 0.0
        for j in range(offsets[c], offsets[c + 1]):
            s += running[stops[j]] - running[starts[j]]
        out[c] = s
    out[len(offsets) - 1] = total
    return out


@kernel
@no_type_check
def add(values, offsets, starts, stops, concept, amount):
    """Add a number to the values on the rows of one concept; their sum before."""
    s = 0.0
    for j in range(offsets[concept], offsets[concept + 1]):
        for i in range(starts[j], stops[j]):
            s += values[i]
            values[i] += amount
    return s


@kernel
@no_type_check
def settle(residual, offsets, starts, stops, counts, chosen, weights, ridge, sweeps):
    """Ridge weights of the chosen concepts by coordinate descent; residual and weights change, the intercept is returned."""
    rest = 0.0
    n = len(residual)
    for _ in range(sweeps):
        moved = 0.0
        mean = 0.0
        for i in range(n):
            mean += residual[i]
        mean /= n
        rest += mean
        for i in range(n):
            residual[i] -= mean
        for k in range(len(chosen)):
            c = chosen[k]
            s = 0.0
            for j in range(offsets[c], offsets[c + 1]):
                for i in range(starts[j], stops[j]):
                    s += residual[i]
            step = (s - ridge * weights[k]) / (counts[c] + ridge)
            weights[k] += step
            moved = max(moved, abs(step) * np.sqrt(counts[c]))
            for j in range(offsets[c], offsets[c + 1]):
                for i in range(starts[j], stops[j]):
                    residual[i] -= step
        power = 0.0
        for i in range(n):
            power += residual[i] * residual[i]
        if moved * moved < 1e-8 * power or moved == 0:
            break
    return rest
