"""When does a pentagon of features break? Five features in two dimensions, one of them more or less sparse.

Four features have density p, the varied one has density p × (relative density). Two arrangements compete: all five in
a deformed pentagon, or the other four in two digons and the varied one dropped.

1. Branches: descend the exact loss from each arrangement at many relative densities. The losses of the two branches
   cross once.
2. Experiment: at every relative density descend from many random starts and keep the network with the lowest exact
   loss; the crossing is where the best network changes its arrangement.
3. One feature at a time: from thousands of random starts, does anything beat the regular pentagon in the sparse limit?

Source: Elhage et al. 2022, non-uniform superposition; open problem O40 of the MAIS list (is the pentagon the global
minimum of five features in two dimensions in the sparse limit?).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures.geometry import cosines, norms
from ....records import Figure, Frame, Measurement, Panel, Series
from ....worlds.closed import interference_error, own_error, variance
from ....worlds.descent import minimize
from ....worlds.features import Features, FeatureSet, features
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import Settled, best, exact_two, search, settle
from ..sketch import Role, line, points, series, still

N, M = 5, 2
VARIED = 4
"""The feature whose density or importance differs."""
BASE = 0.05
BASELINES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.15)
TRIALS = (0.1, 0.14, 0.2, 0.24, 0.27, 0.3, 0.35, 0.42, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
"""Relative densities of the experiment."""
SOURCE = "Elhage et al. 2022, geometry of non-uniform superposition"


def law_of(relative: Float[Tensor, " i"], base: float | Float[Tensor, " i"]) -> Features:
    """Five features of density `base`, the varied one of density `base` × `relative`."""
    density = torch.as_tensor(base, dtype=torch.float64).expand(relative.shape)[:, None].repeat(1, N)
    density[:, VARIED] *= relative
    return features(N, density)


def pentagon_start(count: int = 1) -> tuple[Tensor, Tensor]:
    """`count` pentagons near their best size, the varied feature on the positive x-axis, and their biases."""
    angle = 2 * torch.pi * (torch.arange(N, dtype=torch.float64) - VARIED) / N
    W = 1.13 * torch.stack([angle.cos(), angle.sin()], -1)
    return W.expand(count, N, M), torch.full((count, N), -0.25, dtype=torch.float64)


def crossings(baselines: tuple[float, ...], rounds: int = 3, points_: int = 7) -> Float[Tensor, " k"]:
    """Relative density at which pentagon and digons have the same loss, for every baseline density.

    Both arrangements are settled on a few densities at once; the bracket shrinks to the two around the crossing, and the
    last one is halved by interpolation. Error: (0.9 / 6^rounds)², far below 0.001.
    """
    base = torch.tensor(baselines, dtype=torch.float64)
    low, high = torch.full_like(base, 0.05), torch.full_like(base, 0.95)
    for turn in range(rounds):
        at = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, points_, dtype=torch.float64)
        gap = pentagon_advantage(law_of(at.flatten(), base.repeat_interleave(points_))).view(at.shape)
        first = (gap > 0).to(torch.int8).argmax(1).clamp(min=1)  # the pentagon wins from here on
        rows = torch.arange(len(base))
        low, high = at[rows, first - 1], at[rows, first]
        if turn == rounds - 1:
            worse, better = gap[rows, first - 1], gap[rows, first]
            share = torch.where(worse.isfinite(), -worse / (better - worse), 0.5)
            return low + (high - low) * share
    raise AssertionError(rounds)


def pentagon_advantage(law: Features) -> Float[Tensor, " i"]:
    """Loss of two digons minus loss of the pentagon; −∞ where the pentagon has lost its varied feature."""
    count = len(law.density)
    kept = settle(*pentagon_start(count), law)
    return torch.where(norms(kept.W)[:, VARIED] > 0.3, digons_loss(law) - kept.loss, -torch.inf)


def digons_loss(law: Features) -> Float[Tensor, " i"]:
    """Loss of two digons of their best size and the varied feature ignored, from the closed form of one digon."""
    one = torch.ones(len(law.density), dtype=torch.float64)
    _, _, pair = exact_two(law.density[:, 0], one)
    return 2 * pair + law.importance.expand(len(one), N)[:, VARIED] * variance(law.density[:, VARIED])


def intact(W: Float[Tensor, "i 5 2"]) -> Tensor:
    """Whether all five features are represented (norm above 0.5)."""
    return (norms(W) > 0.5).all(-1)


def paired(W: Float[Tensor, "i 5 2"]) -> Tensor:
    """Largest cosine of a feature with its partner, over the four features that are not varied; −1 for two digons."""
    kept = [i for i in range(N) if i != VARIED]
    return cosines(W[:, kept]).amin(-1).amax(-1)


def upright(W: Float[Tensor, "n 2"], feature: int) -> Float[Tensor, "n 2"]:
    """Rotated so that `feature` points along x, and mirrored so that the next feature's y is positive."""
    x, y = W[feature] / W[feature].norm().clamp(min=1e-9)
    turned = W @ torch.stack([torch.stack([x, -y]), torch.stack([y, x])])
    side = turned[(feature + 1) % len(W), 1]
    return torch.cat([turned[:, :1], turned[:, 1:] * (-1.0 if side < 0 else 1.0)], 1)


def measured_crossing(relatives: Float[Tensor, " r"], starts: int, seed: int) -> float:
    """Relative density at which the best of many random starts stops being a pentagon: midway between two neighbors."""
    kept = intact(best(search(law_of(relatives, BASE), M, starts, seed), starts).W)
    first = int(kept.to(torch.int8).argmax())
    return float(relatives[max(first - 1, 0)] + relatives[first]) / 2


def one_active_loss(W: Float[Tensor, "i n m"], b: Float[Tensor, "i n"]) -> Float[Tensor, " i"]:
    """Loss with exactly one active feature, summed over which one it is: the limit of sparse features."""
    gram = W @ W.mT
    own = torch.eye(W.shape[1], dtype=torch.bool)
    mine = own_error(gram.diagonal(dim1=-2, dim2=-1), b).sum(-1)
    return mine + interference_error(gram, b[:, :, None]).masked_fill(own, 0).sum((-2, -1))


def sparse_limit(starts: int, seed: int) -> Settled:
    """Local minima of the loss with one active feature, from random starts; losses summed over which one it is."""
    one_at_a_time = FeatureSet(tuple(range(N)), "anticorrelated")
    law = features(N, torch.full((1, N), 1 / N, dtype=torch.float64), sets=(one_at_a_time,))
    found = search(law, M, starts, seed)
    return Settled(found.W, found.b, N * found.loss)


def _one_active(x: Tensor, _: Tensor) -> Tensor:
    return one_active_loss(x[:, : N * M].reshape(-1, N, M), x[:, N * M :])


def run(config: StudyConfig, say: Say) -> Outcome:
    """Branches, experiment and sparse limit."""
    smoke, seed = config.smoke, config.seed
    values: dict[str, Measurement] = {}
    exact: dict[str, float] = {}

    def note(name: str, samples: float | list[float], method: str) -> None:
        values[name] = measured(name, samples, method=method, seed=seed)

    say("following both arrangements")
    curves = branches(np.geomspace(0.1, 10, 11 if smoke else 41))
    baselines = (BASE, 0.1) if smoke else BASELINES
    cross = crossings(baselines, 2 if smoke else 3)
    at_base = float(cross[baselines.index(BASE)])
    say("descending from random starts")
    repeats, starts = 3, 6 if smoke else 30
    relatives = torch.linspace(0.2, 0.35, 4 if smoke else 16, dtype=torch.float64)
    found = [measured_crossing(relatives, starts, rng.derive(seed, "crossing", k)) for k in range(repeats)]
    note("crossing", found, f"change of the best of {starts} random starts, {repeats} repeats")
    note("times_sparser", [1 / c for c in found], "inverse of the crossing")
    exact |= {"crossing": at_base, "times_sparser": 1 / at_base}
    trials = np.array([0.1, 0.2, 0.5, 1.0, 2.0, 10.0] if smoke else TRIALS)
    tried = search(law_of(torch.from_numpy(trials), BASE), M, starts, rng.derive(seed, "trials"))
    _judge_experiment(note, trials, tried, starts)
    _judge_branches(note, exact, curves, at_base)
    note("times_sparser_at_10", 1 / float(cross[baselines.index(0.1)]), "crossing of the exact branches, p = 0.1")
    important = importance_branches()
    note("importance_crossing", importance_crossing(*important), "crossing of the exact branches in the importance")
    say("one active feature at a time")
    limit = sparse_limit(300 if smoke else 10_000, seed)
    _judge_limit(note, exact, limit)
    figures = (
        _shapes(trials, best(tried, starts), curves),
        _losses(trials, tried.loss.view(len(trials), starts), curves, at_base),
        _crossing_figure(baselines, cross),
        _norms_figure(curves, trials, best(tried, starts)),
        _importance_figure(*important),
    )
    return Outcome(values, exact, figures)


def importance_branches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative importances, and there the losses of the pentagon (NaN where it is no minimum) and of two digons."""
    at = torch.linspace(0.1, 1.5, 29, dtype=torch.float64)
    law = features(N, BASE, torch.cat([torch.ones(len(at), N - 1, dtype=torch.float64), at[:, None]], 1))
    law = Features(law.density.expand(len(at), N), law.importance)
    digons = digons_loss(law)
    pentagon = digons - pentagon_advantage(law)
    return at.numpy(), torch.where(pentagon.isfinite(), pentagon, torch.nan).numpy(), digons.numpy()


def importance_crossing(at: np.ndarray, pentagon: np.ndarray, digons: np.ndarray) -> float:
    """Relative importance at which both arrangements have the same loss, interpolated."""
    gap = digons - pentagon
    first = int(np.argmax(gap > 0))
    low, high = gap[first - 1], gap[first]
    return float(at[first - 1] + (at[first] - at[first - 1]) * (-low / (high - low) if np.isfinite(low) else 0.5))


@dataclass(frozen=True)
class Curves:
    """Both arrangements over the relative density."""

    relative: np.ndarray
    """Relative densities at which the pentagon is a minimum."""
    pentagon: Settled
    all_relative: np.ndarray
    digons: np.ndarray
    """Losses of two digons at `all_relative`."""


def branches(grid: np.ndarray) -> Curves:
    """Both arrangements at all relative densities; the pentagon where it does not lose its varied feature."""
    law = law_of(torch.from_numpy(grid), BASE)
    found = settle(*pentagon_start(len(grid)), law)
    alive = intact(found.W)
    pentagon = Settled(found.W[alive], found.b[alive], found.loss[alive])
    return Curves(grid[alive.numpy()], pentagon, grid, digons_loss(law).numpy())


Note = Callable[[str, float, str], None]
"""Takes a quantity, its value and how it was obtained."""


def _judge_experiment(note: Note, trials: np.ndarray, tried: Settled, starts: int) -> None:
    won = best(tried, starts)
    law = law_of(torch.from_numpy(trials), BASE)
    kept = settle(*pentagon_start(len(trials)), law).loss
    exact = torch.minimum(kept, digons_loss(law))
    note("loss_ratio", float((won.loss / exact).max()), "worst ratio of the best random start to the better branch")
    note("found_more", float((1 - won.loss / exact).max()), "largest relative gain over both branches")
    whole, broken = torch.from_numpy(trials >= 0.35), torch.from_numpy(trials <= 0.2)
    note("whole_norm", float(norms(won.W)[whole].min()), "smallest norm at relative densities from 0.35")
    note("dropped_norm", float(norms(won.W)[broken, VARIED].max()), "norm of the varied feature up to 0.2")
    note("digon_cosine", float(paired(won.W)[broken].max()), "largest cosine within a digon up to 0.2")
    share = (tried.loss.view(len(trials), starts) <= 1.001 * won.loss[:, None]).double().mean(1)
    note("share_at_best", float(share.mean()), "share of random starts within 0.1 % of the best, mean over densities")


def _judge_branches(note: Note, exact: dict[str, float], curves: Curves, crossing: float) -> None:
    size = norms(curves.pentagon.W)[:, VARIED].numpy()
    over = curves.relative >= 0.35
    note(
        "largest_rise", float(np.diff(size[over]).max()), "largest rise of the varied norm with its density, from 0.35"
    )
    edge = settle(*pentagon_start(), law_of(torch.tensor([crossing], dtype=torch.float64), BASE))
    note("jump", float(norms(edge.W)[0, VARIED]), "norm of the varied feature in the pentagon at the crossing")


def _judge_limit(note: Note, exact: dict[str, float], limit: Settled) -> None:
    W, b = pentagon_start()
    x, least = minimize(_one_active, torch.cat([W.flatten(1), b], 1))
    W, b = x[:, : N * M].view(-1, N, M), x[:, N * M :]
    note("limit_loss", 3 * float(limit.loss.min()), f"lowest of {len(limit.loss)} random starts, times 3")
    note("limit_beaten", float((limit.loss < least * (1 - 1e-6)).double().mean()), "share of starts under the pentagon")
    note("limit_share", float((limit.loss < least * (1 + 1e-6)).double().mean()), "share of starts at the pentagon")
    exact |= {"limit_loss": 3 * float(least), "limit_beaten": 0.0}
    lowest = int(limit.loss.argmin())
    for name, power in (("norm_formula", 1), ("square_formula", 2)):
        text = f"norm{' squared' if power == 2 else ''} over 1/(1 − threshold), lowest of the random starts"
        note(name, float(limit_ratio(limit.W[lowest], limit.b[lowest], power)), text)
        exact[name] = float(limit_ratio(W[0], b[0], power))


def limit_ratio(W: Float[Tensor, "5 2"], b: Float[Tensor, " 5"], power: int) -> Tensor:
    """Mean norm to a power over 1 / (1 − t), t = −b the mean threshold."""
    return norms(W).mean() ** power * (1 + b.mean())


def _arrows(name: str, W: Tensor, role: Role = "measured") -> Series:
    turned = upright(W, VARIED if float(W[VARIED].norm()) > 0.3 else 0)
    color = [1.0 if i == VARIED else 0.0 for i in range(N)]
    return series("arrows", name, turned[:, 0], turned[:, 1], role=role, color=color)


def _shapes(trials: np.ndarray, won: Settled, curves: Curves) -> Figure:
    frames = []
    for k, relative in enumerate(trials):
        panels = [_plane("best of the random starts", (_arrows("features", won.W[k]),))]
        near = int(np.abs(np.log(curves.relative / relative)).argmin())
        if abs(np.log(curves.relative[near] / relative)) < 0.06:
            shape = (_arrows("features", curves.pentagon.W[near], "theory"),)
            panels.append(_plane("pentagon branch", shape))
        frames.append(Frame(f"{relative:.3g}", tuple(panels)))
    return Figure(
        "E4-shapes", "A pentagon with one feature of another density", SOURCE,
        "As the colored feature gets sparser it first grows longer; below a relative density of about 0.27 it is dropped "
        "and the other four form two digons.",
        "Where both arrangements are minima, gradient descent often ends in the worse one; only the best start is shown.",
        tuple(frames), "relative density of one feature", 2,
    )  # fmt: skip


def _plane(title: str, arrows: tuple[Series, ...]) -> Panel:
    return Panel(title, "", "", arrows, square=True, color_label="varied", color_range=(0.0, 1.0))


def _losses(trials: np.ndarray, losses: Tensor, curves: Curves, crossing: float) -> Figure:
    x = np.repeat(trials, losses.shape[1])
    both = (
        line("pentagon", curves.relative, curves.pentagon.loss),
        line("two digons", curves.all_relative, curves.digons),
        points("random starts", x, losses),
    )
    guides = (
        line("exact crossing", [crossing] * 2, [2e-3, 5e-2], "guide"),
        line("published: 2.5 times sparser", [0.4] * 2, [2e-3, 5e-2], "published"),
    )
    panel = Panel("loss of every minimum", "relative density", "loss", (*both, *guides), x_log=True, y_log=True)
    return Figure(
        "E4-branches", "Two arrangements cross", SOURCE,
        "Random starts end on one of a few curves. The lowest one changes from the pentagon to two digons where the exact "
        "curves cross, 3.7 times sparser than the others, not 2.5 times.",
        "Curves above the two drawn ones are further local minima; their losses are not labeled.",
        still(panel), columns=1,
    )  # fmt: skip


def _crossing_figure(baselines: tuple[float, ...], cross: Tensor) -> Figure:
    ends = [baselines[0], baselines[-1]]
    panel = Panel(
        "how much sparser until the pentagon breaks", "density of the other features", "times sparser",
        (line("exact crossing", baselines, 1 / cross), line("published", ends, [2.5, 2.5], "published")), x_log=True,
    )  # fmt: skip
    return Figure(
        "E4-crossing", "The breaking point depends on how sparse the others are", SOURCE,
        "The published factor 2.5 is the exact one where the other features have a density of about 0.09.",
        "The curve is of exact branches; random starts were tried at density 0.05 only.", still(panel), columns=1,
    )  # fmt: skip


def _norms_figure(curves: Curves, trials: np.ndarray, won: Settled) -> Figure:
    size = norms(curves.pentagon.W)
    neighbors = [(VARIED + 1) % N, (VARIED + 2) % N]
    lines = [line("varied feature", curves.relative, size[:, VARIED])]
    lines += [line(n, curves.relative, size[:, i]) for n, i in zip(("next to it", "opposite"), neighbors, strict=True)]
    dots = points("varied feature, best random start", trials, norms(won.W)[:, VARIED])
    panel = Panel("norms of the features", "relative density", "norm", (*lines, dots), x_log=True)
    return Figure(
        "E4-norms", "The pentagon stretches, then breaks", SOURCE,
        "On the pentagon branch the norm of the varied feature falls smoothly with its density; the best network jumps.",
        "The branch goes on below the crossing as a local minimum until the varied feature falls out.",
        still(panel), columns=1,
    )  # fmt: skip


def _importance_figure(at: np.ndarray, pentagon: np.ndarray, digons: np.ndarray) -> Figure:
    kept = np.isfinite(pentagon)
    parts = (line("pentagon", at[kept], pentagon[kept]), line("two digons", at, digons))
    return Figure(
        "E4-importance", "One feature of another importance", SOURCE,
        "The curves cross at a relative importance of about 0.37: less important features are dropped.",
        "Both curves are exact; random starts were tried for densities only.",
        still(Panel("loss of both arrangements", "relative importance of one feature", "loss", parts)), columns=1,
    )  # fmt: skip
