"""Through which shapes does training pass when features come one at a time, and what does a Bayesian prefer?

Six features, one active at a time, two hidden dimensions: the critical points are k-gons (`kgon_levels`). Stochastic
gradient descent that starts near the square goes down their levels one by one, resting at each; n data prefer the shape
with the lowest free energy, which moves to more corners as n grows (`kgon_posterior`).

Source: Chen et al. 2023, "Dynamical versus Bayesian Phase Transitions in a Toy Model of Superposition".
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from .... import rng
from ....records import Figure, Frame, Panel, Series
from ....worlds.closed import interference_error, own_error
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, points, series, still
from .kgon_levels import PUBLISHED, Level, critical, crossover, levels, loss_and_gradient, polygon, search_widely
from .kgon_posterior import C, Posterior, crossing, posterior, sampled_coefficient

SOURCE = "Chen et al. 2023, Dynamical versus Bayesian Phase Transitions in a Toy Model of Superposition"
SAMPLES, BATCH, RATE, NOISE = 1000, 20, 0.005, 0.01
"""Of stochastic gradient descent."""
NEAR = 5e-4
"""Distance in loss that counts as being at a level."""


@dataclass(frozen=True)
class Descent:
    """Trajectories of stochastic gradient descent from noisy squares."""

    epochs: np.ndarray
    loss: np.ndarray
    """Exact loss [seeds, checkpoints]."""
    W: np.ndarray
    b: np.ndarray


def descend(seeds: range, epochs: int, every: int) -> Descent:
    """Plain SGD on a fixed data set per seed, remembering every `every`-th epoch."""
    draws = [rng.numpy_stream(seed, "kgons") for seed in seeds]
    W = np.stack([polygon(4, C, 1.0, 0.0)[0] + NOISE * d.standard_normal((C, 2)) for d in draws])
    b = np.stack([NOISE * d.standard_normal(C) for d in draws])
    one = [d.integers(C, size=SAMPLES) for d in draws]
    data = np.stack([np.eye(C)[i] * d.random((SAMPLES, 1)) for i, d in zip(one, draws, strict=True)])
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for epoch in range(epochs):
        if epoch % every == 0:
            kept.append((W.copy(), b.copy()))
        order = np.stack([d.permutation(SAMPLES) for d in draws])
        shuffled = np.take_along_axis(data, order[..., None], 1)
        for at in range(0, SAMPLES, BATCH):
            x = shuffled[:, at : at + BATCH]
            z = x @ (W @ W.swapaxes(1, 2)) + b[:, None]
            error = (np.maximum(z, 0) - x) * (z > 0)
            outer = x.swapaxes(1, 2) @ error
            W = W - 2 * RATE / BATCH * ((outer + outer.swapaxes(1, 2)) @ W)
            b = b - 2 * RATE / BATCH * error.sum(1)
    kept.append((W, b))
    whole_W, whole_b = (np.stack(part, 1) for part in zip(*kept, strict=True))
    steps = np.minimum(np.arange(len(kept)) * every, epochs)
    return Descent(steps, loss_and_gradient(whole_W, whole_b)[0], whole_W, whole_b)


def nearest(loss: np.ndarray, table: list[Level]) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest level, and the distance to it."""
    gap = np.abs(loss[..., None] - np.array([level.loss for level in table]))
    return gap.argmin(-1), gap.min(-1)


def transitions(path: np.ndarray, table: list[Level]) -> int:
    """How often a trajectory of losses [checkpoints] moves on to a lower level at which it rests twice in a row."""
    number, gap = nearest(path, table)
    rests = [
        int(number[i])
        for i in range(1, len(path))
        if gap[i] < NEAR and gap[i - 1] < NEAR and number[i] == number[i - 1]
    ]
    return sum(b > a for a, b in pairwise(rests))


def second_loss(W: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The loss from the closed forms of `worlds/closed`, and the largest entry of its gradient by autodiff."""
    w, bias = (torch.tensor(v, requires_grad=True) for v in (W, b))
    gram, other = w @ w.mT, ~torch.eye(len(b), dtype=torch.bool)
    disturbed = interference_error(gram, bias.expand(len(b), -1))[other]
    loss = (own_error(gram.diagonal(), bias).sum() + disturbed.sum()) / len(b)
    slopes = torch.autograd.grad(loss, (w, bias))
    return loss.item(), max(float(slope.abs().max()) for slope in slopes)


def run(config: StudyConfig, say: Say) -> Outcome:
    """Critical points, descent, learning coefficients and posterior."""
    smoke, seed = config.smoke, config.seed
    table = levels(C)
    by = {level.name: level for level in table}
    values, exact = _points(by)
    say("kgons: stochastic gradient descent")
    path = descend(range(seed, seed + (3 if smoke else 10)), 150 if smoke else 4500, 9)
    gap = nearest(path.loss, table)[1][:, path.epochs >= (0 if smoke else 1000)]
    moves = np.array([transitions(one, table) for one in path.loss])
    values |= {
        "at_levels": measured("at_levels", (gap < NEAR).mean(1), method="share of checkpoints near a level", seed=seed),
        "transitions": measured("transitions", moves > 0, method="seeds that move on to a lower level", seed=seed),
    }
    say("kgons: learning coefficients")
    flat = ("5", "5+", "6")
    chains = {k: sampled_coefficient(by[k], 16 if smoke else 32, 60 if smoke else 400, seed) for k in flat}
    for name, key in zip(("lambda_5", "lambda_5_plus", "lambda_6"), flat, strict=True):
        values[name] = measured(name, chains[key], method="Hamiltonian Monte Carlo around the level", seed=seed)
        exact[name] = by[key].rank / 2
    say("kgons: posterior")
    n = np.geomspace(20, 1200, 8 if smoke else 18)
    found = posterior(n, range(seed, seed + 4), 150 if smoke else 2000)
    values["posterior_crossing"] = measured(
        "posterior_crossing", crossing(found, C), method="replica exchange, four runs", seed=seed
    )
    figures = (
        _shapes(), _descent_figure(path, table), _film(path, moves), _posterior_figure(found, by), _flatness(by, chains),
    )  # fmt: skip
    return Outcome(values, exact, figures)


def _points(by: dict[str, Level]) -> tuple[dict, dict[str, float]]:
    """Quantities of the critical points, and what the second implementation says of them."""
    found = {k: critical(k) for k in PUBLISHED}
    gap = max(abs(a - b) for k, at in found.items() for a, b in zip(at[:2], PUBLISHED[k], strict=True))
    slopes = [second_loss(*polygon(k, k, *at[:2]))[1] for k, at in found.items()]
    more = float(sum(search_widely(k) is not None for k in (9, 10, 11)))
    crossings = crossover(by["5"], by["6"])
    values = {
        "critical_gap": measured("critical_gap", gap, method="largest difference in norm or bias, 4 to 8 corners"),
        "gradient": measured("gradient", max(slopes), method="largest slope at the critical points, by autodiff"),
        "polygons_9_to_11": measured("polygons_9_to_11", more, method="search from 30 starts"),
        "n_crossing": measured("n_crossing", crossings, method="equal free energy of 5 and 6 corners"),
    }
    exact = {"gradient": 0.0, "polygons_9_to_11": more, "n_crossing": crossings}
    for name, level in by.items():
        key = "energy_" + name.replace("+", "p")
        values[key] = measured(key, level.loss, method="own integrals")
        exact[key] = second_loss(level.W, level.b)[0]
    return values, exact


def _shapes() -> Figure:
    panels = []
    for k in PUBLISHED:
        found = critical(k)
        W, _ = polygon(k, k, *found[:2])
        label = f"{k} corners: l = {found[0]:.4f}, b = {found[1]:.4f}, h = {found[2]:.4f}"
        panels.append(Panel(label, "", "", (_arrows(W, "theory"),), square=True))
    return Figure(
        "F2-kgons", "The critical k-gons", SOURCE,
        "Regular polygons whose corners lie farther out, under ever more negative biases, the more there are.",
        "With 9, 10 and 11 corners there are critical polygons too; only adjacent corners disturb each other there.",
        still(*panels),
    )  # fmt: skip


def _arrows(W: np.ndarray, role: str = "measured") -> Series:
    return series("arrows", "features", W[:, 0], W[:, 1], role="theory" if role == "theory" else "measured")


def _descent_figure(path: Descent, table: list[Level]) -> Figure:
    ends = [float(path.epochs[0]), float(path.epochs[-1])]
    guides = [line(level.name, ends, [level.loss] * 2) for level in table]
    thin = slice(None, None, max(len(path.epochs) // 250, 1))
    runs = [series("line", f"seed {i}", path.epochs[thin], loss[thin]) for i, loss in enumerate(path.loss)]
    return Figure(
        "F2-descent", "Descent rests at the levels of the k-gons", f"{SOURCE}, dynamical transitions",
        "Horizontal stretches at the computed levels, with steep falls between them.",
        "Many runs never leave the first level that they reach; which transitions appear depends on the seed.",
        still(Panel("loss on all data; levels " + ", ".join(level.name for level in table), "epoch", "loss", (*guides, *runs))),
    )  # fmt: skip


def _film(path: Descent, moves: np.ndarray) -> Figure:
    pick = int(moves.argmax())
    frames = []
    for at in np.unique(np.linspace(0, len(path.epochs) - 1, 40).astype(int)):
        W, b = path.W[pick, at], path.b[pick, at]
        bars = series("bars", "bias", np.arange(C), b)
        panels = (
            Panel("features", "", "", (_arrows(W),), square=True),
            Panel("biases", "feature", "bias", (bars,)),
        )
        frames.append(Frame(f"{path.epochs[at]}", panels))
    return Figure(
        "F2-film", "A run on its way", f"{SOURCE}, trajectories of W",
        "A square with two idle features; then one of them grows and the others make room for it.",
        "One seed, the one with most transitions.", tuple(frames), "epoch",
    )  # fmt: skip


def _posterior_figure(found: Posterior, by: dict[str, Level]) -> Figure:
    shares = tuple(across(f"{k} corners", found.n, found.share[:, :, k - 3]) for k in range(3, C + 1))
    at = crossover(by["5"], by["6"])
    guide = line("equal free energy of 5 and 6", [at, at], [0, 1])
    energies = tuple(
        line(name, found.n, found.n * (by[name].loss - by["6"].loss) + (by[name].rank - by["6"].rank) / 2 * np.log(found.n)
             + by[name].square - by["6"].square)
        for name in ("5", "5+", "6")
    )  # fmt: skip
    return Figure(
        "F2-posterior", "What n data prefer", f"{SOURCE}, posterior occupancy",
        "Shapes with few corners dominate at small n, the hexagon at large n; the change is gradual.",
        "The crossing of the free energies is an asymptotic estimate: it leaves out curvatures and the number of ways "
        "to choose the idle feature. The data enter through the loss on all data, not through n drawn examples.",
        still(
            Panel("share of posterior samples", "number of data n", "share", (*shares, guide), x_log=True),
            Panel("free energy above that of the hexagon", "number of data n", "nats", energies, x_log=True),
        ), columns=2,
    )  # fmt: skip


def _flatness(by: dict[str, Level], chains: dict[str, np.ndarray]) -> Figure:
    names, at = list(chains), np.arange(len(chains))
    sampled = across("sampled, range of chains", at, np.stack([chains[name] for name in names], 1))
    exact = points("half the rank of the Hessian", at, [by[name].rank / 2 for name in names], role="theory")
    return Figure(
        "F2-coefficients", "Learning coefficients", f"{SOURCE}, local learning coefficients",
        "Sampled values scatter around half the rank of the Hessian: 7, 8.5 and 8.5.",
        "The square has no such value: its loss is not twice differentiable.",
        still(Panel("levels " + ", ".join(names), "level, by number", "learning coefficient", (sampled, exact))),
    )  # fmt: skip
