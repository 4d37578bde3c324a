"""Which atom stands for which feature? One-to-one matching of two dictionaries, and what it says without truth.

    matching     pairs of positive cosine, each atom in one of them at most, with the largest sum of cosines (Hungarian)
    MCC          mean cosine of the pairs, over as many pairs as the smaller dictionary has atoms
    MMCS         mean over one dictionary of the largest cosine with the other: many atoms may share a partner
    stability    the same matching between two trainings, beside random directions of equal second moment

A sign is part of a feature: an atom that points the other way does not stand for it. The public MCC takes |cos|.

Sources: Kuhn 1955 (matching, through SciPy); Sharkey, Braun & Millidge 2022 (MMCS); O'Neill et al. 2024 (MCC).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

CLOSE = 0.9
"""A pair of at least this cosine counts as the same direction."""
CELLS = 2**24
"""Cosines that are calculated at once where not all of them are needed."""


@dataclass(frozen=True)
class Matching:
    """Pairs of two dictionaries, seen from both sides; −1 and cosine 0 for an atom without partner."""

    of_first: Int[Tensor, " g"]
    """For every atom of the first dictionary its partner in the second."""
    of_second: Int[Tensor, " k"]
    cosine: Float[Tensor, " g"]
    """Of the pairs, in the order of the first dictionary."""

    @property
    def mcc(self) -> float:
        """Mean cosine over min(g, k) pairs. Range: [0, 1]."""
        return float(self.cosine.double().sum()) / min(len(self.of_first), len(self.of_second))


def match(first: Float[Tensor, "g d"], second: Float[Tensor, "k d"], signed: bool = True) -> Matching:
    """One-to-one pairs with the largest sum of cosines, or of their absolute values.

    Memory: 12 bytes per pair of atoms. Time: 1 s for 4,096 × 16,384 random directions, less for similar dictionaries.

    >>> match(torch.eye(2), torch.tensor([[0.0, 2.0], [-1.0, 0.0]])).of_first.tolist()
    [-1, 0]
    """
    cosines = unit(first) @ unit(second).T
    cost = (cosines.clamp_(min=0) if signed else cosines.abs_()).neg_().cpu()
    rows, columns = (torch.from_numpy(v) for v in linear_sum_assignment(cost.numpy()))
    found = -cost[rows, columns]
    rows, columns, found = rows[found > 0], columns[found > 0], found[found > 0]
    of_first, of_second = torch.full((len(first),), -1), torch.full((len(second),), -1)
    of_first[rows], of_second[columns] = columns, rows
    cosine = torch.zeros(len(first)).index_put_((rows,), found.float())
    return Matching(of_first.to(first.device), of_second.to(first.device), cosine.to(first.device))


def nearest(
    queries: Float[Tensor, "k d"], atoms: Float[Tensor, "g d"], count: int, absolute: bool = False
) -> tuple[Float[Tensor, "k c"], Int[Tensor, "k c"]]:
    """Largest cosines of every query with the atoms, and with which; memory of a few rows of cosines.

    With `absolute` the largest |cos|.
    """
    table = unit(atoms).T
    parts: list[tuple[Tensor, Tensor]] = []
    for part in unit(queries).split(max(1, CELLS // len(atoms))):
        cosines = part @ table
        largest = (cosines.abs_() if absolute else cosines).topk(min(count, len(atoms)), 1)
        parts.append((largest.values, largest.indices))
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices)


def mmcs(first: Float[Tensor, "g d"], second: Float[Tensor, "k d"]) -> float:
    """Mean over the first dictionary of the largest cosine with the second. Range: [−1, 1].

    >>> mmcs(torch.eye(2), torch.eye(2)[:1])
    0.5
    """
    return float(nearest(first, second, 1)[0].double().mean())


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1; a row of zeros stays one."""
    return F.normalize(rows, dim=1, eps=1e-30)


@dataclass(frozen=True)
class Stability:
    """How well two dictionaries of one data set agree, and how well they would by chance."""

    mean_cosine: float
    """Mean over the pairs of the matching. Range: [0, 1]."""
    share_close: float
    """Share of the pairs with a cosine of at least `CLOSE`."""
    chance_mean: float
    """The same of random directions."""
    chance_share: float

    @property
    def excess(self) -> float:
        """Where the mean cosine lies between chance (0) and equality (1)."""
        return (self.mean_cosine - self.chance_mean) / (1 - self.chance_mean) if self.chance_mean < 1 else math.nan


def stability(first: Float[Tensor, "g d"], second: Float[Tensor, "k d"], generator: torch.Generator) -> Stability:
    """Match the dictionaries of two trainings, and the first with random directions of the second's second moment.

    Agreement says that training is reproducible, not that features were found: two trainings can agree on a wrong dictionary.
    """
    found = match(first, second)
    rows = unit(second).double()
    values, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    noise = torch.randn(rows.shape, generator=generator, device=generator.device, dtype=torch.float64).to(rows.device)
    chance = match(first, (noise * values.clamp(min=0).sqrt() @ axes.T).to(first))
    pairs = min(len(first), len(second))
    return Stability(
        found.mcc, int((found.cosine >= CLOSE).sum()) / pairs, chance.mcc, int((chance.cosine >= CLOSE).sum()) / pairs
    )
