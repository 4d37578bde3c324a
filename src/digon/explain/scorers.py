"""How well does an explanation predict a unit? Simulate, then correlate, on documents that it has not seen.

    ρ = corr(real, simulated) over all tokens of all scoring excerpts together, not the mean of per-excerpt correlations
    top-and-random   5 excerpts with the unit's largest activations and 5 random ones, all of the test split
    random-only      random excerpts of the test split, more of them for a narrower interval
    population       all tokens of the test split; where only chosen excerpts are simulated, these by what they stand for
    permuted         top-and-random after the simulated values of the excerpts have changed places: what chance reaches
    baseline         top-and-random of explanations of other units
    explained        1 − Σ(a − α − βm)²/Σ(a − mean a)² on the test split, α and β fitted on the calibrate split: ρ² at best

Intervals resample documents, top and random ones apart, as their numbers are fixed. Percentile intervals from few documents
are too narrow: on noise, those of 95 % cover .84 of the time from 5 + 5 documents, .92 from 40, .93 from the population of
the test split. A simulated value that is missing (NaN) is left out and counted, never 0.

Source: Bills et al. 2023, "Language models can explain neurons in language models".
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .. import records
from .batches import score_chosen
from .batches import score_units as score_units
from .exemplars import Excerpts
from .moments import affine, correlations, line_of, moments
from .populations import population_of
from .populations import weighted as weighted
from .sets import ScoringSet as ScoringSet
from .sets import assert_unseen
from .sets import scoring_set as scoring_set
from .sets import scoring_sets as scoring_sets


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
    Raises: RunError if a chosen excerpt comes from a document that explanations have seen.
    """
    rest = [other[:, None] for other in others]
    seed = _seed(generator)
    mine = {"": simulated[:, None]}
    return score_chosen(real[:, None], mine, excerpts, chosen.many(), seed, rest)[""].records[0]


def population(
    real: Float[Tensor, " n"], simulated: Float[Tensor, " n"], excerpts: Excerpts, generator: torch.Generator
) -> records.Measurement:
    """Correlation over all tokens of the test split.

    Raises: RunError if a document of the test split has been seen.
    """
    assert_unseen(excerpts, excerpts.in_split("test").nonzero().squeeze(1))
    return population_of(real[:, None], {"": simulated[:, None]}, excerpts, _seed(generator))[""][0][0]


def correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Pearson correlation; NaN where either side is constant."""
    return float(correlations(a[:, None], b[:, None])[0])


def rsquared(a: Float[Tensor, " n"], m: Float[Tensor, " n"]) -> float:
    """1 − mean (a − m)² / mean a², as neuron-explainer defines it: relative to zero, not to the mean.

    Range: up to 1; NaN where all real values are 0.
    """
    power = float(a.double().square().mean())
    return 1 - float((a.double() - m.double()).square().mean()) / power if power > 0 else math.nan


def absolute_explained(a: Float[Tensor, " n"], m: Float[Tensor, " n"]) -> float:
    """1 − mean |a − m| / mean |a|. Range: up to 1; NaN where all real values are 0."""
    size = float(a.double().abs().mean())
    return 1 - float((a.double() - m.double()).abs().mean()) / size if size > 0 else math.nan


def calibrated(
    real: Float[Tensor, "n units"], simulated: Float[Tensor, "n units"], excerpts: Excerpts
) -> Float[Tensor, "n units"]:
    """Simulated values in the units of the real ones: α + β·m, by least squares on the calibrate split.

    Where simulated values are constant there, the mean; NaN without documents in that split.
    """
    rows = excerpts.row_split("calibrate")
    a, m = real[rows].double(), simulated[rows].double()
    known = a.isfinite() & m.isfinite()
    center, inverse = (side.T for side in affine(m.T, known.T))
    offset, slope = line_of(moments(a, (m - center) * inverse, known).sum(0).T)
    return (offset + slope * (simulated - center) * inverse).to(simulated)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
