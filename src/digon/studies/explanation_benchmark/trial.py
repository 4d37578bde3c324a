"""One trial: units of one kind on one text, explained as any unit would be, and judged against what they are.

Judged is on the test split alone. The best explanation of a unit is chosen on the select split.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ... import config as configs
from ... import rng
from ...explain import coverage, pieces, scorers
from ...explain.explainers import LADDER, Fitted, best, fit_all, squared_correlations
from ...explain.kinds import ALIKE
from ...worlds.units import Kind, Recipe, Unit, build
from ..jobs import Record
from .texts import Text, TextName, text

BESIDE = (0.5, 0.9)
"""Other thresholds of alike contexts at which the number of explanations is read."""


@dataclass(frozen=True)
class Trial:
    """What is tried; equal trials have equal results."""

    text: TextName
    documents: int
    kind: Kind
    shares: tuple[float, ...]
    units: int
    noise: float
    leak: float
    seed: int

    @property
    def about(self) -> str:
        """The kind, with the shares of a union."""
        if self.kind != "union":
            return self.kind
        equal = len(set(self.shares)) == 1
        return f"union of {len(self.shares)}" if equal else "union " + "/".join(f"{s:g}" for s in self.shares)

    @property
    def key(self) -> str:
        """Changes if anything about the trial does, or about the rungs that take part."""
        return configs.digest(self) + configs.digest(_Ladder(tuple(LADDER)))[:8]

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return asdict(self) | {"about": self.about}


@dataclass(frozen=True)
class _Ladder:
    rungs: tuple[str, ...]


def measure(trial: Trial) -> Record:
    """Build the units, explain them all, judge each."""
    place = text(trial.text, trial.documents, trial.seed)
    recipe = Recipe(trial.kind, trial.shares, trial.noise, trial.leak)
    units = [build(place.tokens, recipe, trial.units * trial.seed + i) for i in range(trial.units)]
    fit, select = (place.excerpts.row_split(name) for name in ("fit", "select"))
    fitted = fit_all(torch.stack([u.values for u in units], 1), place.contexts, fit, select)
    return {"found": [_judged(place, units, i, fitted[i], trial.seed) for i in range(len(units))]}


def _judged(place: Text, units: list[Unit], index: int, fitted: tuple[Fitted, ...], seed: int) -> Record:
    """Everything about one unit."""
    unit = units[index]
    select, test = (place.excerpts.row_split(name) for name in ("select", "test"))
    chosen = best(unit.values, fitted, place.contexts, select)
    scores = squared_correlations(unit.values, fitted, place.contexts, test)
    others = {f"the truth of unit {i}": u.rule for i, u in enumerate(units) if i != index}
    rules = {"truth": unit.rule, **unit.foils, **others}
    simulated = {name: rule.simulate(place.tokens) for name, rule in rules.items()}
    # another unit may have been given the same rule: then it is no foil
    same = [name for name in simulated if name != "truth" and torch.equal(simulated[name], simulated["truth"])]
    simulated = {name: values for name, values in simulated.items() if name not in same}
    found = _numbers(place, unit, chosen.simulate(place.contexts), seed)
    return {
        "explanation": unit.rule.describe(place.tokens.texts),
        "reachable": unit.reachable,
        "stated": unit.stated,
        "effective": unit.recipe.effective,
        "best": chosen.name,
        "rho": {f.name: math.sqrt(s) for f, s in zip(fitted, scores, strict=True)},
        "ranked": _ranked(place, unit, simulated, seed),
        **found,
    }


def _numbers(place: Text, unit: Unit, simulated: Float[Tensor, " n"], seed: int) -> Record:
    """The effective number of explanations; of unions also at other thresholds."""
    seen = place.excerpts.row_split("fit") | place.excerpts.row_split("select")
    name = place.tokens.texts.__getitem__
    found: Record = {}
    for alike in (ALIKE, *(BESIDE if unit.recipe.kind == "union" else ())):
        parts = pieces.take_apart(unit.values, simulated, place.site, seen, alike)
        record = coverage.cover(unit.values, parts, place.excerpts, name, rng.stream(seed, "coverage")).record
        if alike == ALIKE:
            m = record.effective
            found |= {"n_eff": m.value, "low": m.low, "high": m.high, "names": list(record.names)}
            found |= {"entropy": record.entropy.value if record.entropy else math.nan, "curve": list(record.explained)}
        else:
            found[f"n_eff at {alike:g}"] = record.effective.value
    return found


def _ranked(place: Text, unit: Unit, simulated: Mapping[str, Float[Tensor, " n"]], seed: int) -> dict[str, Record]:
    """ρ of the truth and of every foil, on all unseen tokens and on a scoring set; none for noise."""
    if unit.recipe.kind == "noise":
        return {}
    maxima = place.excerpts.maxima(unit.values[:, None])[:, 0]
    chosen = scorers.scoring_set(place.excerpts, maxima, rng.stream(seed, "ranked"))
    mixed = torch.cat([chosen.top, chosen.beside])
    rows = {"population": place.excerpts.row_split("test"), "top and random": place.excerpts.rows(mixed)}
    return {
        how: {name: scorers.correlation(unit.values[which], values[which]) for name, values in simulated.items()}
        for how, which in rows.items()
    }
