"""Three ways to avoid superposition, and dropout: what do they do to the phase boundary, and at what price?

    L1 on activations       + λ E‖h‖₁                    makes every represented feature cost something
    interference penalty    + μ Σ_{i≠j} (Wᵢ·Wⱼ)²         makes sharing cost something, however rare the features are
    more units, few in use  top-k units or experts       the neurons are there, but an input uses some of them only
    dropout                 units vanish at random       for comparison: nothing in it names superposition

1. Alone on an axis (bias 0) a feature of importance I costs I p (1 − w²)²/3 + λ p w/2: kept if λ < 0.7258 I, w² = 2/3
   at the threshold.
2. Two features in one dimension: exact minima over the plane of density and relative importance, for every way.
3. Twenty features in five dimensions, importance 0.7ⁱ, density 0.03: trained networks, the best of several starts.
4. Forty features, importance 0.9ⁱ: five units, four experts of five of which one is used, five of twenty units (top-k),
   and twenty units without routing: the control that has the capacity and pays for it.

Source: Elhage et al. 2022, "The strategic picture of superposition"; the exact diagrams are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ....records import Figure, Frame, Measurement, Panel
from ....worlds.closed import digons_loss, linear_loss
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import SUPERPOSED, Diagram, axes, fixed_edge
from ..sketch import across, grid, line, points, rounded, still
from . import planes
from .penalties import Found, Pressure, Size, best, plain

N, M, DENSITY, DECAY = 20, 5, 0.03, 0.7
L1 = (0.0, 0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.3)
OVERLAP = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
DROPOUT = (0.1, 0.3, 0.5)
EXPECTED_SUPERPOSED = {0.0: 10, 0.01: 8, 0.03: 4, 0.1: 2, 0.15: 0}
"""Features in superposition by λ in an earlier calculation of ours, from three starts."""
EXPERTS: dict[str, tuple[int, Pressure]] = {
    "5 units": (5, plain(1)),
    "4 experts of 5 units, 1 in use": (20, plain(1, blocks=4)),
    "20 units, 5 in use": (20, plain(1, blocks=20, active=5)),
    "20 units": (20, plain(1)),
}
WAYS: dict[str, tuple[planes.Energy, tuple[float, ...]]] = {
    "L1 on activations": (planes.with_l1, (0.1, 0.2, 0.4)),
    "interference penalty": (planes.with_overlap, (0.001, 0.003, 0.01, 0.03)),
    "dropout": (planes.with_dropout, (0.3, 0.5)),
}
SOURCE = "Elhage et al. 2022, strategic section"
Runs = list[list[Found]]
"""[seeds][strengths]"""


@dataclass(frozen=True)
class Trained:
    """Networks of part 3 and 4."""

    l1: Runs
    overlap: Runs
    dropout: Runs
    experts: Runs


def gather(runs: Runs, what: Callable[[Found], float]) -> np.ndarray:
    """A number of every network, [seeds, strengths]."""
    return np.array([[what(found) for found in run] for run in runs], dtype=float)


def lowest(runs: Runs) -> list[Found]:
    """The best network of every strength over all seeds."""
    return [min(column, key=lambda found: found.energy) for column in zip(*runs, strict=True)]


def train_all(size: Size, seed: int) -> Trained:
    """Twenty features in five dimensions under every pressure, then forty features with experts."""
    importance = DECAY ** torch.arange(N).float()
    l1, overlap = torch.tensor(L1), torch.tensor(OVERLAP)
    strengths = Pressure(torch.cat([l1, 0 * overlap]), torch.cat([0 * l1, overlap]))
    both = [best(M, importance, DENSITY, strengths, size, seed + s) for s in range(size.seeds)]
    dropout = [
        [best(M, importance, DENSITY, plain(1, dropout=q), size, seed + s)[0] for q in DROPOUT]
        for s in range(size.seeds)
    ]
    many, fewer = 0.9 ** torch.arange(40).float(), replace(size, starts=(size.starts + 2) // 3)
    experts = [
        [best(m, many, DENSITY, pressure, fewer, seed + s)[0] for m, pressure in EXPERTS.values()]
        for s in range(size.seeds)
    ]
    return Trained([run[: len(L1)] for run in both], [run[len(L1) :] for run in both], dropout, experts)


def one_of_two(size: Size, seed: int) -> tuple[np.ndarray, float]:
    """Loss of two units of which one is used, over the loss of the exact antipodal pair; trained per seed, and theory."""
    p = torch.full((1,), 0.1, dtype=torch.float64)
    digon = planes.minima(planes.with_l1, p, torch.ones_like(p), 0.0)[1].item()
    pressure = plain(1, blocks=2)
    trained = np.array([best(2, torch.ones(2), 0.1, pressure, size, seed + s)[0].loss for s in range(size.seeds)])
    return trained / digon, planes.one_of_two(np.array([0.1]), np.ones(1)).loss.item() / digon


def run(config: StudyConfig, say: Say) -> Outcome:
    """What every way does to exact phase diagrams and to trained networks."""
    size = Size(50, 1, 3, 6, 1000) if config.smoke else Size(1000, 6, 3, 20)
    values: dict[str, Measurement] = {}
    exact: dict[str, float] = {}

    def note(name: str, samples: float | np.ndarray, method: str, expected: float | None = None) -> None:
        values[name] = measured(name, samples, method=method, seed=config.seed)
        if expected is not None:
            exact[name] = expected

    say("exact minima of two features in one dimension")
    few = slice(-1, None) if config.smoke else slice(None)
    diagrams = exact_diagrams(size, few)
    note_exact(diagrams, few, note)
    say("training twenty features in five dimensions under every pressure, and forty with experts")
    trained = train_all(size, config.seed)
    importance = DECAY ** torch.arange(N).double()
    theory = [] if config.smoke else [planes.aligned(strength, importance, DENSITY, M) for strength in L1]
    note_penalties(trained, theory, note)
    note_experts(trained, one_of_two(size, config.seed), note)
    figures = (planes_figure(diagrams), price_figure(trained), strength_figure(trained, theory), weights_figure(trained),
               experts_figure(trained))  # fmt: skip
    return Outcome(values, exact, figures)


Note = Callable[..., None]


def exact_diagrams(size: Size, few: slice) -> dict[tuple[str, float], Diagram]:
    """Phase diagrams by way and strength."""
    density, importance = axes(size.pixels)
    found = {("none", 0.0): planes.plane(planes.with_l1, 0.0, density, importance)}
    for way, (energy, strengths) in WAYS.items():
        found |= {(way, s): planes.plane(energy, s, density, importance) for s in strengths[few]}
    return found | {("one of two units in use", 0.0): planes.one_of_two(density, importance)}


def note_exact(diagrams: dict[tuple[str, float], Diagram], few: slice, note: Note) -> None:
    """Thresholds and shares of the plane."""
    note("threshold_alone", planes.threshold_alone(), "largest λ at which minimizing keeps the feature", planes.ALONE)
    ratios = [planes.least_kept(s) * planes.ALONE / s for s in (0.1, 0.2, 0.4)[few]]
    note("sparse_edge_l1", float(np.mean(ratios)), "importance edge / 1.378 λ at density 0.01, mean over λ", 1.0)
    ratios = [planes.least_shared(s) / (3 * s) for s in (3e-4, 1e-3, 3e-3)[few]]
    note("sparse_edge_overlap", float(np.mean(ratios)), "density edge / 3 μ for equal features, mean over μ", 1.0)
    area = {key: float((d.phase == SUPERPOSED).mean()) for key, d in diagrams.items()}
    for name, way in zip(("l1", "overlap", "dropout"), WAYS, strict=True):
        shares = np.array([area["none", 0.0], *(v for (w, _), v in area.items() if w == way)])
        note(
            f"area_left_{name}", shares[-1] / shares[0], "superposed area of the plane, strongest / none; exact minima"
        )


def note_penalties(trained: Trained, theory: list[planes.Aligned], note: Note) -> None:
    """Counts are of the best network over all seeds, prices are one per seed; theory has features on the axes."""
    top, at = lowest(trained.l1), {strength: k for k, strength in enumerate(L1)}
    counts = np.array([found.represented for found in top])
    losses = gather(trained.l1, lambda found: found.loss)
    linear = linear_loss(torch.tensor(DENSITY), DECAY ** torch.arange(N).double(), M).item()
    pure = gather(trained.overlap, lambda found: found.loss)[:, -1]

    def both(name: str, method: str, what: Callable[[Sequence[Found | planes.Aligned]], float]) -> None:
        note(name, float(what(top)), method + ", best over all seeds", float(what(theory)) if theory else None)

    both("represented_without", "represented features, λ = 0", lambda f: f[0].represented)
    both("represented_strong", "represented features, λ ≥ 0.15", lambda f: max(g.represented for g in f[at[0.15] :]))
    both("represented_falls", "share of steps of λ that do not add features",
         lambda f: float(np.mean(np.diff([g.represented for g in f]) <= 0)))  # fmt: skip
    both("superposed_strong", "represented features in superposition, λ = 0.15", lambda f: f[at[0.15]].superposed)
    both("superposed_beyond", "the same, largest of λ ≥ 0.15", lambda f: max(g.superposed for g in f[at[0.15] :]))
    both("superposed_falls", "share of steps over λ = 0, 0.01, 0.03, 0.1, 0.15 that add no feature in superposition",
         lambda f: float(np.mean(np.diff([f[at[k]].superposed for k in EXPECTED_SUPERPOSED]) <= 0)))  # fmt: skip
    both("superposed_off", "largest distance from 10, 8, 4, 2, 0",
         lambda f: max(abs(f[at[k]].superposed - v) for k, v in EXPECTED_SUPERPOSED.items()))  # fmt: skip
    strong = next((k for k, c in enumerate(counts) if c <= M), len(L1) - 1)
    note("price_l1", losses[:, strong] / losses[:, 0], f"loss at λ = {L1[strong]:g} / loss at λ = 0",
         theory[strong].loss / theory[0].loss if theory else None)  # fmt: skip
    if theory:
        excess = max(f.energy / exact.energy - 1 for f, exact, k in zip(top, theory, L1, strict=True) if k >= 0.003)
        note(
            "above_aligned",
            excess,
            "loss with penalty over that of the exact network on the axes, minus 1; largest of λ",
        )
    little = [k for k in L1 if 0.003 <= k <= 0.03]
    note("aligned_off", off_axes([float(v) for k in little for v in top[at[k]].alignment]),
         "largest distance of a unit's max / sum from 1/2 or 1, λ = 0.003 to 0.03",
         off_axes([v for k in little for v in theory[at[k]].shares]) if theory else None)  # fmt: skip
    ranked = [bool((found.norm[: found.represented] > 0.5).all()) for found in top]
    note(
        "least_important_go",
        float(np.mean(ranked)),
        "share of λ at which the represented features are the top ones",
        1.0,
    )
    note(
        "overlap_superposed",
        float(lowest(trained.overlap)[-1].superposed),
        "features in superposition at the largest μ",
    )
    note("overlap_over_linear", pure / linear, "loss at the largest μ / loss of the best linear model", 1.0)
    note("l1_over_overlap", losses[:, at[0.15]] / pure, "loss at λ = 0.15 / loss at the largest μ",
         theory[at[0.15]].loss / linear if theory else None)  # fmt: skip
    dropped = [run[-1] for run in trained.dropout]
    note("dropout_superposed", np.array([f.superposed / max(1, f.represented) for f in dropped]),
         "share of represented features in superposition, dropout 0.5")  # fmt: skip
    note("dropout_represented", np.array([f.represented for f in dropped], float), "represented features, dropout 0.5")


def off_axes(shares: Sequence[float]) -> float:
    """Largest distance from 1/2, a pair of equal weights, or 1, a feature alone."""
    values = np.asarray(shares)
    return float(np.minimum(abs(values - 0.5), abs(values - 1)).max(initial=0))


def note_experts(trained: Trained, ratio: tuple[np.ndarray, float], note: Note) -> None:
    """More units at the same number in use."""
    note("one_of_two", ratio[0], "loss of one of two units in use / exact antipodal pair, density 0.1", ratio[1])
    loss = gather(trained.experts, lambda found: found.loss)
    crowd = gather(trained.experts, lambda found: found.represented / found.W.shape[1])
    note("experts_over_dense", loss[:, 1] / loss[:, 0], "loss of experts / five units")
    note("experts_over_control", loss[:, 1] / loss[:, 3], "loss of experts / twenty units, all in use")
    note("top_over_control", loss[:, 2] / loss[:, 3], "loss of five of twenty units / twenty units, all in use")
    note("experts_crowding", crowd[:, 1] / crowd[:, 0], "represented features per unit, experts / five units")


def planes_figure(diagrams: dict[tuple[str, float], Diagram]) -> Figure:
    """The phase boundary under every way."""
    frames = []
    for (way, strength), diagram in diagrams.items():
        r = diagram.importance
        lines = [line("fixed weights, no penalty", r, fixed_edge(r, 2), "guide")]
        if way == "L1 on activations":
            edge = strength / planes.ALONE
            lines += [
                line("0.7258 r = λ", [edge, edge], [1, 0.01]),
                line("r = 0.7258 / λ", [1 / edge, 1 / edge], [1, 0.01]),
            ]
        if way == "interference penalty":
            lines.append(line("density 3 μ", [0.1, 10], [3 * strength] * 2))
        frames.append(Frame(f"{way} | {strength:g}", diagram.panels(f"{strength:g}", tuple(lines))))
    return Figure(
        "E10-boundary", "The phase boundary under each way (two features, one dimension)", SOURCE,
        "L1 moves the edge sideways: it gives up unimportant features and leaves rare ones in superposition. The "
        "interference penalty moves it from below: it ends superposition of rare features first, below density 3 μ. "
        "Dropout leaves the boundary where it was. One of two units in use moves it outward: a unit for the difference "
        "and one for the sum lose so little that sharing pays up to higher densities.",
        "Exact minima, so whether training finds them is not shown; strengths of different ways are not comparable. The "
        "last frame compares four codes with fixed weights, and counts as interference what a single unit mixes.",
        tuple(frames), "way | strength", columns=2,
    )  # fmt: skip


def price_figure(trained: Trained) -> Figure:
    """Superposition against loss for every way."""
    importance = DECAY ** torch.arange(N).double()
    linear = linear_loss(torch.tensor(DENSITY), importance, M).item()
    digon, represented, dedicated = digons_loss(DENSITY, importance, M)
    groups = (("L1", trained.l1), ("interference penalty", trained.overlap), ("dropout", trained.dropout))
    panels = []
    for title, label, what in (
        ("superposed", "features in superposition", lambda f: f.superposed),
        ("crowding", "‖W‖²_F / m", lambda f: float(f.W.square().sum()) / f.W.shape[1]),
    ):
        series = [
            points(name, gather(runs, lambda f: f.loss).ravel(), gather(runs, what).ravel()) for name, runs in groups
        ]
        guide = (represented - dedicated, 0) if title == "superposed" else (represented / M, 1.0)
        series.append(points("digons only; linear", [digon, linear], guide, "theory"))
        panels.append(Panel(f"{title} against loss", "loss without penalty", label, tuple(series), x_log=True))
    return Figure(
        "E10-price", "What avoiding superposition costs (20 features, 5 dimensions, density 0.03)", SOURCE,
        "L1 and the interference penalty reach networks without superposition at about four times the loss. The "
        "interference penalty ends at the best linear model; L1 also shrinks what it keeps and ends above it. Dropout "
        "costs as much and goes on sharing.",
        "One importance curve and one density; every point is the best of a few starts.",
        still(*panels), columns=2,
    )  # fmt: skip


def strength_figure(trained: Trained, theory: list[planes.Aligned]) -> Figure:
    """Counts and loss over the strength of L1 and of the interference penalty."""
    panels = []
    for name, strengths, runs in (("λ", L1, trained.l1), ("μ", OVERLAP, trained.overlap)):
        x = [max(v, 1e-3) for v in strengths] if name == "λ" else strengths
        counts = [across("represented", x, gather(runs, lambda f: f.represented)),
                  across("in superposition", x, gather(runs, lambda f: f.superposed)),
                  line("dimensions", [min(x), max(x)], [M, M], "guide")]  # fmt: skip
        losses = [across("loss", x, gather(runs, lambda f: f.loss))]
        if name == "λ" and theory:
            counts += [line("represented, exact on the axes", x, [f.represented for f in theory]),
                       line("in superposition, exact on the axes", x, [f.superposed for f in theory])]  # fmt: skip
            losses.append(line("exact on the axes", x, [f.loss for f in theory]))
        left = f"{name} (0 drawn at 0.001)" if name == "λ" else name
        panels.append(Panel(f"features over {name}", left, "features", tuple(counts), x_log=True))
        panels.append(Panel(f"loss over {name}", left, "loss without penalty", tuple(losses), x_log=True, y_log=True))
    return Figure(
        "E10-strength", "Features and loss over the strength of a penalty", SOURCE,
        "Features are given up one by one, the least important first, and superposition goes with them.",
        "Ranges are over seeds, each the best of a few starts; where minima are nearly equal, counts differ by seed, "
        "and at λ = 0.03 training misses the exact best.",
        still(*panels), columns=2,
    )  # fmt: skip


def weights_figure(trained: Trained) -> Figure:
    """The weights of the best networks under L1."""
    frames = []
    for strength, found in zip(L1, lowest(trained.l1), strict=True):
        picture = grid(range(M), range(N), found.W.numpy().round(2), diverging=True)
        frames.append(Frame(f"{strength:g}", (Panel(f"λ = {strength:g}", "hidden unit", "feature", grid=picture,
                                                    color_label="weight", color_range=(-1.2, 1.2)),)))  # fmt: skip
    return Figure(
        "E10-weights", "Weights under L1", SOURCE,
        "Without L1 weights point anywhere. A little L1 puts pairs on single units. More of it empties the lower rows.",
        "The order of units and their signs mean nothing.", tuple(frames), "λ", columns=1,
    )  # fmt: skip


def experts_figure(trained: Trained) -> Figure:
    """More units at the same number in use."""
    names, x = list(EXPERTS), np.arange(len(EXPERTS))
    title = "; ".join(f"{k}: {name}" for k, name in enumerate(names))
    loss = across("loss", x, gather(trained.experts, lambda f: f.loss))
    crowd = gather(trained.experts, lambda f: f.represented / f.W.shape[1])
    shared = gather(trained.experts, lambda f: f.superposed / f.W.shape[1])
    best_ones = lowest(trained.experts)
    order = tuple(points(name, range(40), rounded(f.norm)) for name, f in zip(names, best_ones, strict=True))
    return Figure(
        "E10-experts", "More units, of which few are in use (40 features, density 0.03)", SOURCE,
        "With as many units in use, experts and top-k represent more features at a lower loss. Top-k nearly reaches the "
        "control that uses all twenty units; experts do not, because features that meet in an input may live apart.",
        "Units in use count what is read out; choosing them by their response computes all of them. " + title + ".",
        still(Panel("loss", "network", "loss", (loss,), y_log=True),
              Panel("features per unit", "network", "features / unit",
                    (across("represented", x, crowd), across("in superposition", x, shared))),
              Panel("norm of every feature", "feature", "‖W‖", order)),
    )  # fmt: skip
