"""How well is a unit predicted on all of the text that no explanation has seen?

Where every excerpt of the test split is simulated, from sums over its documents; where only some are, from these by what
they stand for (`weighted`). Either way a token without a simulated value is left out, never taken as 0.

Sources: Bills et al. 2023 (correlation, calibration); Horvitz & Thompson 1952 (weights).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import records, rng
from ..measures import stats
from .exemplars import Excerpts
from .moments import affine, correlation_of, explained_of, line_of, moments, resampled, standard
from .sets import ScoringSet, assert_unseen, grid, weights

TOGETHER = 64
"""Units whose population is held at once."""
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class Estimate:
    """Values of many units, the bootstrap draws behind their intervals, and the tokens behind each."""

    value: Float[Tensor, " units"]
    low: Float[Tensor, " units"]
    high: Float[Tensor, " units"]
    tokens: Int[Tensor, " units"]

    def measurements(self, name: str, methods: Sequence[str]) -> list[records.Measurement]:
        """One record per unit."""
        columns = (self.value.tolist(), self.low.tolist(), self.high.tolist(), self.tokens.tolist(), methods)
        return [
            records.Measurement(name, v, a, b, n, "", method, None, SOURCE, 0.0)
            for v, a, b, n, method in zip(*columns, strict=True)
        ]


class Whole:
    """All tokens of the test and the calibrate split, with the real values on them, ready for any simulation."""

    def __init__(self, real: Float[Tensor, "n units"], excerpts: Excerpts) -> None:
        chosen = [excerpts.in_split(name).nonzero().squeeze(1) for name in ("test", "calibrate")]
        every = torch.cat(chosen)
        self.rows, self.lengths = excerpts.rows(every), excerpts.lengths[every]
        self.test = int(excerpts.lengths[chosen[0]].sum())
        self.owners = [excerpts.documents[part].unique(return_inverse=True)[1] for part in chosen]
        self.excerpts = [len(part) for part in chosen]
        self.documents = [int(owner.max()) + 1 if len(owner) else 0 for owner in self.owners]
        a = real[self.rows].double()
        self.known = None if _finite(a) else a.isfinite()
        self.real = self.relative(a, self.known)

    def relative(
        self, values: Float[Tensor, "m units"], known: Bool[Tensor, "m units"] | None
    ) -> Float[Tensor, "m units"]:
        """Values relative to mean and deviation over the test split; constant and unknown ones 0."""
        if known is None:
            mean, inverse = affine(values[: self.test].T)
            return (values - mean.T) * inverse.T
        pool = known.clone()
        pool[self.test :] = False
        return standard(values.T, known.T, pool.T).T

    def sums(self, simulated: Float[Tensor, "n units"]) -> list[Float[Tensor, "docs 6 units"]]:
        """Sums of 1, a, m, a², m², am over every document of the test and of the calibrate split.

        Of one real column against many simulated ones, or of as many pairs.
        """
        m, a, known = simulated[self.rows].double(), self.real, self.known
        if known is not None or not _finite(m):
            known = m.isfinite() if known is None else known & m.isfinite()
            a = torch.where(known, a, 0.0)
        m = self.relative(m, known)
        one = torch.ones(len(m), 1, dtype=m.dtype, device=m.device) if known is None else known.to(m.dtype)
        parts = [self._by_excerpt(v) for v in (one, a, m, a * a, m * m, a * m)]
        columns = torch.stack([part.expand(-1, m.shape[1]) for part in parts], 1)
        return [
            columns.new_zeros(count, *columns.shape[1:]).index_add_(0, owner, part)
            for part, owner, count in zip(columns.split(self.excerpts), self.owners, self.documents, strict=True)
        ]

    def _by_excerpt(self, values: Float[Tensor, "m _"]) -> Float[Tensor, "excerpts _"]:
        return torch.segment_reduce(values, "sum", lengths=self.lengths, axis=0) if len(values) else values


def _finite(values: Float[Tensor, "m units"]) -> bool:
    """Whether all are; a sum shows what is not, and costs less."""
    return bool(values.sum(0).isfinite().all())


def population_of(
    real: Float[Tensor, "n units"],
    simulated: Mapping[str, Float[Tensor, "n units"]],
    excerpts: Excerpts,
    seed: int,
) -> dict[str, tuple[list[records.Measurement], list[records.Measurement]]]:
    """Correlation over all tokens of the test split, and the variance explained there by the line of the calibrate split."""
    found: dict[str, tuple[list[records.Measurement], list[records.Measurement]]] = {
        name: ([], []) for name in simulated
    }
    for start in range(0, real.shape[1], TOGETHER):
        block = slice(start, start + TOGETHER)
        whole = Whole(real[:, block], excerpts)
        for name, values in simulated.items():
            rho, explained = _population(whole, values[:, block], seed)
            found[name][0].extend(rho)
            found[name][1].extend(explained)
    return found


def _population(
    whole: Whole, simulated: Float[Tensor, "n units"], seed: int
) -> tuple[list[records.Measurement], list[records.Measurement]]:
    test, line = whole.sums(simulated)
    documents, units = len(test), simulated.shape[1]
    if documents < 2:
        why = f"{documents} documents in the test split"
        return [undefined("rho_population", why)] * units, [undefined("explained_variance", why)] * units
    tokens = test.sum(0)[0].long()

    def estimate(statistic: stats.Statistic) -> Estimate:
        low, high = stats.bootstrap_interval(test, statistic, rng.stream(seed, "population"))
        return Estimate(statistic(test.sum(0)), low, high, tokens)

    method = f"{whole.excerpts[0]} excerpts of {documents} unseen documents, bootstrap over documents"
    rho = estimate(correlation_of).measurements("rho_population", [method] * units)
    fitted = line_of(line.sum(0))
    lines = f"1 − error/variance on {documents} unseen documents after a line from {len(line)} others, bootstrap over documents"
    explained = estimate(lambda sums: explained_of(sums, fitted))
    return rho, explained.measurements("explained_variance", [lines] * units)


def weighted(
    real: Float[Tensor, " n"],
    simulated: Float[Tensor, " n"],
    excerpts: Excerpts,
    chosen: ScoringSet,
    generator: torch.Generator,
) -> records.Measurement:
    """What `population` would find, from the top and random excerpts alone: each counts for what it stands for.

    For simulations that are too dear for the whole split; ρ is unbiased up to O(1/documents). Where simulated values are
    missing, those that are left stand for all tokens of their stratum, top or the rest.
    Range: [−1, 1]; NaN if all of a stratum is missing.
    Raises: RunError if an excerpt comes from a document that explanations have seen.
    """
    both, weight = weights(excerpts, chosen)
    assert_unseen(excerpts, both)
    rows, there = grid(excerpts, both)
    known = there & real[rows].isfinite() & simulated[rows].isfinite()
    a, m = (standard(v[rows].flatten()[None], known.flatten()[None]).view(known.shape) for v in (real, simulated))
    sums, count = moments(a, m, known).sum(2)[0], there.sum(2)[0]
    top = chosen.top.shape[-1]
    parts = [_stratum(sums[p], count[p], weight[0, p], both[0, p], excerpts) for p in (slice(top), slice(top, None))]
    wanted, left = int(there.sum()), int(known.sum())
    method = (
        f"{' + '.join(str(len(p)) for p in parts)} documents, weighted by what they stand for, bootstrap over documents"
    )
    if left < wanted:
        method += f"; {wanted - left} of {wanted} tokens are missing, the others stand for them"
    if sum(len(p) for p in parts) < 2:
        return undefined("rho_population", method)
    if not bool(weight.isfinite().all()):
        method += "; undefined: a document has so many excerpts that their probability to be drawn is not known"
    every = torch.cat(parts)[None]
    there = torch.ones(every.shape[:2], dtype=torch.bool, device=every.device)
    low, high = stats.percentile_interval(resampled(every, there, [len(p) for p in parts], generator))
    rho = correlation_of(every.sum(1)[..., None])[0, 0]
    return stats.to_measurement("rho_population", rho, (low[0], high[0]), left, method=method, source=SOURCE, null=0.0)


def _stratum(
    sums: Float[Tensor, "m 6"],
    tokens: Int[Tensor, " m"],
    weight: Float[Tensor, " m"],
    chosen: Int[Tensor, " m"],
    excerpts: Excerpts,
) -> Float[Tensor, "docs 6"]:
    """Weighted sums of every document, as large as if nothing were missing; NaN if everything is."""
    here = chosen >= 0
    share = sums[:, 0].sum() / tokens.sum()
    names, owner = excerpts.documents[chosen[here]].unique(return_inverse=True)
    return stats.document_sums((sums * weight[:, None])[here], owner, len(names)) / torch.where(
        share > 0, share, math.nan
    )


def sampled(
    real: Float[Tensor, "n units"],
    simulated: Float[Tensor, "n units"],
    excerpts: Excerpts,
    chosen: ScoringSet,
    seed: int,
    units: Iterable[int],
) -> dict[int, records.Measurement]:
    """`weighted` of those units that are simulated on chosen excerpts of the test split and nowhere else in it, by number."""
    test = excerpts.in_split("test").nonzero()[:, 0]
    rows, lengths, many, found = excerpts.rows(test), excerpts.lengths[test], chosen.many(), {}
    for unit in units:
        known = torch.segment_reduce(simulated[rows, unit].isfinite().double(), "sum", lengths=lengths) > 0
        mine = torch.isin(test, torch.cat([many.top[unit], many.beside[unit], many.random[unit]]))
        if not bool(mine.all()) and bool(known.any()) and not bool(known[~mine].any()):
            draw = rng.stream(seed, "weighted", unit)
            found[unit] = weighted(real[:, unit], simulated[:, unit], excerpts, many.of(unit), draw)
    return found


def undefined(name: str, why: str) -> records.Measurement:
    """A number that is not there, and why."""
    return records.Measurement(name, math.nan, method=why, source=SOURCE)
