"""Sparse codes at the cost of their active latents: which pairs (row, latent) take part, and products with them.

support   products with sparse codes, forward and backward
rules     which pairs take part: rules, and the readable search for every device
blocks    the same search on processors, compiled
top       the largest entries of a matrix
order     sorting pairs
kernel, sum_kernel   compiled loops; lanes: vector operations of theirs; engine: where they can be used;
          `digon.threads`: who runs them
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .engine import compiled
from .rules import Above as Above
from .rules import Found as Found
from .rules import PerBatch as PerBatch
from .rules import PerRow as PerRow
from .rules import Precision as Precision
from .rules import Rule as Rule
from .rules import scan
from .support import Support as Support
from .support import decode as decode
from .support import encode as encode
from .support import rebuild as rebuild
from .support import spread as spread
from .support import squared_distance as squared_distance
from .top import overall_top as overall_top
from .top import rowwise_top as rowwise_top


@torch.no_grad()
def search(
    centered: Float[Tensor, "n d"],
    encoder: tuple[Float[Tensor, "k d"], Float[Tensor, " k"]],
    rule: Rule,
    eligible: Bool[Tensor, " k"] | None = None,
    precision: Precision = "float32",
    claim: Callable[[Tensor], Tensor] | None = None,
) -> Found:
    """Pairs that a rule picks from z = centered · weightsᵀ + bias, and the peaks of eligible latents, sorted by row.

    `precision` is that of the products that the search compares; z itself is in the weights' dtype in any case. Where
    other processes look at other rows, `claim` tells from the peaks [k] which of them are the largest of all rows.
    """
    weights, bias = encoder
    if compiled(centered, weights, bias):
        from . import blocks

        found, peaks = blocks.scan(blocks.Encoder(centered, weights, bias, rule, precision), rule, eligible)
    else:
        found, peaks = scan(centered, weights, bias, rule, eligible is not None, precision)
    if eligible is not None and peaks is not None:
        found = peaks.add_to(found, eligible if claim is None else eligible & claim(peaks.z))
    return rule.settle(found, len(centered))
