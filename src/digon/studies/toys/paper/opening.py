"""What is superposition, in one picture? Five features of falling importance in two dimensions, at several densities.

    x' = ReLU(x W Wᵀ + b),  n = 5, m = 2,  importance 0.9^i

1. Experiment: train networks as the paper did (AdamW on fresh samples), three times a number of starts; of each group
   keep the network with the lowest exact loss.
2. Theory: descend the exact loss from many random starts; the lowest minimum is the optimum to compare with.
3. Read the arrangement: how many features are represented, at which angles, with which biases.

Source: Elhage et al. 2022, the figure of the introduction.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures.geometry import cosines, norms
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.closed import linear_loss
from ....worlds.features import Features, features
from ....worlds.fit import FitConfig, fit
from ....worlds.population import expected_loss
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import Settled, best, search, settle
from ..sketch import line, points, series, still

N, M, DECAY = 5, 2, 0.9
IMPORTANCE = DECAY ** torch.arange(N, dtype=torch.float64)
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05)
SMOKE_DENSITIES = (1.0, 0.2, 0.1)
REPEATS = 3
SOURCE = "Elhage et al. 2022, introduction"


def law_of(densities: tuple[float, ...], copies: int = 1) -> Features:
    """The law of `copies` networks at every density, [densities × copies, 5]."""
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(copies)[:, None]
    return features(N, column.expand(-1, N), IMPORTANCE.expand(len(column), N))


def optima(densities: tuple[float, ...], starts: int, seed: int) -> tuple[Settled, Float[Tensor, " p"]]:
    """The lowest minimum of the exact loss at every density, and the share of starts within 1 % of it."""
    found = search(law_of(densities), M, starts, seed)
    won = best(found, starts)
    won = settle(won.W, won.b, law_of(densities))  # to the last digits
    share = (found.loss.view(-1, starts) <= 1.01 * won.loss[:, None]).double().mean(1)
    return won, share


def trained(densities: tuple[float, ...], starts: int, config: FitConfig) -> Settled:
    """The best of `starts` sampled trainings at every density, `REPEATS` times: [densities × repeats] networks."""
    law = law_of(densities, REPEATS * starts)
    toy = Toy(N, M, len(law.density), seed=config.seed)
    fit(toy, law, config)
    W, b = toy.W.detach().double(), toy.b.detach().double()
    return best(Settled(W, b, expected_loss(W, b, law)), starts)


@dataclass(frozen=True)
class Arrangement:
    """What the features of one network do."""

    represented: int
    """Features of norm above 0.8."""
    left: float
    """Largest norm of the other features."""
    least: bool
    """Whether exactly the least important features are left out."""
    pairs: float
    """Largest cosine of a represented feature with the one most opposite to it."""
    crossing: float
    """Largest |cosine| of represented features that are not opposite (cosine above −0.9)."""
    gap: float
    """Largest difference of the angle between neighbors from an even spacing, in degrees."""
    bias: float
    """Mean bias of represented features."""


def arrangement(W: Float[Tensor, "5 2"], b: Float[Tensor, " 5"]) -> Arrangement:
    """Reads a network."""
    size = norms(W)
    kept = size > 0.8
    count = int(kept.sum())
    cosine = cosines(W[kept]).masked_fill(torch.eye(count, dtype=torch.bool), 0.0)
    angle = torch.rad2deg(torch.atan2(W[kept, 1], W[kept, 0])).sort().values
    spacing = torch.cat([angle[1:], angle[:1] + 360]) - angle
    return Arrangement(
        represented=count,
        left=float(size[~kept].amax()) if count < N else 0.0,
        least=bool(kept[:count].all()),
        pairs=float(cosine.amin(1).amax()),
        crossing=float(torch.where(cosine > -0.9, cosine.abs(), 0.0).amax()),
        gap=float((spacing - 360 / max(count, 1)).abs().amax()),
        bias=float(b[kept].mean()),
    )


def run(config: StudyConfig, say: Say) -> Outcome:
    """Optima, trained networks, and what both look like."""
    smoke, seed = config.smoke, config.seed
    densities = SMOKE_DENSITIES if smoke else DENSITIES
    say("descending the exact loss")
    optimum, share = optima(densities, 16 if smoke else 40, seed)
    say("training on samples")
    recipe = FitConfig(
        steps=1500, learning_rate=1e-2, schedule="cosine", optimizer="adamw", weight_decay=0.0, seed=seed
    )
    if not smoke:
        recipe = FitConfig(steps=10_000, optimizer="adamw", weight_decay=0.01, seed=rng.derive(seed, "opening"))
    starts = 4 if smoke else 20
    found = trained(densities, starts, recipe)
    values, exact = _quantities(densities, optimum, found, starts, seed)
    if not smoke:
        name = "worst_share"
        text = "share of random starts within 1 % of the best, least over densities"
        values[name] = measured(name, float(share.min()), method=text, seed=seed)
    return Outcome(values, exact, (_directions(densities, optimum, found), _lengths(densities, optimum, found)))


READINGS = {
    1.0: ("dense", ("represented", "left", "least", "crossing")),
    0.2: ("80", ("represented", "left", "least", "pairs", "crossing")),
    0.1: ("90", ("represented", "gap", "bias")),
}
"""Density → name of the position in the paper's figure (its sparsity in percent), and what is read there."""


def _quantities(
    densities: tuple[float, ...], optimum: Settled, found: Settled, starts: int, seed: int
) -> tuple[dict[str, Measurement], dict[str, float]]:
    values: dict[str, Measurement] = {}
    exact: dict[str, float] = {}
    text = f"best of {starts} trainings by exact loss, {REPEATS} repeats"
    for density, (place, readings) in READINGS.items():
        k = densities.index(density)
        group = range(k * REPEATS, (k + 1) * REPEATS)
        each = [arrangement(found.W[i], found.b[i]) for i in group]
        ideal = arrangement(optimum.W[k], optimum.b[k])
        name = f"loss_{place}"
        values[name] = measured(name, found.loss[list(group)].numpy(), method=text, seed=seed)
        exact[name] = float(optimum.loss[k])
        for reading in readings:
            name = f"{reading}_{place}"
            values[name] = measured(name, [float(getattr(a, reading)) for a in each], method=text, seed=seed)
            exact[name] = float(getattr(ideal, reading))
    k = densities.index(0.1)
    sizes = norms(found.W[k * REPEATS : (k + 1) * REPEATS])
    for name, samples, ideal in (
        ("shortest_90", sizes.amin(1), norms(optimum.W[k]).min()),
        ("longest_90", sizes.amax(1), norms(optimum.W[k]).max()),
    ):
        values[name] = measured(name, samples.numpy(), method=text, seed=seed)
        exact[name] = float(ideal)
    return values, exact


def _upright(W: Tensor) -> Tensor:
    """Rotated so that the first feature points up."""
    x, y = W[0] / W[0].norm().clamp(min=1e-9)
    return W @ torch.stack([torch.stack([y, x]), torch.stack([-x, y])])


def _arrows(name: str, W: Tensor) -> Series:
    turned = _upright(W)
    return series("arrows", name, turned[:, 0], turned[:, 1], color=IMPORTANCE)


def _directions(densities: tuple[float, ...], optimum: Settled, found: Settled) -> Figure:
    frames = []
    for k, density in enumerate(densities):
        group = found.loss[k * REPEATS : (k + 1) * REPEATS]
        winner = k * REPEATS + int(group.argmin())
        panels = tuple(
            Panel(
                title, "", "", (_arrows("features", W),), square=True, color_label="importance", color_range=(0.6, 1.0)
            )
            for title, W in (("trained", found.W[winner]), ("exact optimum", optimum.W[k]))
        )
        frames.append(Frame(f"{density:g}", panels))
    return Figure(
        "E0-directions", "Five features in two dimensions", SOURCE,
        "Dense features: two are kept, at right angles. Sparser: four as two opposite pairs. Sparser still: all five as a "
        "pentagon. Training finds the exact optimum.",
        "Each picture is the best of many starts; a single training often ends in a worse arrangement.",
        tuple(frames), "density", 2,
    )  # fmt: skip


def _lengths(densities: tuple[float, ...], optimum: Settled, found: Settled) -> Figure:
    size = norms(optimum.W).numpy()
    lines = tuple(line(f"feature {i + 1}", densities, size[:, i]) for i in range(N))
    winners = [k * REPEATS + int(found.loss[k * REPEATS : (k + 1) * REPEATS].argmin()) for k in range(len(densities))]
    dots = points("trained", np.repeat(densities, N), norms(found.W[winners]))
    linear = linear_loss(torch.tensor(densities, dtype=torch.float64), IMPORTANCE, M)
    ratio = (
        line("exact optimum", densities, optimum.loss / linear),
        points("trained", np.repeat(densities, REPEATS), found.loss / linear.repeat_interleave(REPEATS)),
    )
    panels = (
        Panel("norm of every feature", "density", "norm", (*lines, dots), x_log=True),
        Panel("loss over that of the best linear network", "density", "ratio", ratio, x_log=True),
    )
    return Figure(
        "E0-norms", "More features as they get sparser", SOURCE,
        "Features enter in steps of two, then one, and the loss falls below that of a linear network.",
        "Losses at different densities are not comparable; hence the ratio.", still(*panels), columns=2,
    )  # fmt: skip
