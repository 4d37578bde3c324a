"""Adam on the mean loss of one small network, half a cosine down: enough for networks that train in seconds."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ....errors import NonFiniteError
from ... import loops


def minimize(
    parameters: Sequence[Tensor],
    loss: Callable[[], Float[Tensor, ""]],
    *,
    steps: int,
    peak: float,
    weight_decay: float = 0.0,
) -> float:
    """Train `parameters` in place and say what the loss was at the end.

    Raises: NonFiniteError if it is not finite, or was not on the way.
    """
    loops.minimize(parameters, lambda _: loss(), steps=steps, peak=peak, weight_decay=weight_decay)
    last = float(loss())
    if not math.isfinite(last):
        raise NonFiniteError(f"the loss became {last}", hint="another seed, or fewer units")
    return last


def weights(rows: int, columns: int, generator: torch.Generator, scale: float = 1.0) -> Float[Tensor, "rows columns"]:
    """Gaussian weights that keep the size of what passes through them, times `scale`."""
    return scale * torch.randn(rows, columns, generator=generator) / rows**0.5
