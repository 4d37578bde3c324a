"""The expected loss of `population`, compiled for the CPU: same formula, values and gradients by hand.

One row is one output of one network. Its own feature is folded into the product: with D̃ = D − s D′ for feature j and
D̃ = D for the others, E[ReLU(z)²] − 2 E[xⱼ ReLU(z)] is one integral of e^{bs} (2/s³) Π φ̃, and the gradient is a sum of
products with one factor left out, from running products in both directions. Loops over nodes are innermost, so that
they run in vector registers.

Two features in [0, 1] need no integral: all active patterns are piecewise cubic, and two Gauss-Legendre nodes
between kinks are exact.

This module imports numba; import it lazily.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

BLOCK = 32
LINE = 3.0
NEAR = 0.1
"""Below this |w| the transforms come from their series."""
SINGLE, CORRELATED, ANTICORRELATED = 0, 1, 2
ALIAS = math.exp(-LINE)
ALIAS0, ALIAS1, ALIAS2 = ALIAS / (1 - ALIAS), ALIAS / (1 - ALIAS) ** 2, ALIAS * (1 + ALIAS) / (1 - ALIAS) ** 3
GAUSS = 0.5 / math.sqrt(3.0)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with a cache on disk; run-time type checkers that wrapped the function are taken off first."""

    def wrap(function: Callable[..., Any]) -> Any:
        return numba.njit(cache=True, fastmath=True, error_model="numpy", **options)(inspect.unwrap(function))

    return wrap


class Shape(NamedTuple):
    """What the compiled code needs to know about the law, apart from densities."""

    order: np.ndarray
    """Features, group by group."""
    first: np.ndarray
    """Where every group starts in `order`, and the end."""
    kinds: np.ndarray
    symmetric: bool
    mean: float
    """E[value] of an active feature."""
    square: float
    """E[value²]."""


class Work(NamedTuple):
    """Scratch space of one thread."""

    feature: np.ndarray
    """[10, n, BLOCK]: table (re, im), D̃, dD̃/da, running product, factor of the group."""
    line: np.ndarray
    """[8, BLOCK]: Im s, 1/s (re, im), weighted e^{bs} 2/s³ (re, im), running product (re, im), table of b's rotation…"""


@compiled()
def scratch(n):
    """Empty scratch space for n features."""
    return Work(np.empty((10, n, BLOCK)), np.empty((9, BLOCK)))


@compiled()
def rare(p, shape, one):
    """Fill `one` with P(only feature i active) where that is done in closed form; return P(none active)."""
    groups = len(shape.kinds)
    none = 1.0
    for g in range(groups):
        others = 1.0
        for other in range(groups):
            idle = 1.0
            for t in range(shape.first[other], shape.first[other + 1]):
                idle -= p[shape.order[t]]
                if shape.kinds[other] == CORRELATED:
                    break
            idle = max(idle, 0.0)
            if other != g:
                others *= idle
            elif g == 0:
                none = idle
        if g == 0:
            none *= others
        for t in range(shape.first[g], shape.first[g + 1]):
            i = shape.order[t]
            one[i] = 0.0 if shape.kinds[g] == CORRELATED else p[i] * others
    return none


@compiled()
def _interval(g, b):
    """Part of [0, 1] on which g x + b > 0."""
    if g > 0:
        return min(max(-b / g, 0.0), 1.0), 1.0
    if g < 0:
        return 0.0, min(max(-b / g, 0.0), 1.0)
    return 0.0, 1.0 if b > 0 else 0.0


@compiled()
def one_active(h, g, b):
    """∫₀¹ (h x − ReLU(g x + b))² dx and its derivatives by g and b."""
    left, right = _interval(g, b)
    cube, square, length = right**3 - left**3, right**2 - left**2, right - left
    value = h * h / 3 + (g * g - 2 * h * g) * cube / 3 - (h - g) * b * square + b * b * length
    return value, 2 * (g - h) * cube / 3 + b * square, 2 * b * length - (h - g) * square


@compiled()
def two_active(h, g, c, b):
    """∫₀¹∫₀¹ (h x − ReLU(g x + c y + b))² dx dy and its derivatives by g, c and b: exact.

    In y the inner integral is cubic between the points where c y + b crosses 0 and −g.
    """
    first, second = 1.0, 1.0
    if c != 0:
        first, second = -b / c, -(b + g) / c
    if first > second:
        first, second = second, first
    first, second = min(max(first, 0.0), 1.0), min(max(second, 0.0), 1.0)
    value, by_g, by_c, by_b = 0.0, 0.0, 0.0, 0.0
    start = 0.0
    for end in (first, second, 1.0):
        half = (end - start) / 2
        if half > 0:
            for sign in (-1.0, 1.0):
                y = start + half * (1 + sign * 2 * GAUSS)
                v, vg, vb = one_active(h, g, c * y + b)
                value += half * v
                by_g += half * vg
                by_c += half * vb * y
                by_b += half * vb
        start = end
    return value, by_g, by_c, by_b


@compiled()
def pair_row(a, b, j, p, grad):
    """Loss of output j of two independent features in [0, 1]; fills `grad`, returns the loss and its slope in b."""
    k = 1 - j
    both, mine, other, none = p[j] * p[k], p[j] * (1 - p[k]), p[k] * (1 - p[j]), (1 - p[j]) * (1 - p[k])
    v1, g1, b1 = one_active(1.0, a[j], b)
    v2, g2, b2 = one_active(0.0, a[k], b)
    v3, g3, c3, b3 = two_active(1.0, a[j], a[k], b)
    grad[j] = mine * g1 + both * g3
    grad[k] = other * g2 + both * c3
    open_ = max(b, 0.0)
    value = none * open_ * open_ + mine * v1 + other * v2 + both * v3
    return value, 2 * none * open_ + mine * b1 + other * b2 + both * b3


@compiled()
def _spread_of(a, p, shape, g):
    """Greatest, least, mean and mean square of the part that group g adds to z."""
    up, down, mean, square, total, squares = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(shape.first[g], shape.first[g + 1]):
        i = shape.order[t]
        high = abs(a[i]) if shape.symmetric else max(a[i], 0.0)
        low = -high if shape.symmetric else min(a[i], 0.0)
        if shape.kinds[g] == CORRELATED:
            up += high
            down += low
        else:
            up = max(up, high)
            down = min(down, low)
        mean += p[i] * a[i] * shape.mean
        square += p[i] * a[i] * a[i] * shape.square
        total += a[i] * shape.mean
        squares += a[i] * a[i] * (shape.square - shape.mean**2)
    if shape.kinds[g] == CORRELATED:
        square = p[shape.order[shape.first[g]]] * (total * total + squares)
    return up, down, mean, square


@compiled()
def _period(a, b, p, shape, tail, parts):
    """T with |z| ≤ T except with probability e^{−tail}; also the greatest and least z, E[a·x] and E[(a·x)²]."""
    groups = len(shape.kinds)
    high, low, mean, square, largest = b, b, 0.0, 0.0, 0.0
    for g in range(groups):
        up, down, m, q = _spread_of(a, p, shape, g)
        parts[0, g], parts[1, g], parts[2, g], parts[3, g] = up, down, m, q - m * m
        high += up
        low += down
        mean += m
        square += q - m * m
        largest = max(largest, max(up, -down))
    period = max(high, -low)
    cut = largest
    for _ in range(8 if groups > 4 else 0):
        top, bottom, variance, biggest = b, b, 0.0, 0.0
        for g in range(groups):
            size = max(parts[0, g], -parts[1, g])
            if size > cut:
                top += parts[0, g]
                bottom += parts[1, g]
            else:
                top += parts[2, g]
                bottom += parts[2, g]
                variance += parts[3, g]
                biggest = max(biggest, size)
        third = biggest * tail / 3
        slack = third + math.sqrt(third * third + 2 * tail * max(variance, 0.0))
        period = min(period, max(top + slack, slack - bottom))
        cut /= 2
    return max(period, 1e-9), high, low, mean, square + mean * mean


@compiled()
def _turns(angle, re, im):
    """Fill re + i·im with e^{i·angle·r}, r = 0, 1, …"""
    re[0], im[0] = 1.0, 0.0
    re[1], im[1] = math.cos(angle), math.sin(angle)
    for r in range(2, BLOCK):
        u = r // 2
        v = r - u
        re[r] = re[u] * re[v] - im[u] * im[v]
        im[r] = re[u] * im[v] + im[u] * re[v]


@compiled()
def _near(a, sr, si, symmetric, own):
    """D̃ and dD̃/da at small |a s|, complex, from series."""
    s = complex(sr, si)
    w = a * s
    if symmetric:
        u = w * w
        d = 1 + u / 6 * (1 + u / 20 * (1 + u / 42 * (1 + u / 72)))
        slope = w / 3 * (1 + u / 10 * (1 + u / 28 * (1 + u / 54)))
        bend = (1 + u * 3 / 10 * (1 + u * 5 / 84 * (1 + u * 7 / 270))) / 3
    else:
        d = 1 + w / 2 * (1 + w / 3 * (1 + w / 4 * (1 + w / 5 * (1 + w / 6 * (1 + w / 7 * (1 + w / 8 * (1 + w / 9)))))))
        slope = 1 + w * 4 / 15 * (1 + w * 5 / 24 * (1 + w * 6 / 35 * (1 + w * 7 / 48 * (1 + w * 8 / 63))))
        slope = 1 / 2 + w / 3 * (1 + w * 3 / 8 * slope)
        bend = 1 + w * 5 / 18 * (1 + w * 3 / 14 * (1 + w * 7 / 40 * (1 + w * 4 / 27 * (1 + w * 9 / 70))))
        bend = 1 / 3 + w / 4 * (1 + w * 2 / 5 * bend)
    if own:
        return d - s * slope, s * slope - s * s * bend
    return d, s * slope


@compiled()
def _transforms(i, a, sr, angle, own, symmetric, f, line):
    """Fill f[2:6, i] with D̃ and dD̃/da of feature i at the nodes of this block; `angle` is a times its first Im s."""
    si, vr, vi = line[0], line[1], line[2]
    nearest, farthest = math.hypot(sr, si[0]) * abs(a), math.hypot(sr, si[BLOCK - 1]) * abs(a)
    if nearest >= NEAR:
        grow = math.exp(a * sr)
        br, bi, inverse = grow * math.cos(angle), grow * math.sin(angle), 1 / a
        if symmetric:
            shrink = 1 / grow
            cr, ci = shrink * math.cos(angle), -shrink * math.sin(angle)
            for r in range(BLOCK):
                er, ei = br * f[0, i, r] - bi * f[1, i, r], br * f[1, i, r] + bi * f[0, i, r]
                nr, ni = cr * f[0, i, r] + ci * f[1, i, r], ci * f[0, i, r] - cr * f[1, i, r]
                hr, hi = (er - nr) / 2, (ei - ni) / 2  # sinh
                dr, di = (hr * vr[r] - hi * vi[r]) * inverse, (hr * vi[r] + hi * vr[r]) * inverse
                gr, gi = ((er + nr) / 2 - dr) * inverse, ((ei + ni) / 2 - di) * inverse
                f[2, i, r], f[3, i, r], f[4, i, r], f[5, i, r] = dr, di, gr, gi
                if own:
                    f[2, i, r], f[3, i, r] = dr - gr, di - gi
                    f[4, i, r] = gr - (sr * hr - si[r] * hi - 2 * gr) * inverse
                    f[5, i, r] = gi - (sr * hi + si[r] * hr - 2 * gi) * inverse
            return
        for r in range(BLOCK):
            er, ei = br * f[0, i, r] - bi * f[1, i, r], br * f[1, i, r] + bi * f[0, i, r]
            dr, di = ((er - 1) * vr[r] - ei * vi[r]) * inverse, ((er - 1) * vi[r] + ei * vr[r]) * inverse
            gr, gi = (er - dr) * inverse, (ei - di) * inverse
            f[2, i, r], f[3, i, r], f[4, i, r], f[5, i, r] = dr, di, gr, gi
            if own:
                f[2, i, r], f[3, i, r] = dr - gr, di - gi
                f[4, i, r] = gr - (sr * er - si[r] * ei - 2 * gr) * inverse
                f[5, i, r] = gi - (sr * ei + si[r] * er - 2 * gi) * inverse
        return
    for r in range(BLOCK):
        if farthest < NEAR or math.hypot(sr, si[r]) * abs(a) < NEAR:
            d, g = _near(a, sr, si[r], symmetric, own)
        else:
            d, g = _far(a, sr, si[r], symmetric, own)
        f[2, i, r], f[3, i, r], f[4, i, r], f[5, i, r] = d.real, d.imag, g.real, g.imag


@compiled()
def _far(a, sr, si, symmetric, own):
    """D̃ and dD̃/da at large |a s|, complex, one node."""
    s = complex(sr, si)
    grow, angle = math.exp(a * sr), a * si
    e = complex(grow * math.cos(angle), grow * math.sin(angle))
    if symmetric:
        rise, value = (e + 1 / e) / 2, (e - 1 / e) / 2
        d = value / (a * s)
        bend = value
    else:
        d = (e - 1) / (a * s)
        rise = bend = e
    g = (rise - d) / a
    if own:
        return d - g, g - (s * bend - 2 * g) / a
    return d, g


@compiled()
def _factor(g, p, shape, f):
    """Fill f[8:10, g] with the factor of group g."""
    start, end = shape.first[g], shape.first[g + 1]
    head = shape.order[start]
    if shape.kinds[g] == CORRELATED:
        for r in range(BLOCK):
            re, im = p[head], 0.0
            for t in range(start, end):
                i = shape.order[t]
                re, im = re * f[2, i, r] - im * f[3, i, r], re * f[3, i, r] + im * f[2, i, r]
            f[8, g, r], f[9, g, r] = 1 - p[head] + re, im
        return
    idle = 1.0
    for t in range(start, end):
        idle -= p[shape.order[t]]
    for r in range(BLOCK):
        f[8, g, r], f[9, g, r] = idle + p[head] * f[2, head, r], p[head] * f[3, head, r]
    for t in range(start + 1, end):
        i = shape.order[t]
        for r in range(BLOCK):
            f[8, g, r] += p[i] * f[2, i, r]
            f[9, g, r] += p[i] * f[3, i, r]


@compiled()
def _slopes(g, p, one, shape, f, line, grad):
    """Add what group g contributes to the gradient; line[5:7] holds the product of all factors behind it."""
    start, end = shape.first[g], shape.first[g + 1]
    xr, xi, wr, wi = line[5], line[6], line[3], line[4]
    for t in range(start, end):
        i = shape.order[t]
        total = 0.0
        if shape.kinds[g] == CORRELATED:
            for r in range(BLOCK):
                re, im = f[6, g, r] * xr[r] - f[7, g, r] * xi[r], f[6, g, r] * xi[r] + f[7, g, r] * xr[r]
                for u in range(start, end):
                    k = shape.order[u]
                    if u != t:
                        re, im = re * f[2, k, r] - im * f[3, k, r], re * f[3, k, r] + im * f[2, k, r]
                total += re * f[4, i, r] - im * f[5, i, r]
            grad[i] += p[i] * total
            continue
        for r in range(BLOCK):
            re = p[i] * (f[6, g, r] * xr[r] - f[7, g, r] * xi[r]) - one[i] * wr[r]
            im = p[i] * (f[6, g, r] * xi[r] + f[7, g, r] * xr[r]) - one[i] * wi[r]
            total += re * f[4, i, r] - im * f[5, i, r]
        grad[i] += total
    for r in range(BLOCK):
        re = xr[r] * f[8, g, r] - xi[r] * f[9, g, r]
        xi[r] = xr[r] * f[9, g, r] + xi[r] * f[8, g, r]
        xr[r] = re


@compiled()
def _nodes(first, period, b, line):
    """Fill the line: Im s, 1/s and the weighted e^{bs} 2/s³ of the nodes first … first + BLOCK − 1."""
    sr, step = LINE / period, 2 * math.pi / period
    grow = math.exp(b * sr) * 4 / period
    angle = b * step * first
    br, bi = grow * math.cos(angle), grow * math.sin(angle)
    for r in range(BLOCK):
        si = (first + r) * step
        size = 1 / (sr * sr + si * si)
        vr, vi = sr * size, -si * size
        er, ei = br * line[7, r] - bi * line[8, r], br * line[8, r] + bi * line[7, r]
        qr, qi = vr * vr - vi * vi, 2 * vr * vi
        cr, ci = qr * vr - qi * vi, qr * vi + qi * vr
        line[0, r], line[1, r], line[2, r] = si, vr, vi
        line[3, r], line[4, r] = er * cr - ei * ci, er * ci + ei * cr
    if first == 0:
        line[3, 0] /= 2
        line[4, 0] /= 2


@compiled()
def _integral(a, b, j, p, none, one, period, nodes, shape, work, grad):
    """Trapezoidal sum for E[ReLU(z)²] − 2 E[xⱼ ReLU(z)] without the events done in closed form; adds to `grad`."""
    f, line = work.feature, work.line
    groups, n = len(shape.kinds), len(a)
    step, sr = 2 * math.pi / period, LINE / period
    for i in range(n):
        _turns(a[i] * step, f[0, i], f[1, i])
    _turns(b * step, line[7], line[8])
    value, slope = 0.0, 0.0
    for first in range(0, nodes, BLOCK):
        _nodes(first, period, b, line)
        for i in range(n):
            _transforms(i, a[i], sr, a[i] * step * first, i == j, shape.symmetric, f, line)
        for r in range(BLOCK):
            line[5, r], line[6, r] = 1.0, 0.0
        for g in range(groups):
            _factor(g, p, shape, f)
            for r in range(BLOCK):
                re, im = line[5, r], line[6, r]
                f[6, g, r], f[7, g, r] = re, im
                line[5, r] = re * f[8, g, r] - im * f[9, g, r]
                line[6, r] = re * f[9, g, r] + im * f[8, g, r]
        for r in range(BLOCK):
            line[5, r] -= none
        for i in range(n):
            if one[i] > 0:
                for r in range(BLOCK):
                    line[5, r] -= one[i] * f[2, i, r]
                    line[6, r] -= one[i] * f[3, i, r]
        for r in range(BLOCK):
            re = line[3, r] * line[5, r] - line[4, r] * line[6, r]
            im = line[3, r] * line[6, r] + line[4, r] * line[5, r]
            value += re
            slope += sr * re - line[0, r] * im
            line[5, r], line[6, r] = line[3, r], line[4, r]
        for g in range(groups - 1, -1, -1):
            _slopes(g, p, one, shape, f, line, grad)
    return value, slope


@compiled()
def _moment_pull(i, a, p, shape, of, level):
    """E[xᵢ a·x], for which `of` names the group of i and `level` is E[a·x]."""
    g = of
    mine, total = 0.0, 0.0
    for t in range(shape.first[g], shape.first[g + 1]):
        k = shape.order[t]
        mine += p[k] * a[k] * shape.mean
        total += a[k] * shape.mean
    outside = p[i] * shape.mean * (level - mine)
    if shape.kinds[g] == CORRELATED:
        return outside + p[i] * (shape.mean * total + a[i] * (shape.square - shape.mean**2))
    return outside + p[i] * a[i] * shape.square
