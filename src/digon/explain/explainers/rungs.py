"""All explanations without a language model of every unit, the best of them, and what precision costs.

    constant → look-up of 1, 5, 20, … tokens → full look-up → 2- and 3-grams → linear probe → …

Rungs are fitted on the fit rows; what they leave open (how many tokens, which concepts stay, which rung is best) is
decided on the select rows. A rung fits all units of a site in one call, on what they share: tables of patterns, concepts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ... import threads
from ..exemplars import ORDERS, Contexts
from .backoff import BackOff
from .base import Fitted
from .formula import FormulaSearch
from .grown import GrownAutomaton
from .hybrid import NAME as HYBRID
from .hybrid import hybrid
from .lookup import Constant, LookUp
from .n2g import CopiedAutomaton
from .ngrams import NGrams
from .probe import LinearProbe
from .rung import Rung
from .shared import Shared

RUNGS: tuple[Rung[Fitted], ...] = (
    Constant(),
    *(LookUp(k) for k in (1, 5, 20, 100)),
    LookUp(),
    *(BackOff(order) for order in range(1, ORDERS + 1)),
    NGrams(),
    LinearProbe(),
    FormulaSearch(),
    CopiedAutomaton(),
    GrownAutomaton(),
)
LADDER = {rung.name: rung for rung in RUNGS}
"""Every rung by the name of what it makes; the hybrid of `BLENDED` comes after all of them."""
BLENDED = tuple(rung.name for rung in (LookUp(), NGrams(), LinearProbe(), FormulaSearch(), GrownAutomaton()))
"""What a hybrid is made of."""
TOGETHER = 64
"""Most units that are explained at once: tables of all patterns are held for as many."""


def fit_all(
    values: Float[Tensor, "n units"],
    contexts: Contexts,
    fit: Bool[Tensor, " n"],
    select: Bool[Tensor, " n"],
    ladder: Mapping[str, Rung[Fitted]] = LADDER,
) -> list[tuple[Fitted, ...]]:
    """Every rung's explanation of every unit, in the order of the ladder; torch's threads share the units.

    Raises: NonFiniteError if a unit is not finite on the fit rows.
    """
    return fit_shared(values, Shared(contexts, fit, select), ladder)


def fit_shared(
    values: Float[Tensor, "n units"], shared: Shared, ladder: Mapping[str, Rung[Fitted]] = LADDER, *, blend: bool = True
) -> list[tuple[Fitted, ...]]:
    """The same on tables that are there already, for units that come in several parts; without `blend` no hybrid."""
    shared.prepare()
    with threads.alone():
        spans = threads.spans(values.shape[1], max(threads.count(), -(-values.shape[1] // TOGETHER)))
        parts = threads.share(lambda span: _fitted(values[:, span[0] : span[1]], shared, ladder, blend), spans)
    return [explanations for part in parts for explanations in part]


def _fitted(
    values: Float[Tensor, "n units"], shared: Shared, ladder: Mapping[str, Rung[Fitted]], blend: bool
) -> list[tuple[Fitted, ...]]:
    """All rungs on some of the units."""
    rungs = {name: rung.fit_shared(shared, values) for name, rung in ladder.items()}
    blended = [name for name in BLENDED if name in rungs]
    if blend and len(blended) > 1:
        parts = [{name: rungs[name][unit] for name in blended} for unit in range(values.shape[1])]
        rungs[HYBRID] = [hybrid(shared, values[:, unit], mine) for unit, mine in enumerate(parts)]
    return list(zip(*rungs.values(), strict=True))


def squared_correlations(
    values: Float[Tensor, " n"], fitted: Sequence[Fitted], contexts: Contexts, rows: Bool[Tensor, " n"]
) -> list[float]:
    """ρ² of every explanation on some rows; 0 where it predicts the same value everywhere.

    Range: [0, 1]; NaN if the unit itself is constant there. A negative correlation counts as 0.
    """
    some, truth = contexts.take(rows), values[rows].double()
    truth = truth - truth.mean()
    power = float(truth @ truth)
    if power == 0:
        return [math.nan] * len(fitted)
    found = []
    for explanation in fitted:
        guess = explanation.simulate(some).double()
        guess = guess - guess.mean()
        spread, shared = float(guess @ guess), float(guess @ truth)
        found.append(shared**2 / (spread * power) if shared > 0 and spread > 1e-12 * power else 0.0)
    return found


def best(
    values: Float[Tensor, " n"], fitted: Sequence[Fitted], contexts: Contexts, select: Bool[Tensor, " n"]
) -> Fitted:
    """The explanation with the largest ρ² on the select rows; the cheapest among equals."""
    assert fitted, "at least one explanation to choose from"
    scores = [0.0 if math.isnan(s) else s for s in squared_correlations(values, fitted, contexts, select)]
    return min(zip(scores, fitted, strict=True), key=lambda pair: (-pair[0], pair[1].bits))[1]


@dataclass(frozen=True)
class Point:
    """One explanation that no other one beats at its price."""

    name: str
    bits: float
    explained: float
    """ρ² on rows that it has not seen. Range: [0, 1]."""


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that explain more than all cheaper ones, cheapest first.

    >>> [p.name for p in pareto([Point("a", 9.0, 0.5), Point("b", 3.0, 0.2), Point("c", 12.0, 0.4)])]
    ['b', 'a']
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bits, -p.explained)):
        if not kept or point.explained > kept[-1].explained:
            kept.append(point)
    return tuple(kept)


def rate_distortion(
    values: Float[Tensor, " n"], fitted: Sequence[Fitted], contexts: Contexts, rows: Bool[Tensor, " n"]
) -> tuple[Point, ...]:
    """What ρ² on held-out rows costs in bits for one unit; empty if the unit is constant there."""
    scores = squared_correlations(values, fitted, contexts, rows)
    known = [(f, s) for f, s in zip(fitted, scores, strict=True) if not math.isnan(s)]
    return pareto([Point(f.name, float(f.bits), s) for f, s in known])


def mean_curve(curves: Sequence[Sequence[Point]], budgets: Sequence[float | int]) -> Float[Tensor, " budgets"]:
    """Mean over units of the best ρ² that each budget of bits buys; 0 where a unit has nothing so cheap."""
    reached = [
        [max((p.explained for p in curve if p.bits <= budget), default=0.0) for budget in budgets]
        for curve in curves
        if curve
    ]
    return torch.tensor(reached, dtype=torch.float64).reshape(-1, len(budgets)).mean(0)
