"""The pursuit of `code_length`, compiled: row by row, with everything a step needs in cache.

Correlations of the residual with all atoms follow from the Gram matrix, c = z·W − w·G, and the coefficients from a
Cholesky factor that grows by a row a step: a step costs n·s instead of n·r, and nothing is solved anew.

This module imports numba; import it lazily. Source: batch orthogonal matching pursuit (Rubinstein, Zibulevsky & Elad 2008).
"""

import math
from typing import no_type_check

import numpy as np

from ..worlds.lanes import kernel


@kernel
@no_type_check
def compiled_pursuit(rows, gram, price, limits, on, length, chosen, weights, active):
    """For rows from rows[0] to rows[1] the atoms `chosen`, their `weights`, and how many take the fewest bits: `active`.

    gram [n n]; price [s + 1]: bits for s atoms and their coefficients; limits: dimensions, ridge, precision, and steps
    that may fail to pay. on [m n]: products of rows and atoms; length [m]: squared lengths. chosen, weights [m s] and
    active [m] are written.
    """
    n, most = on.shape[1], chosen.shape[1]
    r, ridge, delta, idle_most = limits
    free = np.empty(n, np.float32)
    taken = np.zeros(n, np.bool_)
    picks = np.empty(most, np.int64)
    factor = np.zeros((most, most))
    forward = np.empty(most)
    solved = np.empty(most)
    for row in range(rows[0], rows[1]):
        taken[:] = False
        best = 0.5 * r * math.log2(1 + length[row] / (r * delta))
        error, idle = length[row] * 1.0, 0
        for s in range(most):
            for a in range(n):
                free[a] = on[row, a]
            for j in range(s):
                weight, line = np.float32(solved[j]), gram[picks[j]]
                for a in range(n):
                    free[a] -= weight * line[a]
            pick, largest = 0, np.float32(-1.0)
            for a in range(n):
                size = abs(free[a])
                if size > largest and not taken[a]:
                    pick, largest = a, size
            taken[pick], picks[s] = True, pick
            diagonal = gram[pick, pick] + ridge
            target = on[row, pick] * 1.0
            for i in range(s):
                value = gram[pick, picks[i]] * 1.0
                for j in range(i):
                    value -= factor[s, j] * factor[i, j]
                factor[s, i] = value / factor[i, i]
                diagonal -= factor[s, i] ** 2
                target -= factor[s, i] * forward[i]
            factor[s, s] = math.sqrt(max(diagonal, ridge / 10))
            forward[s] = target / factor[s, s]
            error = max(error - forward[s] ** 2, 0.0)
            for i in range(s, -1, -1):
                value = forward[i]
                for j in range(i + 1, s + 1):
                    value -= factor[j, i] * solved[j]
                solved[i] = value / factor[i, i]
            rest = r - s - 1
            now = price[s + 1] + 0.5 * rest * math.log2(1 + error / (rest * delta))
            if now < best:
                best, idle, active[row] = now, 0, s + 1
                for i in range(s + 1):
                    chosen[row, i], weights[row, i] = picks[i], solved[i]
            else:
                idle += 1
            if idle >= idle_most or error <= rest * delta / 4:
                break
