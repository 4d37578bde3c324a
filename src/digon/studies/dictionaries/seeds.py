"""Would another training find the same atoms? Dictionaries that differ in their seed alone, matched with each other."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from ... import rng
from ...coders.sae import SAE
from ...measures.recovery import Stability, stability
from ...measures.stats import jackknife_interval
from ...records import Measurement
from ...store.runs import Run

NAMES = {"stability": ("mean_cosine", "chance_mean"), "stability_close": ("share_close", "chance_share")}
METHODS = {
    "stability": "mean cosine of one-to-one pairs",
    "stability_close": "share of one-to-one pairs with a cosine of .9 or more",
}


def compare(trained: Mapping[Path, SAE], seed: int) -> None:
    """Stability of dictionaries that differ in their seed alone, each in its folder."""
    write_stability([Run(folder) for folder in trained], [sae.dictionary.atoms.cpu() for sae in trained.values()], seed)


def write_stability(runs: list[Run], dictionaries: list[Tensor], seed: int) -> None:
    """Write `stability.json` beside each of several dictionaries: how well all of them agree.

    The interval leaves one training out at a time; two trainings have none.
    """
    pairs = {
        pair: stability(dictionaries[pair[0]], dictionaries[pair[1]], rng.stream(seed, "stability", *pair))
        for pair in combinations(range(len(dictionaries)), 2)
    }
    for run in runs:
        run.write_json("stability", [agreement(name, pairs, len(dictionaries)) for name in NAMES])


def agreement(name: str, pairs: dict[tuple[int, int], Stability], count: int) -> Measurement:
    """Mean over pairs of trainings, with the interval of the jackknife over trainings."""
    what, chance = NAMES[name]
    mean = lambda chosen, field: sum(getattr(s, field) for s in chosen) / len(chosen)  # noqa: E731
    value = mean(list(pairs.values()), what)
    low, high = float("nan"), float("nan")
    if count > 2:
        left = [mean([s for pair, s in pairs.items() if out not in pair], what) for out in range(count)]
        ends = jackknife_interval(
            torch.tensor([value], dtype=torch.float64), torch.tensor(left, dtype=torch.float64)[:, None]
        )
        low, high = (float(end) for end in ends)
    method = f"{METHODS[name]}, {count} trainings on the same data in the same order; jackknife over trainings; null: random directions of equal second moment"
    return Measurement(
        name, value, max(low, 0.0) if low == low else low, min(high, 1.0) if high == high else high, count,
        method=method, source="Sharkey et al. 2022; O'Neill et al. 2024", null=mean(list(pairs.values()), chance),
    )  # fmt: skip
