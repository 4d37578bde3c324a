"""How do features that come together, or never together, share dimensions?

1. Four features in two dimensions: two correlated pairs (orthogonal within a pair), two anticorrelated ones (opposite).
2. Twenty features in ten dimensions: two correlated sets of ten are two bases that interfere with each other only.
3. Six features in two dimensions, three correlated pairs. Sparse: a hexagon with pairs side by side. Denser: pairs
   collapse one after another, both members on the direction of their sum with norm 1/√2.

Networks are trained on samples, as in the paper; the best of several is kept by exact loss and descended to the bottom
of its basin. Theory: the arrangements with 0, 1, 2 and 3 collapsed pairs are each descended on the exact loss at every density; the lowest one is
the optimum, and densities where the lowest one changes are found where two losses cross.

Source: Elhage et al. 2022, correlated and anticorrelated features. Its density for four features is not stated; 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .... import rng
from ....measures.geometry import cosines, norms
from ....worlds.closed import variance
from ....worlds.features import Features, FeatureSet, features
from ....worlds.fit import FitConfig, fit
from ....worlds.population import expected_loss
from ....worlds.sets import Kind
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import Settled, best, random_starts, settle
from . import correlated_pictures as draw

REPEATS = 3
SMALL, HEXAGON = 0.05, 0.03
"""Densities of the pictures with four and with six features."""
SMOKE_SWEEP = (0.05, 0.25, 0.6)
SWEEP = (0.03, 0.05, 0.06, 0.07, 0.08, 0.1, 0.13, 0.15, 0.175, 0.25, 0.3, 0.35, 0.38, 0.4, 0.5, 0.6, 0.95)
BASES = (0.02, 0.05, 0.1, 0.2)
SAME = 0.95
"""Cosine within a pair above which it has collapsed."""


def sets_of(n: int, size: int, kind: Kind) -> tuple[FeatureSet, ...]:
    """n features in sets of `size` neighbors."""
    return tuple(FeatureSet(tuple(range(i, i + size)), kind) for i in range(0, n, size))


def law_of(density: Sequence[float] | np.ndarray, n: int, size: int = 2, kind: Kind = "correlated") -> Features:
    """The law of one network per density, [densities, n]."""
    column = torch.as_tensor(density, dtype=torch.float64)[:, None]
    return features(n, column.expand(-1, n), sets=sets_of(n, size, kind))


def trained(law: Features, m: int, starts: int, config: FitConfig, *, polish: bool = True) -> Settled:
    """The best of `starts` trainings for every instance of the law, by exact loss, at the bottom of its basin."""
    density = law.density.repeat_interleave(starts, 0)
    many = features(law.n, density, sets=law.sets)
    toy = Toy(law.n, m, len(density), seed=config.seed)
    fit(toy, many, config)
    W, b = toy.W.detach().double(), toy.b.detach().double()
    won = best(Settled(W, b, expected_loss(W, b, many)), starts)
    return settle(won.W, won.b, law) if polish else won


def within(W: Float[Tensor, "i n m"]) -> Float[Tensor, "i s"]:
    """Cosine of the two members of every pair (2k, 2k + 1)."""
    c = cosines(W)
    first = torch.arange(0, W.shape[1], 2)
    return c[:, first, first + 1]


def collapsed(W: Float[Tensor, "i n m"]) -> Bool[Tensor, "i s"]:
    """Which pairs have both members in one direction."""
    return within(W) > SAME


def gaps(W: Float[Tensor, "i n 2"]) -> Float[Tensor, "i s"]:
    """Angle between the members of every pair, in degrees."""
    return torch.rad2deg(within(W).clamp(-1, 1).acos())


def side_by_side(W: Float[Tensor, "i n 2"]) -> Bool[Tensor, " i"]:
    """Whether, around the circle, every feature stands beside the other member of its pair."""
    order = torch.atan2(W[..., 1], W[..., 0]).argsort(-1)
    pair = order // 2
    return ((pair == pair.roll(1, -1)) | (pair == pair.roll(-1, -1))).all(-1)


def crowd(collapses: int) -> tuple[Tensor, Tensor]:
    """Three pairs around 0, 120 and 240 degrees, the last ones collapsed: weights [6 2] and biases."""
    angles, sizes = [], []
    for k in range(3):
        spread, size = (0.0, 0.7) if k >= 3 - collapses else (32.0, 1.1)
        angles += [120.0 * k - spread, 120.0 * k + spread]
        sizes += [size, size]
    angle, size = (torch.tensor(v, dtype=torch.float64) for v in (angles, sizes))
    angle = torch.deg2rad(angle + torch.arange(6) / 100)  # off the symmetric point, which may be a saddle
    return size[:, None] * torch.stack([angle.cos(), angle.sin()], -1), torch.full((6,), -0.1, dtype=torch.float64)


@dataclass(frozen=True)
class Branches:
    """Arrangements with 0 … 3 collapsed pairs, descended at every density."""

    density: np.ndarray
    found: Settled
    """[densities × 4] networks."""
    count: np.ndarray
    """[densities, 4]: collapsed pairs after the descent; a start may leave its arrangement."""

    @property
    def loss(self) -> np.ndarray:
        """[densities, 4]."""
        return self.found.loss.view(-1, 4).numpy()

    @property
    def optimum(self) -> Settled:
        """The lowest of the four at every density."""
        return best(self.found, 4)

    @property
    def collapsed(self) -> np.ndarray:
        """Collapsed pairs of the optimum."""
        return np.take_along_axis(self.count, self.loss.argmin(1)[:, None], 1)[:, 0]

    def threshold(self, collapses: int) -> float:
        """Density from which the optimum has so many collapsed pairs: where the losses of two arrangements cross."""
        if not (self.collapsed >= collapses).any():
            return float("nan")
        first = int((self.collapsed >= collapses).argmax())
        low, high = first - 1, first
        few, many = self.loss[[low, high], collapses - 1], self.loss[[low, high], collapses]
        gap = many - few
        both = self.count[low, collapses] == collapses and self.count[high, collapses - 1] == collapses - 1
        share = gap[0] / (gap[0] - gap[1]) if both and gap[0] > 0 >= gap[1] else 0.5
        return float(self.density[low] + share * (self.density[high] - self.density[low]))


def branches(density: np.ndarray) -> Branches:
    """Descend the four arrangements at every density."""
    starts = [crowd(k) for k in range(4)]
    W, b = (torch.stack(v).repeat(len(density), *[1] * (v[0].ndim)) for v in zip(*starts, strict=True))
    found = settle(W, b, law_of(np.repeat(density, 4), 6))
    return Branches(density, found, collapsed(found.W).sum(1).view(-1, 4).numpy())


def recipe(config: StudyConfig, name: str, steps: int) -> FitConfig:
    """Training as in the paper, with a falling learning rate."""
    seed = rng.derive(config.seed, name)
    steps, batch, rate = (800, 256, 2e-2) if config.smoke else (steps, 512, 1e-2)
    return FitConfig(steps=steps, batch=batch, learning_rate=rate, schedule="cosine", seed=seed)


def run(config: StudyConfig, say: Say) -> Outcome:
    """Pairs, bases and collapse."""
    starts = 3 if config.smoke else 10
    say("four features: correlated and anticorrelated pairs")
    note = _Notes(config.seed)
    pairs = _pairs(note, config, starts)
    say("twenty features: two bases")
    bases = _bases(note, config)
    say("six features: following the arrangements")
    fine = np.geomspace(0.06, 0.45, 8) if config.smoke else np.geomspace(0.05, 0.6, 60)
    curves = branches(fine)
    say("six features: training")
    hexagon, independent = _hexagon(note, config, starts if config.smoke else 2 * starts)
    sweep = np.array(SMOKE_SWEEP if config.smoke else SWEEP)
    theory = branches(sweep)
    found = trained(
        law_of(np.repeat(sweep, REPEATS), 6), 2, starts if config.smoke else 16, recipe(config, "collapse", 6000)
    )
    _collapse(note, sweep, found, theory, curves)
    figures = (
        draw.pictures({**pairs, "three correlated pairs": hexagon, "six independent features": independent}),
        draw.blocks(*bases, REPEATS),
        draw.circles(sweep, found, theory.optimum, REPEATS),
        draw.staircase(sweep, collapsed(found.W).sum(1).view(-1, REPEATS).numpy(), fine, curves.loss, curves.count),
    )
    return Outcome(note.values, note.exact, figures)


class _Notes:
    """Collects quantities."""

    def __init__(self, seed: int) -> None:
        self.seed, self.values, self.exact = seed, {}, {}

    def __call__(self, name: str, samples: object, method: str, exact: float | None = None) -> None:
        numbers = np.asarray(samples, dtype=float).ravel()
        self.values[name] = measured(name, numbers, method=method, seed=self.seed)
        if exact is not None:
            self.exact[name] = float(exact)


def _pairs(note: _Notes, config: StudyConfig, starts: int) -> dict[str, Settled]:
    text = f"best of {starts} trainings by exact loss, {REPEATS} repeats, density {SMALL}"
    plan = recipe(config, "pairs", 4000)
    correlated = trained(law_of([SMALL] * REPEATS, 4), 2, starts, plan)
    opposite = trained(law_of([SMALL] * REPEATS, 4, kind="anticorrelated"), 2, starts, plan)
    law, tries = law_of([SMALL], 4), 5 if config.smoke else 30
    ideal, apart = (best(settle(*random_starts(tries, 4, 2, config.seed), v), tries) for v in (law, features(4, SMALL)))
    note("pair_cosine", within(correlated.W).abs().amax(1), text, within(ideal.W).abs().max().item())
    partner = cosines(correlated.W).argmin(-1)
    other = (partner // 2 != torch.arange(4) // 2).double().mean(1)
    note("partner_from_other_pair", other, "share of features whose most opposite feature is of the other pair")
    note("pair_loss", correlated.loss, text, ideal.loss.item())
    note(
        "pair_gain",
        correlated.loss / apart.loss,
        "loss over the best loss of independent features",
        (ideal.loss / apart.loss).item(),
    )
    note("anti_cosine", within(opposite.W).amax(1), text)
    digons = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)[None]
    least = expected_loss(digons, torch.zeros(1, 4), law_of([SMALL], 4, kind="anticorrelated"))
    note("anti_loss", opposite.loss, text, least.item())
    return {"two correlated pairs": correlated, "two anticorrelated pairs": opposite}


def _bases(note: _Notes, config: StudyConfig) -> tuple[tuple[float, ...], Settled]:
    densities = BASES[:1] if config.smoke else BASES
    law = law_of(np.repeat(densities, REPEATS), 20, 10)
    found = trained(law, 10, 1 if config.smoke else 4, recipe(config, "bases", 6000), polish=not config.smoke)
    text = f"best of four trainings (smoke: one, not descended), {REPEATS} repeats, two sets of ten in ten dimensions, density {BASES[0]}"
    ideal = {} if config.smoke else _readings(_optimum(BASES[0], config.seed))
    for name, reading in _readings(Settled(found.W[:REPEATS], found.b[:REPEATS], found.loss[:REPEATS])).items():
        note(f"basis_{name}", reading, f"{READINGS[name]}; {text}", float(ideal[name]) if ideal else None)
    return densities, found


READINGS = {
    "within": "mean |cosine| within a set",
    "within_most": "largest |cosine| within a set",
    "across": "mean |cosine| between sets",
    "antipode": "mean over features of the smallest cosine with another feature",
    "loss": "loss over that of ignoring all",
}
"""What is read of two sets of ten."""


def _readings(found: Settled) -> dict[str, Tensor]:
    c, inside = cosines(found.W), torch.block_diag(torch.ones(10, 10), torch.ones(10, 10)).bool()
    own = torch.eye(20, dtype=torch.bool)
    return {
        "within": c[:, inside & ~own].abs().mean(1),
        "within_most": c[:, inside & ~own].abs().amax(1),
        "across": c[:, ~inside].abs().mean(1),
        "antipode": c.amin(-1).mean(1),
        "loss": found.loss / (20 * variance(torch.tensor(BASES[0], dtype=torch.float64))),
    }


def _optimum(density: float, seed: int, starts: int = 8) -> Settled:
    """Two sets of ten: the best of several descents of the exact loss."""
    toy = Toy(20, 10, starts, seed=seed)
    found = fit(toy, law_of([density], 20, 10), FitConfig(engine="exact", steps=1000, seed=seed))
    return best(Settled(toy.W.detach().double(), toy.b.detach().double(), found.loss), starts)


def _hexagon(note: _Notes, config: StudyConfig, starts: int) -> tuple[Settled, Settled]:
    text = f"best of {starts} trainings by exact loss, {REPEATS} repeats, density {HEXAGON}"
    plan = recipe(config, "hexagon", 6000)
    found = trained(law_of([HEXAGON] * REPEATS, 6), 2, starts, plan)
    alone = trained(features(6, torch.full((REPEATS, 6), HEXAGON, dtype=torch.float64)), 2, starts, plan)
    ideal = branches(np.array([HEXAGON])).optimum
    note("hexagon_gap", gaps(found.W).mean(1), "mean angle within a pair; " + text, gaps(ideal.W).mean().item())
    note(
        "hexagon_order",
        side_by_side(found.W).double(),
        "pairs stand side by side; " + text,
        float(side_by_side(ideal.W)),
    )
    note("independent_hexagon", (norms(alone.W) > 0.5).all(1).double(), "all six independent features are represented; " + text,
         float(hexagon_lead(np.array([HEXAGON]))[0] > 0))  # fmt: skip
    densities = np.linspace(0.05, 0.1, 6)
    lead = hexagon_lead(densities)
    k = int((lead < 0).argmax())
    edge = densities[k - 1] + (densities[k] - densities[k - 1]) * lead[k - 1] / (lead[k - 1] - lead[k])
    note(
        "hexagon_edge",
        edge,
        "density at which the exact losses of hexagon and pentagon cross, independent features",
    )
    return found, alone


def _regular(k: int) -> tuple[Tensor, Tensor]:
    angle = 2 * torch.pi * (torch.arange(k, dtype=torch.float64) + 0.01 * torch.arange(k)) / k
    return 1.2 * torch.stack([angle.cos(), angle.sin()], -1), torch.full((k,), -0.4, dtype=torch.float64)


def hexagon_lead(densities: np.ndarray) -> np.ndarray:
    """Loss of a pentagon with one feature ignored minus that of a hexagon, six independent features."""
    W, b = (torch.stack(v).repeat(len(densities), *[1] * v[0].ndim) for v in zip(_pentagon(), _regular(6), strict=True))
    column = torch.from_numpy(np.repeat(densities, 2))[:, None]
    return -settle(W, b, features(6, column.expand(-1, 6))).loss.view(-1, 2).diff(dim=1)[:, 0].numpy()


def _pentagon() -> tuple[Tensor, Tensor]:
    W, b = _regular(5)
    return torch.cat([W, torch.zeros(1, 2, dtype=W.dtype)]), torch.cat([b, torch.zeros(1, dtype=b.dtype)])


def _collapse(note: _Notes, sweep: np.ndarray, found: Settled, theory: Branches, curves: Branches) -> None:
    count = collapsed(found.W).sum(1).view(-1, REPEATS).double()
    for density, name in ((0.05, "005"), (0.1, "010"), (0.175, "0175"), (0.25, "025"), (0.35, "035"), (0.6, "060")):
        k = np.flatnonzero(sweep == density)
        if len(k):
            text = f"collapsed pairs of the best training by exact loss, {REPEATS} repeats, density {density}"
            note(f"collapsed_{name}", count[k[0]], text, float(theory.collapsed[k[0]]))
    for k in (1, 2, 3):
        text = "crossing of the exact losses of two arrangements"
        note(f"threshold_{k}", curves.threshold(k), text)
        note(f"trained_threshold_{k}", [_first(sweep, count[:, r].numpy(), k) for r in range(REPEATS)],
             "midway between the densities where the best training first collapses so many pairs", curves.threshold(k))  # fmt: skip
    excess = found.loss.view(-1, REPEATS) / theory.optimum.loss[:, None] - 1
    note(
        "worst_excess",
        excess.amax(0),
        "largest relative excess of the best training over the exact optimum, over densities",
    )
    one = collapsed(found.W)
    k = int(np.abs(sweep - 0.25).argmin())
    size = norms(found.W).view(len(one), 3, 2)[k * REPEATS : (k + 1) * REPEATS]
    flat = one[k * REPEATS : (k + 1) * REPEATS]
    note("collapsed_norm", [float(s[f].mean()) if f.any() else float("nan") for s, f in zip(size, flat, strict=True)],
         "mean norm of members of collapsed pairs, density 0.25", float(norms(theory.optimum.W)[k].view(3, 2)[collapsed(theory.optimum.W)[k]].mean()))  # fmt: skip
    weak = _weakest(found.W).view(-1, REPEATS)
    k = int(np.abs(sweep - 0.6).argmin())
    note("weakest_060", weak[k], "norm of the weakest pair over that of the strongest, density 0.6; PCA would read 0",
         _weakest(theory.optimum.W)[k].item())  # fmt: skip


def _weakest(W: Float[Tensor, "i 6 2"]) -> Float[Tensor, " i"]:
    size = norms(W).view(-1, 3, 2).square().sum(-1).sqrt()
    return size.amin(1) / size.amax(1)


def _first(density: np.ndarray, count: np.ndarray, collapses: int) -> float:
    reached = np.flatnonzero(count >= collapses)
    if not len(reached):
        return float("nan")
    k = int(reached[0])
    return float((density[max(k - 1, 0)] + density[k]) / 2)
