"""Compiled loops over pairs: sums of table rows, products, reconstructions, orders.

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import add, fused, kernel, load, store, total
from ...worlds.tree.instructions import expect
from .lanes import one

LINE = 16
"""Numbers in a line of the cache."""


@kernel
@no_type_check
def dot(a, i, b, j, d):
    """Σ a[i … i + d] · b[j … j + d] of flat arrays."""
    s0, s1 = one(np.float32(0)), one(np.float32(0))
    s2, s3 = s0, s1
    whole = d // 64 * 64
    for c in range(0, whole, 64):
        s0 = fused(load(a, i + c), load(b, j + c), s0)
        s1 = fused(load(a, i + c + 16), load(b, j + c + 16), s1)
        s2 = fused(load(a, i + c + 32), load(b, j + c + 32), s2)
        s3 = fused(load(a, i + c + 48), load(b, j + c + 48), s3)
    result = total(add(add(s0, s1), add(s2, s3)))
    for c in range(whole, d):
        result += a[i + c] * b[j + c]
    return result


@kernel
@no_type_check
def fetch(table, start, d):
    """Ask for d numbers of a flat table that are needed soon."""
    for c in range(0, d, LINE):
        expect(table, start + c)


@kernel
@no_type_check
def dots(a, rows, table, latents, span, out):
    """out_p = a_row(p) · table_latent(p) for pairs span[0] … span[1]."""
    d, flat, rest = a.shape[1], a.reshape(-1), table.reshape(-1)
    for p in range(span[0], span[1]):
        if p + 2 < span[1]:
            fetch(rest, latents[p + 2] * d, d)
        out[p] = dot(flat, rows[p] * d, rest, latents[p] * d, d)


@kernel
@no_type_check
def sums(values, members, starts, table, span, out):
    """out_i = Σ values_p · table_member(p) over the places p of bag i, for bags span[0] … span[1]."""
    d, flat = table.shape[1], table.reshape(-1)
    whole = d // LINE * LINE
    for i in range(span[0], span[1]):
        first = starts[i]
        last = starts[i + 1] if i + 1 < len(starts) else len(members)
        target = out[i]
        target[:] = 0
        for p in range(first, last - (last - first) % 4, 4):
            for ahead in range(p + 4, min(p + 8, last)):
                fetch(flat, members[ahead] * d, d)
            a, b, e, f = members[p] * d, members[p + 1] * d, members[p + 2] * d, members[p + 3] * d
            va, vb, ve, vf = one(values[p]), one(values[p + 1]), one(values[p + 2]), one(values[p + 3])
            for c in range(0, whole, LINE):
                left = fused(va, load(flat, a + c), fused(vb, load(flat, b + c), load(target, c)))
                store(target, c, fused(ve, load(flat, e + c), fused(vf, load(flat, f + c), left)))
            for c in range(whole, d):
                target[c] += values[p] * flat[a + c] + values[p + 1] * flat[b + c]
                target[c] += values[p + 2] * flat[e + c] + values[p + 3] * flat[f + c]
        for p in range(last - (last - first) % 4, last):
            a, va = members[p] * d, one(values[p])
            for c in range(0, whole, LINE):
                store(target, c, fused(va, load(flat, a + c), load(target, c)))
            for c in range(whole, d):
                target[c] += values[p] * flat[a + c]


@kernel
@no_type_check
def rebuild(pairs, atoms, base, x, span, out, products):
    """Rows Σ values_p · atom_p + base, less x, and their products with every atom of theirs.

    `pairs`: values, latents, first places of rows. `out`: the rows, what is too much in them, and its squares.
    """
    values, latents, starts = pairs
    rows, missing, squares = out
    d, flat = atoms.shape[1], atoms.reshape(-1)
    for i in range(span[0], span[1]):
        sums(values, latents, starts, atoms, (i, i + 1), rows)
        row, miss = rows[i], missing[i]
        for c in range(d):
            row[c] += base[c]
            miss[c] = row[c] - x[i, c]
        for p in range(starts[i], starts[i + 1] if i + 1 < len(starts) else len(latents)):
            products[p] = dot(miss, 0, flat, latents[p] * d, d)
        squares[i] = dot(miss, 0, miss, 0, d)


@kernel
@no_type_check
def distances(x, center, span, out):
    """Squared distances of rows from a center."""
    d, flat = x.shape[1], x.reshape(-1)
    whole = d // LINE * LINE
    for i in range(span[0], span[1]):
        total_, base = one(np.float32(0)), i * d
        for c in range(0, whole, LINE):
            gap = fused(load(center, c), one(np.float32(-1)), load(flat, base + c))
            total_ = fused(gap, gap, total_)
        rest = np.float32(0)
        for c in range(whole, d):
            rest += (flat[base + c] - center[c]) ** 2
        out[i] = total(total_) + rest


@kernel
@no_type_check
def counted(keys, bins, starts, order):
    """Stable order of keys 0 … bins − 1, and where each of them starts."""
    starts[:] = 0
    for key in keys:
        if key + 1 < bins:
            starts[key + 1] += 1
    for i in range(1, bins):
        starts[i] += starts[i - 1]
    place = starts.copy()
    for i in range(len(keys)):
        order[place[keys[i]]] = i
        place[keys[i]] += 1


@kernel
@no_type_check
def strongest(latents, rows, z, best, where):
    """The largest number of every latent and its row, the first of equal ones; pairs come by row."""
    best[:] = -np.inf
    where[:] = -1
    for p in range(len(z)):
        j = latents[p]
        if where[j] < 0 or z[p] > best[j]:
            best[j], where[j] = z[p], rows[p]
