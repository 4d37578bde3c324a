"""What was published, and whether ours goes the same way.

Read off the figures of Bills et al. 2023 (their numbers are not public), so to about 0.005. Their explanations are sentences
by a language model, but where they are said to be look-ups; ours are look-ups, whole ones and short ones. A claim here is about a direction: it holds if our interval lies on the
published side of zero, differs if it lies on the other side, and is not reached if it holds zero.
"""

import math
from dataclasses import replace

import numpy as np

from ...records import Claim, ClaimVerdict
from .analysis import Ladder, Stat

SOURCE = "Bills et al. 2023"
PARAMETERS = (0.1e6, 0.39e6, 3.2e6, 12.6e6, 25e6, 43e6, 87e6, 301e6, 689e6, 1.2e9, 2.55e9)
BY_SIZE = {
    "top_and_random": (0.206, 0.228, 0.223, 0.220, 0.226, 0.233, 0.208, 0.182, 0.182, 0.162, 0.144),
    "random_only": (0.097, 0.110, 0.086, 0.067, 0.054, 0.048, 0.050, 0.043, 0.035, 0.032, 0.032),
}
"""Scores of sentences by network."""
BY_DENSITY = {
    "gelu": {1.0: (3.208, 0.207, 0.080), 0.1: (3.235, 0.257, 0.118), 0.01: (3.307, 0.301, 0.148), 0.001: (3.301, 0.307, 0.145)},
    "relu": {1.0: (3.221, 0.234, 0.108), 0.1: (3.235, 0.269, 0.128), 0.01: (3.290, 0.313, 0.172), 0.001: (3.391, 0.334, 0.188)},
}  # fmt: skip
"""Loss, top-and-random, random-only of networks of about 3 million parameters."""
PER_DOUBLING = 0.17
"""Nats."""
PER_LAYER = {"lookup": -0.030, "short": -0.021}
"""Top-and-random in GPT-2 XL, layers 1 to 14: of token look-ups, and of sentences; further up the slopes are a tenth of these."""
SMALL = 13e6
"""The published sizes nearest to ours end here."""
TITLES = {"top_and_random": "top-and-random", "random_only": "random-only"}


def per_decade(score: str, most: float = math.inf) -> float:
    """Published slope over sizes, up to `most` parameters.

    >>> round(per_decade("random_only"), 3), round(per_decade("top_and_random", SMALL), 3)
    (-0.018, 0.005)
    """
    kept = [(math.log10(p), s) for p, s in zip(PARAMETERS, BY_SIZE[score], strict=True) if p <= most]
    return float(np.polyfit([x for x, _ in kept], [y for _, y in kept], 1)[0])


def tax(density: float) -> float:
    """Published share of extra parameters, both activations together: 2^(mean Δloss / 0.17) − 1.

    >>> round(tax(0.1), 2), round(tax(0.01), 1)
    (0.09, 0.4)
    """
    worse = [cells[density][0] - cells[1.0][0] for cells in BY_DENSITY.values()]
    return 2 ** (sum(worse) / len(worse) / PER_DOUBLING) - 1


EXPLAINERS = {"lookup": ("L", "look-ups"), "short": ("S", "look-ups of five tokens")}
"""Letter of their claims, and what they are called."""


def claims(found: Ladder) -> list[Claim]:
    """Published directions beside ours, of both look-ups, and then of what sparsity costs."""
    made: list[Claim] = []
    for explainer, (letter, name) in EXPLAINERS.items():
        for claim in (*_sizes(found, explainer), *_layers(found, explainer), *_sparsity(found, explainer)):
            made.append(replace(claim, id=letter + claim.id, statement=f"{claim.statement[:-1]} ({name})."))
    return made + _losses(found)


def _sizes(found: Ladder, explainer: str) -> list[Claim]:
    return [
        _claim(
            f"1.{number}", f"Larger networks score lower, {title}, per decade of parameters.", per_decade(score),
            found.per_decade(f"{explainer}_{score}"),
        )
        for number, (score, title) in enumerate(TITLES.items(), 1)
    ]  # fmt: skip


def _layers(found: Ladder, explainer: str) -> list[Claim]:
    ours = found.per_layer(f"{explainer}_top_and_random")
    return [_claim("2.1", "Later layers score lower, top-and-random, per layer.", PER_LAYER[explainer], ours)]


def _sparsity(found: Ladder, explainer: str) -> list[Claim]:
    made = []
    for place, (score, title) in enumerate(TITLES.items(), 1):
        for density in (0.1, 0.01, 0.001):
            for base, cells in BY_DENSITY.items():
                gained = found.gained(base, density, f"{explainer}_{score}")
                if gained is not None:
                    text = f"Density {density:g} scores higher than dense, {title}, {base}."
                    change = cells[density][place] - cells[1.0][place]
                    made.append(_claim(f"3.{len(made) + 1}", text, change, gained[0]))
    made += _activations(found, explainer)
    return made


def _activations(found: Ladder, explainer: str) -> list[Claim]:
    made = []
    for density in (1.0, 0.1, 0.01, 0.001):
        relu, gelu = found.cell("relu", density), found.cell("gelu", density)
        if relu is not None and gelu is not None:
            score = f"{explainer}_top_and_random"
            text = f"relu scores higher than gelu, top-and-random, at density {density:g}."
            change = BY_DENSITY["relu"][density][1] - BY_DENSITY["gelu"][density][1]
            made.append(_claim(f"4.{len(made) + 1}", text, change, relu.stat(score) - gelu.stat(score)))
    return made


def _losses(found: Ladder) -> list[Claim]:
    made = [
        _claim("C1", "A doubling of the parameters lowers the loss by so many nats.", PER_DOUBLING, found.per_doubling)
    ]
    for density in (0.1, 0.01, 0.001):
        ours = found.tax(list(BY_DENSITY), density)
        if math.isfinite(ours.value):
            text = f"Density {density:g} costs so many extra parameters, as a share, gelu and relu together."
            made.append(_claim(f"C{len(made) + 1}", text, tax(density), ours))
    return made


def _claim(id: str, statement: str, published: float, ours: Stat) -> Claim:
    low, high = ours.interval
    return Claim(
        id,
        statement,
        SOURCE,
        "published",
        published,
        math.nan,
        ours.value,
        low,
        high,
        0.0,
        direction(published, low, high),
    )


def direction(published: float, low: float, high: float) -> ClaimVerdict:
    """Whether an interval lies on the published side of zero.

    >>> direction(-0.1, -0.4, -0.2), direction(-0.1, 0.2, 0.4), direction(-0.1, -0.2, 0.4)
    ('holds', 'differs', 'not reached')
    """
    if not low * high > 0:  # also where there is no interval
        return "not reached"
    return "holds" if low * published > 0 else "differs"
