"""The codes that Elhage et al. describe for ten features in five ReLU neurons, written down as starting points.

    five alone       one neuron per feature
    three in two     three alone; (1, 1), (1, −1), (−1, 1) on two neurons
    five in three    two alone; single neurons, pairs and all three on three neurons
    six in four      one alone; a marker neuron tells important features (two of the others) from the rest (one)
    eight in five    the same with four others: important features use three of them, the rest the marker and one
    pairs            every feature is another pair of neurons

Signs, sizes and which feature uses which word are those of good trained networks, rounded; `settled` does the rest.
Source: Elhage et al. 2022, "Toy Models of Superposition", section on a privileged basis.
"""

import torch
from jaxtyping import Float
from torch import Tensor

N, M = 10, 5
WORDS = ((2, 4), (2, 3), (3, 4), (1, 4), (1, 2), (0, 3), (0, 1), (1, 3), (0, 4), (0, 2))
"""The ten pairs of neurons, in the best order of a few that were tried."""
OFF = -0.2
"""Weight of a feature of `pairs` on the neurons that are not its own."""


def codes() -> dict[str, Float[Tensor, "n m"]]:
    """Name → weights, before they settle."""
    three = {3: [0, 0, 0, 0.88, 0.87], 4: [0, 0, 0, -0.82, 0.86], 5: [0, 0, 0, 0.82, -0.72]}
    five = {
        2: [0, 0, -0.78, 0.96, 0.13],
        3: [0, 0, -0.37, -0.30, 0.98],
        4: [0, 0, 0.91, 0.73, 0.62],
        5: [0, 0, 0.62, 0.46, -2.54],
        6: [0, 0, 0.79, -0.89, 0.16],
    }
    pairs = {i: [0.75 if k in word else OFF for k in range(M)] for i, word in enumerate(WORDS)}
    rows = {
        "five alone": alone(5),
        "three in two": alone(3) | three,
        "five in three": alone(2) | five,
        "six in four": alone(1) | marker(3),
        "eight in five": marker(4),
        "pairs": pairs,
    }
    return {name: _matrix(some) for name, some in rows.items()}


def alone(count: int) -> dict[int, list[float]]:
    """The first features, one neuron each."""
    return {i: [float(k == i) for k in range(M)] for i in range(count)}


def marker(others: int) -> dict[int, list[float]]:
    """Features on the last 1 + `others` neurons, the first of which is the marker."""
    first = M - 1 - others
    rows, pad = dict[int, list[float]](), [0.0] * first
    for j in range(others):
        rows[first + j] = [*pad, -0.7, *(-2.2 if k == j else 0.55 for k in range(others))]
        rows[first + others + j] = [*pad, 0.7, *(0.9 if k == j else -0.12 for k in range(others))]
    return rows


def _matrix(rows: dict[int, list[float]]) -> Float[Tensor, "n m"]:
    W = torch.zeros(N, M)
    for i, row in rows.items():
        W[i] = torch.tensor(row)
    return W
