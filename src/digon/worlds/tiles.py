"""Matrix products of the sampled engine: dense ones over tiles, sparse ones over the numbers that are not 0.

A tile holds sixteen samples, number by number: element (t · k + j) · 16 + lane is number j of sample 16 t + lane, of k.
Rows hold one sample after the other, padded to a multiple of sixteen numbers. Dense products want tiles; sparse ones
add multiples of whole rows, so that one operation serves sixteen hidden dimensions instead of sixteen samples.
"""

from typing import no_type_check

import numpy as np

from .lanes import WIDTH, add, fused, kernel, load, lowest, occupied, splat, store, total, totals

LANES = WIDTH


@kernel
@no_type_check
def note(entries, count, value, array, index, tile):
    """Append what is not 0 of the sixteen numbers at an index of an array; returns the new count."""
    bits = occupied(value)
    while bits:
        lane = lowest(bits)
        entries.row[count], entries.value[count] = tile * LANES + lane, array[index + lane]
        count, bits = count + 1, bits & (bits - 1)
    return count


@kernel
@no_type_check
def scatter(rows, entries, weights, base, shape, tiles):
    """Rows of (entries as a sparse matrix) × weights [n, m] at `base`; numbers past m are garbage."""
    n, m = shape
    pitch = (m + LANES - 1) // LANES * LANES
    for p in range(tiles * LANES * pitch):
        rows[p] = 0
    for k in range(0, m, LANES):
        for j in range(n):
            w = load(weights, base + j * m + k)
            for q in range(entries.first[j], entries.first[j + 1]):
                p = entries.row[q] * pitch + k
                store(rows, p, fused(splat(entries.value[q]), w, load(rows, p)))


@kernel
@no_type_check
def collect(gradient, base, entries, rows, shape):
    """gradient[base + j · m + k] += Σ over entries of feature j of value · rows[row, k]; shape is (n, m)."""
    n, m = shape
    pitch, tail = (m + LANES - 1) // LANES * LANES, np.ones(LANES, np.float32)
    for k in range(0, m, LANES):
        for lane in range(LANES):
            tail[lane] = k + lane < m
        keep = load(tail, 0)
        for j in range(n):
            c = splat(np.float32(0))
            for q in range(entries.first[j], entries.first[j + 1]):
                c = fused(splat(entries.value[q]), load(rows, entries.row[q] * pitch + k), c)
            p = base + j * m + k
            store(gradient, p, fused(c, keep, load(gradient, p)))


@kernel
@no_type_check
def to_tiles(tiles, rows, m, count):
    """Rows of m numbers into tiles."""
    pitch = (m + LANES - 1) // LANES * LANES
    for t in range(count):
        for k in range(m):
            for lane in range(LANES):
                tiles[(t * m + k) * LANES + lane] = rows[(t * LANES + lane) * pitch + k]


@kernel
@no_type_check
def to_rows(rows, tiles, m, count):
    """Tiles into rows of m numbers."""
    pitch = (m + LANES - 1) // LANES * LANES
    for t in range(count):
        for lane in range(LANES):
            for k in range(m):
                rows[(t * LANES + lane) * pitch + k] = tiles[(t * m + k) * LANES + lane]


@kernel
@no_type_check
def product(out, given, weights, base, shape, tiles):
    """out[o] = Σ_i weights[base + o · so + i · si] · given[i] in every lane; shape is (outs, ins, so, si).

    Eight independent sums at a time keep the multipliers busy.
    """
    outs, ins, so, si = shape
    zero = splat(np.float32(0))
    for t in range(0, tiles, 2):
        a, b = t * ins * LANES, (t + 1) * ins * LANES
        whole = outs - outs % 4
        for o in range(0, whole, 4):
            p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
            w = base + o * so
            for i in range(ins):
                u, v = load(given, a + i * LANES), load(given, b + i * LANES)
                c = splat(weights[w])
                p0, q0 = fused(c, u, p0), fused(c, v, q0)
                c = splat(weights[w + so])
                p1, q1 = fused(c, u, p1), fused(c, v, q1)
                c = splat(weights[w + 2 * so])
                p2, q2 = fused(c, u, p2), fused(c, v, q2)
                c = splat(weights[w + 3 * so])
                p3, q3 = fused(c, u, p3), fused(c, v, q3)
                w += si
            c = (t * outs + o) * LANES
            d = c + outs * LANES
            store(out, c, p0)
            store(out, c + LANES, p1)
            store(out, c + 2 * LANES, p2)
            store(out, c + 3 * LANES, p3)
            store(out, d, q0)
            store(out, d + LANES, q1)
            store(out, d + 2 * LANES, q2)
            store(out, d + 3 * LANES, q3)
        for o in range(whole, outs):
            p0 = q0 = zero
            for i in range(ins):
                c = splat(weights[base + o * so + i * si])
                p0, q0 = fused(c, load(given, a + i * LANES), p0), fused(c, load(given, b + i * LANES), q0)
            store(out, (t * outs + o) * LANES, p0)
            store(out, ((t + 1) * outs + o) * LANES, q0)


@kernel
@no_type_check
def outer(gradient, base, a, b, shape, tiles):
    """gradient[base + j · m + k] += Σ over samples of a[j] · b[k]; shape is (n, m)."""
    n, m = shape
    sums, zero = np.empty(LANES, np.float32), splat(np.float32(0))
    for j in range(0, n - n % 4, 4):
        for k in range(0, m - m % 4, 4):
            c = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
            for t in range(tiles):
                p, q = (t * n + j) * LANES, (t * m + k) * LANES
                a0, a1, a2, a3 = load(a, p), load(a, p + 16), load(a, p + 32), load(a, p + 48)
                b0, b1, b2, b3 = load(b, q), load(b, q + 16), load(b, q + 32), load(b, q + 48)
                c = (
                    fused(a0, b0, c[0]), fused(a0, b1, c[1]), fused(a0, b2, c[2]), fused(a0, b3, c[3]),
                    fused(a1, b0, c[4]), fused(a1, b1, c[5]), fused(a1, b2, c[6]), fused(a1, b3, c[7]),
                    fused(a2, b0, c[8]), fused(a2, b1, c[9]), fused(a2, b2, c[10]), fused(a2, b3, c[11]),
                    fused(a3, b0, c[12]), fused(a3, b1, c[13]), fused(a3, b2, c[14]), fused(a3, b3, c[15]),
                )  # fmt: skip
            store(sums, 0, totals(c))
            for s in range(LANES):
                gradient[base + (j + s // 4) * m + k + s % 4] += sums[s]
        for k in range(m - m % 4, m):
            c0 = c1 = c2 = c3 = zero
            for t in range(tiles):
                p, b0 = (t * n + j) * LANES, load(b, (t * m + k) * LANES)
                c0, c1 = fused(load(a, p), b0, c0), fused(load(a, p + 16), b0, c1)
                c2, c3 = fused(load(a, p + 32), b0, c2), fused(load(a, p + 48), b0, c3)
            p = base + j * m + k
            gradient[p] += total(c0)
            gradient[p + m] += total(c1)
            gradient[p + 2 * m] += total(c2)
            gradient[p + 3 * m] += total(c3)
    for j in range(n - n % 4, n):
        for k in range(m):
            c0 = c1 = zero
            for t in range(0, tiles, 2):
                c0 = fused(load(a, (t * n + j) * LANES), load(b, (t * m + k) * LANES), c0)
                c1 = fused(load(a, ((t + 1) * n + j) * LANES), load(b, ((t + 1) * m + k) * LANES), c1)
            gradient[base + j * m + k] += total(add(c0, c1))
