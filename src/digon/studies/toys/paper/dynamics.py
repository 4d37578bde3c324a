"""What happens while superposition is being learned?

Energy levels. Twenty features of equal importance in ten dimensions, dense enough for digons to be best. All features
end with dimensionality 1/2, but on the way some wait at other values and then jump, and each jump lowers the loss.

Geometry. Six features in three dimensions, two correlated sets of three, from small weights. A set first moves as one
direction, opposite to the other set or not; then it expands to three orthogonal directions; then the sets turn against
each other until every feature has an opposite one: an octahedron.

Networks are trained with Adam on samples. Losses along the way are exact ones, so that small drops are not hidden by
sampling noise; the loss is the sum over features, and each feature's dimensionality is drawn beside it.

Source: Elhage et al. 2022, superposition and learning dynamics. Its sizes and optimizer are not stated; these are ours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures import stats
from ....measures.geometry import cosines, feature_dimensionality, norms
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.features import Features, FeatureSet, features
from ....worlds.fit import FitConfig, fit
from ....worlds.population import expected_loss
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import grid, line, rounded, series, still

SOURCE = "Elhage et al. 2022, learning dynamics"
N, M, DENSITY = 20, 10, 0.3
JUMP, WINDOW, EARLY, APART = 0.15, 500, 300, 300
"""A jump: a dimensionality changes by 0.15 within 500 steps, after step 300; two jumps are 300 steps apart."""
SETS = (FeatureSet((0, 1, 2), "correlated"), FeatureSet((3, 4, 5), "correlated"))
GEOMETRY_DENSITY = 0.05


@dataclass(frozen=True)
class Course:
    """Networks on their way; one row per moment that was kept."""

    step: np.ndarray
    W: Float[Tensor, "t i n m"]
    loss: Float[Tensor, "t i"]
    """Exact loss."""

    @property
    def dimensionality(self) -> np.ndarray:
        """[moments, instances, features]."""
        return feature_dimensionality(self.W).numpy()


def course(toy: Toy, law: Features, config: FitConfig, steps: np.ndarray) -> Course:
    """Train and keep the networks at the given steps."""
    found = fit(toy, law, config, snapshots=steps.tolist()).snapshots
    W, b = (torch.stack([getattr(s, name) for s in found]).double() for name in ("W", "b"))
    loss = expected_loss(W.flatten(0, 1), b.flatten(0, 1), law).view(W.shape[:2])
    return Course(np.array([s.step for s in found]), W, loss)


def jumps(step: np.ndarray, dimensionality: Float[np.ndarray, "t n"]) -> list[int]:
    """Steps around which some feature's dimensionality changes by more than `JUMP` within `WINDOW` steps.

    A jump stands where the change is largest. Two jumps are two only if the change falls below `JUMP` between them and
    they are `APART` steps apart; else the larger one counts.
    """
    half = max(int(WINDOW / 2 / (step[1] - step[0])), 1)
    change = np.zeros(len(step))
    for t in range(half, len(step) - half):
        change[t] = np.abs(dimensionality[t + half] - dimensionality[t - half]).max()
    change[step < EARLY + WINDOW / 2] = 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], change > JUMP, [0]]).astype(int)))
    peaks = [int(start + change[start:stop].argmax()) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    found: list[int] = []
    for t in sorted(peaks, key=lambda t: -change[t]):
        if all(abs(step[t] - other) >= APART for other in found):
            found.append(int(step[t]))
    return sorted(found)


def burst(step: np.ndarray, loss: np.ndarray, at: int) -> float:
    """Fastest fall of the loss within half a window of a jump, over the median speed in the 1,000 steps around it."""
    speed, middle = -np.diff(loss) / np.diff(step), (step[1:] + step[:-1]) / 2
    near, around = np.abs(middle - at) <= WINDOW / 2, np.abs(middle - at) <= 1000
    return float(speed[near].max() / max(float(np.median(np.abs(speed[around]))), 1e-12))


def levels(config: StudyConfig) -> Course:
    """Networks whose features all become digons."""
    seeds, steps = (6, 3000) if config.smoke else (20, 12_000)
    law = features(N, DENSITY)
    plan = FitConfig(steps=steps, batch=512, learning_rate=1e-3, seed=rng.derive(config.seed, "levels"))
    every = 100 if config.smoke else 50
    return course(Toy(N, M, seeds, seed=plan.seed), law, plan, np.arange(0, steps + 1, every))


def octahedra(config: StudyConfig) -> Course:
    """Two correlated sets of three features in three dimensions, from small weights."""
    seeds, steps = (6, 3000) if config.smoke else (20, 6000)
    law = features(6, GEOMETRY_DENSITY, sets=SETS)
    plan = FitConfig(
        steps=steps, batch=1024, learning_rate=3e-3, init_scale=0.1, seed=rng.derive(config.seed, "octahedra")
    )
    return course(Toy(6, 3, seeds, seed=plan.seed), law, plan, np.arange(0, steps + 1, 50))


@dataclass(frozen=True)
class Stages:
    """Geometry of the two sets over time."""

    within: Float[Tensor, "t i"]
    """Mean cosine of two features of one set."""
    opposite: Float[Tensor, "t i"]
    """Mean over features of the smallest cosine with a feature of the other set."""
    apart: Float[Tensor, "t i"]
    """Cosine of the sums of the two sets."""

    def order(self, i: int) -> tuple[int, int, int] | None:
        """Moments at which instance i has reached each stage: one direction, orthogonal, octahedron; None if it has not."""
        whole = np.flatnonzero(self.within[:, i].numpy() > 0.9)
        open_ = np.flatnonzero(self.within[:, i].numpy() < 0.1)
        turned = np.flatnonzero(self.opposite[:, i].numpy() < -0.98)
        if not len(whole):
            return None
        open_ = open_[open_ > whole[0]]
        turned = turned[turned > open_[0]] if len(open_) else turned[:0]
        return (int(whole[0]), int(open_[0]), int(turned[0])) if len(turned) else None


def stages(W: Float[Tensor, "t i 6 3"]) -> Stages:
    """Reads the geometry."""
    c = cosines(W)
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    within = torch.stack([c[..., i, j] for i, j in pairs]).mean(0)
    across = c[..., :3, 3:]
    opposite = (across.amin(-1).mean(-1) + across.amin(-2).mean(-1)) / 2
    sums = torch.stack([W[..., :3, :].sum(-2), W[..., 3:, :].sum(-2)], -2)
    return Stages(within, opposite, cosines(sums)[..., 0, 1])


def run(config: StudyConfig, say: Say) -> Outcome:
    """Energy levels and geometry."""
    say("twenty features that become digons")
    jumping = levels(config)
    events = [jumps(jumping.step, jumping.dimensionality[:, i]) for i in range(jumping.W.shape[1])]
    say("six features that become an octahedron")
    turning = octahedra(config)
    shape = stages(turning.W)
    seed = config.seed
    several = [len(e) >= 2 for e in events]
    final = np.abs(jumping.dimensionality[-1] - 0.5).max(1)
    shown = max(range(len(events)), key=lambda i: (len(events[i]), max(events[i], default=0)))
    bursts = [burst(jumping.step, jumping.loss[:, i].numpy(), at) for i, e in enumerate(events) for at in e]
    drops = [_drop(jumping, i, at) for i, e in enumerate(events) for at in e]
    orders = [shape.order(i) for i in range(turning.W.shape[1])]
    reached = [float(s) for s in shape.opposite[-1] < -0.99]
    text = f"{len(final)} networks, n = {N}, m = {M}, density {DENSITY}"
    other = f"{len(orders)} networks, two correlated sets of three, density {GEOMETRY_DENSITY}"
    values = {
        "digon_share": measured("digon_share", (final < 0.03).astype(float), method=f"share of networks in which every dimensionality ends within 0.03 of 1/2; {text}", seed=seed),
        "jump_share": measured("jump_share", np.array([len(e) >= 1 for e in events], float), method=f"share of networks with a jump; {text}", seed=seed),
        "two_jumps": measured("two_jumps", np.array(several, float), method=f"share of networks with two jumps at least {APART} steps apart; {text}", seed=seed),
        "jumps_found": measured("jumps_found", float(max(len(e) for e in events)), method=f"most jumps in one network; {text}", seed=seed),
        "burst": _median("burst", bursts, seed),
        "burst_share": measured("burst_share", (np.array(bursts) >= 3).astype(float) if bursts else float("nan"), method="share of jumps at which the loss falls at least three times as fast as around", seed=seed),
        "drop_positive": measured("drop_positive", (np.array(drops) > 0).astype(float) if drops else float("nan"), method="share of jumps over which the exact loss falls", seed=seed),
        "octahedron_share": measured("octahedron_share", reached, method=f"share of networks in which every feature ends with an opposite one; {other}", seed=seed),
        "ordered_share": measured("ordered_share", [float(o is not None) for o in orders], method=f"share of networks that pass the three stages in order; {other}", seed=seed),
        "opposed_share": measured("opposed_share", [_opposed(shape, orders[i], i) for i in range(len(orders))], method=f"share of networks whose sets are opposite while they are one direction each; {other}", seed=seed),
        "final_within": measured("final_within", shape.within[-1].abs().numpy(), method=f"|mean cosine within a set| at the end; {other}", seed=seed),
        "final_norm": measured("final_norm", norms(turning.W[-1]).mean(-1).numpy(), method=f"mean norm at the end; {other}", seed=seed),
    }  # fmt: skip
    first = next((i for i, o in enumerate(orders) if o is not None and _opposed(shape, o, i)), 0)
    figures = (_levels(jumping, shown, events[shown]), _movie(jumping, shown), _kinks(turning, shape, first, orders[first]), _octahedron(turning, first))  # fmt: skip
    return Outcome(values, figures=figures)


def _median(name: str, samples: list[float], seed: int) -> Measurement:
    """The median over jumps with a bootstrap interval; NaN without jumps."""
    text = "median over jumps: fastest fall of the loss over the median speed in the 1,000 steps around"
    if not samples:
        return Measurement(name, float("nan"), method=text, seed=seed)
    values = np.array(samples)
    draw = rng.numpy_stream(seed, "bootstrap", name)
    low, high = stats.sample_interval(values, lambda v: np.median(v, axis=1), draw, 2000)
    return Measurement(name, float(np.median(values)), float(low), float(high), len(values), "", text, seed)


def _drop(found: Course, i: int, at: int) -> float:
    before, after = (int(np.abs(found.step - (at + shift)).argmin()) for shift in (-WINDOW / 2, WINDOW / 2))
    return float(found.loss[before, i] - found.loss[after, i]) / float(found.loss[-1, i])


def _opposed(shape: Stages, order: tuple[int, int, int] | None, i: int) -> float:
    """Whether, at some moment before the sets expand, their sums point in opposite directions."""
    if order is None:
        return 0.0
    before = shape.apart[order[0] : order[1], i]
    return float(len(before) > 0 and before.min() < -0.9)


def _levels(found: Course, i: int, events: list[int]) -> Figure:
    D, top = found.dimensionality[:, i], float(found.dimensionality[:, i].max())
    colors = [line(f"feature {j + 1}", found.step, D[:, j], "measured") for j in range(D.shape[1])]
    guides = [line(name, [0, found.step[-1]], [v, v], "guide") for name, v in (("digon 1/2", 0.5), ("triangle 2/3", 2 / 3), ("pentagon 2/5", 0.4))]  # fmt: skip
    loss = found.loss[:, i].numpy()
    marks = tuple(
        line(f"jump near {at}", [at, at], [float(loss.min()), float(loss.min()) * 2], "guide") for at in events
    )
    panels = (
        Panel("dimensionality of every feature", "step", "dimensionality", (*guides, *colors)),
        Panel("exact loss", "step", "loss", (line("loss", found.step, loss, "measured"), *marks), y_log=True),
    )
    assert top < 1.01, top
    return Figure(
        "E6-levels", "Energy levels", SOURCE + ", discrete energy level jumps",
        "All lines end at 1/2, the digon. Late changes are sudden: a few features leave one level together and arrive at "
        "another, and the loss falls at that moment.",
        "The network is chosen among several because it jumps most often and latest; most others settle in one go. The "
        "paper shows one chosen network, too, and states neither sizes nor density.",
        still(*panels), columns=1,
    )  # fmt: skip


def _movie(found: Course, i: int) -> Figure:
    shown = np.unique(np.geomspace(1, len(found.step) - 1, 24).astype(int))
    frames = []
    for t in (0, *shown):
        W = found.W[t, i]
        D = found.dimensionality[t, i]
        bars = series("bars", "dimensionality", np.arange(1, N + 1), D, color=D)
        heat = grid(np.arange(1, N + 1), np.arange(1, N + 1), (W @ W.T).numpy().round(2), diverging=True)
        frames.append(Frame(str(found.step[t]), (
            Panel("W Wᵀ", "feature", "feature", grid=heat, square=True, color_range=(-1.0, 1.0)),
            Panel("dimensionality", "feature", "D", (bars,), color_range=(0.0, 1.0)),
        )))  # fmt: skip
    return Figure(
        "E6-movie", "Digons form", SOURCE,
        "Every row of the matrix keeps one −1: each feature finds its opposite. Late in training pairs still swap partners.",
        "Features are numbered at random; nearness in the matrix means nothing.",
        tuple(frames), "step", 2,
    )  # fmt: skip


def _kinks(found: Course, shape: Stages, i: int, order: tuple[int, int, int] | None) -> Figure:
    marks: tuple[Series, ...] = ()
    loss = found.loss[:, i].numpy()
    if order is not None:
        names = ("one direction each", "orthogonal within", "opposite across")
        marks = tuple(line(name, [found.step[t]] * 2, [float(loss.min()), float(loss.max())], "guide") for name, t in zip(names, order, strict=True))  # fmt: skip
    panels = (
        Panel("exact loss", "step", "loss", (line("loss", found.step, loss, "measured"), *marks), y_log=True),
        Panel("geometry", "step", "cosine", (
            line("within a set", found.step, shape.within[:, i], "measured"),
            line("most opposite feature of the other set", found.step, shape.opposite[:, i], "measured"),
            line("between the two sums", found.step, shape.apart[:, i], "measured"),
        )),
    )  # fmt: skip
    return Figure(
        "E6-kinks", "Three stages of learning", SOURCE + ", learning as geometric transformations",
        "Two directions first, then two triangles, then an octahedron. The loss falls where one stage gives way to the next.",
        "Networks that pass other stages exist: in some, the two sets are not opposite at first.",
        still(*panels), columns=1,
    )  # fmt: skip


def _octahedron(found: Course, i: int) -> Figure:
    frames = []
    for t in np.unique(np.concatenate([np.arange(0, 24, 2), np.linspace(24, len(found.step) - 1, 14)]).astype(int)):
        W = found.W[t, i].numpy()
        edges: list[np.ndarray] = []
        for members in ((0, 1, 2), (3, 4, 5)):
            for a, b in ((0, 1), (1, 2), (2, 0)):
                edges += [W[members[a]], W[members[b]]]
        x, y, z = (rounded(np.array(edges)[:, k], 3) for k in range(3))
        ends = [rounded(W[:, k], 3) for k in range(3)]
        pair = (
            Series("edges", "sets", x, y, z, role="guide"),
            Series("points", "features", *ends, color=(0, 0, 0, 1, 1, 1)),
        )
        frames.append(Frame(str(found.step[t]), (Panel("", "", "", pair, square=True, color_label="set", color_range=(0.0, 1.0)),)))  # fmt: skip
    return Figure(
        "E6-octahedron", "Two correlated triples in three dimensions", SOURCE + ", learning as geometric transformations",
        "Two points move apart, each opens into a triangle, and the triangles turn until they form an octahedron.",
        "Directions in space are arbitrary: another seed shows the same up to a rotation.",
        tuple(frames), "step", 1,
    )  # fmt: skip
