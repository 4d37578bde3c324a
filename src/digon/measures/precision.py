"""How precisely must activations be known for the network to work?

Round every unit to b bits between its extremes. Features that add up lose a little: the error of the output falls by four
with every bit from the first on. A network that extracts bits of one number, the index of a look-up table, makes
nothing of b bits until they tell its T entries apart, at about log2 T: then all at once.

Pieces: along one line through the data the output of such a network goes up and down as often as there are entries.

Source: bit extraction after Bartlett et al. 1998 and 2019 (depth and the number of sign patterns); the test is
derived here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError

BITS = tuple(range(1, 17))
ROWS = 2000
LINES, POINTS = 8, 4096
FLAT = 1e-3
"""Change of the output, relative to its range on the line, below which it does not turn."""


@dataclass(frozen=True)
class Precision:
    """What the output needs of the activations."""

    errors: tuple[float, ...]
    """Mean squared change of the output at `BITS` bits, over its variance."""
    bits: int
    """Fewest bits from which the error stays below a tenth; 17 if none do."""
    pieces: float
    """Largest number of monotone pieces of an output along a line between two rows."""
    rows: int


def precision(
    network: Callable[[Tensor], Tensor], values: Float[Tensor, "n d"], generator: torch.Generator
) -> Precision:
    """Error of the output against bits, and pieces along lines. Cost: 18 runs of at most 4,096 rows, and 8 lines.

    Raises: ConfigError if the output does not depend on the row.
    """
    rows = torch.randperm(len(values), generator=generator)[:ROWS].to(values.device)
    x = values[rows]
    with torch.no_grad():
        out = network(x).double().reshape(len(x), -1)
        variance = float((out - out.mean(0)).square().sum(1).mean())
        if not variance > 0:
            raise ConfigError("the network makes the same of every row", expected="an output that depends on the row")
        low, high = values.amin(0), values.amax(0)
        errors = []
        for bits in BITS:
            step = (high - low).clamp(min=1e-30) / (2**bits - 1)
            rounded = ((x - low) / step).round() * step + low
            new = network(rounded).double().reshape(len(x), -1)
            errors.append(float((new - out).square().sum(1).mean()) / variance)
        pieces = max(_pieces(network, x, generator) for _ in range(LINES))
    enough = [error < 0.1 for error in errors]
    first = next((i for i in range(len(BITS)) if all(enough[i:])), len(BITS))
    return Precision(tuple(errors), first + 1, pieces, len(x))


def _pieces(network: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], generator: torch.Generator) -> float:
    a, b = x[torch.randint(len(x), (2,), generator=generator).to(x.device)]
    t = torch.linspace(0, 1, POINTS, dtype=x.dtype, device=x.device)[:, None]
    out = network(a + t * (b - a)).double().reshape(POINTS, -1)
    scale = (out.amax(0) - out.amin(0)).clamp(min=1e-12)
    most = 0
    for column in (out / scale).T:
        steps = column.diff()
        signs = steps[steps.abs() > FLAT].sign()
        most = max(most, int((signs.diff() != 0).sum()) + 1)
    return float(most)
