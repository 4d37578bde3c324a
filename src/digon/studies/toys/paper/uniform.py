"""How do many equal features share dimensions? Uniform superposition, its polytopes and the pressure behind them.

    x' = ReLU(x W Wᵀ + b),  n features of importance 1 and density p in m dimensions, n ≫ m

Experiment: train at many densities; read dimensions per feature D* = m / ‖W‖², feature dimensionalities D_i and the
polytopes that groups of features form.

Theory (`tegum`): polytopes in orthogonal subspaces do not disturb each other; the one that saves most loss per dimension
should win, and where two save the same, features regroup.

The paper's own size is n = 400, m = 30; this study uses n = 200, m = 20 for the sweep (`full` takes the paper's) and the
paper's size at three densities.

Sources: Elhage et al. 2022, uniform superposition; comments there by T. Henighan and C. Olah (pressure) and by F. Zhang
(leverage scores); Ivanov 2026, "Spectral superposition".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures import geometry, polytopes
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.features import features
from ....worlds.fit import FitConfig, fit
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import line, points, series, still
from .tegum import Gain, gains, regrouping

SEEDS = 4
JUDGED = (0.85, 0.61, 0.57, 0.35, 0.3, 0.25, 0.21, 0.19, 0.15, 0.1)
"""Densities that claims speak about: trained with `SEEDS` seeds."""
BETWEEN = (1.0, 0.7, 0.66, 0.63, 0.59, 0.54, 0.5, 0.45, 0.4, 0.27, 0.23, 0.2, 0.17, 0.12)
"""Further densities of the sweep, trained once."""
WIDTH = 0.015
"""A feature is at a fraction if its dimensionality is as near as this."""
LINES = {
    "tetrahedron 3/4": 3 / 4,
    "triangle 2/3": 2 / 3,
    "digon 1/2": 1 / 2,
    "pentagon 2/5": 2 / 5,
    "square antiprism 3/8": 3 / 8,
}
SOURCE = "Elhage et al. 2022, geometry of uniform superposition"


@dataclass(frozen=True)
class Sweep:
    """Trained networks of one size; `density` and `loss` have one entry per network."""

    n: int
    m: int
    density: np.ndarray
    W: Float[Tensor, "i n m"]
    loss: np.ndarray

    def at(self, density: float) -> list[int]:
        """The networks of one density."""
        return np.flatnonzero(np.isclose(self.density, density)).tolist()

    @property
    def relative_loss(self) -> np.ndarray:
        """Loss per feature in units of its variance."""
        p = self.density
        return self.loss / (self.n * (p / 3 - p**2 / 4))


def train(n: int, m: int, density: list[float], config: FitConfig) -> Sweep:
    """One network per entry of `density`."""
    column = torch.tensor(density, dtype=torch.float64)[:, None].expand(-1, n)
    toy = Toy(n, m, len(density), seed=config.seed)
    loss = fit(toy, features(n, column), config).loss
    return Sweep(n, m, np.array(density), toy.W.detach().double(), loss.double().numpy())


def share_at(W: Float[Tensor, "n m"], fraction: float) -> float:
    """Share of the live features (norm above 0.5) whose dimensionality is within `WIDTH` of a fraction; 0 if none lives."""
    live = geometry.represented(W)
    near = (geometry.feature_dimensionality(W)[live] - fraction).abs() < WIDTH
    return float(near.double().mean()) if bool(live.any()) else 0.0


def coverage(W: Float[Tensor, "n m"]) -> float:
    """Share of the live features in components that are recognized as a polytope."""
    found = polytopes.polytopes(W)
    named = sum(len(p.members) for p in found if p.name != "irregular")
    return named / max(sum(len(p.members) for p in found), 1)


def eigenvector_error(W: Float[Tensor, "n m"]) -> float:
    """How far live features are from being eigenvectors of F = Σ W_i W_iᵀ: mean relative residual. Range: [0, 1]."""
    live = W[geometry.represented(W)]
    image = live @ geometry.frame_operator(W)
    along = (image * live).sum(1, keepdim=True) / live.square().sum(1, keepdim=True)
    return float(((image - along * live).norm(dim=1) / image.norm(dim=1)).mean())


def between(W: Float[Tensor, "n m"]) -> float:
    """Mean |cosine| of live features of different components."""
    found = polytopes.polytopes(W)
    label = torch.full((len(W),), -1)
    for k, polytope in enumerate(found):
        label[list(polytope.members)] = k
    live = label >= 0
    apart = label[live, None] != label[live]
    return float(geometry.cosines(W[live]).abs()[apart].mean()) if bool(apart.any()) else 0.0


def run(config: StudyConfig, say: Say) -> Outcome:
    """Gains of polytopes, a sweep over densities, other sizes, and what the trained networks look like."""
    smoke, seed = config.smoke, config.seed
    say("gains of polytopes")
    grid = torch.logspace(-1, 0, 7 if smoke else 31, dtype=torch.float64)
    found = gains(grid)
    n, m = (48, 6) if smoke else (400, 30) if config.full else (200, 20)
    judged, others = ((0.35,), (1.0, 0.6, 0.21)) if smoke else (JUDGED, BETWEEN)
    steps, batch = (1500, 256) if smoke else (10_000, 512)
    recipe = FitConfig(
        steps=steps, batch=batch, learning_rate=5e-3, schedule="cosine", seed=rng.derive(seed, "uniform")
    )
    say(f"training {n} features in {m} dimensions at {len(judged) + len(others)} densities")
    sweep = train(n, m, [p for p in judged for _ in range(SEEDS)] + list(others), recipe)
    values, exact = _common(sweep, seed)
    if not smoke:
        _judge_plateaus(values, sweep, seed)
        _judge_regrouping(values, exact, sweep, grid, found)
        say("training other sizes")
        few = train(60, m, [0.63] * SEEDS, recipe)
        large = train(400, 30, [0.35, 0.3, 0.21, 0.21, 0.21], recipe)
        _judge_sizes(values, sweep, few, large, seed)
    figures = (_dimensions(sweep, grid, found), _scatter(sweep), _gains(grid, found), _graph(sweep))
    return Outcome(values, exact, figures)


def _common(sweep: Sweep, seed: int) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Quantities at density 0.35 and the identities, at every size of the study."""
    at = [sweep.W[i] for i in sweep.at(0.35)]
    text = f"n = {sweep.n}, m = {sweep.m}, density 0.35, {len(at)} seeds"
    values = {
        name: measured(name, [float(reading(W)) for W in at], method=text, seed=seed)
        for name, reading in (
            ("features_per_m_35", lambda W: geometry.represented(W).sum() / sweep.m),
            ("half_share_35", lambda W: share_at(W, 1 / 2)),
            ("dstar_35", geometry.dimensions_per_feature),
            ("coverage_35", coverage),
            ("between_35", between),
            ("eigenvector_error_35", eigenvector_error),
        )
    }
    W = sweep.W
    dimensionality, leverage = geometry.feature_dimensionality(W, least=0.0), geometry.leverage(W)
    F, size = geometry.frame_operator(W), W.square().sum(-1)
    identity = (dimensionality * ((W @ F) * W).sum(-1) - size.square()).abs().amax()
    for name, value in (
        ("sum_error", float(((dimensionality.sum(-1) - sweep.m).abs() / sweep.m).amax())),
        ("leverage_rank", float((leverage.sum(-1) - geometry.rank(W)).abs().amax())),
        ("leverage_excess", float((dimensionality - leverage).amax())),
        ("frame_identity", float(identity)),
    ):
        values[name] = measured(name, value, method=f"worst of {len(W)} trained networks", seed=seed)
    exact = {"sum_error": 0.0, "leverage_rank": 0.0, "leverage_excess": 0.0, "frame_identity": 0.0}
    return values, exact


Reading = Callable[[Tensor], float | Tensor]
"""A number from the weights [n m] of one network."""
PLATEAUS: tuple[tuple[str, float, Reading], ...] = (
    ("live_35", 0.35, lambda W: geometry.represented(W).sum() / W.shape[1]),
    ("live_30", 0.3, lambda W: geometry.represented(W).sum() / W.shape[1]),
    ("half_share_30", 0.3, lambda W: share_at(W, 1 / 2)),
    ("dstar_30", 0.3, geometry.dimensions_per_feature),
    ("third_share_61", 0.61, lambda W: share_at(W, 2 / 3)),
    ("half_share_57", 0.57, lambda W: share_at(W, 1 / 2)),
    ("fifth_share_21", 0.21, lambda W: share_at(W, 2 / 5)),
    ("antiprism_share_21", 0.21, lambda W: share_at(W, 3 / 8)),
    ("antiprism_share_19", 0.19, lambda W: share_at(W, 3 / 8)),
    ("coverage_21", 0.21, coverage),
    ("dstar_85", 0.85, geometry.dimensions_per_feature),
    ("median_85", 0.85, lambda W: geometry.feature_dimensionality(W)[geometry.represented(W, 0.05)].median()),
)
"""Quantity, density, reading."""
LOSSES = (0.35, 0.25, 0.21, 0.15, 0.1)


def _lowest(sweep: Sweep, name: str, density: float, reading: Reading, seed: int) -> Measurement:
    """A reading of the network with the lowest loss at a density; the interval is the range over all seeds."""
    which = sweep.at(density)
    samples = [float(reading(sweep.W[i])) for i in which]
    value = samples[int(np.argmin(sweep.loss[which]))]
    size = f"n = {sweep.n}, m = {sweep.m}, density {density}"
    if len(which) == 1:
        return measured(name, value, method=f"one network, {size}", seed=seed)
    text = f"lowest loss of {len(which)} seeds (interval: their range), {size}"
    return Measurement(name, value, min(samples), max(samples), len(samples), method=text, seed=seed)


def _judge_plateaus(values: dict[str, Measurement], sweep: Sweep, seed: int) -> None:
    text = f"n = {sweep.n}, m = {sweep.m}, {SEEDS} seeds"
    for name, density, reading in PLATEAUS:
        values[name] = _lowest(sweep, name, density, reading, seed)
    for density in LOSSES if sweep.n == 200 else ():  # the values that claims speak of are of this size
        name = f"loss_{100 * density:.0f}"
        values[name] = measured(name, sweep.relative_loss[sweep.at(density)], method=f"loss / (n v), {text}", seed=seed)
    best = [sweep.W[i] for i in _first(sweep)]
    for name, fraction in (
        ("best_quarter", 3 / 4),
        ("best_third", 2 / 3),
        ("best_fifth", 2 / 5),
        ("best_antiprism", 3 / 8),
    ):
        text = "share at the fraction, lowest loss of every density, largest over densities"
        values[name] = measured(name, max(share_at(W, fraction) for W in best), method=text, seed=seed)
    stars = geometry.dimensions_per_feature(sweep.W).numpy()
    digons = np.array([share_at(W, 1 / 2) >= 0.85 for W in sweep.W])
    apart = float(np.abs(stars - 0.5)[digons].max()) if digons.any() else float("nan")
    text = "largest distance of D* to 1/2 where at least 85 % of the represented features are in digons"
    values["plateau_deviation"] = measured("plateau_deviation", apart, method=text, seed=seed)
    sticky = sweep.density[np.abs(stars - 0.5) < 0.05]
    width = float(sticky.max() / sticky.min()) if len(sticky) else 1.0
    text = "largest over smallest density with D* within 0.05 of 1/2"
    values["half_width"] = measured("half_width", width, method=text, seed=seed)


def _judge_regrouping(
    values: dict[str, Measurement], exact: dict[str, float], sweep: Sweep, grid: Tensor, found: dict[str, Gain]
) -> None:
    """Densities at which trained features change sides, beside the ones where gains are equal."""
    for name, before, after, low, high in (
        ("triangle_digon", "triangle", "digon", 0.5, 0.7),
        ("digon_pentagon", "digon", "pentagon", 0.2, 0.35),
        ("pentagon_antiprism", "pentagon", "square antiprism", 0.17, 0.23),
    ):
        fractions = [{"triangle": 2 / 3, "digon": 1 / 2, "pentagon": 2 / 5}.get(p, 3 / 8) for p in (before, after)]
        tried = sorted({float(p) for p in sweep.density if low <= p <= high}, reverse=True)
        lead = [
            np.mean([share_at(sweep.W[i], fractions[1]) - share_at(sweep.W[i], fractions[0]) for i in sweep.at(p)])
            for p in tried
        ]
        first = next((k for k, v in enumerate(lead) if v > 0 and k), None)
        value = float("nan")
        if first is not None:
            a, b = lead[first - 1], lead[first]
            value = tried[first - 1] + (tried[first] - tried[first - 1]) * float(-a / (b - a))
        values[name] = measured(name, value, method="where more features are at the second fraction, interpolated")
        exact[name] = regrouping(grid, found, before, after)


def _judge_sizes(values: dict[str, Measurement], sweep: Sweep, few: Sweep, large: Sweep, seed: int) -> None:
    many = np.array([share_at(sweep.W[i], 2 / 3) for i in sweep.at(0.63)])
    little = [share_at(W, 2 / 3) for W in few.W]
    text = f"share at 2/3 at density 0.63, n = {sweep.n} less n = 60, m = {sweep.m}"
    values["pressure"] = measured("pressure", float(many.mean()) - np.array(little), method=text, seed=seed)
    for name, density, fraction in (
        ("half_400_35", 0.35, 1 / 2),
        ("half_400_30", 0.3, 1 / 2),
        ("fifth_400_21", 0.21, 2 / 5),
    ):
        values[name] = _lowest(large, name, density, lambda W, f=fraction: share_at(W, f), seed)
    live = geometry.represented(large.W).sum(1).double() / large.m
    ratio = float(live[0]) / values["features_per_m_35"].value
    text = f"features per dimension at density 0.35, n = 400, m = 30 over n = {sweep.n}, m = {sweep.m}"
    values["proportional"] = measured("proportional", ratio, method=text, seed=seed)
    total = geometry.feature_dimensionality(large.W, least=0.0).sum(1)
    values["sum_400"] = measured(
        "sum_400", (total / large.m).numpy(), method="sum of D over m, n = 400, m = 30", seed=seed
    )


def _first(sweep: Sweep) -> list[int]:
    """One network per density, the one with the lowest loss, from dense to sparse."""
    best: dict[float, int] = {}
    for i, p in enumerate(sweep.density.tolist()):
        if p not in best or sweep.loss[i] < sweep.loss[best[p]]:
            best[p] = i
    return [best[p] for p in sorted(best, reverse=True)]


def _dimensions(sweep: Sweep, grid: Tensor, found: dict[str, Gain]) -> Figure:
    names = list(found)
    top = torch.stack([found[name].gain for name in names]).argmax(0)
    stars = torch.stack([found[name].dimensions_per_feature for name in names])[top, torch.arange(len(grid))]
    which = _first(sweep)
    trained = geometry.dimensions_per_feature(sweep.W[which])
    span = [1.0, 10.0]
    parts = (
        line("best polytope", 1 / grid.flip(0), stars.flip(0)),
        line("1", span, [1.0, 1.0], "guide"),
        line("1/2", span, [0.5, 0.5], "guide"),
        points("trained", 1 / sweep.density[which], trained),
    )
    panel = Panel("dimensions per feature", "1 / density", "D* = m / ‖W‖²", parts, x_log=True)
    return Figure(
        "E3-dimensions", "Dimensions per feature stick at 1 and 1/2", SOURCE,
        "Coming from dense features D* stays near 1, drops, and stays near 1/2 while all features are in digons.",
        "D* counts partly represented features too: it is not exactly 1/2 on the whole plateau. "
        f"Here n = {sweep.n}, m = {sweep.m}; in the paper n = 400, m = 30.",
        still(panel), columns=1,
    )  # fmt: skip


def _scatter(sweep: Sweep) -> Figure:
    which = _first(sweep)
    spread = np.linspace(-0.008, 0.008, sweep.n)  # side by side, as dots would cover each other
    x = np.concatenate([np.exp(np.log(1 / sweep.density[i]) + spread) for i in which])
    D = geometry.feature_dimensionality(sweep.W[which])
    size = geometry.norms(sweep.W[which])
    keep = (D > 0.02).flatten()
    dots = points("features", x[keep.numpy()], D.flatten()[keep], color=size.flatten()[keep])
    lines = tuple(line(name, [1.0, 10.0], [value, value], "guide") for name, value in LINES.items())
    panel = Panel(
        "every dot is one feature", "1 / density", "feature dimensionality", (*lines, dots),
        x_log=True, color_label="norm", color_range=(0.0, 1.2),
    )  # fmt: skip
    return Figure(
        "E3-scatter", "Feature dimensionalities gather at fractions", SOURCE,
        "Clusters at 2/3 (triangles), 1/2 (digons), 2/5 (pentagons) and 3/8 (square antiprisms), one after the other.",
        "Features with dimensionality under 0.02 are left out. No line at 3/4 appears: the tetrahedron wins by less than "
        "0.5 % and training does not find it.",
        still(panel), columns=1,
    )  # fmt: skip


def _gains(grid: Tensor, found: dict[str, Gain]) -> Figure:
    lines = tuple(line(name, 1 / grid.flip(0), g.gain.flip(0)) for name, g in found.items())
    panel = Panel("loss saved per dimension", "1 / density", "variances of a feature", lines, x_log=True)
    return Figure(
        "E3-gains", "Which polytope pays most?", "",
        "The highest curve changes from triangle to digon near 1/density 1.55, and to pentagon and antiprism near 4.4 to 5.",
        "Each polytope stands alone here: features that are only partly represented are left out.",
        still(panel), columns=1,
    )  # fmt: skip


def _graph(sweep: Sweep) -> Figure:
    frames = tuple(Frame(f"{sweep.density[i]:g}", (_components(sweep.W[i]),)) for i in _first(sweep))
    return Figure(
        "E3-polytopes", "Features that share dimensions", SOURCE + ", feature geometry graph",
        "Every group is a set of features joined by cosines above 0.2, drawn flat. With falling density digons give way "
        "to pentagons and antiprisms.",
        "Groups are projected on their two largest axes; features of norm below 0.5 are not drawn.",
        frames, "density", 1,
    )  # fmt: skip


def _components(W: Float[Tensor, "n m"]) -> Panel:
    """Groups on a square grid, one series of points per name."""
    found = polytopes.polytopes(W)
    across = int(np.ceil(max(len(found), 1) ** 0.5))
    places: dict[str, list[np.ndarray]] = {}
    ends: list[np.ndarray] = []
    for k, polytope in enumerate(found):
        flat, cosine = _flat(W[list(polytope.members)])
        spot = flat + 3.0 * np.array([k % across, -(k // across)])
        places.setdefault(polytope.name, []).append(spot)
        ends += [spot[[i, j]] for i, j in zip(*np.nonzero(np.triu(np.abs(cosine), 1) > 0.2), strict=True)]
    edges = np.concatenate(ends) if ends else np.zeros((0, 2))
    parts: list[Series] = [series("edges", "|cosine| above 0.2", edges[:, 0], edges[:, 1], role="guide")]
    parts += [points(name, *np.concatenate(spots).T) for name, spots in places.items()]
    return Panel("groups of features", "", "", tuple(parts), square=True)


def _flat(W: Float[Tensor, "k m"]) -> tuple[np.ndarray, np.ndarray]:
    """Directions on their two largest axes [k 2], and their cosines."""
    cosine = geometry.cosines(W).numpy()
    values, vectors = np.linalg.eigh(cosine)
    axes = vectors[:, ::-1][:, :2] * np.sqrt(values[::-1][:2].clip(0))
    return np.pad(axes, ((0, 0), (0, 2 - axes.shape[1]))), cosine
