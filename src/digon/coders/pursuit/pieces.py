"""Rows in pieces of bounded memory, and codes that are as sparse as their fullest row."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ...tensors import Codes

NUMBERS = 2**24
"""Numbers that a piece may hold at once."""
DENSE = 4
"""Codes are kept dense once the fullest row uses more than one atom in so many."""


def in_pieces(x: Float[Tensor, "n d"], numbers: int, solve: Callable[[Tensor], Codes]) -> Codes:
    """`solve` on pieces of rows; `numbers` is what one row holds while it is solved."""
    return join([solve(part) for part in x.split(max(16, NUMBERS // max(1, numbers)))])


def join(parts: Sequence[Codes]) -> Codes:
    """Codes of pieces as one, dense if a piece of them is, else as wide as the fullest row."""
    width = parts[0].width
    if any(part.indices is None for part in parts):
        return Codes(torch.cat([part.dense() for part in parts]), None, width)
    size = max(part.values.shape[1] for part in parts)
    pad = lambda t: F.pad(t, (0, size - t.shape[1]))  # noqa: E731
    indices = [pad(part.indices) for part in parts if part.indices is not None]
    return Codes(torch.cat([pad(part.values) for part in parts]), torch.cat(indices), width)


def compact(codes: Float[Tensor, "n k"]) -> Codes:
    """Dense codes as values and indices, unless the fullest row is not sparse."""
    n, width = codes.shape
    fullest = int((codes != 0).sum(1).amax()) if n and width else 0
    if DENSE * max(1, fullest) > width:
        return Codes(codes, None, width)
    indices = codes.abs().topk(max(1, fullest), dim=1, sorted=False).indices
    return Codes(codes.gather(1, indices), indices, width)
