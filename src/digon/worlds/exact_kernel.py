"""The expected loss of `population`, compiled for the CPU: same formula, with its gradient by hand.

One row is one output of one network. Its own feature is folded into the product: with D̃ = D − s D′ for feature j and
D̃ = D for the others, E[ReLU(z)²] − 2 E[xⱼ ReLU(z)] is one integral of e^{bs} (2/s³) Π φ̃. The gradient is a sum of
products with one factor left out, from running products in both directions. Eight nodes are worked on together.

Two or three independent features in [0, 1] need no integral: `few_kernel`.

This module imports numba; import it lazily.
"""

import math

from .eights import (
    WIDTH,
    compiled,
    conjugate,
    exponential,
    inlined,
    inverse,
    ladder,
    load,
    real_dot,
    splat,
    store,
    within,
)
from .exact_law import CORRELATED, pull, second_moment, span
from .few_kernel import one_active, three_row, two_row

LINE = 3.0
NEAR = 0.05
"""Below this |w| the transforms come from their series."""
ALIAS = math.exp(-LINE)
ALIAS0, ALIAS1, ALIAS2 = ALIAS / (1 - ALIAS), ALIAS / (1 - ALIAS) ** 2, ALIAS * (1 + ALIAS) / (1 - ALIAS) ** 3


@inlined
def _series(a, s, symmetric, own):
    """D̃ and dD̃/da at small |a s|."""
    w = s * a
    if symmetric:
        u = w * w
        d = (((u * (1 / 72) + 1.0) * u * (1 / 42) + 1.0) * u * (1 / 20) + 1.0) * u * (1 / 6) + 1.0
        g = ((u * (1 / 54) + 1.0) * u * (1 / 28) + 1.0) * u * (1 / 10) + 1.0
        g = s * (w * g * (1 / 3))
        bend = (((u * (7 / 270) + 1.0) * u * (5 / 84) + 1.0) * u * (3 / 10) + 1.0) * (1 / 3)
    else:
        d = ((w * (1 / 7) + 1.0) * w * (1 / 6) + 1.0) * w * (1 / 5) + 1.0
        d = (((d * w * (1 / 4) + 1.0) * w * (1 / 3)) + 1.0) * w * (1 / 2) + 1.0
        g = ((w * (6 / 35) + 1.0) * w * (5 / 24) + 1.0) * w * (4 / 15) + 1.0
        g = s * ((g * w * (3 / 8) + 1.0) * w * (1 / 3) + 0.5)
        bend = ((w * (4 / 27) + 1.0) * w * (7 / 40) + 1.0) * w * (3 / 14) + 1.0
        bend = ((bend * w * (5 / 18) + 1.0) * w * (2 / 5) + 1.0) * w * (1 / 4) + 1 / 3
    if own:
        return d - g, g - s * s * bend
    return d, g


@inlined
def _transform(a, s, v, e, shrink, symmetric, own):
    """D̃ and dD̃/da from e = e^{as} and v = 1/s; `shrink` is |e|⁻²."""
    back = 1 / a
    if symmetric:
        opposite = conjugate(e) * shrink
        rise, bend = (e + opposite) * 0.5, (e - opposite) * 0.5  # cosh and sinh
        d = bend * v * back
    else:
        rise, bend = e, e
        d = (e - 1.0) * v * back
    g = (rise - d) * back
    if own:
        return d - g, g - (s * bend - g * 2.0) * back
    return d, g


@inlined
def _wind(at, a, sr, step, work):
    """Put e^{as} at the first eight nodes into place and remember what turns it on."""
    store(work.turn, at, exponential(ladder(a * sr, 0.0, a * step)))
    e, base = work.turn, at * 2 * WIDTH
    size = 1 / (e[base] * e[base])
    re, im, last = e[base + 1], e[base + WIDTH + 1], base + WIDTH - 1
    work.jump[at, 0] = (re * e[last] - im * e[last + WIDTH]) * size
    work.jump[at, 1] = (re * e[last + WIDTH] + im * e[last]) * size


@inlined
def _factor(g, p, task, work):
    """The factor of group g."""
    start, end = task.first[g], task.first[g + 1]
    i = task.order[start]
    if task.kinds[g] == CORRELATED:
        product = load(work.value, i)
        for t in range(start + 1, end):
            product = product * load(work.value, task.order[t])
        return product * p[i] + (1 - p[i])
    idle, total = 1 - p[i], load(work.value, i) * p[i]
    for t in range(start + 1, end):
        i = task.order[t]
        idle -= p[i]
        total = total + load(work.value, i) * p[i]
    return total + idle


@inlined
def _slopes(g, around, weight, p, task, work, grad):
    """Add what group g contributes to the gradient; `around` is the product of all other factors."""
    start, end = task.first[g], task.first[g + 1]
    for t in range(start, end):
        i = task.order[t]
        others = around * p[i]
        if task.kinds[g] == CORRELATED:
            for u in range(start, end):
                if u != t:
                    others = others * load(work.value, task.order[u])
        elif work.one[i] > 0:
            others = others - weight * work.one[i]
        grad[i] += real_dot(others, load(work.slope, i))


@inlined
def _forward(s, j, a, task, law, work):
    """Fill values, slopes, factors and the products before them at eight nodes; return what the rare events leave."""
    sr, v = LINE / work.line[0], inverse(s)
    left, product = splat(-law.none, 0.0), splat(1.0, 0.0)
    for i in range(task.n):
        size, own = abs(a[i]), i == j
        if work.line[2] * size < NEAR:
            d, g = _series(a[i], s, task.symmetric, own)
        else:
            shrink = math.exp(-2 * a[i] * sr) if task.symmetric else 0.0
            d, g = _transform(a[i], s, v, load(work.turn, i), shrink, task.symmetric, own)
            if work.line[1] * size < NEAR:
                closed, inner = _series(a[i], s, task.symmetric, own)
                d, g = within(s, NEAR / size, closed, d), within(s, NEAR / size, inner, g)
        store(work.turn, i, load(work.turn, i) * splat(work.jump[i, 0], work.jump[i, 1]))
        store(work.value, i, d)
        store(work.slope, i, g)
        if work.one[i] > 0:
            left = left - d * work.one[i]
    for g in range(len(task.kinds)):
        factor = _factor(g, law.p, task, work)
        store(work.factor, g, factor)
        store(work.before, g, product)
        product = product * factor
    return left + product


@compiled
def _integral(a, b, j, task, law, period, nodes, work, grad):
    """Trapezoidal sum for E[ReLU(z)²] − 2 E[xⱼ ReLU(z)] without the events done in closed form; adds to `grad`.

    `nodes`: how many at first, acceptable change, most. They are doubled until the sum changes by less, unless that is 0.
    Returns the sum, its slope by b and the nodes used.
    """
    n, (count, tolerance, most) = task.n, nodes
    step, sr = 2 * math.pi / period, LINE / period
    for i in range(n):
        _wind(i, a[i], sr, step, work)
    _wind(n, b, sr, step, work)
    value, slope, at, before = 0.0, 0.0, 0, 0.0
    while True:
        s = ladder(sr, at * step, step)
        v, e = inverse(s), load(work.turn, n)
        weight = e * v * v * v * (4 / period)
        store(work.turn, n, e * splat(work.jump[n, 0], work.jump[n, 1]))
        if at == 0:  # the first node counts half
            store(work.factor, 0, weight)
            work.factor[0] /= 2
            work.factor[WIDTH] /= 2
            weight = load(work.factor, 0)
        work.line[0] = period
        work.line[1], work.line[2] = math.hypot(sr, at * step), math.hypot(sr, (at + WIDTH - 1) * step)
        left = weight * _forward(s, j, a, task, law, work)
        value += real_dot(left, splat(1.0, 0.0))
        slope += real_dot(left, s)
        after = weight
        for g in range(len(task.kinds) - 1, -1, -1):
            _slopes(g, after * load(work.before, g), weight, law.p, task, work, grad)
            after = after * load(work.factor, g)
        at += WIDTH
        if at >= count:
            if tolerance <= 0 or count >= most or (before != 0 and abs(value - before) < tolerance):
                return value, slope, count
            before = value
            count *= 2


@compiled
def row(a, b, j, task, law, nodes, work, grad):
    """Loss of output j, z = b + a·x; fills `grad` with its slopes by a; returns it, its slope by b and the nodes used."""
    p, none, count = law.p, law.none, nodes[0]
    if task.few:
        value, slope = two_row(a, b, j, p, grad) if task.n == 2 else three_row(a, b, j, p, grad, work.part[0])
        return value, slope, count
    period, high, low, level, spread = span(a, b, p, task, work.part)
    target, mean, first, second = p[j] * task.square, p[j] * task.mean, task.mean, task.square
    spare = count if nodes[1] <= 0 else max(count, nodes[2])  # if this row needs nodes one day, it needs many
    if high <= 0 and not task.linear:
        grad[:] = 0.0
        return target, 0.0, spare
    if low >= 0 or task.linear:
        for k in range(task.n):
            grad[k] = 2 * (b * p[k] * first + pull(k, a, p, task, level) - second_moment(j, k, p, task))
        pulled = b * mean + pull(j, a, p, task, level)
        return target - 2 * pulled + b * b + 2 * b * level + spread, 2 * (b + level - mean), spare
    if work.period[j] > 0:
        if period > work.period[j]:
            work.period[j] = 1.25 * period
        period = work.period[j]
    # Copies of z at distance 2T are whole polynomials of what is left once the rare events are out.
    linear, flat = 2 * ALIAS1 * period, ALIAS2 * period * period
    share, rising, square = 1 - none, b + level - none * b, b * b + 2 * b * level + spread - none * b * b
    up = max(b, 0.0)
    value, slope = none * up * up + target, 2 * none * up
    for k in range(task.n):
        one, ak, twice = work.one[k], a[k], 2 * ALIAS0 * second_moment(j, k, p, task)
        grad[k] = twice - 2 * ALIAS0 * (b * p[k] * first + pull(k, a, p, task, level)) - linear * p[k] * first
        if one > 0:
            share -= one
            rising -= one * (b + ak * first)
            square -= one * (b * b + 2 * b * ak * first + ak * ak * second)
            grad[k] += one * (2 * ALIAS0 * (b * first + ak * second) + linear * first)
            own = 1.0 if k == j else 0.0
            v, vg, vb = one_active(own, ak, b)
            if task.symmetric:
                w, wg, wb = one_active(-own, -ak, b)
                v, vg, vb = (v + w) / 2, (vg - wg) / 2, (vb + wb) / 2
            value += one * v
            slope += one * vb
            grad[k] += one * vg
    grad[j] -= 2 * ALIAS0 * work.one[j] * second
    mine = mean - work.one[j] * first
    pulled = b * mean + pull(j, a, p, task, level) - work.one[j] * (b * first + a[j] * second)
    value += -work.one[j] * second - ALIAS0 * square - linear * rising - flat * share
    value += 2 * ALIAS0 * pulled + linear * mine
    slope += -2 * ALIAS0 * rising - linear * share + 2 * ALIAS0 * mine
    rest, tilt, used = _integral(a, b, j, task, law, period, nodes, work, grad)
    return value + rest, slope + tilt, used


@compiled
def evaluate(theta, task, law, nodes, limits, work, gradient):
    """Loss of one network; fills `gradient`. `nodes` holds the nodes of every row, and afterwards what was used.

    theta: W, V unless tied, b. `limits`: acceptable change of a row's weighted loss under doubled nodes, or 0, and
    most nodes.
    """
    n, m = task.n, task.m
    other = 0 if task.tied else n * m  # where V starts
    last = len(theta) - n  # where b starts
    gradient[:] = 0.0
    total = 0.0
    for j in range(n):
        for i in range(n):
            inner = 0.0
            for k in range(m):
                inner += theta[j * m + k] * theta[other + i * m + k]
            work.gram[j, i] = inner
    for j in range(n):
        weight, b, push = law.importance[j], theta[last + j], work.push
        if weight == 0:
            continue
        allowed = (nodes[j], limits[0] / weight, limits[1])
        value, slope, nodes[j] = row(work.gram[j], b, j, task, law, allowed, work, push)
        total += weight * value
        if task.biased:
            gradient[last + j] = weight * slope
        for i in range(n):
            pushed = weight * push[i]
            for k in range(m):
                gradient[j * m + k] += pushed * theta[other + i * m + k]
            for k in range(m):
                gradient[other + i * m + k] += pushed * theta[j * m + k]
    return total
