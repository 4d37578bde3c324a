"""Compiled matching of reversed token patterns, and the search for what could extend one.

A pattern is read from the row's own token backward; an edge is a token, any token, or the start of the run.

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import kernel


@kernel
@no_type_check
def _child(node, token, first, labels, targets):
    """The state that a token leads to, or −1."""
    low, high = first[node], first[node + 1]
    while low < high:
        middle = (low + high) // 2
        if labels[middle] < token:
            low = middle + 1
        else:
            high = middle
    return targets[low] if low < first[node + 1] and labels[low] == token else -1


@kernel
@no_type_check
def match(tokens, places, begins, table, first, labels, targets, anys, ends):
    """The most specific pattern of every row, by number of literals, then length, then nearer literals; −1 for none.

    `table` [lags, tokens + 1] holds the state after any tokens up to a lag and then a literal: most rows go no further.
    """
    found = np.full(len(places), -1)
    nodes, depths, literals = np.empty(4096, np.int64), np.empty(4096, np.int64), np.empty(4096, np.int64)
    for i in range(len(places)):
        top = 0
        for lag in range(min(len(table) - 1, places[i] - begins[i] + 1), -1, -1):
            at = places[i] - lag
            following = table[lag, tokens[at] + 1 if at >= begins[i] else 0]
            if following >= 0:
                nodes[top], depths[top], literals[top] = following, lag + 1, 1
                top += 1
        best_literals, best_length = 0, 0
        while top:
            top -= 1
            node, depth, count = nodes[top], depths[top], literals[top]
            if ends[node] >= 0 and (count > best_literals or (count == best_literals and depth > best_length)):
                found[i], best_literals, best_length = ends[node], count, depth
            at = places[i] - depth
            if at < begins[i] - 1:
                continue
            if anys[node] >= 0 and at >= begins[i]:
                nodes[top], depths[top], literals[top] = anys[node], depth + 1, count
                top += 1
            following = _child(node, tokens[at] if at >= begins[i] else -1, first, labels, targets)
            if following >= 0:
                nodes[top], depths[top], literals[top] = following, depth + 1, count + 1
                top += 1
    return found


@kernel
@no_type_check
def match_first(tokens, places, begins, table, first, labels, targets, anys, ends):
    """The pattern at which a walk that prefers the literal and never turns back ends first; −1 for none."""
    found = np.full(len(places), -1)
    for i in range(len(places)):
        node, at = 0, places[i]
        while node >= 0:
            if ends[node] >= 0:
                found[i] = ends[node]
                break
            if at < begins[i] - 1:
                break
            following = _child(node, tokens[at] if at >= begins[i] else -1, first, labels, targets)
            if following < 0 and at >= begins[i]:
                following = anys[node]
            node = following
            at -= 1
    return found


@kernel
@no_type_check
def extensions(values, rows, tokens, places, begins, scratch, least):
    """What every further literal would select from some rows: [k, 6] of lag, token, rows, sum, smallest, largest.

    `scratch` [lags, tokens + 1, 4] starts and ends as zeros; the last token is the start of the run.
    """
    lags, width = scratch.shape[0], scratch.shape[1]
    touched = np.empty((len(rows) * lags, 2), np.int64)
    count = 0
    for row in rows:
        value = values[row]
        for lag in range(lags):
            at = places[row] - lag
            if at < begins[row] - 1:
                break
            token = tokens[at] if at >= begins[row] else width - 1
            cell = scratch[lag, token]
            if cell[0] == 0:
                touched[count, 0], touched[count, 1] = lag, token
                count += 1
                cell[2], cell[3] = value, value
            cell[0] += 1.0
            cell[1] += value
            cell[2] = min(cell[2], value)
            cell[3] = max(cell[3], value)
    found = np.empty((count, 6))
    kept = 0
    for k in range(count):
        lag, token = touched[k, 0], touched[k, 1]
        cell = scratch[lag, token]
        if least <= cell[0] < len(rows):
            found[kept, 0], found[kept, 1] = lag, token
            for j in range(4):
                found[kept, 2 + j] = cell[j]
            kept += 1
        cell[:] = 0.0
    return found[:kept]
