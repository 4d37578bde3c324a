"""How many units of a site have an explanation that scores well, and how many would by chance alone?

Of every unit the explanation that is told first counts, chosen on the select split; its score on top and random excerpts of
unseen documents stands beside the scores of the same simulated values put on other excerpts. The draws are kept chunk by chunk.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...explain.counts import count_above
from ...records import Measurement, UnitCard
from ...store.runs import Run
from .bill import NAME
from .desk import key_of, told

GOOD = (0.8, 0.5)
"""Scores that are counted; .8 is what Bills et al. 2023 count."""


def keep(run: Run, chunk: str, draws: Mapping[str, Float[Tensor, " draws"]]) -> None:
    """Write what chance reaches for the units of a chunk, by key of the card."""
    if draws:
        run.write_table(f"chance/{chunk}", {key: values.double().cpu().numpy() for key, values in draws.items()})


def above(
    run: Run, chunks: Sequence[str], cards: Sequence[UnitCard], chosen: Mapping[str, Mapping[str, float | None]]
) -> list[Measurement]:
    """Numbers of units above each good score with their bounds on false ones; none where no draws are kept.

    Cards about how far a unit falls are left out, so that no unit counts twice.
    """
    null: dict[str, np.ndarray] = {}
    for chunk in chunks:
        if (run.path / f"chance/{chunk}.parquet").is_file():
            null |= run.read_table(f"chance/{chunk}")
    rows, ends, draws = [], [], []
    for card in cards:
        own = [e for e in card.explanations if e.explainer != NAME]
        first = told(own, chosen.get(key_of(card), {}))
        if card.sign > 0 and first is not None and first.score is not None and key_of(card) in null:
            m = first.score.top_and_random
            rows.append(m.value)
            ends.append((m.low, m.high))
            draws.append(null[key_of(card)])
    if not rows:
        return []
    low, high = torch.tensor(ends, dtype=torch.float64).T
    rho, chance = torch.tensor(rows, dtype=torch.float64), torch.from_numpy(np.stack(draws, 1))
    return [m for good in GOOD for m in count_above(rho, chance, good, (low, high))]


def said(measured: Sequence[Measurement]) -> str:
    """What is told of them; nothing where nothing was counted."""
    by_name = {m.name: m for m in measured}
    number = by_name.get(f"units_above_{GOOD[0]:g}")
    if number is None or not number.n:
        return ""
    return (
        f" {number.value:.0f} of {number.n} units have an explanation in patterns with ρ ≥ {GOOD[0]:g}, where chance would "
        f"bring {number.null:.2g}."
    )
