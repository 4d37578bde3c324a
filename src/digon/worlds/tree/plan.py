"""The law of a tree world as the compiled sampler reads it: numpy arrays in the order of use."""

import math

import numpy as np
from scipy.special import log_ndtr
from torch import Tensor

from ...tensors import Dictionary
from . import dice, kernel
from .law import Law

UNIT = 2**23 / math.log(2)
"""Bounds of logarithms are kept in the last places of a float's exponent."""
TANGENTS = np.linspace(-7, 4, 111)
"""Points at which log Λ may be bounded by its tangent."""

SLACK = 64
"""More than rounding takes from a bound."""


def plan(law: Law, dictionary: Dictionary, scale_children: bool) -> kernel.Plan:
    """Arrays of the compiled sampler."""
    tops = law.tops.numpy()
    tilt, lift, slope = _bounds(law)
    group, mixing, offset, width = _groups(law)
    edges, heights = dice.ziggurat()
    return kernel.Plan(
        rank=law.mixing.shape[1],
        tops=tops.astype(np.int32),
        tilt=tilt,
        lift=lift,
        slope=slope,
        first=law.first_child.numpy().astype(np.int32),
        children=law.children.numpy().astype(np.int32),
        width=width,
        group=group,
        mixing=mixing,
        offset=offset,
        mean=_single(law.mean),
        spread=_single(law.spread),
        scale=scale_children,
        atoms=_words(dictionary.atoms),
        bias=_wide(dictionary.bias[None])[0],
        quantiles=kernel.quantiles(),
        edges=edges,
        heights=heights,
    )


def _single(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.numpy(), dtype=np.float32)


def _words(values: Tensor) -> np.ndarray:
    """Pairs of bfloat16 numbers: of every 32 in a row, number i lies in the lower half of word i, number 16 + i in the upper."""
    bits = _wide(values).view(np.uint32)
    assert not (bits & 0xFFFF).any(), "atoms must be bfloat16 numbers"
    low, high = bits.reshape(len(bits), -1, 2, kernel.LANES).transpose(2, 0, 1, 3)
    return np.ascontiguousarray((low >> 16 | high).reshape(len(bits), -1))


def _wide(values: Tensor) -> np.ndarray:
    """Rows padded with zeros to a multiple of 32."""
    return np.pad(_single(values), ((0, 0), (0, -values.shape[1] % (2 * kernel.LANES))))


def _standard(law: Law) -> tuple[np.ndarray, np.ndarray]:
    """C/r and t/r: a feature fires where C/r · ε − t/r > N(0, 1)."""
    residue = law.residue.numpy()
    return law.mixing.numpy() / residue[:, None], law.threshold.numpy() / residue


def _bounds(law: Law) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tangents of log Λ that leave the fewest candidates on average, tile by tile, and the way back from a bound to x."""
    tops = law.tops.numpy()
    mixing, offset = (v[tops] for v in _standard(law))
    survival = log_ndtr(-TANGENTS)
    level = np.log(-survival)
    steepness = np.exp(-(TANGENTS**2) / 2 - survival - level) / math.sqrt(2 * math.pi)
    # E[exp(level + steepness (x − point))] for the normal x of a feature
    spread = np.square(mixing).sum(1)[:, None]
    expected = level + steepness * (-offset[:, None] - TANGENTS) + np.square(steepness) * spread / 2
    best = expected.argmin(1)
    level, steepness, point = level[best], steepness[best], TANGENTS[best]
    tiles = -(-len(tops) // kernel.TILE)
    tilt = np.zeros((tiles * kernel.TILE, mixing.shape[1]), np.float32)
    lift = np.full(tiles * kernel.TILE, -1e30, np.float32)
    tilt[: len(tops)] = UNIT * steepness[:, None] * mixing
    lift[: len(tops)] = UNIT * (level + steepness * (-offset - point)) + SLACK
    slope = np.stack([1 / (UNIT * steepness), point - level / steepness], 1)
    return np.ascontiguousarray(tilt.reshape(tiles, kernel.TILE, -1).transpose(0, 2, 1)), lift, slope


def _groups(law: Law) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Children of every parent side by side; missing ones never fire."""
    mixing, offset = _standard(law)
    parents = (law.children > 0).nonzero().squeeze(1)
    most = int(law.children.max()) if len(law.children) else 0
    width = 1 << max(most - 1, 0).bit_length()
    rank = mixing.shape[1]
    length = -(-rank * width // kernel.LANES) * kernel.LANES
    group = np.full(len(law.parent), -1, np.int32)
    group[parents.numpy()] = np.arange(len(parents))
    rows = np.zeros((max(len(parents), 1), rank, width), np.float32)
    offsets = np.full((len(rows), width), np.inf, np.float32)
    for place in range(most):
        has = (law.children[parents] > place).numpy()
        child = (law.first_child[parents] + place).numpy()[has]
        rows[: len(parents), :, place][has] = mixing[child]
        offsets[: len(parents), place][has] = offset[child]
    padded = np.zeros((len(rows), length), np.float32)
    padded[:, : rank * width] = rows.reshape(len(rows), -1)
    return group, padded, offsets, width
