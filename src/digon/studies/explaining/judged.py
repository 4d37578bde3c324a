"""Scores of descriptions from simulated values of a few excerpts, of which some tokens may have none.

The rows with a value make a small corpus of their own, on which the scores of the other explainers are calculated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...explain import scorers
from ...explain.exemplars import Excerpts
from ...explain.llm import Simulation
from ...records import Measurement, Score
from .texts import Texts

Simulated = Mapping[int, Simulation]
"""Number of an excerpt → what was simulated on it."""


def scored(
    texts: Texts, own: Simulated, others: Sequence[Simulated], choices: tuple[Measurement, ...], seed: int
) -> Score:
    """The score of one description; `others` are simulations of other units' descriptions on the same excerpts.

    Tokens without a value are left out; `simulated_share` says how many are left.
    """
    part, real, simulated, chosen = _part(texts, own)
    draw = rng.stream(seed, "words score", texts.desk.model)
    total = sum(len(s.values) for s in own.values())
    share = len(real) / total if total else 0.0
    found = scorers.score(real, simulated, part, chosen, draw)
    alone = [_alone(texts, other, seed) for other in others]
    known = [m for m in alone if math.isfinite(m.value)]
    if known:
        value = sum(m.value for m in known) / len(known)
        ends = (known[0].low, known[0].high) if len(known) == 1 else (math.nan, math.nan)
        method = f"mean of {len(known)} descriptions of other units; {known[0].method}"
        found = replace(
            found,
            baseline=replace(known[0], name="rho_other_unit", value=value, low=ends[0], high=ends[1], method=method),
        )
    notes = [note for simulation in own.values() for note in simulation.notes]
    flags = (*found.flags, *([f"{len(notes)} notes on simulations, such as: {notes[0]}"] if notes else []))
    return replace(found, choices=choices, simulated_share=share, flags=flags)


def unscored(choices: tuple[Measurement, ...]) -> Score:
    """A score without simulation."""
    nothing = Measurement("rho_top_and_random", math.nan, method="not simulated, as it was not asked for")
    return Score(
        nothing, replace(nothing, name="rho_random_only"), replace(nothing, name="rho_other_unit"), choices=choices
    )


def _alone(texts: Texts, simulated: Simulated, seed: int) -> Measurement:
    part, real, values, chosen = _part(texts, simulated)
    return scorers.score(
        real, values, part, chosen, rng.stream(seed, "words baseline", texts.desk.model)
    ).top_and_random


def _part(
    texts: Texts, simulated: Simulated
) -> tuple[Excerpts, Float[Tensor, " m"], Float[Tensor, " m"], scorers.ScoringSet]:
    """The scored tokens with a simulated value as a corpus: its excerpts, real and simulated values, and their strata."""
    cut, rows, values, kept = texts.desk.excerpts, [], [], []
    for excerpt, simulation in simulated.items():
        column = torch.tensor(simulation.values, dtype=torch.float32) * (10 / simulation.scale)
        known = column.isfinite()
        if known.any():
            rows.append(cut.rows(torch.tensor([excerpt]))[known])
            values.append(column[known])
            kept.append(excerpt)
    lengths = torch.tensor([len(r) for r in rows], dtype=torch.long)
    place = torch.tensor(kept, dtype=torch.long)
    part = Excerpts(lengths.cumsum(0) - lengths, lengths, cut.documents[place], cut.splits[place], cut.document_ids)
    real = texts.values[torch.cat(rows)] if rows else torch.zeros(0)
    top, random = (torch.isin(place, wanted).nonzero().squeeze(1) for wanted in (texts.top, texts.random))
    return part, real, torch.cat(values) if values else torch.zeros(0), scorers.ScoringSet(top, random, random)


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
