"""Where compiled loops can be used."""

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor


def compiled(*tensors: Tensor) -> bool:
    """Whether tensors are on a processor, of numbers that the kernels know, and numba is there."""
    kinds = (torch.float32, torch.int64)
    return has_numba() and all(t.device.type == "cpu" and t.dtype in kinds for t in tensors)


@lru_cache
def has_numba() -> bool:
    """Whether numba can be imported."""
    return find_spec("numba") is not None


@lru_cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers faster than float32 ones."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
