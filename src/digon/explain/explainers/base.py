"""What every explanation without a language model can do, and what it costs.

Bits: a pattern costs 8 for its value, log2(vocabulary) for its last token and log2(vocabulary + 1) for each before it (it
may be the start); their number on each level costs Rissanen's log*; the resting value costs another 8.

Source: two-part code and log* after Rissanen 1978, 1983.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ...errors import NonFiniteError
from ..exemplars import Contexts

SHRINK = 3.0
"""Rows of the shorter pattern that every mean is shrunk by."""
VALUE_BITS = 8


@runtime_checkable
class Fitted(Protocol):
    """An explanation of one unit: a description of so many bits that can be simulated and put in words."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        ...

    @property
    def bits(self) -> float:
        """Description length."""
        ...

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        ...

    def render(self, token_text: Callable[[int], str]) -> str:
        """The explanation as plain text."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A way to explain units from the rows of two splits; it does not look at the others."""

    name: str

    def fit(
        self, contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Fitted:
        """Explain one unit."""
        ...


def pattern_bits(order: int, vocabulary: int) -> float:
    """Bits of one pattern and its value.

    >>> pattern_bits(2, 255) - math.log2(255)
    16.0
    """
    return VALUE_BITS + math.log2(vocabulary) + (order - 1) * math.log2(vocabulary + 1)


@cache
def integer_bits(number: int) -> float:
    """Rissanen's universal code of an integer from 1: log2 2.865 + log2 n + log2 log2 n + …, positive terms only.

    >>> round(integer_bits(1), 3), round(integer_bits(16) - integer_bits(1), 3)
    (1.519, 7.0)
    """
    bits, term = math.log2(2.865064), float(number)
    while (term := math.log2(term)) > 0:
        bits += term
    return bits


def smallest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the smallest numbers, in order; the first among equals.

    >>> smallest(np.array([2.0, 1.0, 3.0, 1.0]), 3).tolist()
    [1, 3, 0]
    """
    if count < len(values):
        among = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    else:
        among = np.arange(len(values))
    return among[np.argsort(values[among], kind="stable")][:count]


def finite_mean(values: Float[Tensor, "n units"]) -> Float[Tensor, " units"]:
    """Means; sums of rows find NaN and infinity wherever they are.

    Raises: NonFiniteError if one is not finite.
    """
    mean = values.mean(0)
    wrong = int((~mean.isfinite()).sum())
    if wrong:
        raise NonFiniteError(
            f"cannot explain {wrong} of {len(mean)} units from {len(values)} rows: their mean is not finite",
            expected="finite rows in the fit split",
            hint="harvest more documents, or look for NaN in the model",
        )
    return mean
