"""How many features were never seen? Atoms are species, firings are sightings.

    Chao1      n̂ = n_obs + (1 − 1/N) f₁² / (2 f₂)             a lower bound on n: f₁ atoms fired once, f₂ fired twice
    coverage   Ĉ = 1 − (f₁/N) (N−1) f₁ / ((N−1) f₁ + 2 f₂)    share of all firings, past and future, of atoms that were seen

Chao1 needs counts down to one. A method that finds an atom only if it has at least F rows hides f₁ and f₂; there

    detected   n̂ = Σᵢ 1 / P(Poisson(cᵢ) ≥ F)

over the atoms found. The counts cᵢ of atoms that just made it are too large, so this stays below the truth as well.
No number bounds n from above: features that are rare enough leave no trace.

Sources: Chao 1984, 1987; Chao & Jost 2012 (coverage); Esty 1983 (its variance); Horvitz & Thompson 1952.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from scipy.stats import norm, poisson
from torch import Tensor

from ..errors import ConfigError

Counts = Int[Tensor, " k"] | Float[Tensor, " k"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def chao1(counts: Counts, level: float = 0.95) -> Estimate:
    """Least number of species, from how often each was sighted; zeros are species that were not.

    Range: [observed, ∞). The interval is for what Chao1 estimates: the truth may lie above it, hardly ever below.
    Raises: ConfigError for counts below 0. Source: Chao 1984, 1987.

    >>> import torch
    >>> round(chao1(torch.tensor([1, 1, 1, 1, 2, 2, 9])).value, 2)
    10.76
    """
    total, seen, once, twice = _frequencies(counts)
    if not total:
        return Estimate(0.0, 0.0, math.inf)
    a = (total - 1) / total
    if twice:
        r = once / twice
        unseen, variance = a * once * r / 2, twice * (a * r**2 / 2 + a**2 * r**3 + a**2 * r**4 / 4)
    else:
        unseen = a * once * (once - 1) / 2
        variance = unseen + a**2 * once * (2 * once - 1) ** 2 / 4
        variance -= a**2 * once**4 / (4 * (seen + unseen))
    if unseen <= 0:
        return Estimate(float(seen), float(seen), float(seen))
    reach = math.exp(norm.ppf((1 + level) / 2) * math.sqrt(math.log1p(max(variance, 0.0) / unseen**2)))
    return Estimate(seen + unseen, seen + unseen / reach, seen + unseen * reach)


def coverage(counts: Counts, level: float = 0.95) -> Estimate:
    """Share of the firings to come that will be of atoms seen already.

    Range: [0, 1]; NaN without sightings. Raises: ConfigError for counts below 0. Source: Chao & Jost 2012; Esty 1983.

    >>> import torch
    >>> round(coverage(torch.tensor([1, 1, 1, 1, 2, 2, 9])).value, 3)
    0.779
    """
    total, _, once, twice = _frequencies(counts)
    if not total:
        return Estimate(math.nan, math.nan, math.nan)
    if not once:
        return Estimate(1.0, max(0.0, 1 - _rule_of_three(level) / total), 1.0)
    correction = (total - 1) * once / ((total - 1) * once + 2 * twice) if total > 1 else 1.0
    value = 1 - once / total * correction
    spread = math.sqrt(once * (1 - once / total) + 2 * twice) / total
    reach = float(norm.ppf((1 + level) / 2)) * spread
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def detected(counts: Counts, fewest: int | float, level: float = 0.95) -> Estimate:
    """Least number of species, where a species is found if it was sighted at least `fewest` times.

    Counts below `fewest` are left out. Range: [found, ∞). Raises: ConfigError for counts below 0 or `fewest` below 1.
    Source: Horvitz & Thompson 1952; that plugging in the counts keeps it below the truth is derived here.

    >>> import torch
    >>> detected(torch.tensor([500, 600]), 6).value
    2.0
    """
    if fewest < 1:
        raise ConfigError(f"species found from {fewest} sightings on", expected="at least 1")
    _frequencies(counts)
    found = counts[counts >= fewest].double().cpu().numpy()
    chance = poisson.sf(math.ceil(fewest) - 1, found)
    value = float((1 / chance).sum())
    reach = float(norm.ppf((1 + level) / 2)) * math.sqrt(float(((1 - chance) / chance**2).sum()))
    return Estimate(value, max(float(len(found)), value - reach), value + reach)


def _frequencies(counts: Counts) -> tuple[float, int, int, int]:
    """Sightings, species sighted, sighted once, sighted twice."""
    if bool((counts < 0).any()):
        raise ConfigError("a count below 0", expected="numbers of sightings")
    return float(counts.sum()), int((counts > 0).sum()), int((counts == 1).sum()), int((counts == 2).sum())


def _rule_of_three(level: float) -> float:
    """Upper end for the rate of an event that was never seen."""
    return -math.log(1 - level)
