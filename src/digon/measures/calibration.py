"""Are stated probabilities right, and do sets hold the truth as often as they promise?

    reliability     of all calls made with confidence near c, which share is right?
    ECE             Σ over bins  (calls in the bin / calls) · |share right − mean confidence|
    Brier           mean of Σ_classes (p − truth)²
    conformal set   every class whose score reaches the level that calibration examples *of that class* reach
    abstention      error among the calls that are left if the least confident ones are not made

Sources: Guo et al. 2017 (reliability, ECE); Brier 1950; Vovk 2012 (class-conditional conformal sets, and how the coverage
varies with the calibration sample); El-Yaniv & Wiener 2010 (abstention).
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import beta
from torch import Tensor


@dataclass(frozen=True)
class Reliability:
    """Calls sorted into bins of equal width by their confidence."""

    confidence: Float[Tensor, " bins"]
    """Mean confidence of the calls in a bin; NaN in an empty one."""
    accuracy: Float[Tensor, " bins"]
    """Share of them that is right."""
    counts: Float[Tensor, " bins"]

    @property
    def error(self) -> float:
        """Expected calibration error. Range: 0 to 1; NaN without calls."""
        weights = self.counts / self.counts.sum()
        return float((weights * (self.accuracy - self.confidence).abs()).nansum()) if self.counts.sum() else math.nan


def reliability(confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"], bins: int = 10) -> Reliability:
    """How often calls of a certain confidence are right.

    >>> r = reliability(torch.tensor([0.95, 0.95, 0.55]), torch.tensor([True, False, True]))
    >>> round(r.error, 4)
    0.45
    """
    place = (confidence.double() * bins).long().clamp(0, bins - 1)
    sums = torch.zeros(3, bins, dtype=torch.float64, device=confidence.device)
    sums.index_add_(1, place, torch.stack([torch.ones_like(confidence.double()), confidence.double(), right.double()]))
    counts = sums[0]
    return Reliability(sums[1] / counts, sums[2] / counts, counts)


def chance_error(
    confidence: Float[Tensor, " n"], generator: torch.Generator, draws: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Expected calibration error that so many calls have although their confidence is exact: mean, and quantile.

    >>> mean, high = chance_error(torch.full((100,), 0.5), torch.Generator().manual_seed(0))
    >>> 0.02 < mean < high < 0.15
    True
    """
    uniform = torch.rand(draws, len(confidence), generator=generator, dtype=torch.float64)
    right = uniform < confidence.double().cpu()
    errors = torch.tensor([reliability(confidence.cpu(), row).error for row in right], dtype=torch.float64)
    return float(errors.mean()), float(errors.quantile(level))


def brier(probabilities: Float[Tensor, "n c"], truth: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Mean squared distance to the truth, which may be shared among classes. Range: 0 to 2.

    >>> float(brier(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])))
    2.0
    """
    return (probabilities - truth).square().sum(1).mean()


@cache
def conformal_rank(n: int, coverage: float = 0.9, confidence: float | None = None) -> int:
    """Which of n sorted calibration scores (the smallest being 1) a new one of the same kind reaches often enough.

    Without `confidence` the coverage holds on average over calibration samples; with it, for that share of all
    calibration samples: the coverage of rank k has the law Beta(n + 1 − k, k). 0: n is too small, everything goes in.

    >>> conformal_rank(99), conformal_rank(8), conformal_rank(80, confidence=0.9)
    (10, 0, 5)
    """
    if confidence is None:
        return math.floor((n + 1) * (1 - coverage) + 1e-9)
    ranks = np.arange(1, n + 1)
    return int((beta.sf(coverage, n + 1 - ranks, ranks) >= confidence).sum())


def conformal_threshold(
    scores: Float[Tensor, " n"], coverage: float = 0.9, confidence: float | None = None
) -> Float[Tensor, ""]:
    """Score from which a class belongs in the set, given scores of calibration examples of that class.

    −∞ if there are too few of them.

    >>> float(conformal_threshold(torch.arange(1.0, 100.0)))
    10.0
    """
    rank = conformal_rank(len(scores), coverage, confidence)
    return scores.sort().values[rank - 1] if rank else scores.new_tensor(-math.inf)


def covered(sets: Bool[Tensor, "n c"], right: Bool[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Whether a set holds a class that is right; several classes are right where nothing could tell them apart."""
    return (sets & right).any(1)


def abstention_curve(
    confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Share of the calls that are made, and the share of those that is wrong: the k most confident ones, k = 1 … n.

    >>> abstention_curve(torch.tensor([0.2, 0.9]), torch.tensor([False, True]))
    (tensor([0.5000, 1.0000]), tensor([0.0000, 0.5000]))
    """
    order = confidence.argsort(descending=True, stable=True)
    made = torch.arange(1, len(order) + 1, device=confidence.device)
    return made / max(1, len(order)), (~right[order]).to(torch.float32).cumsum(0) / made
