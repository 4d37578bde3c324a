"""Sorting pairs, compiled where that is possible."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .engine import compiled


def stable_order(keys: Int[Tensor, " nnz"], bins: int) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " bins"]]:
    """The stable order of keys from 0 to bins − 1, and where every key starts in it."""
    if compiled(keys):
        from . import sum_kernel

        order, starts = torch.empty_like(keys), keys.new_empty(bins)
        sum_kernel.counted(keys.numpy(), bins, starts.numpy(), order.numpy())
        return order, starts
    ordered, order = torch.sort(keys, stable=True)
    return order, torch.searchsorted(ordered, torch.arange(bins, device=keys.device))


def largest(values: Float[Tensor, " nnz"], count: int) -> Int[Tensor, " count"]:
    """Places, ascending, of the `count` largest numbers."""
    if compiled(values):
        from . import kernel

        places = torch.empty(count, dtype=torch.int64)
        kernel.largest(values.contiguous().numpy(), places.numpy())
        return places
    return values.topk(count, sorted=False).indices.sort().values
