"""Compiled passes over parameters, gradients and moments (see `step`).

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import fused, kernel, load, multiply, store
from ..sparse.lanes import one, quotient, root
from ..sparse.sum_kernel import LINE, dot


@kernel
@no_type_check
def project(rows, gradient, atoms, span, squares):
    """Squared norms of rows of the gradient, after taking out what is along the row itself if rows are atoms."""
    d, flat, slope = rows.shape[1], rows.reshape(-1), gradient.reshape(-1)
    whole = d // LINE * LINE
    for i in range(span[0], span[1]):
        base = i * d
        if atoms:
            along = dot(slope, base, flat, base, d)
            if along != 0:
                back = one(np.float32(-along))
                for c in range(base, base + whole, LINE):
                    store(slope, c, fused(back, load(flat, c), load(slope, c)))
                for c in range(base + whole, base + d):
                    slope[c] -= along * flat[c]
        squares[i] = dot(slope, base, slope, base, d)


@kernel
@no_type_check
def adam(tables, settings, atoms, span):
    """A step of Adam on rows of (parameter, gradient, mean, mean square); rows that are atoms then get unit norm.

    Settings: factor of the gradient, β₁, β₂, rate over bias of the mean, root of the bias of the square, ε.
    """
    parameter, gradient, mean, square = tables
    d = parameter.shape[1]
    p, g, m, v = parameter.reshape(-1), gradient.reshape(-1), mean.reshape(-1), square.reshape(-1)
    factor, first, second, rate, room, tiny = (
        settings[0],
        settings[1],
        settings[2],
        settings[3],
        settings[4],
        settings[5],
    )
    own, other = np.float32(1) - first, np.float32(1) - second
    f_, b1, b2, o1, o2 = one(factor), one(first), one(second), one(own), one(other)
    down, scale, eps = one(-rate), one(np.float32(1) / room), one(tiny)
    whole = d // LINE * LINE
    for i in range(span[0], span[1]):
        base = i * d
        for c in range(base, base + whole, LINE):
            slope = multiply(f_, load(g, c))
            new = fused(o1, slope, multiply(b1, load(m, c)))
            spread = fused(o2, multiply(slope, slope), multiply(b2, load(v, c)))
            store(m, c, new)
            store(v, c, spread)
            store(p, c, fused(down, quotient(new, fused(root(spread), scale, eps)), load(p, c)))
        for c in range(base + whole, base + d):
            slope = factor * g[c]
            m[c] = first * m[c] + own * slope
            v[c] = second * v[c] + other * slope * slope
            p[c] -= rate * m[c] / (np.sqrt(v[c]) / room + tiny)
        if atoms:
            length = np.float32(np.sqrt(dot(p, base, p, base, d)))
            for c in range(base, base + d):
                p[c] /= max(length, np.float32(np.finfo(np.float32).tiny))
