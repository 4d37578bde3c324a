"""How well do explanations predict the units of one layer, and how sure is the mean over them?

Every unit is scored as in `explain.scorers`: top-and-random over 5 + 5 excerpts, random-only over 40, all of documents that
the explanation has not seen. The mean over a layer is drawn again `DRAWS` times with the same weights of documents for all
units, layers and networks, so that differences between networks are paired; units are resampled in the same draw.

An explanation that says the same everywhere scores 0; a unit that is constant on the scored tokens has no score and is left out.

The null moves simulated values along the scored tokens by a random number of them, which keeps how sparse both sides are and
how they cluster: ρ of a sparse unit varies more by chance than that of a dense one.

Source: Bills et al. 2023; circular shifts as a null of autocorrelated series, after Theiler & Prichard 1996.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ... import rng
from ...explain.coverage import cover
from ...explain.exemplars import Contexts, Excerpts
from ...explain.explainers import LookUp, NGrams, Patterns, Shared
from ...explain.kinds import Surroundings
from ...explain.moments import correlation_of, moments, standardized
from ...explain.pieces import take_apart
from ...explain.sets import ScoringSet, scoring_set
from ...measures import stats

DRAWS = 200
SHIFTS = 19
"""Null draws per unit: a unit above all of them is above chance at 5 %."""
FEW = 5
"""Tokens of the short look-up, which is about as long as a sentence: some hundred bits."""
FEWEST = 2
"""Documents of the test split without which there is no score."""


@dataclass(frozen=True)
class Mean:
    """A mean over the units of a layer, and the same in every draw of documents and units."""

    value: float
    draws: tuple[float, ...]
    n: int
    """Units with the number; the others are left out."""


def mean_of(values: Float[Tensor, " units"], draws: Float[Tensor, "draws units"], seed: int) -> Mean:
    """Mean over units with the number; `draws` holds the same numbers, documents resampled."""
    known = values.isfinite()
    if not bool(known.any()):
        return Mean(math.nan, (math.nan,) * len(draws), 0)
    units = len(values)
    picks = torch.randint(units, (len(draws), units), generator=rng.stream(seed, "units of draws"))
    drawn = draws.double().masked_fill(~known, math.nan).gather(1, picks).nanmean(1)
    return Mean(float(values[known].double().mean()), tuple(round(v, 5) for v in drawn.tolist()), int(known.sum()))


def weights(document_ids: Sequence[str], seed: int) -> Float[Tensor, "draws docs"]:
    """How often each draw takes each document: Poisson(1), from a stream of the document's own.

    Equal documents have equal weights in every network. Source: the Poisson bootstrap, Hanley & MacGibbon 2006.
    """
    columns = [rng.numpy_stream(seed, "weight", name).poisson(1.0, DRAWS) for name in document_ids]
    return torch.from_numpy(np.stack(columns, 1)).double()


def explanations(values: Float[Tensor, "n units"], contexts: Contexts, excerpts: Excerpts) -> dict[str, list[Patterns]]:
    """Look-up, n-grams and a short look-up of every unit, from the documents that explanations may learn from."""
    shared = Shared(contexts, excerpts.row_split("fit"), excerpts.row_split("select"))
    return {
        "lookup": LookUp().fit_shared(shared, values),
        "ngrams": NGrams().fit_shared(shared, values),
        "short": LookUp(FEW).fit_shared(shared, values),
    }


def layer_scores(
    values: Float[Tensor, "n units"],
    explained: dict[str, list[Patterns]],
    contexts: Contexts,
    excerpts: Excerpts,
    drawn: Float[Tensor, "draws docs"],
    seed: int,
) -> dict[str, Mean]:
    """Scores of every explainer, their null and their bits, as means over the units given."""
    maxima = excerpts.maxima(values)
    found: dict[str, list[tuple[float, Tensor]]] = {}
    for u in range(values.shape[1]):
        draw = rng.stream(seed, "ladder", u)
        chosen = scoring_set(excerpts, maxima[:, u], draw)
        for name, of_units in explained.items():
            scored = _unit(values[:, u], of_units[u], contexts, excerpts, (chosen, drawn, draw))
            for key, pair in scored.items():
                found.setdefault(f"{name}_{key}", []).append(pair)
    return {
        key: mean_of(torch.tensor([value for value, _ in pairs]), torch.stack([draws for _, draws in pairs], 1), seed)
        for key, pairs in found.items()
    }


def effective_numbers(
    values: Float[Tensor, "n units"], explained: Sequence[Patterns], contexts: Contexts, excerpts: Excerpts, seed: int
) -> Float[Tensor, " units"]:
    """How many kinds of context explain every unit (`explain.coverage`); NaN where none explains anything."""
    stream = contexts.stream
    assert stream is not None, "contexts of a whole text"
    seen = excerpts.row_split("fit") | excerpts.row_split("select")
    documents = excerpts.documents.repeat_interleave(excerpts.lengths)
    positions = torch.arange(len(stream.tokens)) - stream.starts
    site = Surroundings.of(stream.tokens, documents, positions, contexts.vocabulary, seed)
    found = []
    for u, explanation in enumerate(explained):
        real = values[:, u]
        pieces = take_apart(real, explanation.simulate(contexts), site, seen)
        covered = cover(real, pieces, excerpts, str, rng.stream(seed, "effective", u))
        found.append(covered.record.effective.value)
    return torch.tensor(found)


def _unit(
    real: Float[Tensor, " n"],
    explanation: Patterns,
    contexts: Contexts,
    excerpts: Excerpts,
    how: tuple[ScoringSet, Tensor, torch.Generator],
) -> dict[str, tuple[float, Tensor]]:
    """Every score of one explanation, with its draws."""
    chosen, drawn, generator = how
    simulated = explanation.simulate(contexts)
    mixed = _Scored.of(real, simulated, excerpts, (chosen.top, chosen.beside))
    alone = _Scored.of(real, simulated, excerpts, (chosen.random,))
    test = excerpts.row_split("test")
    population = _correlation(_standard(real[test]), _standard(simulated[test]))
    null = mixed.shifted(generator)
    above = (
        math.nan
        if math.isnan(mixed.rho) or not null.isfinite().any()
        else float(mixed.rho > null.nan_to_num(-1.0).max())
    )
    constant = torch.full((len(drawn),), explanation.bits, dtype=torch.float64)
    fixed = lambda v: (v, torch.full_like(constant, v))  # noqa: E731
    return {
        "top_and_random": (mixed.rho, mixed.resampled(drawn)),
        "random_only": (alone.rho, alone.resampled(drawn)),
        "population": fixed(population),
        "null": fixed(float(null.nanmean())),
        "above_null": fixed(above),
        "scored": fixed(float(math.isfinite(alone.rho))),
        "bits": (explanation.bits, constant),
    }


@dataclass(frozen=True)
class _Scored:
    """Moments of real and simulated values per document, stratum by stratum."""

    rho: float
    sums: tuple[Float[Tensor, "_ 6 1"], ...]
    owners: tuple[Int[Tensor, " _"], ...]
    rows: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]

    @classmethod
    def of(cls, real: Tensor, simulated: Tensor, excerpts: Excerpts, strata: tuple[Tensor, ...]) -> "_Scored":
        """Both sides on the excerpts of all strata, standardized over all of them."""
        strata = tuple(stratum for stratum in strata if len(stratum))
        rows = excerpts.rows(torch.cat(strata) if strata else excerpts.starts[:0])
        a, m = _standard(real[rows]), _standard(simulated[rows])
        sums, owners, start = [], [], 0
        for stratum in strata:
            lengths = excerpts.lengths[stratum]
            part = slice(start, start + int(lengths.sum()))
            documents, place = excerpts.documents[stratum].unique(return_inverse=True)
            every = torch.ones_like(a[part], dtype=torch.bool)
            by_row = place.repeat_interleave(lengths)
            sums.append(stats.document_sums(moments(a[part], m[part], every), by_row, len(documents))[..., None])
            owners.append(documents)
            start = part.stop
        enough = sum(len(documents) for documents in owners) >= FEWEST
        return cls(_correlation(a, m) if enough else math.nan, tuple(sums), tuple(owners), (a, m))

    def resampled(self, drawn: Float[Tensor, "draws docs"]) -> Float[Tensor, " draws"]:
        """ρ in every draw; the weights of a stratum add up to its number of documents, as that number is fixed."""
        if not math.isfinite(self.rho) or not bool(self.rows[1].any()):
            return torch.full((len(drawn),), self.rho, dtype=torch.float64)
        total: Tensor | float = 0.0
        for sums, owners in zip(self.sums, self.owners, strict=True):
            weight = drawn[:, owners]
            share = weight * (len(owners) / weight.sum(1, keepdim=True).clamp_min(1e-9))
            total = total + torch.einsum("bd,dks->bks", share, sums)
        assert isinstance(total, Tensor), "a score needs documents"
        return correlation_of(total)[:, 0]

    def shifted(self, generator: torch.Generator) -> Float[Tensor, " shifts"]:
        """ρ with simulated values moved along the rows, end to start."""
        real, simulated = self.rows
        if not math.isfinite(self.rho):
            return torch.full((SHIFTS,), math.nan)
        steps = torch.randint(1, max(2, len(real)), (SHIFTS,), generator=generator)
        return torch.stack([(real * simulated.roll(int(step))).mean() for step in steps])


def _correlation(a: Float[Tensor, " n"], m: Float[Tensor, " n"]) -> float:
    """Of standardized sides. An explanation that always says the same explains nothing: 0; NaN for a constant unit."""
    return float((a * m).mean()) if bool(a.any()) else math.nan


def _standard(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Mean 0, variance 1, in float64; a constant is 0 everywhere."""
    return standardized(values[:, None])[:, 0]


def active(values: Float[Tensor, "n units"]) -> Bool[Tensor, " units"]:
    """Units that are above 0 somewhere and not constant; the others are dead."""
    return (values.amax(0) > 0) & (values.amax(0) > values.amin(0))
