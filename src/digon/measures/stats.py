"""How sure are we? Intervals over documents, permutation p-values, false discoveries.

Tokens of one document resemble each other, so the document is the unit of resampling. A statistic that is a function
of sums over rows needs the sums of every document once; each bootstrap draw is then one row of a matrix product
(`bootstrap_interval`). Units and seeds that are a sample themselves are drawn again one by one (`sample_interval`).
Where the sample is drawn with duplicates the statistic must not care about duplicates: two copies of a document agree
token by token, which a statistic of agreement within tokens (η²) would read as signal. Those take the jackknife.

Sources: Efron & Tibshirani 1993 (bootstrap, delete-a-group jackknife); Phipson & Smyth 2010 (p-values are never zero);
Benjamini & Hochberg 1995.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, t
from torch import Tensor

from ..records import Measurement

STRETCH = 512
"""Rows that are added up in the precision of the values."""
Statistic = Callable[[Tensor], Tensor]
"""From sums [... k units] to one number per unit [... units]."""


def document_sums(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"],
    count: int,
    into: Float[Tensor, "docs d"] | None = None,
) -> Float[Tensor, "docs d"]:
    """Sum of the rows of every document, numbered from 0 to `count` − 1; batches of rows add up through `into`.

    Short stretches are added in the precision of the values, the stretches in float64.

    >>> document_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1]), 2).squeeze(1)
    tensor([1., 6.], dtype=torch.float64)
    """
    if into is None:
        into = torch.zeros(count, values.shape[1], dtype=torch.float64, device=values.device)
    for part, owners in zip(values.split(STRETCH), documents.split(STRETCH), strict=True):
        present, member = membership(owners)
        into.index_add_(0, present, (member.to(part.dtype) @ part).double())
    return into


def membership(documents: Int[Tensor, " n"]) -> tuple[Int[Tensor, " present"], Float[Tensor, "present n"]]:
    """Documents of some rows, and the matrix whose product with the rows sums them per document.

    For a few documents the product is several times faster than adding row by row.
    """
    present, place = documents.unique(return_inverse=True)
    return present, F.one_hot(place, len(present)).float().T


def times_drawn(picks: Int[Tensor, "draws k"], count: int) -> Float[Tensor, "draws count"]:
    """How often every draw takes each of `count` things, in float64.

    >>> times_drawn(torch.tensor([[0, 2, 2]]), 3)
    tensor([[1., 0., 2.]], dtype=torch.float64)
    """
    out = torch.zeros(len(picks), count, dtype=torch.float64, device=picks.device)
    return out.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))


def resampled(
    sums: Float[Tensor, "docs *k"], generator: torch.Generator, draws: int = 200
) -> Float[Tensor, "draws *k"]:
    """Totals of bootstrap draws of whole documents. Source: Efron & Tibshirani 1993, chapter 6."""
    docs = len(sums)
    picks = torch.randint(docs, (draws, docs), generator=generator, device=generator.device)
    weights = times_drawn(picks.to(sums.device), docs).to(sums.dtype)
    return torch.tensordot(weights, sums, 1)


def percentile_interval(
    draws: Float[Tensor, "draws *units"], level: float = 0.95
) -> tuple[Float[Tensor, "*units"], Float[Tensor, "*units"]]:
    """The middle `level` of the draws of every unit.

    A draw that is not finite is left out; an interval needs nine tenths of the draws, else it is NaN.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    known = draws.isfinite()
    enough = known.double().mean(0) >= 0.9
    draws = torch.where(known, draws, math.nan)
    tail = (1 - level) / 2
    low, high = (draws.nanquantile(q, dim=0) for q in (tail, 1 - tail))
    return torch.where(enough, low, math.nan), torch.where(enough, high, math.nan)


def bootstrap_interval(
    sums: Float[Tensor, "docs k units"],
    statistic: Statistic,
    generator: torch.Generator,
    draws: int = 200,
    level: float = 0.95,
) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Percentile interval of a statistic of sums, resampling whole documents; NaN as in `percentile_interval`."""
    return percentile_interval(statistic(resampled(sums, generator, draws)), level)


def sample_interval(
    sample: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator, draws: int
) -> tuple[Any, Any]:
    """Ends of the middle 95 % of a statistic of a sample [n …], drawn again; for samples that are no sums over rows.

    `statistic` takes draws [draws n …] to numbers [draws …], along the second axis.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    picks = generator.integers(len(sample), size=(draws, len(sample)))
    low, high = np.quantile(statistic(sample[picks]), [0.025, 0.975], axis=0)
    return low, high


def document_groups(count: int, groups: int, generator: torch.Generator) -> Int[Tensor, " docs"]:
    """A random group for every document, all groups nearly equally large."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    return torch.empty_like(order).scatter_(0, order, torch.arange(count, device=order.device) % groups)


def jackknife_interval(
    value: Float[Tensor, " units"], left_out: Float[Tensor, "groups units"], level: float = 0.95
) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Student interval from the values that remain when one group of documents is left out.

    For statistics of agreement between documents: a bootstrap draws documents twice, and the two copies agree exactly.
    Source: Efron & Tibshirani 1993, chapter 11; (G − 1)/G · Σ (θ₋g − mean)², G − 1 degrees of freedom.
    """
    groups = len(left_out)
    variance = (left_out - left_out.mean(0)).square().sum(0) * (groups - 1) / groups
    reach = student(groups, level) * variance.sqrt()
    return value - reach, value + reach


def student(n: int, level: float = 0.95) -> float:
    """How many standard errors of the mean of `n` draws the middle `level` reaches to each side.

    >>> round(student(3), 3)
    4.303
    """
    return float(t.ppf((1 + level) / 2, n - 1))


def permutation_p(observed: Float[Tensor, "*units"], null: Float[Tensor, "draws *units"]) -> Float[Tensor, "*units"]:
    """Share of null draws at least as large as the observed value, the observation counted among them.

    Range: 1/(draws + 1) to 1. NaN where the observed value is.

    >>> permutation_p(torch.tensor(2.0), torch.tensor([1.0, 3.0, 0.0]))
    tensor(0.5000)
    """
    p = (1 + (null >= observed).sum(0)).to(observed.dtype) / (1 + len(null))
    return torch.where(observed.isnan(), math.nan, p)


def benjamini_hochberg(p: Float[Tensor, " units"], level: float = 0.05) -> Bool[Tensor, " units"]:
    """Which hypotheses to reject so that at most `level` of the rejections are expected to be false.

    NaN is never rejected and does not count. Source: Benjamini & Hochberg 1995, through SciPy.
    """
    known = p.isfinite()
    rejected = torch.zeros_like(known)
    if known.any():
        adjusted = false_discovery_control(p[known].cpu().double().numpy())
        rejected[known] = torch.from_numpy(np.asarray(adjusted) <= level).to(p.device)
    return rejected


def to_measurement(
    name: str, value: Tensor | float, interval: tuple[Tensor | float, Tensor | float] | None, n: int, **provenance: Any
) -> Measurement:
    """The record of a single number; `provenance` holds the other fields of `Measurement`.

    >>> str(to_measurement("l0", torch.tensor(3.0), (2.5, 3.5), 100, method="bootstrap over documents"))
    '3 [2.5, 3.5]'
    """
    low, high = (math.nan, math.nan) if interval is None else interval
    return Measurement(name, float(value), float(low), float(high), n, **provenance)
