"""Is superposition a phase change? Two features on a line and three in a plane, over importance and density.

All features have importance 1 but the last, which has r. Four answers to "what becomes of the last feature?":

    fixed weights   the least of a few hand-picked losses, the theory of the paper
    exact           the minimum over free norms and biases, from all known arrangements
    random starts   the best of ten descents of the exact loss from random weights
    sampled         the best of ten networks trained on fresh samples, as in the paper

1. Compare losses and phases pixel by pixel.
2. Cut along the density at fixed importance: where does the last feature appear, and does its norm jump?
3. Where it appears without a jump the density has a closed form (`closed.onset_importance`).

Source: Elhage et al. 2022, superposition as a phase change; theory panel: M. Wattenberg's notebook linked there.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .... import rng
from ....measures.geometry import cosines, norms
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.closed import onset_importance
from ....worlds.features import Features, features
from ....worlds.fit import FitConfig, fit
from ....worlds.population import expected_loss
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import (
    DEDICATED,
    SUPERPOSED,
    Diagram,
    Settled,
    axes,
    best,
    exact,
    exact_three,
    exact_two,
    fixed_edge,
    fixed_weights,
    last_feature,
    search,
)
from ..sketch import line, points

SIZES = ((2, 1), (3, 2))
CUTS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Relative importances of the cuts along the density."""
EDGES = (0.1, 0.2, 0.3, 0.5)
"""Cuts where the last feature is known to jump."""
SOURCE = "Elhage et al. 2022, superposition as a phase change"
Note = Callable[[str, float | list[float], str], None]


def problems(density: np.ndarray, importance: np.ndarray) -> tuple[Tensor, Tensor]:
    """Density and importance of every pixel, row by row."""
    p, r = np.meshgrid(density, importance, indexing="ij")
    return torch.from_numpy(p.ravel()), torch.from_numpy(r.ravel())


def law_of(p: Tensor, r: Tensor, n: int) -> Features:
    """The law of n features of density p, the last of importance r, for every problem."""
    importance = torch.ones(len(p), n, dtype=torch.float64)
    importance[:, -1] = r
    return features(n, p[:, None].expand(-1, n), importance)


def from_random(p: Tensor, r: Tensor, n: int, m: int, starts: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights and losses of the best of `starts` descents of the exact loss from random weights, per problem."""
    found = best(search(law_of(p, r, n), m, starts, seed), starts)
    return found.W, found.loss


def sampled(p: Tensor, r: Tensor, n: int, m: int, starts: int, config: FitConfig) -> Settled:
    """Networks [problems × starts] trained on fresh samples, with their exact losses."""
    law = law_of(p.repeat_interleave(starts), r.repeat_interleave(starts), n)
    toy = Toy(n, m, len(law.density), seed=config.seed)
    fit(toy, law, config)
    W, b = toy.W.detach().double(), toy.b.detach().double()
    return Settled(W, b, expected_loss(W, b, law))


def picture(density: np.ndarray, importance: np.ndarray, W: Tensor, loss: Tensor) -> Diagram:
    """A diagram from one network per pixel."""
    shape = len(density), len(importance)
    norm, overlap = (v.reshape(shape) for v in last_feature(W))
    return Diagram(density, importance, loss.detach().numpy().reshape(shape), norm, overlap)


def interior(phase: np.ndarray, density: np.ndarray, least: float = 0.03) -> np.ndarray:
    """Pixels whose phase is the same at all densities nearer than `least`, and one pixel to every side."""
    inside = np.ones(phase.shape, bool)
    for axis in (0, 1):
        change = np.diff(phase, axis=axis) != 0
        for at in (slice(0, -1), slice(1, None)):
            index: list[slice] = [slice(None), slice(None)]
            index[axis] = at
            inside[tuple(index)] &= ~change
    for row, p in enumerate(density):
        near = np.abs(density - p) < least
        inside[row] &= (phase[near] == phase[row]).all(0)
    return inside


def agreement(found: Diagram, wanted: Diagram) -> float:
    """Share of pixels with the same phase, away from the wanted diagram's boundaries."""
    inside = interior(wanted.phase, wanted.density)
    return float((found.phase == wanted.phase)[inside].mean())


def appearance(density: np.ndarray, size: np.ndarray, least: float) -> float:
    """Largest density at which the last feature is longer than `least`, midway to the next one; NaN if it never is."""
    order = np.argsort(-density)
    hit = np.flatnonzero(size[order] > least)
    if not len(hit) or hit[0] == 0:
        return float("nan")
    return float(density[order][hit[0] - 1] + density[order][hit[0]]) / 2


def onset(importance: float) -> float:
    """Density under which the second feature appears continuously, from the closed form. Range of r: 0.1 to 1."""
    density = torch.linspace(0.05, 1.0, 5001, dtype=torch.float64)
    return float(np.interp(importance, onset_importance(density).numpy(), density.numpy()))


def jump(density: np.ndarray, size: np.ndarray) -> float:
    """Norm of the last feature where it appears: the step of its norm over the first density where it exceeds 0.05."""
    order = np.argsort(-density)
    sizes = size[order]
    first = int(np.flatnonzero(sizes > 0.05)[0])
    return float(sizes[first] - sizes[first - 1])


def run(config: StudyConfig, say: Say) -> Outcome:
    """Diagrams of both sizes in four ways, and cuts through the first."""
    smoke, seed = config.smoke, config.seed
    values: dict[str, Measurement] = {}
    expected: dict[str, float] = {}

    def note(name: str, samples: float | list[float], method: str) -> None:
        values[name] = measured(name, samples, method=method, seed=seed)

    figures = list[Figure]()
    recipe = FitConfig(steps=1000 if smoke else 4000, batch=512, learning_rate=1e-2, schedule="cosine")
    for n, m in SIZES[:1] if smoke else SIZES:
        say(f"{n} features in {m} dimension(s): exact diagram and random starts")
        fine, coarse = (axes(9), axes(4)) if smoke else (axes(40), axes(12))
        ideal = exact(*fine, n)
        starts = 3 if smoke else 10
        found = picture(*fine, *from_random(*problems(*fine), n, m, starts, rng.derive(seed, "phases", n)))
        say(f"{n} features in {m} dimension(s): training on samples")
        recipe = replace(recipe, seed=rng.derive(seed, "sampled", n))
        trained = sampled(*problems(*coarse), n, m, starts, recipe)
        won = best(trained, starts)
        drawn = picture(*coarse, won.W, won.loss)
        _judge_diagrams(note, n, ideal, found, drawn, exact(*coarse, n))
        if not smoke:
            _judge_average(note, n, trained, starts)
        figures.append(_diagrams(n, ideal, found, drawn))
    say("cuts along the density")
    figures.append(_cuts(note, expected, smoke, seed))
    if not smoke:
        _judge_triangle(note, expected, seed)
    return Outcome(values, expected, tuple(figures))


def _judge_diagrams(note: Note, n: int, ideal: Diagram, found: Diagram, drawn: Diagram, coarse: Diagram) -> None:
    fixed = fixed_weights(ideal.density, ideal.importance, n)
    note(
        f"reached_{n}",
        float((found.loss <= 1.02 * ideal.loss).mean()),
        "share of pixels within 2 % of the exact minimum",
    )
    note(
        f"beaten_{n}",
        float((ideal.loss / found.loss - 1).max()),
        "largest gain of a random start over the exact minimum",
    )
    note(f"same_{n}", agreement(found, ideal), "share of pixels in the exact phase, away from boundaries")
    note(f"fixed_{n}", agreement(found, fixed), "share of pixels in the phase of fixed weights, away from boundaries")
    note(f"sampled_reached_{n}", float((drawn.loss <= 1.02 * coarse.loss).mean()), "the same for training on samples")
    note(f"sampled_same_{n}", float((drawn.phase == coarse.phase).mean()), "share of pixels, trained on samples")
    # the phase boundary of fixed weights, read from the diagram, against its formula
    row, column = np.nonzero((fixed.phase[:-1] != SUPERPOSED) & (fixed.phase[1:] == SUPERPOSED))
    middle = np.sqrt(fixed.density[row] * fixed.density[row + 1])
    pixel = np.log(fixed.density[0] / fixed.density[1])
    edge = fixed_edge(fixed.importance, n)[column]
    note(
        f"edge_pixels_{n}",
        float(np.abs(np.log(middle / edge)).max() / pixel),
        "largest distance to the formula, in pixels",
    )
    if n == 3:
        p, r = np.meshgrid(ideal.density, ideal.importance, indexing="ij")
        other = (r > 1.2) & (p < 0.5)
        note(
            "others_pair",
            float((found.phase == DEDICATED)[other].mean()),
            "share of pixels with r > 1.2 and density < 0.5",
        )


def _judge_average(note: Note, n: int, trained: Settled, starts: int) -> None:
    """What "average nine of ten" does: the mean norm of all but the worst network against the best network's."""
    norm, _ = last_feature(trained.W)
    table, losses = norm.reshape(-1, starts), trained.loss.view(-1, starts).numpy()
    rows = np.arange(len(table))
    kept = table.sum(1) - table[rows, losses.argmax(1)]
    apart = np.abs(kept / (starts - 1) - table[rows, losses.argmin(1)]) > 0.1
    note(f"blurred_{n}", float(apart.mean()), "share of pixels where the mean norm is off the best one's by 0.1")


def _judge_triangle(note: Note, expected: dict[str, float], seed: int) -> None:
    """At equal importance, how often are three features in a plane a triangle at their minimum?"""
    p = torch.linspace(0.56, 0.95, 14, dtype=torch.float64)
    ones = torch.ones_like(p)
    tried = [from_random(p, ones, 3, 2, 10, rng.derive(seed, "triangle", k))[0] for k in range(3)]
    text = "share of densities from 0.56 to 0.95 at equal importance, best of ten random starts, three seeds"
    note("triangle_share", [triangles(W) for W in tried], text)
    expected["triangle_share"] = triangles(exact_three(p, ones)[0])


def triangles(W: Tensor) -> float:
    """Share of networks [i 3 2] that are triangles: all cosines within 0.05 of −1/2, no norm under 0.5."""
    off = cosines(W)[:, ~torch.eye(3, dtype=torch.bool)]
    return float((((off + 0.5).abs().amax(1) < 0.05) & (norms(W) > 0.5).all(1)).double().mean())


Cut = tuple[np.ndarray, np.ndarray, list[np.ndarray]]
"""Densities, exact norms of the last feature, and norms from random starts, one row per seed."""


def _cut(importance: float, density: np.ndarray, starts: int, repeats: int, seed: int) -> Cut:
    p = torch.from_numpy(density)
    r = torch.full_like(p, importance)
    best = exact_two(p, r)[0]
    tried = [from_random(p, r, 2, 1, starts, rng.derive(seed, "cut", k))[0] for k in range(repeats)]
    return density, best[:, 1, 0].abs().numpy(), [W[:, 1, 0].abs().numpy() for W in tried]


def _cuts(note: Note, expected: dict[str, float], smoke: bool, seed: int) -> Figure:
    density = np.linspace(0.06, 0.98, 24 if smoke else 185)
    cuts = {r: _cut(r, density, 3 if smoke else 10, 3, seed) for r in ((0.2, 0.8) if smoke else CUTS)}
    text = "random starts, three seeds"
    strong = {}
    for r, (p, ideal, tried) in cuts.items():
        name = f"{10 * r:02.0f}"
        strong[r] = appearance(p, ideal, 0.6)
        if r in EDGES:
            note(f"edge_{name}", [appearance(p, t, 0.5) for t in tried], f"density where the norm passes 0.5, {text}")
            note(f"jump_{name}", [jump(p, t) for t in tried], f"step of the norm where the feature appears, {text}")
            expected |= {f"edge_{name}": appearance(p, ideal, 0.5), f"jump_{name}": jump(p, ideal)}
    r = 0.8
    p, ideal, tried = cuts[r]
    note("onset_08", [appearance(p, t, 0.05) for t in tried], f"density where the norm passes 0.05, {text}")
    note("jump_08", [jump(p, t) for t in tried], f"step of the norm where the feature appears, {text}")
    expected |= {"onset_08": onset(r), "jump_08": jump(p, ideal)}
    if not smoke:
        ahead = {r: strong[r] - onset(r) for r in (0.5, 0.6)}
        until = 0.5 + 0.1 * ahead[0.5] / (ahead[0.5] - ahead[0.6])
        note("first_order_until", until, "importance where the jump and the continuous onset meet, interpolated")
        gap = further(strong, 0.5)
        note("fixed_gap_05", gap, "exact edge less that of fixed weights at importance 0.5")
    return _cut_figure(cuts)


def further(strong: dict[float, float], importance: float) -> float:
    """How much further superposition reaches, in density, than with fixed weights."""
    return strong[importance] - float(fixed_edge(np.array([importance]), 2)[0])


def _cut_figure(cuts: dict[float, Cut]) -> Figure:
    frames = []
    for r, (p, ideal, tried) in cuts.items():
        guides = [line("edge of fixed weights", [float(fixed_edge(np.array([r]), 2)[0])] * 2, [0.0, 1.0], "guide")]
        if r >= 0.6:
            guides.append(line("continuous onset, closed form", [onset(r)] * 2, [0.0, 1.0], "guide"))
        parts = (line("exact", p, ideal), points("random starts", p[::2], tried[0][::2]), *guides)
        frames.append(Frame(f"{r:g}", (Panel("norm of the second feature", "density", "norm", parts),)))
    return Figure(
        "E2-cuts", "Does the second feature jump?", "",
        "At low importance its norm jumps from 0 to about 0.7. From importance 0.57 on it first grows from 0 without a "
        "jump, and jumps later.",
        "Two features on a line only; with more features other arrangements compete.",
        tuple(frames), "relative importance", 1,
    )  # fmt: skip


def _diagrams(n: int, ideal: Diagram, found: Diagram, drawn: Diagram) -> Figure:
    fixed = fixed_weights(ideal.density, ideal.importance, n)
    edge = fixed_edge(ideal.importance, n)
    lines: tuple[Series, ...] = (line("edge of fixed weights", ideal.importance, edge, "guide"),)
    if n == 2:
        r = np.linspace(0.58, 0.98, 21)
        lines += (line("continuous onset", r, [onset(v) for v in r], "theory"),)
    shown = (
        ("fixed weights", fixed),
        ("exact minimum", ideal),
        ("best of random starts", found),
        ("trained on samples", drawn),
    )
    frames = tuple(Frame(name, diagram.panels(name, lines)) for name, diagram in shown)
    return Figure(
        f"E2-phases-{n}", f"{n} features in {n - 1} dimension{'s' if n > 2 else ''}: what becomes of the last one?", SOURCE,
        "Three regions: ignored (norm 0), dedicated (norm 1, no interference), in superposition (both near 1). The exact "
        "region of superposition is larger than that of fixed weights.",
        "The published picture averages nine of ten networks, which blurs it where networks differ; here the best counts.",
        frames, "how it was obtained", 2,
    )  # fmt: skip
