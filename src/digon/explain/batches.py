"""Scores of many units at once: gather their excerpts on a grid, reduce to sums, resample and permute the sums.

What a unit gets does not depend on which units come with it, but for its baseline: explanations of the units after it. Both
sides of one unit are no baseline for each other: what one of them predicts, the other predicts turned round.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import records, rng
from ..measures import stats
from .draws import compact
from .exemplars import Excerpts
from .moments import Paired, permuted, resampled
from .populations import SOURCE, Estimate, population_of, sampled, undefined
from .sets import ScoringSet, assert_unseen, grid, scoring_sets

BASELINES = 3
"""Other units whose explanations are tried on a unit."""
NOTHING = "nothing to compare with"


@dataclass(frozen=True)
class Scores:
    """Scores of one explainer's explanations of many units."""

    records: list[records.Score]
    rho: Float[Tensor, " units"]
    """Top-and-random."""
    null: Float[Tensor, "draws units"]
    """The same after permutations."""


class View:
    """The scoring excerpts of many units as a grid of rows, with the real values on it."""

    def __init__(self, real: Float[Tensor, "n units"], excerpts: Excerpts, strata: Sequence[Int[Tensor, "units _"]]):
        chosen = torch.cat(list(strata), 1)
        self.rows, self.there = grid(excerpts, chosen)
        self.present, self.widths = chosen >= 0, [part.shape[1] for part in strata]
        self.counts = [(part >= 0).sum(1).tolist() for part in strata]
        self.real = self.take(real)

    def take(
        self, values: Float[Tensor, "n columns"], whose: Int[Tensor, " units"] | None = None
    ) -> Float[Tensor, "units m t"]:
        """Values of every unit's own column at its own rows, or those of the columns given; NaN for column −1."""
        if whose is None:
            whose = torch.arange(len(self.rows), device=self.rows.device) % values.shape[1]
        found = values[self.rows, whose[:, None, None]]
        return found if bool((whose >= 0).all()) else torch.where((whose >= 0)[:, None, None], found, math.nan)

    def paired(
        self,
        simulated: Float[Tensor, "n columns"],
        whose: Int[Tensor, " units"] | None = None,
        *,
        cross: bool = False,
    ) -> Paired:
        """Real values beside simulated ones: the units' own, or those of other columns."""
        return Paired.of(self.real, self.take(simulated, whose), self.there, cross=cross)

    def draws(self, paired: Paired, seed: int) -> Float[Tensor, "draws units"]:
        """Bootstrap draws of the correlation."""
        return resampled(paired.sums, self.present, self.widths, rng.stream(seed, "bootstrap"))

    def estimate(self, pairs: Sequence[Paired], seed: int) -> Estimate:
        """Mean correlation over several simulations, of those that are defined; NaN from fewer than two documents."""
        value = torch.stack([p.rho for p in pairs]).nanmean(0)
        low, high = stats.percentile_interval(torch.stack([self.draws(p, seed) for p in pairs]).nanmean(0))
        few = self.present.sum(1) < 2
        tokens = torch.stack([p.known for p in pairs]).amax(0)
        value, low, high = (torch.where(few, math.nan, v) for v in (value, low, high))
        return Estimate(value, low, high, tokens)

    def methods(self) -> list[str]:
        """How each unit's value came about."""
        return [
            f"{' + '.join(map(str, part))} excerpts of unseen documents pooled, bootstrap over documents"
            if sum(part) > 1
            else f"{sum(part)} documents in the test split"
            for part in zip(*self.counts, strict=True)
        ]


def score_units(
    real: Float[Tensor, "n units"],
    simulated: Mapping[str, Float[Tensor, "n units"]],
    excerpts: Excerpts,
    seed: int = 0,
    first: int = 0,
    owners: Sequence[int] | None = None,
) -> dict[str, Scores]:
    """Scores of explanations (name → simulated values, NaN where there is none) of columns `first`, `first` + 1, ….

    `owners` says which unit every column belongs to, where one has several: they are no baseline for each other.
    Range: ρ in [−1, 1]; NaN with a flag where a side is constant or nothing can be scored, never 0.
    Raises: RunError if a document is both in the test split and in another.
    """
    chosen = scoring_sets(excerpts, excerpts.maxima(real), seed, first)
    return score_chosen(real, simulated, excerpts, chosen, seed, owners=owners)


def score_chosen(
    real: Float[Tensor, "n units"],
    simulated: Mapping[str, Float[Tensor, "n units"]],
    excerpts: Excerpts,
    chosen: ScoringSet,
    seed: int,
    others: Sequence[Float[Tensor, "n units"]] | None = None,
    owners: Sequence[int] | None = None,
) -> dict[str, Scores]:
    """The same on given excerpts; `others` are simulations of other units, if not those of the units that follow.

    Raises: RunError if an excerpt comes from a document that explanations have seen.
    """
    for part in (chosen.top, chosen.beside, chosen.random):
        assert_unseen(excerpts, part)
    mixed, alone = View(real, excerpts, (chosen.top, chosen.beside)), View(real, excerpts, (chosen.random,))
    names = torch.arange(real.shape[1]) if owners is None else torch.tensor(list(owners))
    following = [whose.to(real.device) for whose in after(names, BASELINES)]
    whole, found = population_of(real, simulated, excerpts, seed), {}
    tokens = int(excerpts.lengths[excerpts.in_split("test")].sum())
    for name, values in simulated.items():
        pair = mixed.paired(values, cross=True)
        if others is None:
            rest = [mixed.paired(values, whose) for whose in following]
        else:
            rest = [mixed.paired(other) for other in others]
        random = alone.estimate([alone.paired(values)], seed).measurements("rho_random_only", alone.methods())
        gaps = [u for u, m in enumerate(whole[name][0]) if m.n < tokens]
        few = sampled(real, values, excerpts, chosen, seed, gaps)
        # explained variance takes a line from the calibrate split, which is not simulated where only few excerpts are
        said = [
            (few[u], ()) if u in few else (rho, (line,)) for u, (rho, line) in enumerate(zip(*whole[name], strict=True))
        ]
        found[name] = _scores(mixed, pair, rest, random, said, seed)
    return found


def after(owners: Int[Tensor, " columns"], count: int) -> Int[Tensor, "k columns"]:
    """The columns after every column that belong to other units, `count` at most; −1 where there are fewer.

    >>> after(torch.tensor([7, 7, 8]), 2)
    tensor([[ 2,  2,  0],
            [-1, -1,  1]])
    """
    places = torch.arange(len(owners))
    order = (places[:, None] + places[1:]) % max(len(owners), 1)
    found = compact(order, owners[order] != owners[:, None])[:, :count].T
    return found[(found >= 0).any(1)]


def _scores(
    mixed: View,
    pair: Paired,
    rest: Sequence[Paired],
    random: Sequence[records.Measurement],
    whole: Sequence[tuple[records.Measurement, tuple[records.Measurement, ...]]],
    seed: int,
) -> Scores:
    both, null = mixed.estimate([pair], seed), permuted(pair, mixed.present, rng.stream(seed, "permutation"))
    top, other = both.measurements("rho_top_and_random", mixed.methods()), _baseline(mixed, rest, seed)
    columns = (top, random, other, whole, _chance(both, null, mixed), (pair.known / pair.wanted.clamp_min(1)).tolist())
    found = [
        records.Score(
            a, b, c, _flags((a, b, c) if rest else (a, b)), said, chance, simulated_share=share, further=further
        )
        for a, b, c, (said, further), chance, share in zip(*columns, strict=True)
    ]
    return Scores(found, both.value, null)


def _baseline(mixed: View, pairs: Sequence[Paired], seed: int) -> list[records.Measurement]:
    if not pairs:
        return [undefined("rho_other_unit", NOTHING)] * len(mixed.rows)
    known = torch.stack([p.rho for p in pairs]).isfinite().sum(0).tolist()
    methods = [
        f"mean of {count} explanations; {method}" + (f"; {len(pairs) - count} undefined" if count < len(pairs) else "")
        for count, method in zip(known, mixed.methods(), strict=True)
    ]
    return mixed.estimate(pairs, seed).measurements("rho_other_unit", methods)


def _chance(both: Estimate, null: Float[Tensor, "draws units"], mixed: View) -> list[records.Measurement]:
    low, high = stats.percentile_interval(null)
    p = stats.permutation_p(both.value, null)
    columns = (null.nanmean(0).tolist(), low.tolist(), high.tolist(), both.tokens.tolist(), p.tolist())
    method = f"mean and range of 95 % of {len(null)} permutations of the simulated values among "
    return [
        records.Measurement("rho_permuted", v, a, b, n, "", method + how.split(",")[0], None, SOURCE, math.nan, chance)
        for v, a, b, n, chance, how in zip(*columns, mixed.methods(), strict=True)
    ]


def _flags(found: Sequence[records.Measurement]) -> tuple[str, ...]:
    reason = "real or simulated values are constant on "
    return tuple(
        f"{m.name} is undefined: {m.method if 'in the test split' in m.method else reason + m.method}"
        for m in found
        if math.isnan(m.value)
    )
