"""Scores of descriptions from simulated values of a few excerpts; all other tokens are missing, and never taken as 0."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...explain import scorers
from ...explain.llm import Simulation
from ...records import Measurement, Score
from .texts import Texts

Simulated = Mapping[int, Simulation]
"""Number of an excerpt → what was simulated on it."""


def scored(
    texts: Texts, own: Simulated, others: Sequence[Simulated], choices: tuple[Measurement, ...], seed: int
) -> Score:
    """The score of one description; `others` are simulations of other units' descriptions on the same excerpts.

    Its population is estimated from the top and random excerpts by what they stand for.
    """
    cut, draw = texts.desk.excerpts, rng.stream(seed, "words score", texts.desk.model)
    chosen = scorers.ScoringSet(texts.top, texts.random, texts.random)
    column = _column(texts, own)
    found = scorers.score(texts.values, column, cut, chosen, draw, [_column(texts, other) for other in others])
    notes = [note for simulation in own.values() for note in simulation.notes]
    said = (f"{len(notes)} notes on simulations, such as: {notes[0]}",) if notes else ()
    return replace(found, choices=choices, flags=(*found.flags, *said))


def unscored(choices: tuple[Measurement, ...]) -> Score:
    """A score without simulation."""
    nothing = Measurement("rho_top_and_random", math.nan, method="not simulated, as it was not asked for")
    return Score(
        nothing, replace(nothing, name="rho_random_only"), replace(nothing, name="rho_other_unit"), choices=choices
    )


def _column(texts: Texts, simulated: Simulated) -> Float[Tensor, " n"]:
    """Simulated values on their rows, on one scale from 0 to 10; NaN on all others."""
    column = torch.full_like(texts.values, torch.nan)
    for excerpt, simulation in simulated.items():
        rows = texts.desk.excerpts.rows(torch.tensor([excerpt]))
        column[rows] = torch.tensor(simulation.values, dtype=column.dtype) * (10 / simulation.scale)
    return column


def on_excerpts(texts: Texts, simulated: Simulated, largest: float) -> dict[tuple[str, int], tuple[float, ...]]:
    """Simulated values in units of the activation, by document and first position: 10 stands for the largest shown one."""
    cut, store = texts.desk.excerpts, texts.desk.store
    return {
        (cut.document_ids[int(cut.documents[e])], int(store.positions[int(cut.starts[e])])): tuple(
            round(v * largest / s.scale, 4) for v in s.values
        )
        for e, s in simulated.items()
    }


def places(excerpts: Int[Tensor, " m"]) -> list[int]:
    """Numbers of excerpts, each once."""
    return list(dict.fromkeys(excerpts.tolist()))
