"""Compiled loops of the search for the largest pre-activations.

A search reads a block of products p̃ once or twice, in cache. Products in bfloat16 come with a bound on their error:

    |p̃ − p| ≤ u|p̃| + β‖w_j‖        u: rounding of the result; β: of the row and of the weights

so z = p + b lies between `low` and `high`. What may be among the largest (high ≥ the k-th largest low) is computed
again in float32, and those numbers decide: the choice is that of float32 products. With u = β = 0, bfloat16 decides.

This module imports numba; import it lazily.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from ...worlds.lanes import add, fused, kernel, load, lowest, magnitude, multiply, store, total
from .lanes import inlined, larger, one, pair, rank, reaching, rounded, store_half, unranked
from .sum_kernel import LINE, dot, fetch


class Coarse(NamedTuple):
    """A block of products and what bounds them; flat arrays, `width` a multiple of 32."""

    products: np.ndarray
    """[rows · width] float32, or uint32 with two bfloat16 numbers each."""
    beta: np.ndarray
    """[rows]"""
    slack: np.float32
    """u."""
    norm: np.ndarray
    """[width]: ‖w_j‖."""
    offset: np.ndarray
    """[width]: b_j; −∞ for columns that are only there to fill up."""
    exact: bool
    """Whether the products need not be computed again."""


class Fine(NamedTuple):
    """What products are made of."""

    x: np.ndarray
    """[rows, d] float32, centered."""
    weights: np.ndarray
    """[k, d] float32."""
    bias: np.ndarray
    """[k]"""


@inlined
@no_type_check
def _low(p, c, beta, slack, at):
    drop = fused(beta, load(c.norm, at), multiply(slack, magnitude(p)))
    return fused(drop, one(np.float32(-1)), add(p, load(c.offset, at)))


@inlined
@no_type_check
def _high(p, c, beta, slack, at):
    return add(fused(beta, load(c.norm, at), fused(slack, magnitude(p), p)), load(c.offset, at))


@kernel
@no_type_check
def kth(keys, length, count):
    """The count-th largest of the first `length` int32 keys, which are put into another order."""
    left, right, wanted = 0, length - 1, count - 1
    while left < right:
        middle = (left + right) >> 1
        a, b, c = keys[left], keys[middle], keys[right]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = left, right
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if wanted <= j:
            right = j
        elif wanted >= i:
            left = i
        else:
            break
    return keys[wanted]


@kernel
@no_type_check
def _floor(c, row, width, count, groups, marks, keys):
    """A number that at least `count` entries of a row are not below: the count-th largest maximum of groups."""
    beta, slack, base = one(c.beta[row]), one(c.slack), row * width
    for first in range(0, groups, 32):
        p, q = pair(c.products, base + first)
        low, high = _low(p, c, beta, slack, first), _low(q, c, beta, slack, first + 16)
        for at in range(first + groups, width, groups):
            p, q = pair(c.products, base + at)
            low = larger(low, _low(p, c, beta, slack, at))
            high = larger(high, _low(q, c, beta, slack, at + 16))
        store(marks, first, low)
        store(marks, first + 16, high)
    for i in range(groups):
        keys[i] = rank(marks[i])
    return unranked(kth(keys, groups, count))


@kernel
@no_type_check
def _candidates(c, row, width, level, found, values):
    """Columns that may reach the level, and their coarse pre-activations."""
    beta, slack, base, bar, count = one(c.beta[row]), one(c.slack), row * width, one(level), 0
    spill = np.empty(32, np.float32)
    for at in range(0, width, 32):
        p, q = pair(c.products, base + at)
        bits = reaching(_high(p, c, beta, slack, at), bar)
        bits |= reaching(_high(q, c, beta, slack, at + 16), bar) << 16
        if bits:
            store(spill, 0, add(p, load(c.offset, at)))
            store(spill, 16, add(q, load(c.offset, at + 16)))
            while bits:
                lane = lowest(bits)
                found[count], values[count] = at + lane, spill[lane]
                count += 1
                bits &= bits - 1
    return count


@kernel
@no_type_check
def largest_of_rows(c, fine, groups, values, latents):
    """The largest pre-activations of every row, as many as `values` [rows, count] has room for, by rising latent."""
    rows, count = values.shape
    k, d = fine.weights.shape
    width, table, x = len(c.offset), fine.weights.reshape(-1), fine.x.reshape(-1)
    marks, keys = np.empty(groups, np.float32), np.empty(max(width, groups), np.int32)
    found, size = np.empty(width, np.int64), np.empty(width, np.float32)
    for row in range(rows):
        level = np.float32(-np.inf)
        if count <= groups and groups < width:
            level = _floor(c, row, width, count, groups, marks, keys)
        some = _candidates(c, row, width, level, found, size)
        while some > 0 and found[some - 1] >= k:  # columns that only fill up
            some -= 1
        if c.slack == 0 and not c.exact:  # the coarse ones decide
            some = _largest(size, found, some, count, keys)
        if not c.exact:
            for i in range(some):
                if i + 2 < some:
                    fetch(table, found[i + 2] * d, d)
                size[i] = dot(x, row * d, table, found[i] * d, d) + fine.bias[found[i]]
        _largest(size, found, some, count, keys)
        for i in range(count):
            values[row, i], latents[row, i] = size[i], found[i]


@kernel
@no_type_check
def _largest(size, found, some, count, keys):
    """Keep the largest of the first `some`, in their order; of equal ones the first."""
    for i in range(some):
        keys[i] = rank(size[i])
    cut, above = kth(keys, some, count), 0
    for i in range(some):
        above += rank(size[i]) > cut
    ties, at = count - above, 0
    for i in range(some):
        key = rank(size[i])
        if key > cut or (key == cut and ties > 0):
            ties -= key == cut
            size[at], found[at] = size[i], found[i]
            at += 1
    return count


@kernel
@no_type_check
def reachers(c, rows, levels, start, out_rows, out_latents, bounds):
    """Pairs that may reach the level of their latent, with their bounds [2, room]; returns how many there are.

    What there is no room for is only counted. Infinite levels are never reached.
    """
    width, count, room = len(c.offset), 0, len(out_rows)
    slack, spill = one(c.slack), np.empty(64, np.float32)
    for row in range(rows):
        beta, base = one(c.beta[row]), row * width
        for at in range(0, width, 32):
            p, q = pair(c.products, base + at)
            high, upper = _high(p, c, beta, slack, at), _high(q, c, beta, slack, at + 16)
            bits = reaching(high, load(levels, at)) | (reaching(upper, load(levels, at + 16)) << 16)
            if bits:
                store(spill, 0, _low(p, c, beta, slack, at))
                store(spill, 16, _low(q, c, beta, slack, at + 16))
                store(spill, 32, high)
                store(spill, 48, upper)
                while bits:
                    lane = lowest(bits)
                    if count < room and levels[at + lane] < np.inf:
                        out_rows[count], out_latents[count] = start + row, at + lane
                        bounds[0, count], bounds[1, count] = spill[lane], spill[32 + lane]
                    count += levels[at + lane] < np.inf
                    bits &= bits - 1
    return count


@kernel
@no_type_check
def crest(c, rows, best):
    """Raise `best` [width] to what some row of the block is not below."""
    width, slack = len(c.offset), one(c.slack)
    for row in range(rows):
        beta, base = one(c.beta[row]), row * width
        for at in range(0, width, 32):
            p, q = pair(c.products, base + at)
            store(best, at, larger(load(best, at), _low(p, c, beta, slack, at)))
            store(best, at + 16, larger(load(best, at + 16), _low(q, c, beta, slack, at + 16)))


@kernel
@no_type_check
def tally(bounds, count, histogram):
    """Count numbers by the upper half of their rank, [65536]."""
    for i in range(count):
        histogram[(rank(bounds[i]) >> 16) + 32768] += 1


@kernel
@no_type_check
def tallied(histogram, count):
    """A number that at least `count` of the counted ones are not below; −∞ if there are fewer."""
    seen = 0
    for i in range(len(histogram) - 1, -1, -1):
        seen += histogram[i]
        if seen >= count:
            return unranked(np.int32((i - 32768) << 16))
    return np.float32(-np.inf)


@kernel
@no_type_check
def largest(values, places):
    """Places, ascending, of the largest numbers, as many as there is room for; of equal ones the first."""
    keys, count = np.empty(len(values), np.int32), len(places)
    for i in range(len(values)):
        keys[i] = rank(values[i])
    cut, above = kth(keys, len(values), count), 0
    for i in range(len(values)):
        above += rank(values[i]) > cut
    ties, at = count - above, 0
    for i in range(len(values)):
        key = rank(values[i])
        if key > cut or (key == cut and ties > 0):
            ties -= key == cut
            places[at] = i
            at += 1


@kernel
@no_type_check
def coarsen(table, order, span, out, norm, error):
    """Rows order[i] of a table as bfloat16 numbers, the norms of what that makes of them, and of what it leaves out.

    Places with order −1 are not touched.
    """
    d, flat, target = table.shape[1], table.reshape(-1), out.reshape(-1)
    whole = d // LINE * LINE
    rest, buffer = np.zeros(LINE, np.float32), np.empty(LINE, np.uint16)
    for i in range(span[0], span[1]):
        source = order[i]
        if source < 0:
            continue
        size = one(np.float32(0))
        lost = size
        for c in range(0, whole, LINE):
            value = load(flat, source * d + c)
            near = rounded(value)
            store_half(target, i * d + c, near)
            gap = fused(near, one(np.float32(-1)), value)
            size, lost = fused(near, near, size), fused(gap, gap, lost)
        if whole < d:
            rest[: d - whole] = table[source, whole:]
            value = load(rest, 0)
            near = rounded(value)
            store_half(buffer, 0, near)
            out[i, whole:] = buffer[: d - whole]
            gap = fused(near, one(np.float32(-1)), value)
            size, lost = fused(near, near, size), fused(gap, gap, lost)
        norm[source], error[source] = np.sqrt(total(size)), np.sqrt(total(lost))


@kernel
@no_type_check
def survey(c, rows, k, histogram):
    """`tally` of what the first k columns of a block are not below."""
    width, slack, spill = len(c.offset), one(c.slack), np.empty(32, np.float32)
    for row in range(rows):
        beta, base = one(c.beta[row]), row * width
        for at in range(0, width, 32):
            p, q = pair(c.products, base + at)
            store(spill, 0, _low(p, c, beta, slack, at))
            store(spill, 16, _low(q, c, beta, slack, at + 16))
            for i in range(min(32, k - at)):
                histogram[(rank(spill[i]) >> 16) + 32768] += 1
