"""What does superposition look like where neurons are privileged? ReLU hidden units, identity task.

    h = ReLU(x W),  x' = ReLU(h Wᵀ + b),  n = 10 features in m = 5 neurons, importance 0.75^i

At every density many networks are trained from random starts and the one with the lowest expected loss is read: which
features it represents, which neurons carry one feature only, and which binary codes the others use.

1. Train 48 networks per density (Adam, cosine decay), rank them on fresh samples.
2. Compute the expected loss of the best few by enumeration (`quadrature`), keep the lowest.
3. Classify its neurons: monosemantic = second largest weight below 0.15 of the largest.

Source: Elhage et al. 2022, "Toy Models of Superposition", section on a privileged basis.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...measures.geometry import interference, represented
from ...records import Figure, Frame, Grid, Measurement, Panel, Series
from ...worlds.features import features
from ...worlds.fit import FitConfig, fit
from ...worlds.toys import Activation, Toy
from .base import Outcome, Say, StudyConfig, measured
from .quadrature import pattern_loss

N, M, DECAY = 10, 5, 0.75
DENSITIES = (1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.08, 0.05, 0.03, 0.01)
SMOKE_DENSITIES = (1.0, 0.3, 0.03)
PAIRED = 0.3
"""Weights above this count as connections of a feature."""
SOURCE = "Elhage et al. 2022, superposition in a privileged basis"


@dataclass(frozen=True)
class Best:
    """The best network at one density."""

    density: float
    W: Float[Tensor, "n m"]
    loss: float
    share: float
    """Share of starts within 1 % of the best loss."""


def best_networks(
    densities: tuple[float, ...], starts: int, config: FitConfig, hidden: Activation = "relu", seed: int = 0
) -> list[Best]:
    """The best of `starts` networks at every density, all trained in one call."""
    importance = DECAY ** torch.arange(N, dtype=torch.float64)
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(starts)[:, None]
    law = features(N, column.expand(-1, N), importance)
    toy = Toy(N, M, len(column), hidden=hidden, seed=seed)
    loss = fit(toy, law, config).loss.view(len(densities), starts)
    found = list[Best]()
    for k, density in enumerate(densities):
        nominees = (loss[k].topk(min(4, starts), largest=False).indices + k * starts).tolist()
        exact = {i: pattern_loss(toy, law, i) for i in nominees}
        winner = min(exact, key=exact.__getitem__)
        share = float((loss[k] <= 1.01 * loss[k].min()).double().mean())
        found.append(Best(density, ordered(toy.W[winner].detach()), exact[winner], share))
    return found


def ordered(W: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """The same network with neurons sorted: monosemantic first, then by their most important connected feature."""
    strong = W.abs() > 0.5 * W.abs().amax(0)
    first = torch.where(strong.any(0), strong.int().argmax(0), N)
    key = first + N * (~monosemantic(W)).long()
    return W[:, key.argsort(stable=True)]


def monosemantic(W: Float[Tensor, "n m"], ratio: float = 0.15) -> Bool[Tensor, " m"]:
    """Neurons whose second largest weight is below `ratio` of the largest, which must not be tiny."""
    top = W.abs().topk(2, dim=0).values
    return (top[1] < ratio * top[0]) & (top[0] > PAIRED)


def code_words(W: Float[Tensor, "n m"]) -> set[tuple[int, ...]]:
    """Signs of the represented features over the polysemantic neurons: the binary code they use."""
    poly = W[:, ~monosemantic(W)]
    words = torch.where(poly.abs() > PAIRED, poly.sign(), 0).int()
    shared = represented(W) & (words != 0).any(1)
    return {tuple(word) for word in words[shared].tolist()}


def regime(W: Float[Tensor, "n m"]) -> tuple[int, int]:
    """Monosemantic neurons and represented features of a network."""
    return int(monosemantic(W).sum()), int(represented(W).sum())


def three_in_two(W: Float[Tensor, "n m"]) -> bool:
    """Whether three features use two neurons as (1, 1), (1, −1), (−1, 1) and three neurons have one feature each."""
    return regime(W) == (3, 6) and code_words(W) == {(1, 1), (1, -1), (-1, 1)}


def marker_code(W: Float[Tensor, "n m"]) -> bool:
    """Whether one polysemantic neuron tells two groups apart: without it one other neuron more is used than with it.

    "Used" are positive weights above `PAIRED`; both groups need two features at least.
    """
    positive = W[represented(W)][:, ~monosemantic(W)] > PAIRED
    for marker in range(positive.shape[1]):
        with_it = positive[:, marker]
        others = positive.sum(1) - with_it.long()
        if min(int(with_it.sum()), int((~with_it).sum())) < 2:
            continue
        if (others[with_it] == 1).all() and (others[~with_it] == others[~with_it][0]).all() and others[~with_it][0] > 1:
            return True
    return False


def pairs(W: Float[Tensor, "n m"]) -> tuple[int, int]:
    """Features with exactly two positive connections, and how many different pairs of neurons they use."""
    used = W > PAIRED
    two = [tuple(row.nonzero().flatten().tolist()) for row in used if int(row.sum()) == 2]
    return len(two), len(set(two))


def run(config: StudyConfig, say: Say) -> Outcome:
    """Best networks over densities: losses, represented features, monosemantic neurons, codes."""
    densities = SMOKE_DENSITIES if config.smoke else DENSITIES
    starts = 8 if config.smoke else 48
    training = FitConfig(
        steps=1500 if config.smoke else 8000, batch=256 if config.smoke else 512, learning_rate=1e-2,
        schedule="cosine", seed=config.seed, device=config.device,
    )  # fmt: skip
    say(f"training {starts} networks at each of {len(densities)} densities")
    found = best_networks(densities, starts, training, seed=config.seed)
    linear = best_networks((0.3,), 4, training, hidden="linear", seed=config.seed)[0]
    values = _quantities(found, starts, config.seed)
    naive = float(sum(DECAY**i for i in range(M, N)) * (1 / 3 - 1 / 4))
    exact = {"loss_p1": naive}
    figures = (_weights(found), _regimes(found), _bases(linear, next(b for b in found if b.density == 0.3)))
    return Outcome(values, exact, figures)


def _quantities(found: list[Best], starts: int, seed: int) -> dict[str, Measurement]:
    values = dict[str, Measurement]()

    def note(name: str, value: float, method: str) -> None:
        values[name] = measured(name, value, method=f"{method}; best of {starts} starts", seed=seed)

    by = {b.density: b.W for b in found}
    for b in found:
        mono, count = regime(b.W)
        tag = f"p{b.density:g}".replace("0.", "0_")
        note(f"loss_{tag}", b.loss, "expected loss by enumeration of active sets")
        note(f"represented_{tag}", count, "features with ‖Wᵢ‖ > 0.5")
        note(f"mono_{tag}", mono, "neurons with a second largest weight below 0.15 of the largest")
    note("share_at_best", min(b.share for b in found), "least share of starts within 1 % of the best, over densities")
    dense = [d for d in by if d >= 0.5]
    note("all_mono_dense", _share(regime(by[d]) == (M, M) for d in dense), "share of densities from 0.5")
    middle = [d for d in by if 0.2 <= d <= 0.4]
    note("three_in_two", _share(three_in_two(by[d]) for d in middle), "share of densities from 0.2 to 0.4")
    pairable = [d for d in by if d <= 0.04]
    note("two_neurons", _least(pairs(by[d])[0] for d in pairable), "features with exactly two positive weights > 0.3")
    note("distinct_pairs", _least(pairs(by[d])[1] for d in pairable), "different pairs of neurons")
    if 0.15 in by:
        note("five_in_three", float(regime(by[0.15]) == (2, 7)), "2 monosemantic neurons and 7 features at 0.15")
        note("six_in_four", float(regime(by[0.12]) == (1, 7)), "1 monosemantic neuron and 7 features at 0.12")
        note("marker_p0_12", float(marker_code(by[0.12])), "one neuron separates 2-of-the-others from 1-of-the-others")
        note("marker_p0_08", float(marker_code(by[0.08])), "one neuron separates 3-of-the-others from 1-of-the-others")
    counts = [regime(b.W) for b in found]
    rising = all(a[1] <= b[1] and a[0] >= b[0] for a, b in zip(counts, counts[1:], strict=False))
    note("monotone", float(rising), "features never fewer, monosemantic neurons never more with falling density")
    return values


def _share(flags) -> float:
    flags = [float(f) for f in flags]
    return sum(flags) / len(flags)


def _least(numbers) -> float:
    return float(min(numbers))


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)


def neuron_bars(W: Float[Tensor, "n m"], title: str) -> Panel:
    """Weights of every neuron, one bar series per feature, colored by the feature's interference."""
    s = interference(W).clamp(max=1)
    place = tuple(float(k) for k in range(W.shape[1]))
    series = tuple(
        Series("bars", f"feature {i}", place, _rounded(W[i]), color=(round(float(s[i]), 4),) * len(place))
        for i in range(len(W))
        if W[i].norm() > 0.05
    )
    return Panel(title, "neuron", "weights, stacked", series, color_label="interference sᵢ", color_range=(0.0, 1.0))


def weight_grid(W: Float[Tensor, "n m"], title: str) -> Panel:
    """Neurons × features as colors."""
    n, m = W.shape
    rows = tuple(_rounded(W[:, k]) for k in range(m))
    grid = Grid(tuple(float(i) for i in range(n)), tuple(float(k) for k in range(m)), rows, diverging=True)
    return Panel(title, "feature, most important first", "neuron", grid=grid, color_label="weight")


def _weights(found: list[Best]) -> Figure:
    frames = tuple(
        Frame(
            f"density {b.density:g}",
            (
                weight_grid(b.W, f"W: {regime(b.W)[1]} features, {regime(b.W)[0]} monosemantic neurons"),
                neuron_bars(b.W, f"best loss {b.loss:.4g}"),
            ),
        )
        for b in found
    )
    return Figure(
        "E8-weights", "Neurons of the best networks, from dense to sparse features", SOURCE,
        "Dense: one feature per neuron. Then neurons turn polysemantic one after another, starting with the least "
        "important features; below density 0.04 every feature is a pair of neurons.",
        "The best of many starts is shown; most starts end elsewhere. Nothing here proves that it is the global minimum.",
        frames, control="density", columns=2,
    )  # fmt: skip


def _regimes(found: list[Best]) -> Figure:
    x = tuple(1 / b.density for b in found)
    counts = [regime(b.W) for b in found]
    lines = (
        Series("line", "features represented", x, tuple(float(c[1]) for c in counts)),
        Series("line", "monosemantic neurons", x, tuple(float(c[0]) for c in counts)),
        Series("line", "as many as neurons", (x[0], x[-1]), (float(M), float(M)), role="guide"),
    )
    panel = Panel("Regimes", "1 / density", "count", lines, x_log=True)
    return Figure(
        "E8-regimes", "Features and monosemantic neurons over density", SOURCE,
        "Features climb from 5 to 10 while monosemantic neurons fall from 5 to 0: the two trade off step by step.",
        "Counts depend on thresholds: 0.5 for a feature's length, 0.15 for a neuron's second weight.",
        (Frame("", (panel,)),), columns=1,
    )  # fmt: skip


def _bases(linear: Best, privileged: Best) -> Figure:
    panels = (
        weight_grid(linear.W, "linear hidden layer"),
        weight_grid(privileged.W, "ReLU hidden layer"),
    )
    return Figure(
        "E8-bases", "The same task without and with a privileged basis, density 0.3", SOURCE,
        "Linear hidden units: the weights are smeared over units at an arbitrary rotation. ReLU units: features align "
        "with neurons, alone or in binary codes.",
        "A rotation of the left matrix would be as good; only the right one can be read neuron by neuron.",
        (Frame("", panels),), columns=2,
    )  # fmt: skip
