"""The inner loop of `memorization`: full-batch AdamW of a network with two hidden dimensions on sparse examples.

One pass over the n outputs of an example computes its loss, adds to the gradient and back-propagates, so that weights
and gradients stay in the first cache; the few outputs whose target is not zero are corrected afterwards. Tests compare
it with the torch path of `memorization`.

This module imports numba; import it lazily.
"""

import math
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
from numba import njit

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@no_type_check
def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; sums may be reordered. Keeps the result on disk where some folder can be written."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@fast
@no_type_check
def gradient(u, v, b, index, value, gu, gv, gb):
    """Mean loss over the examples; adds its gradient to gu, gv, gb [n]. W = (u, v)."""
    n, count, width = len(b), len(index), index.shape[1]
    total, scale = 0.0, np.float32(2.0 / count)
    for t in range(count):
        h0, h1 = np.float32(0), np.float32(0)
        for k in range(width):
            h0 += value[t, k] * u[index[t, k]]
            h1 += value[t, k] * v[index[t, k]]
        loss, s0, s1 = np.float32(0), np.float32(0), np.float32(0)
        c0, c1 = scale * h0, scale * h1
        for j in range(n):
            r = max(h0 * u[j] + h1 * v[j] + b[j], np.float32(0))
            loss += r * r
            s0 += r * u[j]
            s1 += r * v[j]
            gu[j] += c0 * r
            gv[j] += c1 * r
            gb[j] += scale * r
        for k in range(width):
            j, x = index[t, k], value[t, k]
            if x > 0:
                r = max(h0 * u[j] + h1 * v[j] + b[j], np.float32(0))
                loss += x * x - 2 * r * x
                if r > 0:  # an output that is off passes no gradient
                    s0 -= x * u[j]
                    s1 -= x * v[j]
                    gu[j] -= c0 * x
                    gv[j] -= c1 * x
                    gb[j] -= scale * x
        for k in range(width):
            j, x = index[t, k], scale * value[t, k]
            gu[j] += x * s0
            gv[j] += x * s1
        total += loss
    return total / count


@fast
@no_type_check
def train(p, index, value, rates, decay):
    """AdamW in place on p [3, n] = (u, v, b), one step per learning rate; returns the loss before the last step."""
    g, first, second = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    last = 0.0
    for step in range(len(rates)):
        g[:] = 0
        last = gradient(p[0], p[1], p[2], index, value, g[0], g[1], g[2])
        root = math.sqrt(1 - BETA2 ** (step + 1))
        size = np.float32(rates[step] * root / (1 - BETA1 ** (step + 1)))
        keep = np.float32(1 - rates[step] * decay)
        for i in range(3):
            for j in range(p.shape[1]):
                first[i, j] += np.float32(1 - BETA1) * (g[i, j] - first[i, j])
                second[i, j] += np.float32(1 - BETA2) * (g[i, j] * g[i, j] - second[i, j])
                p[i, j] = keep * p[i, j] - size * first[i, j] / (math.sqrt(second[i, j]) + np.float32(EPSILON * root))
    return last
