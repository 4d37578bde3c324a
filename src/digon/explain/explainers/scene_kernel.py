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
def settle(residual, intervals, counts, chosen, weights, ridge, sweeps, tolerance):
    """Ridge weights of the chosen concepts by coordinate descent; residual and weights change, the intercept is returned.

    It ends when no step changes more than this share of the sum of squares. `intervals`: where those of every concept begin,
    their starts and stops.
    """
    offsets, starts, stops = intervals
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
        if moved * moved < tolerance * power or moved == 0:
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
def walked(values, rows, text, index, bands, depths, concepts):
    """What `masked` gives for a mask that keeps these rows, by looking back from each of them.

    `text`: its tokens, numbered from 0, and where each comes again in its run; where every row and its run are in it.
    `index` [1 + windows, tokens] is the number of every concept, or −1; `bands` is the narrowest window that reaches each
    lag, the last one all others; `depths` are the depths asked for and their concepts.
    """
    tokens, again, places, begins = text
    windows, distinct = index.shape[0] - 1, index.shape[1]
    seen = np.zeros(distinct, np.bool_)
    touched = np.empty(distinct, np.int64)
    count = 0
    sums = np.zeros((distinct, windows, 2))
    deep = np.zeros((depths.shape[1], 2))
    out = np.zeros((2, concepts + 1))
    for i in rows:
        place, value = places[i], values[i]
        out[0, concepts] += value
        out[1, concepts] += 1.0
        own = index[0, tokens[place]]
        if own >= 0:
            out[0, own] += value
            out[1, own] += 1.0
        for at in range(place - 1, begins[i] - 1, -1):
            if again[at] < place:  # the same token stands nearer to the row
                continue
            token = tokens[at]
            if not seen[token]:
                seen[token] = True
                touched[count] = token
                count += 1
            back = place - at
            band = bands[back] if back < len(bands) else windows - 1
            sums[token, band, 0] += value
            sums[token, band, 1] += 1.0
        level = np.searchsorted(depths[0], place - begins[i], "right") - 1
        if level >= 0:
            deep[level, 0] += value
            deep[level, 1] += 1.0
    for token in touched[:count]:
        s, n = 0.0, 0.0
        for band in range(windows):
            s += sums[token, band, 0]
            n += sums[token, band, 1]
            concept = index[band + 1, token]
            if concept >= 0:
                out[0, concept] = s
                out[1, concept] = n
    s, n = 0.0, 0.0
    for level in range(depths.shape[1] - 1, -1, -1):
        s += deep[level, 0]
        n += deep[level, 1]
        if depths[1, level] >= 0:
            out[0, depths[1, level]] = s
            out[1, depths[1, level]] = n
    return out
