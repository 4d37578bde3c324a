"""How many features, in how many dimensions, how many at a time, how often, and how do they lie?

Every method counts in its own way; the report shows them side by side. The estimate is the size of the shortest
dictionary. What two methods agree on is there at least. Nothing bounds the number from above, as rare features leave no
trace, unless the verdict itself says that there are no more features than dimensions.

A curve counts as one feature. Two opposite directions count as one unless something tells them apart.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..measures import leverage
from ..measures.geometry import cosines
from ..records import Check, Count, Label, Measurement
from .checks.atoms import lines_of
from .evidence import Evidence

FOUND = 0.95
"""Cosine from which two methods found the same atom."""
AT_MOST_DIMENSIONS: frozenset[Label] = frozenset({"monosemantic", "rotated", "relational"})
"""Causes with no more features than dimensions."""


def count(evidence: Evidence, causes: Sequence[Label]) -> Count:
    """Lower bound, estimate and upper bound of the number of features; NaN above where nothing bounds it."""
    found = evidence.sparse
    if tuple(causes) == ("none",):
        return Count(0, 0, math.nan)
    if found is None or not len(found):
        return Count()
    point = float(len(found))
    if tuple(causes) == ("manifold",) and evidence.blocks is not None and evidence.blocks.members:
        point = float(len(evidence.blocks.members))
    # features too rare to be seen may always be there; only a verdict of "no more than dimensions" is a bound
    upper = float(evidence.dimensions) if set(causes) <= AT_MOST_DIMENSIONS else math.nan
    return Count(min(point, float(_agreed(evidence))), point, max(point, upper) if math.isfinite(upper) else math.nan)


def _agreed(evidence: Evidence) -> int:
    """Atoms of the shortest dictionary that another method, or the same one on other rows, found too."""
    found = evidence.sparse
    assert found is not None, "checked by the caller"
    seen = torch.zeros(len(found), dtype=torch.bool)
    others = (evidence.sparse_again, evidence.rays, evidence.quartic)
    for other in others:
        if other is not None and len(other.directions):
            near = (found.directions @ other.directions.to(found.directions).T).abs().amax(1) > FOUND
            seen |= near.cpu()
    return int(seen.sum())


def by_method(evidence: Evidence, checks: Sequence[Check]) -> tuple[Measurement, ...]:
    """The number of features as every method counts it."""
    seed, rows = evidence.seed, len(evidence.activations)
    counts: list[Measurement] = []
    if evidence.sparse is not None:
        again = evidence.sparse_again
        sizes = [len(evidence.sparse)] + ([len(again)] if again is not None else [])
        counts.append(Measurement(
            "features_by_code_length", sizes[0], min(sizes), max(sizes), evidence.sparse.rows, "features",
            "atoms of the shortest dictionary; interval: a second one from other rows", seed,
        ))  # fmt: skip
    if evidence.rays is not None:
        lines = lines_of(evidence.rays.directions, evidence.rectified)
        counts.append(Measurement(
            "features_by_rays", lines, n=evidence.rays.rows, unit="features", method="lines that rows pile up on", seed=seed,
        ))  # fmt: skip
    if evidence.quartic is not None and not evidence.quartic.saturated:
        q = evidence.quartic
        counts.append(Measurement(
            "features_by_fourth_moments", q.rank, q.low, q.high, q.rows, "features",
            "rank of the fourth cumulant; interval: the two halves of the rows", seed,
        ))  # fmt: skip
    unseen = next((c.statistic for c in checks if c.id == "P17" and c.statistic is not None), None)
    if unseen is not None:
        counts.append(unseen)
    counts.append(Measurement("dimensions", evidence.dimensions, n=rows, unit="dimensions", method="rank of the rows"))
    return tuple(counts)


def described(evidence: Evidence) -> tuple[Measurement, ...]:
    """Densities, coefficients and geometry of the atoms of the shortest dictionary."""
    found, codes = evidence.sparse, evidence.codes
    if found is None or codes is None:
        return ()
    n, seed = found.rows, evidence.seed
    uses = found.uses.double()
    low, middle, high = torch.quantile(uses, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    measured = [
        Measurement("atom_density", middle, low, high, n, "", "median over atoms; interval: 10 % to 90 % of the atoms", seed),
        Measurement("zipf_exponent", _zipf(uses), n=n, method="slope of log density against log rank", seed=seed),
        Measurement("active", found.active, n=n, unit="atoms per row", method="atoms that make a row shortest", seed=seed),
        Measurement("fvu", found.fvu, n=n, method="held-out rows under the shortest dictionary", seed=seed),
        Measurement("coefficient_spread", _spread(codes), n=len(codes), method="median coefficient of variation", seed=seed),
    ]  # fmt: skip
    if len(found) > 1:
        white = leverage.whitened(found.directions.double(), evidence.covariance)
        most = cosines(white).abs().fill_diagonal_(0).amax(1)
        source = "Welch 1974"
        measured += [
            Measurement("largest_cosine", float(most.median()), n=len(found), method="median over atoms, whitened", seed=seed),
            Measurement("welch_ratio", leverage.welch_ratio(white, evidence.dimensions), n=len(found), seed=seed,
                        method="root mean square cosine over the least possible; 1 is a tight frame", source=source),
        ]  # fmt: skip
    return tuple(measured)


def _zipf(uses: Tensor) -> float:
    seen = uses[uses > 0].sort(descending=True).values
    if len(seen) < 4:
        return math.nan
    x = torch.arange(1, len(seen) + 1).double().log()
    y = seen.log()
    x = x - x.mean()
    return float(-(x * (y - y.mean())).sum() / x.square().sum())


def _spread(codes: Tensor) -> float:
    on = codes != 0
    size = codes.abs()
    count, first, second = on.sum(0), size.sum(0), size.square().sum(0)
    kept = count > 1
    variation = (second * count / first.square().clamp(min=1e-12) - 1).clamp(min=0).sqrt()
    return float(variation[kept].median()) if bool(kept.any()) else math.nan
