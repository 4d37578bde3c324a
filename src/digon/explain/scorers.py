"""How well does an explanation predict a unit? Simulate, then correlate, on documents that it has not seen.

    ρ = corr(real, simulated) over all tokens of all scoring excerpts together, not the mean of per-excerpt correlations
    top-and-random   5 excerpts with the unit's largest activations and 5 random ones, all of the test split
    random-only      random excerpts of the test split

After the best linear map of the simulated values the explained variance is ρ². Intervals resample excerpts, each of
which comes from a document of its own. The baseline is what explanations of other units score here.

Source: Bills et al. 2023, "Language models can explain neurons in language models".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import records
from .exemplars import Excerpts, top, uniform
from .splits import NAMES, assert_disjoint

TOP, RANDOM, MANY = 5, 5, 40
DRAWS = 200
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class ScoringSet:
    """The excerpts of the test split on which one unit is scored."""

    top: Int[Tensor, " a"]
    random: Int[Tensor, " b"]

    @property
    def top_and_random(self) -> Int[Tensor, " m"]:
        """As Bills et al. do: as many random excerpts as top ones."""
        return torch.cat([self.top, self.random[:RANDOM]])


def scoring_set(excerpts: Excerpts, maxima: Float[Tensor, " excerpts"], generator: torch.Generator) -> ScoringSet:
    """Choose them; documents of the test split are checked to be unseen."""
    test = excerpts.in_split("test")
    names = excerpts.document_ids
    seen, unseen = (map(names.__getitem__, excerpts.documents[side].unique().tolist()) for side in (~test, test))
    assert_disjoint(seen, unseen)
    best = top(excerpts, maxima, test, TOP)
    others = test.clone()
    others[best] = False
    return ScoringSet(best, uniform(excerpts, others, MANY, generator))


def score(
    real: Float[Tensor, " n"],
    simulated: Float[Tensor, " n"],
    excerpts: Excerpts,
    chosen: ScoringSet,
    generator: torch.Generator,
    others: Sequence[Float[Tensor, " n"]] = (),
) -> records.Score:
    """Score of simulated values (all rows) against real ones; `others` are simulations of other units.

    Range: ρ in [−1, 1]; NaN with a flag where a side is constant, never 0.
    """
    both = pooled("rho_top_and_random", real, simulated, excerpts, chosen.top_and_random, generator)
    alone = pooled("rho_random_only", real, simulated, excerpts, chosen.random, generator)
    baseline = [pooled("", real, other, excerpts, chosen.top_and_random, generator, draws=0).value for other in others]
    known = [value for value in baseline if math.isfinite(value)]
    mean = sum(known) / len(known) if known else math.nan
    method = f"mean score of {len(known)} other units' explanations on this unit; {len(baseline) - len(known)} constant"
    flags = tuple(
        f"{m.name} is undefined: real or simulated values are constant" for m in (both, alone) if math.isnan(m.value)
    )
    reference = records.Measurement("rho_other_unit", mean, n=len(known), method=method, source=SOURCE)
    return records.Score(both, alone, reference, flags)


def pooled(
    name: str,
    real: Float[Tensor, " n"],
    simulated: Float[Tensor, " n"],
    excerpts: Excerpts,
    chosen: Int[Tensor, " m"],
    generator: torch.Generator,
    draws: int = DRAWS,
) -> records.Measurement:
    """Correlation over all tokens of the chosen excerpts, with a bootstrap interval over excerpts."""
    if len(chosen) < 2:
        return records.Measurement(name, math.nan, n=0, method="fewer than two excerpts in the test split")
    rows = excerpts.rows(chosen)
    lengths = excerpts.lengths[chosen]
    a, m = real[rows].double(), simulated[rows].double()
    # centering on the pooled means keeps the differences of sums exact
    a, m = a - a.mean(), m - m.mean()
    parts = torch.stack([torch.ones_like(a), a, m, a * a, m * m, a * m], 1)
    sums = torch.segment_reduce(parts, "sum", lengths=lengths, axis=0)
    value = float(_correlation(sums.sum(0)))
    low = high = math.nan
    if draws:
        picks = torch.randint(len(sums), (draws, len(sums)), generator=generator)
        found = _correlation(sums[picks].sum(1))
        found = found[found.isfinite()]
        if len(found) >= 0.9 * draws:
            low, high = (float(found.quantile(q)) for q in (0.025, 0.975))
    method = f"{len(sums)} excerpts of unseen documents pooled, bootstrap over excerpts ({NAMES[-1]} split)"
    return records.Measurement(name, value, low, high, len(rows), method=method, source=SOURCE, null=0.0)


def _correlation(sums: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b"]:
    n, a, m, aa, mm, am = sums.unbind(-1)
    spread = (aa - a * a / n) * (mm - m * m / n)
    return torch.where(spread > 1e-18, (am - a * m / n) / spread.clamp_min(1e-30).sqrt(), math.nan)
