"""How well does an explanation predict a unit? Simulate, then correlate, on documents that it has not seen.

    ρ = corr(real, simulated) over all tokens of all scoring excerpts together, not the mean of per-excerpt correlations
    top-and-random   5 excerpts with the unit's largest activations and 5 random ones, all of the test split
    random-only      random excerpts of the test split, more of them for a narrower interval
    population       all tokens of the test split

After the best linear map of the simulated values the explained variance is ρ². Intervals resample documents, top and
random ones apart, as their numbers are fixed. Percentile intervals from few documents are too narrow: on noise, those
of 95 % cover .84 of the time from 5 + 5 documents, .92 from 40, .93 from the population of the test split. The baseline
is what explanations of other units score on the same tokens.

Source: Bills et al. 2023, "Language models can explain neurons in language models".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import records, rng
from ..measures import stats
from .exemplars import Contexts, Excerpts, top, uniform
from .explainers import LookUp, NGrams, Trie
from .splits import assert_disjoint

TOP, RANDOM, MANY = 5, 5, 40
DRAWS = 200
BASELINES = 3
"""Other units whose explanations are tried on a unit."""
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class ScoringSet:
    """The excerpts of the test split on which one unit is scored."""

    top: Int[Tensor, " a"]
    beside: Int[Tensor, " b"]
    """Random ones that are scored together with the top ones: none shares a document with them."""
    random: Int[Tensor, " c"]
    """Random ones that are scored alone, whatever the unit does on them."""


def scoring_set(excerpts: Excerpts, maxima: Float[Tensor, " excerpts"], generator: torch.Generator) -> ScoringSet:
    """Choose them, each from a document of its own.

    Raises: RunError if any document is both in the test split and in another.
    """
    test = excerpts.in_split("test")
    unseen = excerpts.documents[test].unique().tolist()
    assert_disjoint(excerpts.seen, [excerpts.document_ids[int(d)] for d in unseen])
    best = top(excerpts, maxima, test, TOP)
    random = uniform(excerpts, test, MANY + TOP, generator)
    apart = ~torch.isin(excerpts.documents[random], excerpts.documents[best])
    return ScoringSet(best, random[apart][:RANDOM], random[:MANY])


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
    mixed = (chosen.top, chosen.beside)
    both = pooled("rho_top_and_random", real, [simulated], excerpts, mixed, generator)
    alone = pooled("rho_random_only", real, [simulated], excerpts, (chosen.random,), generator)
    reference = pooled("rho_other_unit", real, others, excerpts, mixed, generator)
    needed = (both, alone, reference) if others else (both, alone)
    flags = tuple(f"{m.name} is undefined: {m.method}" for m in needed if math.isnan(m.value))
    return records.Score(both, alone, reference, flags)


def population(
    real: Float[Tensor, " n"], simulated: Float[Tensor, " n"], excerpts: Excerpts, generator: torch.Generator
) -> records.Measurement:
    """Correlation over all tokens of the test split."""
    everything = excerpts.in_split("test").nonzero().squeeze(1)
    return pooled("rho_population", real, [simulated], excerpts, (everything,), generator)


def pooled(
    name: str,
    real: Float[Tensor, " n"],
    simulations: Sequence[Float[Tensor, " n"]],
    excerpts: Excerpts,
    strata: Sequence[Int[Tensor, " _"]],
    generator: torch.Generator,
) -> records.Measurement:
    """Correlation over all tokens of the excerpts of all strata, averaged over the simulations that are not constant.

    The interval is a bootstrap over the documents within each stratum.
    Raises: RunError if an excerpt comes from a document outside the test split.
    """
    chosen = torch.cat(list(strata))
    numbers = excerpts.documents[chosen].unique()
    assert_disjoint(excerpts.seen, [excerpts.document_ids[int(d)] for d in numbers.tolist()])
    if not simulations:
        return records.Measurement(name, math.nan, method="nothing to compare with", source=SOURCE)
    if len(numbers) < 2:
        return records.Measurement(name, math.nan, method=f"{len(numbers)} documents in the test split", source=SOURCE)
    rows = excerpts.rows(chosen)
    sums = [
        _document_sums(real, simulations, excerpts, stratum, (real[rows], [s[rows] for s in simulations]))
        for stratum in strata
        if len(stratum)
    ]
    rho = correlation_of(torch.stack([s.sum(0) for s in sums]).sum(0))
    known = rho.isfinite()
    method = f"{' + '.join(str(len(s)) for s in strata)} excerpts of unseen documents pooled, bootstrap over documents"
    if len(simulations) > 1:
        method = f"mean of {int(known.sum())} explanations; {method}"
    if not known.all():
        method += f"; {int((~known).sum())} undefined: real or simulated values are constant"
    low, high = _interval(sums, generator)
    return records.Measurement(name, float(rho.nanmean()), low, high, len(rows), "", method, None, SOURCE, 0.0)


def correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Pearson correlation; NaN where either side is constant."""
    return float(correlation_of(_moments(_standard(a, a), _standard(b, b)[:, None]).sum(0)))


def correlation_of(sums: Float[Tensor, "*b 6 s"]) -> Float[Tensor, "*b s"]:
    """Correlation from sums of 1, a, m, a², m², am; NaN where a side is constant."""
    n, a, m, aa, mm, am = sums.unbind(-2)
    spread_a, spread_m = aa - a * a / n, mm - m * m / n
    varies = (spread_a > 1e-9) & (spread_m > 1e-9)
    return torch.where(varies, (am - a * m / n) / (spread_a * spread_m).clamp_min(1e-18).sqrt(), math.nan)


def _standard(values: Float[Tensor, " n"], pool: Float[Tensor, " pool"]) -> Float[Tensor, " n"]:
    """Values relative to mean and deviation of the pool, so that rounding and scale cannot look like variation."""
    pool = pool.double()
    constant = len(pool) == 0 or bool(pool.max() == pool.min())
    return values.double() * 0 if constant else (values.double() - pool.mean()) / pool.std(correction=0)


def _moments(a: Float[Tensor, " n"], m: Float[Tensor, "n s"]) -> Float[Tensor, "n 6 s"]:
    a = a[:, None].expand_as(m)
    return torch.stack([torch.ones_like(m), a, m, a * a, m * m, a * m], 1)


def _document_sums(
    real: Float[Tensor, " n"],
    simulations: Sequence[Float[Tensor, " n"]],
    excerpts: Excerpts,
    stratum: Int[Tensor, " m"],
    pool: tuple[Float[Tensor, " pool"], Sequence[Float[Tensor, " pool"]]],
) -> Float[Tensor, "docs 6 s"]:
    """Sums of moments over every document of a stratum."""
    rows = excerpts.rows(stratum)
    a = _standard(real[rows], pool[0])
    m = torch.stack([_standard(s[rows], p) for s, p in zip(simulations, pool[1], strict=True)], 1)
    owners, index = excerpts.documents[stratum].unique(return_inverse=True)
    moments = _moments(a, m).flatten(1)
    by_row = index.repeat_interleave(excerpts.lengths[stratum])
    return stats.document_sums(moments, by_row, len(owners)).unflatten(1, (6, -1))


def _interval(sums: Sequence[Float[Tensor, "_ 6 s"]], generator: torch.Generator) -> tuple[float, float]:
    """Percentile interval of the mean correlation; NaN unless nine tenths of the draws are defined."""
    total: Tensor | float = 0.0
    for stratum in sums:
        docs = len(stratum)
        if docs:
            picks = torch.randint(docs, (DRAWS, docs), generator=generator, device=generator.device).to(stratum.device)
            weights = stratum.new_zeros(DRAWS, docs).scatter_add_(1, picks, torch.ones_like(picks, dtype=stratum.dtype))
            total = total + torch.einsum("bd,dks->bks", weights, stratum)
    assert isinstance(total, Tensor), "no documents to draw from"
    found = correlation_of(total).nanmean(-1)
    found = found[found.isfinite()]
    if len(found) < 0.9 * DRAWS:
        return math.nan, math.nan
    return float(found.quantile(0.025)), float(found.quantile(0.975))


@dataclass(frozen=True)
class Explained:
    """All explanations of one unit; what they predict on every row, and over the whole test split, by explainer."""

    explanations: tuple[records.Explanation, ...]
    simulated: dict[str, Float[Tensor, " n"]]
    population: dict[str, records.Measurement]


def explain_units(
    values: Float[Tensor, "n units"],
    contexts: Contexts,
    excerpts: Excerpts,
    token_text: Callable[[int], str],
    seed: int = 0,
) -> list[Explained]:
    """Explain units of one site and score them; each one's baseline are the explanations of the units after it.

    Raises: NonFiniteError if a unit is not finite.
    """
    fit, select = excerpts.row_split("fit"), excerpts.row_split("select")
    trie = Trie.of(contexts.take(fit | select))
    known, maxima = values[fit | select], excerpts.maxima(values)
    single = LookUp.fit_many(contexts, values, fit, select)
    units = [(look, NGrams.prune(trie, known[:, u])) for u, look in enumerate(single)]
    simulated = [{p.name: p.simulate(contexts) for p in patterns} for patterns in units]
    explained = []
    for u, patterns in enumerate(units):
        draw = rng.stream(seed, "explain", u)
        chosen, real = scoring_set(excerpts, maxima[:, u], draw), values[:, u]
        others = [simulated[(u + step) % len(units)] for step in range(1, min(BASELINES + 1, len(units)))]
        explanations, whole = [], {}
        for p in patterns:
            mine, rest = simulated[u][p.name], [other[p.name] for other in others]
            found = score(real, mine, excerpts, chosen, draw, rest)
            explanations.append(records.Explanation(p.name, p.render(token_text), round(p.bits, 1), found))
            whole[p.name] = population(real, mine, excerpts, draw)
        explained.append(Explained(tuple(explanations), simulated[u], whole))
    return explained


def explain_unit(
    values: Float[Tensor, " n"],
    contexts: Contexts,
    excerpts: Excerpts,
    token_text: Callable[[int], str],
    seed: int = 0,
) -> tuple[tuple[records.Explanation, ...], dict[str, Float[Tensor, " n"]]]:
    """Explanations of one unit and what they predict on every row, ready for a card; without a baseline."""
    found = explain_units(values[:, None], contexts, excerpts, token_text, seed)[0]
    return found.explanations, found.simulated
