"""Random numbers one by one, for compiled code: bits by splitmix64, normal numbers by the ziggurat.

This module imports numba; import it lazily.
Sources: Steele, Lea & Flood 2014 (splitmix64); Marsaglia & Tsang 2000, as corrected by Doornik 2005 (ziggurat).
"""

import math
from typing import no_type_check

import numpy as np

from ..eights import inlined

LAYERS = 256
EDGE, AREA = 3.6541528853610088, 0.00492867323399
"""Where the ziggurat's tail begins, and the area of its layers."""
GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def ziggurat() -> tuple[np.ndarray, np.ndarray]:
    """Edges and heights of layers of equal area under exp(−z²/2)."""
    edges = np.zeros(LAYERS + 1)
    edges[0], edges[1] = AREA / math.exp(-EDGE * EDGE / 2), EDGE
    for i in range(2, LAYERS):
        edges[i] = math.sqrt(-2 * math.log(AREA / edges[i - 1] + math.exp(-(edges[i - 1] ** 2) / 2)))
    return edges, np.exp(-(edges**2) / 2)


@inlined
@no_type_check
def bits(state):
    """64 random bits."""
    state[0] += GOLDEN
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


@inlined
@no_type_check
def normal(edges, heights, state):
    """A standard normal number."""
    while True:
        word = bits(state)
        layer = int(word & np.uint64(LAYERS - 1))
        z = (np.int64(word) >> 11) * 2.0**-52 * edges[layer]
        if abs(z) < edges[layer + 1]:
            return z
        if layer == 0:
            while True:
                far = -math.log(uniform(state)) / EDGE
                if -2 * math.log(uniform(state)) > far * far:
                    return EDGE + far if z > 0 else -EDGE - far
        rise = heights[layer + 1] - heights[layer]
        if heights[layer] + uniform(state) * rise < math.exp(-z * z / 2):
            return z


@inlined
@no_type_check
def uniform(state):
    """A number in (0, 1]."""
    return ((bits(state) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
