"""The exact loss of up to three independent features in [0, 1], compiled: the closed form of `worlds/closed`, with slopes.

With one feature active the loss is an integral of a square; with more, it is piecewise polynomial in what the others
add, so that Gauss–Legendre nodes between the kinks are exact.

This module imports numba; import it lazily.
"""

import math

from .eights import compiled

TWO = 0.5 / math.sqrt(3.0)
"""Gauss–Legendre nodes on [0, 1]: ½ ± this, weight ½ (two nodes); ½ ± the next, weight 5/18, and ½, weight 4/9 (three)."""
THREE = 0.5 * math.sqrt(0.6)


@compiled
def one_active(h, g, b):
    """∫₀¹ (h x − ReLU(g x + b))² dx and its derivatives by g and b."""
    if g > 0:
        left, right = min(max(-b / g, 0.0), 1.0), 1.0
    elif g < 0:
        left, right = 0.0, min(max(-b / g, 0.0), 1.0)
    else:
        left, right = 0.0, 1.0 if b > 0 else 0.0
    cube, square, length = (right**3 - left**3) / 3, (right**2 - left**2) / 2, right - left
    value = h * h / 3 + (g * g - 2 * h * g) * cube - 2 * (h - g) * b * square + b * b * length
    return value, 2 * ((g - h) * cube + b * square), 2 * (b * length - (h - g) * square)


@compiled
def two_active(h, g, c, b):
    """∫₀¹∫₀¹ (h x − ReLU(g x + c y + b))² dx dy and its derivatives by g, c and b."""
    low, high = 1.0, 1.0
    if c != 0:
        low, high = min(max(-b / c, 0.0), 1.0), min(max(-(b + g) / c, 0.0), 1.0)
        if low > high:
            low, high = high, low
    value, by_g, by_c, by_b, start = 0.0, 0.0, 0.0, 0.0, 0.0
    for piece in range(3):
        end = low if piece == 0 else (high if piece == 1 else 1.0)
        width = end - start
        if width > 0:
            for side in (-TWO, TWO):
                y = start + width * (0.5 + side)
                v, vg, vb = one_active(h, g, c * y + b)
                value += width * v / 2
                by_g += width * vg / 2
                by_c += width * vb * y / 2
                by_b += width * vb / 2
        start = end
    return value, by_g, by_c, by_b


@compiled
def three_active(h, g, c, d, b, kinks):
    """∫∫∫ (h x − ReLU(g x + c y + d z + b))² over the unit cube and its derivatives by g, c, d and b."""
    kinks[:] = 1.0
    if d != 0:
        kinks[0], kinks[1], kinks[2], kinks[3] = -b / d, -(b + g) / d, -(b + c) / d, -(b + g + c) / d
        for i in range(4):
            k = min(max(kinks[i], 0.0), 1.0)
            at = i
            while at > 0 and kinks[at - 1] > k:
                kinks[at] = kinks[at - 1]
                at -= 1
            kinks[at] = k
    value, by_g, by_c, by_d, by_b, start = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for piece in range(5):
        width = kinks[piece] - start
        if width > 0:
            for node in range(3):
                z = start + width * (0.5 + (node - 1) * THREE)
                share = width * (4 / 9 if node == 1 else 5 / 18)
                v, vg, vc, vb = two_active(h, g, c, d * z + b)
                value += share * v
                by_g += share * vg
                by_c += share * vc
                by_d += share * vb * z
                by_b += share * vb
        start = kinks[piece]
    return value, by_g, by_c, by_d, by_b


@compiled
def two_row(a, b, j, p, grad):
    """Loss of output j of two features; fills `grad` with its slopes by a; returns it and its slope by b."""
    k = 1 - j
    both, mine, other, none = p[j] * p[k], p[j] * (1 - p[k]), p[k] * (1 - p[j]), (1 - p[j]) * (1 - p[k])
    v1, g1, b1 = one_active(1.0, a[j], b)
    v2, g2, b2 = one_active(0.0, a[k], b)
    v3, g3, c3, b3 = two_active(1.0, a[j], a[k], b)
    grad[j] = mine * g1 + both * g3
    grad[k] = other * g2 + both * c3
    level = max(b, 0.0)
    value = none * level * level + mine * v1 + other * v2 + both * v3
    return value, 2 * none * level + mine * b1 + other * b2 + both * b3


@compiled
def three_row(a, b, j, p, grad, kinks):
    """Loss of output j of three features; fills `grad` with its slopes by a; returns it and its slope by b."""
    k, o = (j + 1) % 3, (j + 2) % 3
    pk, po = p[k] * (1 - p[o]), p[o] * (1 - p[k])
    none, both = (1 - p[k]) * (1 - p[o]), p[k] * p[o]
    off, on = 1 - p[j], p[j]
    v1, g1, b1 = one_active(1.0, a[j], b)
    v2, g2, b2 = one_active(0.0, a[k], b)
    v3, g3, b3 = one_active(0.0, a[o], b)
    v4, g4, c4, b4 = two_active(1.0, a[j], a[k], b)
    v5, g5, c5, b5 = two_active(1.0, a[j], a[o], b)
    v6, g6, c6, b6 = two_active(0.0, a[k], a[o], b)
    v7, g7, c7, d7, b7 = three_active(1.0, a[j], a[k], a[o], b, kinks)
    grad[j] = on * (none * g1 + pk * g4 + po * g5 + both * g7)
    grad[k] = off * (pk * g2 + both * g6) + on * (pk * c4 + both * c7)
    grad[o] = off * (po * g3 + both * c6) + on * (po * c5 + both * d7)
    level = max(b, 0.0)
    silent = none * level * level + pk * v2 + po * v3 + both * v6
    active = none * v1 + pk * v4 + po * v5 + both * v7
    slope = off * (2 * none * level + pk * b2 + po * b3 + both * b6) + on * (none * b1 + pk * b4 + po * b5 + both * b7)
    return off * silent + on * active, slope
