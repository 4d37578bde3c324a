"""Rows of the tree world on processors: sixteen rows at a time, only what can be active, compiled.

1. Shared    ε of sixteen rows.
2. Tops      a root or lone feature fires with probability Φ(x), x = (C·ε − t)/r: where a Poisson process with Λ(x) = −log Φ(−x)
             expected events has one. log Λ is concave, so a tangent bounds it from above: Λ < exp(α + β C·ε), which costs one
             product with C. Every row walks along the features until the bounds add up to an exponential number; there
             it has a candidate, kept with probability Λ over bound. Random numbers are drawn for candidates only.
3. Descent   from an active feature to its children, which fire one by one; one of those that fire stays.
4. Row       weighted sum of the active atoms, four at a time, in their bfloat16 form.

Whether a child's u < Φ(x) is read off a table of normal quantiles at the edges of u's bin; Φ is computed where x lies
between them. Every sixteen rows have a seed of their own, so the result depends neither on threads nor on other rows.

This module imports numba; import it lazily. Source of the thinning: Lewis & Shedler 1979.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from scipy.special import ndtri

from ..lanes import WIDTH, add, fused, kernel, load, lowest, splat, store, subtract
from .dice import GOLDEN, bits, normal, uniform
from .instructions import copies, expect, lower, negative, power, upper

LANES = WIDTH
TILE = 8
"""Top features whose bounds are computed together."""
BINS = 1024
"""Bins of u in the table of normal quantiles."""


class Plan(NamedTuple):
    """The law as the kernel reads it."""

    rank: int
    tops: np.ndarray
    """Numbers of the top features."""
    tilt: np.ndarray
    """[tiles, rank, TILE]: β C in base 2, times 2²³, the unit in which a float counts its exponent."""
    lift: np.ndarray
    """[tiles · TILE]: α in base 2, times 2²³."""
    slope: np.ndarray
    """[tops, 2]: x = slope₀ · bound + slope₁."""
    first: np.ndarray
    children: np.ndarray
    width: int
    """Siblings that are drawn together, a power of two."""
    group: np.ndarray
    """Number of the group of children below every parent."""
    mixing: np.ndarray
    """[groups, length]: C/r of siblings, dimension by dimension, padded to whole lanes."""
    offset: np.ndarray
    """[groups, width]: t/r of siblings."""
    mean: np.ndarray
    spread: np.ndarray
    scale: bool
    atoms: np.ndarray
    """[n, length]: two bfloat16 numbers to a word, sixteen places apart, padded with zeros."""
    bias: np.ndarray
    """[2 · length]"""
    quantiles: np.ndarray
    edges: np.ndarray
    """Ziggurat: right edges of the layers."""
    heights: np.ndarray


def quantiles() -> np.ndarray:
    """Φ⁻¹ at the edges of the bins of u."""
    return ndtri(np.arange(BINS + 1) / BINS)


@kernel
@no_type_check
def draw(plan, seed, start, x, values, indices, counts):
    """Fill rows, of which the first has number `start`, a multiple of sixteen; returns the most active features of a row.

    If these are more than there is room for, x is not filled.
    """
    rows, most, edges, heights = len(counts), 0, plan.edges, plan.heights
    shared, state = np.empty((plan.rank, LANES), np.float32), np.empty(1, np.uint64)
    walk = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty((2, TILE * LANES), np.float32)
    scratch = np.zeros(plan.mixing.shape[1], np.float32), np.empty(LANES, np.float32)
    for block in range(0, rows, LANES):
        state[0] = seed + np.uint64(start + block) * GOLDEN
        state[0] = bits(state)
        for r in range(plan.rank):
            for row in range(LANES):
                shared[r, row] = normal(edges, heights, state)
        own = counts[block : block + LANES]
        own[:] = 0
        draw_tops(plan, state, shared, walk, values[block:], indices[block:], own)
        descend(plan, state, shared, scratch, values[block:], indices[block:], own)
        most = max(most, own.max())
    if most <= values.shape[1]:
        mix(plan, values, indices, counts, x)
    return most


@kernel
@no_type_check
def draw_tops(plan, state, shared, walk, values, indices, counts):
    """Active roots and lone features of sixteen rows."""
    rank, flat, (left, before, marks) = plan.rank, shared.reshape(-1), walk
    exponents, bounds = marks[0], marks[1]
    tilt, lift, slope, tops = plan.tilt.reshape(-1), plan.lift, plan.slope, plan.tops
    mean, spread, edges, heights = plan.mean, plan.spread, plan.edges, plan.heights
    for row in range(LANES):
        left[row] = -math.log(uniform(state))
    remaining = load(left, 0)
    for tile in range(len(lift) // TILE):
        at = tile * TILE
        b0, b1, b2, b3 = copies(lift, at), copies(lift, at + 1), copies(lift, at + 2), copies(lift, at + 3)
        b4, b5, b6, b7 = copies(lift, at + 4), copies(lift, at + 5), copies(lift, at + 6), copies(lift, at + 7)
        for r in range(rank):
            e, c = load(flat, r * LANES), (tile * rank + r) * TILE
            b0, b1 = fused(copies(tilt, c), e, b0), fused(copies(tilt, c + 1), e, b1)
            b2, b3 = fused(copies(tilt, c + 2), e, b2), fused(copies(tilt, c + 3), e, b3)
            b4, b5 = fused(copies(tilt, c + 4), e, b4), fused(copies(tilt, c + 5), e, b5)
            b6, b7 = fused(copies(tilt, c + 6), e, b6), fused(copies(tilt, c + 7), e, b7)
        low = add(add(power(b0), power(b1)), add(power(b2), power(b3)))
        high = add(add(power(b4), power(b5)), add(power(b6), power(b7)))
        after = subtract(remaining, add(low, high))
        found = negative(after)
        if found:
            store(left, 0, after)
            store(before, 0, remaining)
            place = 0
            for b in (b0, b1, b2, b3, b4, b5, b6, b7):
                store(exponents, place, b)
                store(bounds, place, power(b))
                place += LANES
            while found:
                row = lowest(found)
                found &= found - 1
                rest = before[row]
                for top in range(at, at + TILE):
                    place = (top - at) * LANES + row
                    rest -= bounds[place]
                    fires = False
                    while rest < 0:
                        rest -= math.log(uniform(state))
                        x = slope[top, 0] * exponents[place] + slope[top, 1]
                        fires |= uniform(state) * bounds[place] < -math.log(0.5 * math.erfc(x * math.sqrt(0.5)))
                    if fires:
                        feature = tops[top]
                        strength = mean[feature] + spread[feature] * normal(edges, heights, state)
                        if strength > 0 and row < len(counts):
                            if counts[row] < values.shape[1]:
                                values[row, counts[row]], indices[row, counts[row]] = strength, feature
                            counts[row] += 1
                left[row] = rest
            after = load(left, 0)
        remaining = after


@kernel
@no_type_check
def descend(plan, state, shared, scratch, values, indices, counts):
    """Children of the active features of every row, children of these, and so on."""
    room, rank, width, mixing, offset = values.shape[1], plan.rank, plan.width, plan.mixing, plan.offset
    first, children, group, mean, spread = plan.first, plan.children, plan.group, plan.mean, plan.spread
    quantiles, edges, heights, scale = plan.quantiles, plan.edges, plan.heights, plan.scale
    length, flat, (repeated, partial) = mixing.shape[1], mixing.reshape(-1), scratch
    for row in range(len(counts)):
        for r in range(rank):
            for w in range(width):
                repeated[r * width + w] = shared[r, row]
        at, count = 0, counts[row]
        while at < min(count, room):
            parent = indices[row, at]
            number = children[parent]
            if number:
                where = group[parent]
                sums = splat(np.float32(0))
                for k in range(0, length, LANES):
                    sums = fused(load(flat, where * length + k), load(repeated, k), sums)
                store(partial, 0, sums)
                mask, firing = 0, 0
                for child in range(number):
                    x = -offset[where, child]
                    for k in range(child, LANES, width):
                        x += partial[k]
                    word = bits(state)
                    bin = word >> np.uint64(54)
                    fires = x >= quantiles[bin + np.uint64(1)]
                    if not fires and x >= quantiles[bin]:
                        fires = (word >> np.uint64(11)) * 2.0**-53 < 0.5 * math.erfc(-x * math.sqrt(0.5))
                    mask |= int(fires) << child
                    firing += int(fires)
                while firing:
                    pick, chosen = ((bits(state) >> np.uint64(32)) * np.uint64(firing)) >> np.uint64(32), mask
                    while pick:
                        chosen &= chosen - 1
                        pick -= np.uint64(1)
                    place = lowest(chosen)
                    child = first[parent] + place
                    strength = mean[child] + spread[child] * normal(edges, heights, state)
                    if strength > 0:
                        if scale:
                            strength *= values[row, at] / mean[parent]
                        if count < room:
                            values[row, count], indices[row, count] = strength, child
                        count += 1
                        break
                    mask ^= 1 << place
                    firing -= 1
            at += 1
        counts[row] = count


@kernel
@no_type_check
def mix(plan, values, indices, counts, x):
    """Offset and weighted sums of atoms."""
    atoms, bias, length, d = plan.atoms.reshape(-1), plan.bias, plan.atoms.shape[1], x.shape[1]
    line = np.empty(2 * length, np.float32)
    for row in range(len(counts)):
        v, which, count = values[row], indices[row], counts[row]
        line[:] = bias
        for k in range(0, count - 3, 4):
            v0, v1, v2, v3 = copies(v, k), copies(v, k + 1), copies(v, k + 2), copies(v, k + 3)
            a0, a1, a2, a3 = which[k] * length, which[k + 1] * length, which[k + 2] * length, which[k + 3] * length
            n = min(k + 4, count - 4)
            n0, n1, n2, n3 = which[n] * length, which[n + 1] * length, which[n + 2] * length, which[n + 3] * length
            for j in range(0, length, LANES):
                expect(atoms, n0 + j)
                expect(atoms, n1 + j)
                expect(atoms, n2 + j)
                expect(atoms, n3 + j)
                w0, w1, w2, w3 = load(atoms, a0 + j), load(atoms, a1 + j), load(atoms, a2 + j), load(atoms, a3 + j)
                low = fused(v1, lower(w1), fused(v0, lower(w0), load(line, 2 * j)))
                high = fused(v1, upper(w1), fused(v0, upper(w0), load(line, 2 * j + LANES)))
                store(line, 2 * j, fused(v3, lower(w3), fused(v2, lower(w2), low)))
                store(line, 2 * j + LANES, fused(v3, upper(w3), fused(v2, upper(w2), high)))
        for k in range(count - count % 4, count):
            v0, a0 = copies(v, k), which[k] * length
            for j in range(0, length, LANES):
                w0 = load(atoms, a0 + j)
                store(line, 2 * j, fused(v0, lower(w0), load(line, 2 * j)))
                store(line, 2 * j + LANES, fused(v0, upper(w0), load(line, 2 * j + LANES)))
        x[row] = line[:d]
