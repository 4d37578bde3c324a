"""Compiled loops over the rows on which concepts hold; a concept is a list of disjoint intervals of rows.

Sums over intervals are differences of one running sum, so a sum for every concept costs one pass over all intervals.

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import kernel


@kernel
@no_type_check
def sums(values, offsets, starts, stops):
    """Sum of the values over the rows of every concept; the total of all rows comes last."""
    running = np.empty(len(values) + 1)
    total = 0.0
    running[0] = 0.0
    for i in range(len(values)):
        total += values[i]
        running[i + 1] = total
    out = np.empty(len(offsets))
    for c in range(len(offsets) - 1):
        s = 0.0
        for j in range(offsets[c], offsets[c + 1]):
            s += running[stops[j]] - running[starts[j]]
        out[c] = s
    out[len(offsets) - 1] = total
    return out


@kernel
@no_type_check
def add(values, offsets, starts, stops, concept, amount):
    """Add a number to the values on the rows of one concept; their sum before."""
    s = 0.0
    for j in range(offsets[concept], offsets[concept + 1]):
        for i in range(starts[j], stops[j]):
            s += values[i]
            values[i] += amount
    return s


@kernel
@no_type_check
def settle(residual, offsets, starts, stops, counts, chosen, weights, ridge, sweeps):
    """Ridge weights of the chosen concepts by coordinate descent; residual and weights change, the intercept is returned."""
    rest = 0.0
    n = len(residual)
    for _ in range(sweeps):
        moved = 0.0
        mean = 0.0
        for i in range(n):
            mean += residual[i]
        mean /= n
        rest += mean
        for i in range(n):
            residual[i] -= mean
        for k in range(len(chosen)):
            c = chosen[k]
            s = 0.0
            for j in range(offsets[c], offsets[c + 1]):
                for i in range(starts[j], stops[j]):
                    s += residual[i]
            step = (s - ridge * weights[k]) / (counts[c] + ridge)
            weights[k] += step
            moved = max(moved, abs(step) * np.sqrt(counts[c]))
            for j in range(offsets[c], offsets[c + 1]):
                for i in range(starts[j], stops[j]):
                    residual[i] -= step
        power = 0.0
        for i in range(n):
            power += residual[i] * residual[i]
        if moved * moved < 1e-8 * power or moved == 0:
            break
    return rest


@kernel
@no_type_check
def masked(values, mask, offsets, starts, stops):
    """Sum of the values and number of the rows that a mask keeps, for every concept; those of all rows come last."""
    running = np.empty((len(values) + 1, 2))
    running[0] = 0.0
    total, number = 0.0, 0.0
    for i in range(len(values)):
        if mask[i]:
            total += values[i]
            number += 1.0
        running[i + 1, 0] = total
        running[i + 1, 1] = number
    concepts = len(offsets) - 1
    out = np.empty((2, concepts + 1))
    for c in range(concepts):
        s, n = 0.0, 0.0
        for j in range(offsets[c], offsets[c + 1]):
            s += running[stops[j], 0] - running[starts[j], 0]
            n += running[stops[j], 1] - running[starts[j], 1]
        out[0, c] = s
        out[1, c] = n
    out[0, concepts] = total
    out[1, concepts] = number
    return out


@kernel
@no_type_check
def mark(rows, offsets, starts, stops, concept):
    """Which of so many rows a concept holds on."""
    mask = np.zeros(rows, dtype=np.bool_)
    for j in range(offsets[concept], offsets[concept + 1]):
        for i in range(starts[j], stops[j]):
            mask[i] = True
    return mask


@kernel
@no_type_check
def walked(values, mask, tokens, places, begins, index, bands, depths):
    """What `masked` gives, by looking back from every row of a sparse mask.

    `tokens` are those of the text, numbered from 0; `places` and `begins` are where every row and its run are in it;
    `index` [1 + windows, tokens] is the number of every concept, or −1; `bands` is the narrowest window that reaches each
    lag, the last one all others; `depths` are the depths asked for and their concepts.
    """
    windows, distinct = index.shape[0] - 1, index.shape[1]
    concepts = max(index.max(), depths[1].max()) + 1
    seen = np.full(distinct, -1)
    sums = np.zeros((windows, distinct, 2))
    deep = np.zeros((depths.shape[1], 2))
    out = np.zeros((2, concepts + 1))
    for i in range(len(values)):
        if not mask[i]:
            continue
        place, value = places[i], values[i]
        out[0, concepts] += value
        out[1, concepts] += 1.0
        own = index[0, tokens[place]]
        if own >= 0:
            out[0, own] += value
            out[1, own] += 1.0
        for back in range(1, place - begins[i] + 1):
            token = tokens[place - back]
            if seen[token] != i:
                seen[token] = i
                band = bands[back] if back < len(bands) else windows - 1
                sums[band, token, 0] += value
                sums[band, token, 1] += 1.0
        level = np.searchsorted(depths[0], place - begins[i], "right") - 1
        if level >= 0:
            deep[level, 0] += value
            deep[level, 1] += 1.0
    for token in range(distinct):
        if seen[token] >= 0:
            s, n = 0.0, 0.0
            for band in range(windows):
                s += sums[band, token, 0]
                n += sums[band, token, 1]
                if index[band + 1, token] >= 0:
                    out[0, index[band + 1, token]] = s
                    out[1, index[band + 1, token]] = n
    s, n = 0.0, 0.0
    for level in range(depths.shape[1] - 1, -1, -1):
        s += deep[level, 0]
        n += deep[level, 1]
        if depths[1, level] >= 0:
            out[0, depths[1, level]] = s
            out[1, depths[1, level]] = n
    return out


@kernel
@no_type_check
def offers(sums, price, alike, discount, power, rows, limit, least, width):
    """The literals with the shortest descriptions for each operation: lengths and concepts [4, width], shortest first.

    `sums` are those of all rows, of the formula, of what its last clause adds, and of the pool, the rows that the last literal
    shuts out; where `alike` is true, a concept may join that literal at a discount.
    """
    everywhere, union, clause, pool = sums
    lengths = np.full((4, width), np.inf)
    chosen = np.full((4, width), -1)
    last = len(price)
    for c in range(last):
        for operation in range(4 if alike[c] else 3):
            cost = price[c]
            if operation == 0:
                s = union[0, last] + everywhere[0, c] - union[0, c]
                n = union[1, last] + everywhere[1, c] - union[1, c]
            elif operation == 1:
                s = union[0, last] - clause[0, last] + clause[0, c]
                n = union[1, last] - clause[1, last] + clause[1, c]
            elif operation == 2:
                s = union[0, last] - clause[0, c]
                n = union[1, last] - clause[1, c]
            else:
                s = union[0, last] + pool[0, c]
                n = union[1, last] + pool[1, c]
                cost -= discount
            if n < least or n > rows - least:
                continue
            share = min(s * s / (n * (1 - n / rows)) / power, 1 - 1e-12)
            worst = min(limit, lengths[operation, width - 1])
            # −ln(1 − x) ≤ x/(1 − x): most literals are out before their logarithm is needed
            if cost - rows / 2 * share / (1 - share) / np.log(2.0) >= worst:
                continue
            length = rows / 2 * np.log2(1 - share) + cost
            if length < worst:
                k = width - 1
                while k > 0 and lengths[operation, k - 1] > length:
                    lengths[operation, k] = lengths[operation, k - 1]
                    chosen[operation, k] = chosen[operation, k - 1]
                    k -= 1
                lengths[operation, k] = length
                chosen[operation, k] = c
    return lengths, chosen
