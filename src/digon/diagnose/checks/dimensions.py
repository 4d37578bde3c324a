"""P16. Do neighborhoods of the activations have as many dimensions as data without features would there?"""

import torch

from ... import rng
from ...measures import dimension
from ...measures.clusters import standardize
from ...records import Cause, Check, Measurement
from ..evidence import Evidence, not_applicable

FEWEST_ROWS = 500
MOST_ROWS = 30_000
"""Rows that are looked at."""
THIN = 0.4
"""Dimension of neighborhoods over that of the null, below which noise without features is excluded: noise behind a
rectifier or another bent unit reads .5 to .9, features of which few are active less."""
FULL = 0.8
_P16 = ("P16", "dimensions", "neighborhoods fill the dimensions that the variance spans")


def dimensions(evidence: Evidence) -> Check:
    """P16. Intrinsic dimension against noise of the same covariance; excludes `none` alone, and only far below it."""
    rows, d = evidence.activations.values.shape
    if rows < FEWEST_ROWS or d < 2:
        return not_applicable(
            *_P16, f"{rows} rows of {d} units are too few: {FEWEST_ROWS} rows and 2 units are needed."
        )
    generator = rng.stream(evidence.seed, "P16")
    pick = torch.randperm(rows, generator=generator)[:MOST_ROWS]
    values = standardize(evidence.activations.values[pick.to(evidence.activations.values.device)].float())
    centered = (values - values.mean(0)).double()
    spread = float(dimension.participation_ratio(centered.T @ centered / (len(values) - 1), len(values)))
    found = dimension.two_nn(values, generator)
    null = dimension.two_nn(dimension.same_shape(values, dimension.NEIGHBOR_ROWS, generator), generator)
    if not found.value < float("inf") or not null.value < float("inf"):
        reason = f"Only {found.rows} of the rows differ: they are points, without neighborhoods that have a dimension."
        return not_applicable(*_P16, reason)
    second = dimension.levina_bickel(values, generator)
    standing, _, _ = dimension.parallel_rank(values, generator)
    singular = torch.linalg.eigvalsh(centered.T @ centered).clamp(min=0).sqrt().flip(0)
    above = dimension.gavish_donoho_rank(singular, *centered.shape)
    ratio = found.value / null.value
    statistic = Measurement(
        "relative_intrinsic_dimension", ratio, found.low / null.high, found.high / null.low, n=found.rows,
        method="TwoNN of standardized rows over that of noise with the same covariance and lengths of rows; ends of both "
        "intervals", seed=evidence.seed, source="after Facco et al. 2017", null=1.0,
    )  # fmt: skip
    numbers = (
        f"Neighborhoods have {found.value:.1f} dimensions (by a second estimator {second.value:.1f}), those of noise with the "
        f"same covariance {null.value:.1f}; the variance spreads over {spread:.1f} of {d}, {standing} stand out of permuted "
        f"units, {above} of white noise"
    )
    gone: tuple[Cause, ...] = ("none",)
    if statistic.high < THIN:
        why = "few features are active at a time, or the data lies on a curved surface"
        return Check(*_P16, "against", f"{numbers}: {why}.", statistic, THIN, gone)
    if statistic.low > FULL:
        return Check(*_P16, "for", f"{numbers}: nothing is thinner than noise.", statistic, FULL)
    return Check(*_P16, "silent", f"{numbers}: thinner than noise, but a bent unit does that as well.", statistic, THIN)
