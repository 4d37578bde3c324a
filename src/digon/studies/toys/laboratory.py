"""The toy laboratory: what does a small network do with its features, at every position of a few controls?

Every frame is computed beforehand: the best of several descents of the exact loss, turned so that the first represented
feature points along the first axis. Beside the vectors stand the Gram matrix, norms colored by interference, and
feature dimensionalities with the values that polytopes have:

    digon 1/2    triangle 2/3    tetrahedron 3/4    pentagon 2/5    square antiprism 3/8    hexagon 1/3

The last two figures show networks on their way, trained on samples.

Source: the figures of Elhage et al. 2022, "Toy Models of Superposition".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from ...measures.geometry import feature_dimensionality, gram, interference, norms
from ...measures.polytopes import polytopes, product_name
from ...records import Figure, Frame, Measurement, Panel, Series, to_json
from ...worlds.features import Features, FeatureSet, features
from ...worlds.fit import FitConfig, best_of, fit
from ...worlds.toys import Toy
from .base import Outcome, Say, StudyConfig, measured
from .sketch import grid, line, points, rounded, series

SOURCE = "Elhage et al. 2022"
GUIDES = {"1/2 digon": 1 / 2, "2/3 triangle": 2 / 3, "2/5 pentagon": 2 / 5, "1/3 hexagon": 1 / 3}
SOLID = {"3/4 tetrahedron": 3 / 4, "1/2 octahedron": 1 / 2, "3/8 square antiprism": 3 / 8}
SETS = ("independent", "correlated pairs", "anticorrelated pairs")
CAUTION = (
    "Every frame is the best of a few descents of the exact loss: a lower minimum may exist, and training on samples "
    "often ends in worse ones."
)


@dataclass(frozen=True)
class Bench:
    """Positions of the controls, and how hard every minimum is searched for."""

    flat: tuple[tuple[int, int], ...]
    """Features and dimensions of the networks that are drawn in the plane."""
    solid: tuple[int, ...]
    """Features of those drawn in space."""
    large: tuple[tuple[int, int], ...]
    densities: tuple[float, ...]
    decays: tuple[float, ...]
    starts: int
    steps: int
    """Of networks that are trained on samples."""
    moments: int
    """Frames of a training."""


PAPER = Bench(
    ((3, 2), (4, 2), (5, 2), (6, 2)), (4, 5, 6, 7, 8), ((10, 5), (20, 5)),
    (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02), (1.0, 0.9, 0.7), 24, 6000, 30,
)  # fmt: skip
SMOKE = Bench(((4, 2), (5, 2)), (4, 6), ((10, 5),), (1.0, 0.2, 0.1), (1.0, 0.9), 16, 600, 6)


@dataclass(frozen=True)
class Position:
    """One position of the controls with the best network that was found there."""

    density: float
    decay: float
    kind: str
    W: Float[Tensor, "n m"]
    loss: float

    @property
    def label(self) -> str:
        """Values of the controls "density | decay | features, dimensions | sets"."""
        n, m = self.W.shape
        return f"{self.density:g} | {self.decay:g} | {n}, {m} | {self.kind}"

    @property
    def name(self) -> str:
        """What the represented features form, in words."""
        names = [p.name for p in polytopes(self.W)]
        return product_name(names) if names and "irregular" not in names else "irregular" if names else "nothing"


def minima(n: int, m: int, bench: Bench, kinds: Sequence[str], seed: int) -> list[Position]:
    """The best networks at every density and importance decay, one call of the exact engine per kind of sets."""
    found: list[Position] = []
    for kind in kinds:
        places = [(p, d) for p, d in product(bench.densities, bench.decays) if kind != SETS[2] or p <= 0.5]
        sets = () if kind == SETS[0] else pairs(n, "correlated" if kind == SETS[1] else "anticorrelated")
        density = torch.tensor([[p] * n for p, _ in places]).double().repeat_interleave(bench.starts, 0)
        decay = torch.tensor([[d**i for i in range(n)] for _, d in places]).double().repeat_interleave(bench.starts, 0)
        toy = Toy(n, m, len(density), seed=seed)
        done = fit(toy, features(n, density, decay, sets=sets), FitConfig(engine="exact", steps=400, seed=seed))
        best = best_of(done, bench.starts)
        W, loss = toy.W.detach()[best.index], best.loss.tolist()
        found += [Position(p, d, kind, turned(W[k]), loss[k]) for k, (p, d) in enumerate(places)]
    return found


def pairs(n: int, kind: str) -> tuple[FeatureSet, ...]:
    """Neighbors in pairs; with an odd number of features the last one is alone."""
    assert kind in ("correlated", "anticorrelated"), kind
    return tuple(FeatureSet((i, i + 1), kind) for i in range(0, n - 1, 2))  # pyright: ignore[reportArgumentType]


def turned(W: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """The same network in other coordinates: represented features, in order, span the first axes, on their positive side.

    Inner products do not change. Source: QR decomposition.
    """
    live = norms(W) > 0.5
    order = torch.cat([live.nonzero()[:, 0], (~live).nonzero()[:, 0]])
    axes, upper = torch.linalg.qr(W[order].double().T)
    sign = torch.where(upper.diagonal() < 0, -1.0, 1.0)
    return (W.double() @ axes * sign).to(W)


def run(config: StudyConfig, say: Say) -> Outcome:
    """All frames of the laboratory."""
    bench = SMOKE if config.smoke else PAPER
    say("laboratory: exact minima in the plane")
    flat = [p for n, m in bench.flat for p in minima(n, m, bench, SETS, config.seed)]
    say("laboratory: exact minima in space, and larger networks")
    solid = [p for n in bench.solid for p in minima(n, 3, bench, SETS[:1], config.seed)]
    large = [p for n, m in bench.large for p in minima(n, m, bench, SETS[:1], config.seed)]
    say("laboratory: networks on their way")
    figures = (flat_figure(flat), solid_figure(solid), large_figure(large), *learning(bench, config.seed))
    return Outcome(sanity(flat, figures, bench, config.seed), {}, figures)


def sanity(flat: list[Position], figures: tuple[Figure, ...], bench: Bench, seed: int) -> dict[str, Measurement]:
    """A few numbers that must be right if the pictures are."""

    def loss(p: float, decay: float, n: int, kind: str) -> float:
        return next(q.loss for q in flat if (q.density, q.decay, len(q.W), q.kind) == (p, decay, n, kind))

    how = f"best of {bench.starts} exact descents"
    alone = [q for q in flat if q.kind == SETS[0]]
    found = {
        "laboratory_pentagon": (loss(0.1, 0.9, 5, SETS[0]), how + ", 5 features, density 0.1, decay 0.9"),
        "laboratory_digons": (loss(0.2, 0.9, 5, SETS[0]), how + ", 5 features, density 0.2, decay 0.9"),
        "laboratory_never_together": (loss(0.1, 1.0, 4, SETS[2]), how + ", two anticorrelated pairs, density 0.1"),
        "laboratory_named": (float(np.mean([q.name != "irregular" for q in alone])),
                             "share of frames in the plane, independent features, that form known polytopes"),
        "laboratory_megabytes": (sum(len(to_json(f)) for f in figures) / 1e6, "all figures as JSON"),
    }  # fmt: skip
    return {name: measured(name, value, method=method, seed=seed) for name, (value, method) in found.items()}


# --- panels -----------------------------------------------------------------------------------------------------------


def gram_panel(W: Float[Tensor, "n m"]) -> Panel:
    """Inner products of all pairs."""
    n = len(W)
    picture = grid(range(n), range(n), gram(W).numpy().round(2) + 0.0, diverging=True)
    return Panel("WWᵀ", "feature", "feature", grid=picture, square=True, color_range=(-1, 1), color_label="W·W")


def bars_panel(W: Float[Tensor, "n m"]) -> Panel:
    """Norms, colored by interference."""
    bars = series(
        "bars", "", range(len(W)), norms(W).numpy().round(3), color=interference(W).clamp(max=9).numpy().round(3)
    )
    return Panel("norm", "feature", "‖W‖", (bars,), color_label="interference", color_range=(0, 1))


def dimension_panel(W: Float[Tensor, "n m"], guides: dict[str, float]) -> Panel:
    """Feature dimensionalities with the lines of polytopes."""
    n = len(W)
    lines = [line(name, [-0.5, n - 0.5], [v, v], "guide") for name, v in guides.items()]
    dots = points("", range(n), feature_dimensionality(W).numpy().round(3))
    return Panel("dimensionality", "feature", "D", (*lines, dots))


def vectors_panel(title: str, W: Float[Tensor, "n 2"], importance: Iterable[float]) -> Panel:
    """Directions in the plane, colored by importance, and the circle of unit length."""
    x, y = W.numpy().round(3).T + 0.0
    arrows = series("arrows", "", x, y, color=importance)
    turn = np.linspace(0, 2 * np.pi, 33)
    circle = line("", np.cos(turn).round(3), np.sin(turn).round(3), "guide")
    return Panel(title, "h₁", "h₂", (circle, arrows), square=True, color_label="importance", color_range=(0, 1))


def space_panel(title: str, W: Float[Tensor, "n 3"]) -> Panel:
    """Directions in space, with the edges of their convex hull."""
    live = W[norms(W) > 0.5].numpy()
    ends = hull_edges(live)
    color = rounded(interference(W).clamp(max=9), 3)
    arrows = Series("arrows", "", *(rounded(W[:, k], 3) for k in range(3)), color=color)
    drawn = (Series("edges", "", *(rounded(ends[:, k], 3) for k in range(3)), role="guide"),) if len(ends) else ()
    return Panel(title, "h₁", "h₂", (arrows, *drawn), square=True, color_label="interference", color_range=(0, 1))


def hull_edges(vertices: np.ndarray, flat: float = 0.02) -> np.ndarray:
    """Ends [2 · edges, 3] of the edges of the convex hull; edges between triangles of one plane are left out.

    No edges where the points do not span space.
    """
    try:
        hull = ConvexHull(vertices)
    except (QhullError, ValueError):
        return np.zeros((0, 3))
    walls: dict[tuple[int, int], list[np.ndarray]] = {}
    for corners, plane in zip(hull.simplices, hull.equations, strict=True):
        for a, b in pairwise([*sorted(corners), min(corners)]):
            walls.setdefault((min(a, b), max(a, b)), []).append(plane)
    kept = [edge for edge, planes in walls.items() if len(planes) < 2 or np.abs(planes[0] - planes[1]).max() > flat]
    return vertices[np.array(kept).ravel()]


# --- figures ----------------------------------------------------------------------------------------------------------


def importances(place: Position) -> list[float]:
    """Importance of every feature."""
    return [round(place.decay**i, 3) for i in range(len(place.W))]


def flat_figure(found: list[Position]) -> Figure:
    """Networks with two dimensions."""
    frames = [
        Frame(q.label, (vectors_panel(f"{q.name}; loss {q.loss:.4g}", q.W, importances(q)), gram_panel(q.W),
                        bars_panel(q.W), dimension_panel(q.W, GUIDES)))
        for q in found
    ]  # fmt: skip
    return Figure(
        "laboratory-plane", "Toy laboratory: two dimensions", SOURCE + ", opening figure and basic results",
        "Dense features: the two most important ones take a dimension each. Rarer: antipodal pairs, then a pentagon. "
        "Correlated features stand at right angles, anticorrelated ones opposite to each other.",
        CAUTION + " Anticorrelated pairs exist up to density 0.5.",
        tuple(frames), "density | importance decay | features, dimensions | sets", columns=2,
    )  # fmt: skip


def solid_figure(found: list[Position]) -> Figure:
    """Networks with three dimensions."""
    frames = [
        Frame(f"{q.density:g} | {q.decay:g} | {len(q.W)}", (space_panel(f"{q.name}; loss {q.loss:.4g}", q.W),
                                                            bars_panel(q.W), dimension_panel(q.W, SOLID)))
        for q in found
    ]  # fmt: skip
    return Figure(
        "laboratory-space", "Toy laboratory: three dimensions", SOURCE + ", geometry of superposition",
        "With equal importance and rare features: six form an octahedron, seven a pentagonal bipyramid, eight a square "
        "antiprism; fewer keep dimensions of their own. A tetrahedron needs density near 0.5. Lines are the edges of "
        "the convex hull.",
        CAUTION, tuple(frames), "density | importance decay | features", columns=3,
    )  # fmt: skip


def large_figure(found: list[Position]) -> Figure:
    """Networks whose directions cannot be drawn."""
    frames = []
    for q in found:
        gram_of, bars = gram_panel(q.W), bars_panel(q.W)
        label = f"{q.density:g} | {q.decay:g} | {len(q.W)}, {q.W.shape[1]}"
        frames.append(Frame(label, (gram_of, bars, dimension_panel(q.W, GUIDES))))
    return Figure(
        "laboratory-large", "Toy laboratory: five dimensions", SOURCE + ", basic results",
        "The rarer the features, the more are represented, and the brighter their bars: they share directions, the least "
        "important ones first. Most gather on the line of the digon.",
        CAUTION, tuple(frames), "density | importance decay | features, dimensions", columns=3,
    )  # fmt: skip


def learning(bench: Bench, seed: int) -> tuple[Figure, Figure]:
    """A pentagon and an octahedron on their way."""
    plane = trained(features(5, 0.05), 2, bench, seed)
    sets = tuple(FeatureSet(members, "correlated") for members in ((0, 1, 2), (3, 4, 5)))
    space = trained(features(6, 0.05, sets=sets), 3, bench, seed)
    first = Figure(
        "laboratory-pentagon", "Learning: five features find their places in the plane", SOURCE + ", learning dynamics",
        "Directions grow, push each other apart, and settle in a pentagon; the loss falls in steps.",
        "One network, the best of a few starts; others stay in two pairs and a lost feature.",
        movie(plane, lambda W, step: (vectors_panel(f"step {step}", W, [1.0] * 5), dimension_panel(W, GUIDES))),
        "step", columns=3,
    )  # fmt: skip
    second = Figure(
        "laboratory-octahedron", "Learning: two sets of three correlated features", SOURCE + ", learning dynamics",
        "Each set first collapses into one direction, then opens into a triangle; at the end every feature is opposite to "
        "one of the other set: an octahedron.",
        "One network, the best of a few starts; some take another path.",
        movie(space, lambda W, step: (space_panel(f"step {step}", W), gram_panel(W))), "step", columns=3,
    )  # fmt: skip
    return first, second


Draw = Callable[[Tensor, int], tuple[Panel, ...]]
"""Panels of a network at a step."""


@dataclass(frozen=True)
class Path:
    """A network on its way."""

    steps: tuple[int, ...]
    W: Float[Tensor, "steps n m"]
    loss: tuple[float, ...]


def trained(law: Features, m: int, bench: Bench, seed: int, starts: int = 4) -> Path:
    """The best of a few networks trained on samples, at evenly spread logarithms of the step."""
    at = np.unique(np.geomspace(10, bench.steps, bench.moments).astype(int)).tolist()
    config = FitConfig(steps=bench.steps, learning_rate=3e-3, init_scale=0.1, seed=seed)
    done = fit(Toy(law.n, m, starts, seed=seed), law, config, snapshots=at)
    W = torch.stack([s.W[done.best] for s in done.snapshots]).detach()
    axes = torch.linalg.svd(W[-1].T)[0]  # one turn for the whole path, so that only learning moves it
    losses = tuple(float(s.loss[done.best]) for s in done.snapshots)
    return Path(tuple(s.step for s in done.snapshots), W @ axes, losses)


def movie(path: Path, draw: Draw) -> tuple[Frame, ...]:
    """Frames of a path, each with the loss so far."""
    frames = []
    for k, step in enumerate(path.steps):
        curve = line("loss of the batch", path.steps, path.loss, "measured")
        here = points("now", [step], [path.loss[k]], "guide")
        loss = Panel("loss", "step", "loss", (curve, here), x_log=True, y_log=True)
        frames.append(Frame(str(step), (*draw(path.W[k], step), loss)))
    return tuple(frames)
