"""What does superposition cost under attack? Vulnerability against features per dimension.

    vulnerability = (L′ − L) / (L′₀ − L₀)     L′: loss under the worst change of length 0.1 E‖x‖, L₀: no superposition

1. Train ReLU-output networks (n = 100, m = 20, equal importance) over densities and attack each in closed form
   (`intervene/attacks`): the worst of ±size · (row k of W Wᵀ, normalized) over all k.
2. Beside it theory: networks put together from copies of the polytope that gains most per dimension at that density,
   norm and bias (and an antiprism's height) at the minimum of the expected loss, under the same attack.
   On a silent input the gain has a closed form, λ itself for simplices; on real inputs the attacker also aligns with
   the error that is already there, so the level depends on n and m.
3. Compare with projected gradient ascent, which sees no gradient where ReLUs are off, but may combine directions where
   they are on.
4. Train against the attack on one random feature, over attack sizes.

Source: Elhage et al. 2022, "Toy Models of Superposition", adversarial vulnerability; dip near the antipodal plateau:
Gorton & Lewis 2025 (2508.17456).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .... import rng
from ....intervene.attacks import adversarial, analytic_attack, pgd_attack, single_attack_gain, vulnerability
from ....measures.geometry import LEAST_NORM, features_per_dimension, represented
from ....records import Figure, Frame, Measurement, Panel
from ....worlds.features import features
from ....worlds.fit import FitConfig, fit
from ....worlds.toys import Toy
from .. import sketch
from ..base import Outcome, Say, StudyConfig, measured
from .ideal import Block, blocks, ideal

DENSITIES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.02, 0.005)
SMOKE_DENSITIES = (1.0, 0.5, 0.35, 0.3, 0.05)
RELATIVE_SIZE = 0.1
"""Length of the attack over the mean length of the input."""
TRAINING_SIZES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The same during adversarial training."""
TRAINING_DENSITY = 0.05
WITHOUT = 1.1
"""Features per dimension that count as no superposition."""
SOURCE = "Elhage et al. 2022, relationship to adversarial robustness"
SPARSEST = 0.1
"""Density below which theory is not drawn."""
THEORY = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2)
"""Densities at which one polytope of the library is best by far; sparser features form larger ones."""


@dataclass(frozen=True)
class Attacked:
    """Networks at one density, under attack."""

    density: float
    size: float
    """Length of the attack."""
    vulnerability: list[float]
    """Of every seed's network, attacked through features that it represents at all."""
    per_dimension: list[float]
    silent: list[float]
    """Closed-form gain of the attack on a silent input, averaged over represented features."""
    expected: float
    """Vulnerability of the network that theory expects."""
    expected_per_dimension: float
    polytope: str


def attacked(toy: Toy, density: float, ranked: tuple[Block, ...], rows: int, seed: int) -> Attacked:
    """Attack all instances of `toy` on the same number of fresh rows, and the ideal network on its own."""
    n, m = toy.W.shape[1:]
    law = features(n, density)
    data = rng.stream(seed, "robustness", str(density))
    size = RELATIVE_SIZE * float(law.sample(20_000, data).norm(dim=-1).mean())
    x = law.sample(rows, data, len(toy.b))
    hurt = vulnerability(toy, x, size, least=LEAST_NORM).mean(1)
    W = toy.W.detach()
    gains = [float(single_attack_gain(w)[represented(w)].mean()) for w in W]
    theory = ideal(ranked, density, n, m)
    expected = float(vulnerability(theory, law.sample(2 * rows, data), size).mean())
    ratio = float(features_per_dimension(theory.W.detach())[0])
    return Attacked(
        density,
        size,
        hurt.tolist(),
        features_per_dimension(W).tolist(),
        gains,
        expected,
        ratio,
        ranked[0].name,
    )


def _anywhere(toy: Toy, density: float, rows: int, seed: int) -> list[float]:
    """How much worse it gets if the tiny vectors of features that training gave up are directions of attack too."""
    law, data = features(toy.W.shape[1], density), rng.stream(seed, "anywhere")
    x = law.sample(rows, data, len(toy.b))
    size = RELATIVE_SIZE * float(x.norm(dim=-1).mean())
    every, usual = (vulnerability(toy, x, size, least=least).mean(1) for least in (0.0, LEAST_NORM))
    return (every / usual).tolist()


def trained(n: int, m: int, densities: tuple[float, ...], seeds: int, config: FitConfig) -> dict[float, Toy]:
    """`seeds` networks per density, trained side by side."""
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(seeds)[:, None]
    toy = Toy(n, m, len(column), seed=config.seed)
    fit(toy, features(n, column.expand(-1, n)), config)
    return {p: picked(toy, slice(k * seeds, (k + 1) * seeds)) for k, p in enumerate(densities)}


def picked(toy: Toy, which: slice) -> Toy:
    """Some instances of a tied network."""
    part = Toy(toy.W.shape[1], toy.W.shape[2], len(toy.b[which]))
    with torch.no_grad():
        part.W.copy_(toy.W[which])
        part.b.copy_(toy.b[which])
    return part


def run(config: StudyConfig, say: Say) -> Outcome:
    """Vulnerability over densities beside theory, both attacks, and adversarial training."""
    n, m = (60, 12) if config.smoke else (100, 20)
    densities, seeds = (SMOKE_DENSITIES, 3) if config.smoke else (DENSITIES, 3)
    training = FitConfig(
        steps=1200 if config.smoke else 6000, batch=128 if config.smoke else 512, learning_rate=5e-3,
        schedule="cosine", seed=config.seed, device=config.device,
    )  # fmt: skip
    say(f"training {seeds} networks (n={n}, m={m}) at each of {len(densities)} densities")
    toys = trained(n, m, densities, seeds, training)
    say("attacking them")
    theory, rows = blocks(densities), 500 if config.smoke else 3000
    found = [attacked(toys[p], p, theory[p], rows, config.seed) for p in densities]
    note = _Notes(config.seed)
    exact = _quantities(found, note)
    exact["silent_gain_p0_35"] = float(single_attack_gain(theory[0.35][0].W).mean())
    note(
        "anywhere_gain_p0_35", _anywhere(toys[0.35], 0.35, rows, config.seed), "over the attack through features alone"
    )
    attacks = _compare(toys, found, 60 if config.smoke else 200, note)
    if not config.smoke:
        say("n=400, m=30 at density 0.35")
        wide = trained(400, 30, (0.35,), seeds, replace(training, steps=4000))[0.35]
        large = attacked(wide, 0.35, theory[0.35], 500, config.seed)
        note("vulnerability_wide", large.vulnerability, "n=400, m=30, density 0.35")
        exact["vulnerability_wide"] = large.expected
    say("training against the attack")
    hardened = _harden(n, m, replace(training, steps=300 if config.smoke else 3000, batch=128), note)
    figures = (_curves(found), _scatter(found), _attack_figure(found, attacks), hardened)
    return Outcome(note.values, exact, figures)


class _Notes:
    """Collects quantities."""

    def __init__(self, seed: int) -> None:
        self.seed, self.values = seed, dict[str, Measurement]()

    def __call__(self, name: str, samples: float | list[float], method: str) -> None:
        self.values[name] = measured(name, samples, method=method, seed=self.seed)


def _quantities(found: list[Attacked], note: _Notes) -> dict[str, float]:
    exact = dict[str, float]()
    by = {a.density: a for a in found}
    for a in found:
        tag = f"p{a.density:g}".replace("0.", "0_")
        note(f"vulnerability_{tag}", a.vulnerability, "analytic attack of length 0.1 E‖x‖, mean over rows; seeds")
        note(f"per_dimension_{tag}", a.per_dimension, "‖W‖²_F / m; seeds")
        if a.density in (1.0, *THEORY):
            exact[f"vulnerability_{tag}"], exact[f"per_dimension_{tag}"] = a.expected, a.expected_per_dimension
    seeds = range(len(found[0].vulnerability))
    mid = [a for a in found if a.density >= 0.05]
    ranks = [_rank_correlation([a.per_dimension[s] for a in mid], [a.vulnerability[s] for a in mid]) for s in seeds]
    note("spearman", ranks, "rank correlation over densities from 0.05, per seed")
    note("rise", [max(a.vulnerability[s] for a in found) for s in seeds], "largest vulnerability over densities")
    exact["rise"] = max(a.expected for a in found if a.density in THEORY)
    pair = (by[0.35], by[0.3])
    for name in ("vulnerability", "per_dimension"):
        before, after = (torch.tensor(getattr(a, name)).mean() for a in pair)
        note(f"plateau_{name}", float((after / before - 1).abs()), "relative change from density 0.35 to 0.3, means")
    note("silent_gain_p0_35", pair[0].silent, "Σⱼ ReLU((G gᵢ)ⱼ)²/‖gᵢ‖² over represented features; seeds")
    return exact


def _rank_correlation(x: list[float], y: list[float]) -> float:
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _compare(toys: dict[float, Toy], found: list[Attacked], rows: int, note: _Notes) -> list[tuple[float, float]]:
    """Mean damage of gradient ascent over that of the closed form, per density: from the clean input, from anywhere."""
    ratios = list[tuple[float, float]]()
    for a in found:
        toy = picked(toys[a.density], slice(0, 3))
        x = features(toy.W.shape[1], a.density).sample(rows, rng.stream(note.seed, "compare", str(a.density)), 3)
        analytic = analytic_attack(toy, x, a.size, least=LEAST_NORM)[1].mean(1)
        pair = list[list[float]]()
        for restarts in (1, 2):
            g = rng.stream(note.seed, "pgd", str(a.density), restarts)
            ascent = pgd_attack(toy, x, x, a.size, steps=50, restarts=restarts, generator=g)[1].mean(1)
            pair.append((ascent / analytic).tolist())
        tag = f"p{a.density:g}".replace("0.", "0_")
        note(f"pgd_clean_{tag}", pair[0], "50 steps from the clean input, mean damage over the closed form's; seeds")
        note(f"pgd_{tag}", pair[1], "50 steps, best of two starts, mean damage over the closed form's; seeds")
        with torch.no_grad():
            note(f"outputs_on_{tag}", (toy(x) > 0).double().mean((1, 2)).tolist(), "share of outputs above 0; seeds")
        ratios.append((sum(pair[0]) / 3, sum(pair[1]) / 3))
    return ratios


def _harden(n: int, m: int, training: FitConfig, note: _Notes) -> Figure:
    """Adversarial training over attack sizes, three seeds side by side."""
    seeds, law = 3, features(n, TRAINING_DENSITY)
    mean = float(law.sample(20_000, rng.stream(note.seed, "length")).norm(dim=-1).mean())
    size = mean * torch.tensor(TRAINING_SIZES).repeat_interleave(seeds)
    toy = Toy(n, m, len(size), seed=note.seed)
    fit(toy, law, training, perturb=adversarial(size))
    W = toy.W.detach()
    packed = features_per_dimension(W).view(-1, seeds)
    live = represented(W).double().sum(1).view(-1, seeds)
    x = law.sample(500, rng.stream(note.seed, "hardened"), len(size))
    hurt = vulnerability(toy, x, RELATIVE_SIZE * mean, least=LEAST_NORM).mean(1).view(-1, seeds)
    for k, relative in enumerate(TRAINING_SIZES):
        tag = f"{relative:g}".replace(".", "_")
        note(f"trained_per_dimension_{tag}", packed[k].tolist(), f"density {TRAINING_DENSITY:g}, ‖W‖²_F / m; seeds")
        note(f"trained_features_{tag}", live[k].tolist(), "features with ‖Wᵢ‖ > 0.5; seeds")
        note(f"trained_vulnerability_{tag}", hurt[k].tolist(), "attack of length 0.1 E‖x‖; seeds")
    ends = [_reaches(packed[:, s].tolist(), WITHOUT) for s in range(seeds)]
    note("trained_size_needed", ends, f"size at which ‖W‖²_F / m falls to {WITHOUT:g}, interpolated; seeds")
    steps = packed[1:] - packed[:-1]
    note("trained_falls", (steps <= 0.01).all(0).double().tolist(), "features per dimension never rise with the size")
    return _hardened_figure(W.view(-1, seeds, n, m)[:, 0], packed, live, hurt)


def _reaches(packed: list[float], level: float) -> float:
    """Attack size at which features per dimension fall to `level`, on a straight line between sizes; NaN if never."""
    for (x, a), (y, b) in pairwise(zip(TRAINING_SIZES, packed, strict=True)):
        if b <= level < a:
            return x + (y - x) * (a - level) / (a - b)
    return float("nan")


# --------------------------------------------------------------------------------------------------- figures
def _curves(found: list[Attacked]) -> Figure:
    x, near = [1 / a.density for a in found], [a for a in found if a.density >= SPARSEST]
    y = [1 / a.density for a in near]
    hurt = Panel(
        "Vulnerability", "1 / density", "relative to no superposition",
        (
            sketch.line("best polytope", y, [a.expected for a in near]),
            sketch.across("trained", x, torch.tensor([a.vulnerability for a in found]).T),
            sketch.line("no superposition", (x[0], x[-1]), (1, 1), "guide"),
        ),
        x_log=True,
    )  # fmt: skip
    packed = Panel(
        "Features per dimension", "1 / density", "‖W‖²_F / m",
        (
            sketch.line("best polytope", y, [a.expected_per_dimension for a in near]),
            sketch.across("trained", x, torch.tensor([a.per_dimension for a in found]).T),
        ),
        x_log=True,
    )  # fmt: skip
    return Figure(
        "E7-vulnerability", "Adversarial vulnerability beside features per dimension", SOURCE,
        "Both curves rise together, with a plateau where features form antipodal pairs (1/density from 2 to 3.5).",
        "The level depends on n, m and the length of the attack; only the shape carries over. The theory line assumes "
        "copies of one polytope of up to eight features: too few below density 0.2.",
        sketch.still(hurt, packed), columns=2,
    )  # fmt: skip


def _scatter(found: list[Attacked]) -> Figure:
    seeds = len(found[0].vulnerability)
    color = [-torch.log10(torch.tensor(a.density)).item() for a in found for _ in range(seeds)]
    x = [v for a in found for v in a.per_dimension]
    y = [v for a in found for v in a.vulnerability]
    ideals = [a for a in found if a.polytope != "dedicated" and a.density >= SPARSEST]
    simplices = sketch.line("simplices, silent input", (1, 2), (1, 2), "guide")
    panel = Panel(
        "Every network", "features per dimension", "vulnerability",
        (
            sketch.points("trained", x, y, color=color),
            sketch.points(
                "best polytope", [a.expected_per_dimension for a in ideals], [a.expected for a in ideals], "theory"
            ),
            simplices,
        ),
        color_label="−log₁₀ density",
    )  # fmt: skip
    return Figure(
        "E7-scatter", "Vulnerability against features per dimension", SOURCE,
        "One rising band: the more features share a dimension, the more an attack of fixed relative length hurts.",
        "Density changes along the band, so this alone does not separate superposition from sparsity.",
        sketch.still(panel), columns=1,
    )  # fmt: skip


def _attack_figure(found: list[Attacked], ratios: list[tuple[float, float]]) -> Figure:
    x = [1 / a.density for a in found]
    panel = Panel(
        "Gradient ascent", "1 / density", "damage over that of the closed form",
        (
            sketch.points("from the clean input", x, [r[0] for r in ratios]),
            sketch.points("from the clean input or from a random one", x, [r[1] for r in ratios]),
            sketch.line("closed form", (x[0], x[-1]), (1, 1), "guide"),
        ),
        x_log=True,
    )  # fmt: skip
    return Figure(
        "E7-attacks", "Gradient masking? Gradient ascent against the closed-form attack", SOURCE,
        "Above 1 ascent finds more than the closed form, which moves along one row of W Wᵀ only. Its lead shrinks as "
        "outputs go dark and give it no slope, yet it does not fail.",
        "Fifty steps of normalized gradients; smaller or unnormalized steps are weaker.",
        sketch.still(panel), columns=1,
    )  # fmt: skip


def _hardened_figure(W: Tensor, packed: Tensor, live: Tensor, hurt: Tensor) -> Figure:
    kinds = (("features per dimension", packed), ("features with norm > 0.5, per dimension", live / W.shape[-1]))
    curves = tuple(sketch.across(name, TRAINING_SIZES, v.T) for name, v in kinds)
    size = Panel(
        "Superposition", "attack in training, over E‖x‖", "per dimension",
        (*curves, sketch.line("one per dimension", (0, TRAINING_SIZES[-1]), (1, 1), "guide")),
    )  # fmt: skip
    level = Panel(
        "Vulnerability", "attack in training, over E‖x‖", "relative to no superposition",
        (sketch.across("attack of 0.1 E‖x‖", TRAINING_SIZES, hurt.T),),
    )  # fmt: skip
    frames = list[Frame]()
    for w, relative in zip(W, TRAINING_SIZES, strict=True):
        order = w.norm(dim=1).argsort(descending=True)[: 2 * W.shape[-1]]
        place = range(len(order))
        gram = Panel(
            "W Wᵀ of the longest features", "feature", "feature",
            grid=sketch.grid(place, place, w[order] @ w[order].T, diverging=True), square=True,
        )  # fmt: skip
        frames.append(Frame(f"{relative:g} E‖x‖", (gram, size, level)))
    return Figure(
        "E7-training", "Adversarial training squeezes superposition out", SOURCE,
        "The larger the attack in training, the fewer features per dimension and the emptier the matrix off its diagonal.",
        "Large attacks also shrink weights: features per dimension fall below 1 while more features than dimensions "
        "have norms above 0.5, in opposite pairs.",
        tuple(frames), control="attack in training", columns=3,
    )  # fmt: skip
