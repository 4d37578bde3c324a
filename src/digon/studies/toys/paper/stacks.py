"""Stacks of weights: one bar per neuron, one band per feature, positive weights upward and negative ones downward.

Bars of a panel overlay each other, so a stack is drawn as bars from zero to the cumulated weight, the longest first.
Source: stacked plots of Elhage et al. 2022, "Toy Models of Superposition".
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....records import Panel, Series
from ..sketch import rounded

NAMED = 12
"""Features beyond which a legend would be longer than the picture."""
THIN = 0.02
"""Weights below this draw nothing."""


def stack(
    A: Float[Tensor, "n m"],
    title: str,
    color: Float[Tensor, " n"],
    color_label: str,
    color_range: tuple[float, float] = (0.0, 1.0),
) -> Panel:
    """A panel with the weights A of every neuron (column), stacked over features (rows).

    `color` is one number per feature.
    """
    weights = A.detach().double().numpy()
    weights = np.where(np.abs(weights) < THIN, 0.0, weights)
    up, down = np.cumsum(np.clip(weights, 0, None), 0), np.cumsum(np.clip(weights, None, 0), 0)
    tops, place = np.where(weights > 0, up, np.where(weights < 0, down, 0.0)), np.arange(weights.shape[1])
    series = list[Series]()
    for i in reversed(range(len(weights))):
        if weights[i].any():
            name = f"feature {i}" if len(weights) <= NAMED else ""
            shade = (round(float(color[i]), 4),) * len(place)
            series.append(Series("bars", name, rounded(place), rounded(tops[i]), color=shade))
    return Panel(title, "neuron", "weights, stacked", tuple(series), color_label=color_label, color_range=color_range)
