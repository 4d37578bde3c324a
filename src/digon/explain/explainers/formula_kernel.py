"""Compiled step of the search for formulas: which literals to add.

This module imports numba; import it lazily.
"""

from typing import no_type_check

import numpy as np

from ...worlds.lanes import kernel

BLOCK = 512
"""Concepts that are looked at together: they fit the cache, and most such groups hold none that is worth a logarithm."""


@kernel
@no_type_check
def _joined(out, base, added, sign, taken):
    """base + added + sign · taken. Apart from the rest, so that the compiler makes vectors of it."""
    for k in range(len(out)):
        out[k] = base + added[k] + sign * taken[k]


@kernel
@no_type_check
def _worthwhile(worth, sums, numbers, over, power, rows, least):
    """Mark literals that could save more bits than so many, and count them: −ln(1 − x) ≤ x/(1 − x) needs no logarithm."""
    scale, steep = power / rows, rows / 2 / np.log(2.0)
    count = 0
    for k in range(len(sums)):
        n = numbers[k]
        pays = sums[k] * sums[k] * (steep + over[k]) > over[k] * n * (rows - n) * scale
        mark = pays & (n >= least) & (n <= rows - least)
        worth[k] = mark
        count += mark
    return count


@kernel
@no_type_check
def _insert(lengths, chosen, length, concept):
    """Put a length where it belongs; the longest one falls out."""
    j = len(lengths) - 1
    while j > 0 and lengths[j - 1] > length:
        lengths[j] = lengths[j - 1]
        chosen[j] = chosen[j - 1]
        j -= 1
    lengths[j] = length
    chosen[j] = concept


@kernel
@no_type_check
def offers(sums, before, joining, price, discount, power, rows, limit, shape):
    """The literals with the shortest descriptions for each operation: lengths and concepts [4, width], shortest first.

    `sums` and numbers of rows: [2, concepts + 1] of the rows that the finished clauses leave, the same of what the last clause
    adds, [2, some] of the pool, the rows that the last literal shuts out. `before` are the totals of the finished clauses.
    Concepts from `joining` on, as many as the pool has sums of, may join that literal at a discount. `limit` is finite;
    nothing as long is offered. `shape`: the fewest rows on which a formula is true or false, and how many to offer.
    """
    rest, clause, pool = sums
    least, width = shape
    last = len(price)
    lengths, chosen = np.full((4, width), np.inf), np.full((4, width), -1)
    both, over, worth = np.empty((2, BLOCK)), np.empty(BLOCK), np.empty(BLOCK, np.bool_)
    zero = np.zeros(BLOCK)
    for operation in range(4):
        off = discount if operation == 3 else 0.0
        begin = joining if operation == 3 else 0
        end = joining + pool.shape[1] if operation == 3 else last
        for start in range(begin, end, BLOCK):
            size = min(BLOCK, end - start)
            stop = start + size
            for side in range(2):
                base = before[side] if operation == 1 else before[side] + clause[side, last]
                mine, out = clause[side, start:stop], both[side, :size]
                if operation == 0:
                    _joined(out, base, rest[side, start:stop], -1.0, mine)
                elif operation == 3:
                    _joined(out, base, pool[side, start - joining : stop - joining], 0.0, zero[:size])
                else:
                    _joined(out, base, zero[:size], 1.0 if operation == 1 else -1.0, mine)
            worst = min(limit, lengths[operation, width - 1])
            _joined(over[:size], -off - worst, price[start:stop], 0.0, zero[:size])
            if not _worthwhile(worth, both[0, :size], both[1, :size], over, power, rows, least):
                continue
            known, need = np.nan, 0.0
            for k in range(size):
                if worth[k]:
                    s, n = both[0, k], both[1, k]
                    share = min(s * s * rows / (n * (rows - n) * power), 1 - 1e-12)
                    cost = price[start + k] - off
                    if (
                        cost != known
                    ):  # few prices: the share that beats the worst of the best is known, without logarithms
                        known, need = cost, 1 - 2 ** (2 / rows * (worst - cost))
                    if share > need:
                        _insert(lengths[operation], chosen[operation], rows / 2 * np.log2(1 - share) + cost, start + k)
                        worst, known = min(limit, lengths[operation, width - 1]), np.nan
    return lengths, chosen
