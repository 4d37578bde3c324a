"""Adam on any loss: for networks that `worlds/fit` does not know (projections, mixed labels, fixed data sets, causes).

Parameters carry a leading axis of instances; the loss is one number per instance, so that instances never mix.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NonFiniteError

CHECK = 200
"""Steps between two looks at whether the loss is finite."""


def rate(step: int, steps: int, peak: float, warmup: float = 0.0) -> float:
    """Learning rate: linear rise over the share `warmup` of the steps, then half a cosine down to zero.

    >>> [round(rate(s, 10, 1.0, 0.2), 2) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rise = warmup * steps
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def minimize(
    parameters: Sequence[Tensor],
    loss: Callable[[int], Float[Tensor, " i"]],
    *,
    steps: int,
    peak: float,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    schedule: Literal["cosine", "constant"] = "cosine",
    after: Callable[[int, float], None] | None = None,
) -> None:
    """AdamW on the sum of `loss(step)` over instances; `after(step, rate)` may change parameters behind every step.

    Raises: NonFiniteError if the loss stops being finite.
    """
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=weight_decay)
    for step in range(steps):
        now = rate(step, steps, peak, warmup) if schedule == "cosine" else peak
        for group in optimizer.param_groups:
            group["lr"] = now
        total = loss(step).sum()
        if step % CHECK == 0 and not total.isfinite():
            raise NonFiniteError(f"the loss became {total.item()} by step {step}", hint="lower the learning rate")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if after is not None:
            with torch.no_grad():
                after(step, now)
    for p in parameters:
        p.requires_grad_(False)
