"""A regression set for any explainer and any judge, with or without a language model: units whose explanation is known.

    solve    an explainer sees excerpts (and may use the rows of fit and select); it predicts the activations of excerpts of other
             documents. A puzzle is solved if it reaches nine tenths of the ρ that the true explanation has there.
    rank     a judge gives every description a number on the same excerpts; how often is the true one first?

Shown excerpts come from the fit and select splits, judged ones from the test split: top ones and random ones, one per document.
Published: of 19 puzzles, GPT-4 solved 5 and its simulations ranked the true description first in 16.

Source: neuron puzzles of Bills et al. 2023; units, false descriptions and scores are ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import records, rng
from ...explain import exemplars, scorers
from ...explain.explainers import Explainer
from ...worlds.units import KINDS, Recipe, Unit, build
from ..report import share
from .texts import Text

SHOWN, JUDGED = 5, 5
"""Top excerpts, and as many random ones, of each side."""
SOLVED = 0.9
"""Share of the truth's ρ that solves a puzzle."""
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class Puzzle:
    """One unit to explain."""

    name: str
    description: str
    """The true explanation in words."""
    false_descriptions: tuple[str, ...]
    """Explanations that are wrong in one respect."""
    shown: tuple[records.Excerpt, ...]
    judged: tuple[records.Excerpt, ...]
    unit: Unit
    place: Text
    rows: Int[Tensor, " m"]
    """Rows of the judged excerpts, one after the other."""


Explain = Callable[[Puzzle], Sequence[Sequence[float]]]
"""From a puzzle to a value for every token of every judged excerpt; NaN where there is none."""
Judge = Callable[[str, Sequence[records.Excerpt]], float]
"""How well a description fits excerpts; more is better."""


def puzzles(place: Text, seed: int = 0, noise: float = 0.2) -> list[Puzzle]:
    """A puzzle of every kind but noise, and unions of two and three parts.

    Raises: ConfigError if the text has no concepts or gates to make them from.
    """
    wanted = [Recipe(kind, (1.0,), noise, 0.0) for kind in KINDS if kind not in ("noise", "union")]
    wanted += [Recipe("union", (1.0,) * k, noise, 0.0) for k in (2, 3)]
    return [_puzzle(place, build(place.tokens, recipe, seed), seed) for recipe in wanted]


def solve(explain: Explain, given: Sequence[Puzzle]) -> tuple[records.Measurement, dict[str, float]]:
    """Share of puzzles solved, and ρ of the explainer over that of the truth by puzzle; NaN where it says nothing.

    Range: a ratio above 1 is chance on few tokens. Raises: what the explainer raises.
    """
    reached: dict[str, float] = {}
    for puzzle in given:
        guess = torch.tensor([v for values in explain(puzzle) for v in values], dtype=torch.float32)
        assert len(guess) == len(puzzle.rows), f"{len(guess)} values for {len(puzzle.rows)} tokens of {puzzle.name}"
        known = guess.isfinite()
        real, truth = (x[puzzle.rows] for x in (puzzle.unit.values, puzzle.unit.rule.simulate(puzzle.place.tokens)))
        reached[puzzle.name] = _rho(real[known], guess[known]) / _rho(real, truth)
    solved = sum(ratio >= SOLVED for ratio in reached.values())
    return share(
        "puzzles_solved", solved, len(reached), f"ρ at least {SOLVED:g} of the truth's; Wilson interval"
    ), reached


def rank(judge: Judge, given: Sequence[Puzzle]) -> records.Measurement:
    """Share of puzzles whose true description the judge puts above all false ones; ties are not first."""
    first = 0
    for puzzle in given:
        best = judge(puzzle.description, puzzle.judged)
        first += all(best > judge(text, puzzle.judged) for text in puzzle.false_descriptions)
    return share("truth_first", first, len(given), "true description above all false ones; Wilson interval")


def of_rung(explainer: Explainer) -> Explain:
    """An explainer that learns from rows, as one that solves puzzles."""

    def explain(puzzle: Puzzle) -> list[list[float]]:
        place = puzzle.place
        fit, select = (place.excerpts.row_split(name) for name in ("fit", "select"))
        fitted = explainer.fit(place.contexts, puzzle.unit.values, fit, select)
        values = fitted.simulate(place.contexts)[puzzle.rows].split([len(e.tokens) for e in puzzle.judged])
        return [part.tolist() for part in values]

    return explain


def _puzzle(place: Text, unit: Unit, seed: int) -> Puzzle:
    draw = rng.stream(seed, "puzzle", unit.recipe.kind, len(unit.recipe.shares))
    maxima = place.excerpts.maxima(unit.values[:, None])[:, 0]
    test = place.excerpts.in_split("test")
    seen = place.excerpts.in_split("fit") | place.excerpts.in_split("select")
    sides: list[tuple[tuple[records.Excerpt, ...], Tensor]] = []
    for among, count in ((seen, SHOWN), (test, JUDGED)):
        best = exemplars.top(place.excerpts, maxima, among, count)
        random = exemplars.uniform(place.excerpts, among, 2 * count, draw)
        random = random[~torch.isin(place.excerpts.documents[random], place.excerpts.documents[best])][:count]
        strata: tuple[tuple[records.Stratum, Tensor], ...] = (("top", best), ("random", random))
        found = tuple(_record(place, unit, e, name) for name, part in strata for e in part.tolist())
        sides.append((found, place.excerpts.rows(torch.cat([best, random]))))
    name = unit.recipe.kind if unit.recipe.kind != "union" else f"union of {len(unit.recipe.shares)}"
    texts = place.tokens.texts
    false = tuple(foil.describe(texts) for foil in unit.foils.values())
    return Puzzle(name, unit.rule.describe(texts), false, sides[0][0], sides[1][0], unit, place, sides[1][1])


def _record(place: Text, unit: Unit, excerpt: int, stratum: records.Stratum) -> records.Excerpt:
    tokens = place.tokens
    data = (unit.values, tokens.ids, tokens.positions)
    return exemplars.record(place.excerpts, excerpt, stratum, data, tokens.texts.__getitem__, {})


def _rho(real: Float[Tensor, " n"], guess: Float[Tensor, " n"]) -> float:
    return scorers.correlation(real, guess) if len(real) else math.nan
