"""Adam on the mean loss of one small network, half a cosine down: enough for networks that train in seconds."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ....errors import NonFiniteError


def minimize(
    parameters: Sequence[Tensor],
    loss: Callable[[], Float[Tensor, ""]],
    *,
    steps: int,
    peak: float,
    weight_decay: float = 0.0,
) -> float:
    """Train `parameters` in place and say what the loss was at the end.

    Raises: NonFiniteError if it is not finite.
    """
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * (1 + math.cos(math.pi * step / steps)) / 2
        now = loss()
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
    for p in parameters:
        p.requires_grad_(False)
    last = float(loss())
    if not math.isfinite(last):
        raise NonFiniteError(f"the loss became {last}", hint="another seed, or fewer units")
    return last


def weights(rows: int, columns: int, generator: torch.Generator, scale: float = 1.0) -> Float[Tensor, "rows columns"]:
    """Gaussian weights that keep the size of what passes through them, times `scale`."""
    return scale * torch.randn(rows, columns, generator=generator) / rows**0.5
