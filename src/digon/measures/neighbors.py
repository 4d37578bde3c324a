"""How crowded is a dictionary? Cosines of its atoms with each other, beside those of random directions.

Cosines c of random directions in d dimensions have a law without parameters: (1 + c)/2 ~ Beta((d − 1)/2, (d − 1)/2). The
largest of k − 1 of them is at most c with probability F(c)^(k − 1). So the null for the nearest atom needs no draws.

A dictionary whose nearest atoms are closer than chance holds copies, splits or parents swallowed by children; one whose
atoms are further apart than chance is spread out on purpose. Neither says that its atoms are features.

Atoms crowd also where data uses few of its dimensions. `shaped` draws directions with the atoms' own second moment: what is
closer than those is closer to each other than the shape of the data explains.

Sources: law of the angle, Muirhead 1982; many atoms at large cosines as a sign of hedging, Chanin et al. 2025.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from ..errors import ConfigError
from .recovery.matching import nearest, unit

BINS = 64
"""Bins of cosines from −1 to 1."""
QUERIES = 4096
"""Atoms whose cosines with all others are counted."""


def nearest_latents(atoms: Float[Tensor, "k d"], count: int = 5) -> tuple[Float[Tensor, "k c"], Int[Tensor, "k c"]]:
    """The other atoms of largest cosine: their cosines and numbers, the nearest first; c = min(count, k − 1).

    An atom is never its own neighbor, though its copy is. Range: [−1, 1]. Memory: 2²⁴ cosines at once.

    >>> nearest_latents(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 1)[1].squeeze(1).tolist()
    [1, 0, 0]
    """
    wanted = min(count, len(atoms) - 1)
    cosines, found = nearest(atoms, atoms, wanted + 1)
    own = found == torch.arange(len(atoms), device=atoms.device)[:, None]
    own[:, -1] |= ~own.any(1)  # beyond its copies: then the last one goes
    kept = (~own).nonzero()[:, 1].view(len(atoms), wanted)
    return cosines.gather(1, kept), found.gather(1, kept)


def cosine_counts(atoms: Float[Tensor, "k d"], generator: torch.Generator, bins: int = BINS) -> Int[Tensor, " bins"]:
    """Pairs of different atoms by their cosine, in equal bins from −1 to 1; of more than 4,096 atoms a random choice is paired with all."""
    rows = unit(atoms)
    k = len(rows)
    chosen = torch.randperm(k, generator=generator).to(rows.device)[:QUERIES]
    total = torch.zeros(bins, dtype=torch.int64, device=rows.device)
    for part in chosen.split(max(1, 2**22 // max(k, 1))):
        place = ((rows[part] @ rows.T + 1) * (bins / 2)).long().clamp_(0, bins - 1)
        place[torch.arange(len(part), device=rows.device), part] = bins  # not with itself
        total += torch.bincount(place.flatten(), minlength=bins + 1)[:bins]
    return total


def chance_below(cosine: np.ndarray, d: int, others: int = 1) -> np.ndarray:
    """Probability that the largest of `others` random cosines in d ≥ 2 dimensions is at most `cosine`. Range: [0, 1].

    Raises: ConfigError for one dimension, in which cosines are ±1.

    >>> chance_below(np.array([0.0, 1.0]), d=3).tolist()
    [0.5, 1.0]
    """
    if d < 2:
        raise ConfigError(f"random directions in {d} dimensions", expected="at least two dimensions")
    half = (d - 1) / 2
    return np.asarray(np.exp(others * beta.logcdf((1 + np.asarray(cosine, float)) / 2, half, half)))


def chance_nearest(quantile: float, k: int, d: int) -> float:
    """Cosine that the nearest of k − 1 random directions stays below with probability `quantile`.

    >>> round(chance_nearest(0.5, k=2, d=3), 6)
    0.0
    """
    if d < 2:
        raise ConfigError(f"random directions in {d} dimensions", expected="at least two dimensions")
    half = (d - 1) / 2
    # In the upper tail a probability near 1 would lose all its digits.
    tail = -math.expm1(math.log(quantile) / max(k - 1, 1))
    return float(2 * beta.isf(tail, half, half) - 1)


def shaped(atoms: Float[Tensor, "k d"], generator: torch.Generator) -> Float[Tensor, "k d"]:
    """As many random directions, of unit length, with the second moment of the atoms' directions before they are normalized."""
    rows = unit(atoms).double()
    values, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows.device)
    return unit(noise @ (values.clamp(min=0).sqrt()[:, None] * axes.T)).to(atoms)
