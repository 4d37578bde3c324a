"""Fresh samples for the kernel of the sampled engine, sixteen at a time.

    draw     every number of every sample; one draw decides whether a feature is active and, rescaled, its value
    leap     rare features: from one active sample to the next by geometric gaps, listing what is active

`leap` puts samples in which anything is active first and leaves out the others: they cost nothing, see `idle`.

Source of the generator, xoshiro128+: Blackman and Vigna 2021, "Scrambled linear pseudorandom number generators".
"""

import math
from typing import no_type_check

import numpy as np

from .lanes import WIDTH, either, fused, kernel, load, plus, real, shifted, splat, store, within

LANES = WIDTH
DRAWS = 2.0**31


@kernel
@no_type_check
def draw(plan, law, scratch, i, words, tiles):
    """Fresh samples into the tiles of x, advancing the generators."""
    n, x, shared = plan.n, scratch.x, scratch.shared
    s0, s1, s2, s3 = load(words, 0), load(words, 16), load(words, 32), load(words, 48)
    for p in range(0, len(shared), LANES):
        r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
        store(shared, p, r)
    for j in range(n):
        low, span, own = law.low[i, j], law.span[i, j], law.source[j] < 0
        scale, shift, minus = splat(law.scale[i, j]), splat(law.shift[i, j]), splat(np.uint32(-np.int64(low)))
        begin = max(law.source[j], 0) * plan.tiles
        for t in range(tiles):
            if own or law.fresh[j]:
                r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
            else:
                r = load(shared, (begin + t) * LANES)
            gate = r if own else load(shared, (begin + t) * LANES)
            value = fused(scale, real(r if law.fresh[j] else plus(r, minus)), shift)
            store(x, (t * n + j) * LANES, within(gate, low, np.uint32(low + span), value))
    store(words, 0, s0)
    store(words, 16, s1)
    store(words, 32, s2)
    store(words, 48, s3)


@kernel
@no_type_check
def advance(s0, s1, s2, s3):
    """One draw of 31 bits in every lane, and the generators' next state."""
    r = shifted(plus(s0, s3), np.uint32(0), np.uint32(1))
    t = shifted(s1, np.uint32(9), np.uint32(0))
    s2 = either(s2, s0)
    s3 = either(s3, s1)
    s1 = either(s1, s2)
    s0 = either(s0, s3)
    s2 = either(s2, t)
    s3 = either(shifted(s3, np.uint32(11), np.uint32(0)), shifted(s3, np.uint32(0), np.uint32(21)))
    return r, s0, s1, s2, s3


@kernel
@no_type_check
def leap(plan, law, scratch, i, words, rows):
    """Fresh samples of rare, independent features; returns in how many of the rows anything is active."""
    n, active, count, used = plan.n, scratch.active, 0, LANES
    clear(scratch.x, active, n)
    s0, s1, s2, s3 = load(words, 0), load(words, 16), load(words, 32), load(words, 48)
    gaps, values = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    for j in range(n):
        row, rate = -1.0, 1 / np.log1p(-min(law.span[i, j] / DRAWS, 1.0))
        scale, shift = law.scale[i, j] * (law.span[i, j] / np.float32(DRAWS)), law.shift[i, j]
        active.first[j] = count
        while True:
            if used == LANES:
                r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
                store(gaps, 0, r)
                r, s0, s1, s2, s3 = advance(s0, s1, s2, s3)
                store(values, 0, r)
                used = 0
            row += 1 + math.floor(rate * math.log((gaps[used] + 1) / DRAWS))
            if row >= rows:
                used += 1
                break
            active.row[count], active.value[count] = int(row), scale * np.float32(values[used]) + shift
            count, used = count + 1, used + 1
    active.first[n] = count
    store(words, 0, s0)
    store(words, 16, s1)
    store(words, 32, s2)
    store(words, 48, s3)
    return gather(plan, scratch, rows)


@kernel
@no_type_check
def gather(plan, scratch, rows):
    """Give rows with anything active the first places, and put the samples into the tiles of x."""
    n, x, active, place = plan.n, scratch.x, scratch.active, scratch.place
    for row in range(rows):
        place[row] = -1
    busy = 0
    for j in range(n):
        for q in range(active.first[j], active.first[j + 1]):
            row = active.row[q]
            if place[row] < 0:
                place[row] = busy
                busy += 1
            row = place[row]
            active.row[q] = row
            x[((row // LANES) * n + j) * LANES + row % LANES] = active.value[q]
    return busy


@kernel
@no_type_check
def clear(x, active, n):
    """Make the samples of the last time 0 again."""
    for j in range(n):
        for q in range(active.first[j], active.first[j + 1]):
            x[((active.row[q] // LANES) * n + j) * LANES + active.row[q] % LANES] = 0
