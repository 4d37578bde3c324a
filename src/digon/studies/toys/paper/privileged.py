"""What does superposition look like where neurons are privileged? ReLU hidden units, identity task.

    h = ReLU(x W),  x' = ReLU(h Wᵀ + b),  n = 10 features in m = 5 neurons, importance 0.75^i

At every density many networks are trained from random starts and the one with the lowest expected loss is read: which
features it represents, which neurons carry one feature only, and which binary codes the others use.

1. Train 64 networks per density (Adam, cosine decay), rank them on fresh samples.
2. Compute the expected loss of the best few by enumeration (`quadrature`), keep the lowest.
3. Classify its neurons: monosemantic = all other weights are below 0.15 of the largest.
4. Let every code that the paper describes (`privileged_codes`) settle in its local minimum at every density: the curves
   of loss cross where one code gives way to the next. The lowest of them and of the settled winner is the best known.
5. Give the hidden units a bias: they can then stay on and be linear.

Source: Elhage et al. 2022, "Toy Models of Superposition", section on a privileged basis.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .... import rng
from ....measures.geometry import represented
from ....records import Figure, Frame, Measurement, Panel
from ....worlds.features import Features, features
from ....worlds.fit import FitConfig, fit
from ....worlds.loops import minimize
from ....worlds.toys import Activation, Toy
from .. import sketch
from ..base import Outcome, Say, StudyConfig, measured
from ..quadrature import pattern_loss, polish
from .privileged_codes import M, N, codes
from .stacks import stack

DECAY = 0.75
DENSITIES = (1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.08, 0.05, 0.03, 0.01)
SMOKE_DENSITIES = (1.0, 0.3, 0.03)
PAIRED = 0.3
"""Weights above this count as connections of a feature."""
SOURCE = "Elhage et al. 2022, superposition in a privileged basis"
THREADS = 2


@dataclass(frozen=True)
class Best:
    """The best network at one density."""

    density: float
    W: Float[Tensor, "n m"]
    b: Float[Tensor, " n"]
    loss: float
    """Expected loss."""
    share: float = 0.0
    """Share of starts within 1 % of the best loss."""


def law_of(density: float) -> Features:
    """The law of the study's features."""
    return features(N, density, DECAY ** torch.arange(N, dtype=torch.float64))


def best_networks(
    densities: tuple[float, ...], starts: int, config: FitConfig, hidden: Activation = "relu"
) -> list[Best]:
    """The best of `starts` networks at every density, all trained in one call."""
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(starts)[:, None]
    law = features(N, column.expand(-1, N), law_of(1.0).importance)
    toy = Toy(N, M, len(column), hidden=hidden, seed=config.seed)
    loss = fit(toy, law, config).loss.view(len(densities), starts)
    found = list[Best]()
    for k, density in enumerate(densities):
        nominees = (loss[k].topk(min(4, starts), largest=False).indices + k * starts).tolist()
        exact = {i: pattern_loss(toy, law, i, 256) for i in nominees}
        winner = min(exact, key=exact.__getitem__)
        share = float((loss[k] <= 1.01 * loss[k].min()).double().mean())
        W, b = toy.W[winner].detach(), toy.b[winner].detach()
        found.append(Best(density, ordered(W), b, exact[winner], share))
    return found


def settled(start: Best, density: float, rows: int = 2**14) -> Best:
    """The local minimum at another density that a network belongs to."""
    toy, law = Toy(N, M, hidden="relu"), law_of(density)
    with torch.no_grad():
        toy.W[0], toy.b[0] = start.W, start.b
    before = pattern_loss(toy, law, 0, 256)
    after = polish(toy, law, 0, rows)
    if after > before:  # the fixed rows of the descent mislead by a few tenths of a percent
        return Best(density, ordered(start.W), start.b, before)
    return Best(density, ordered(toy.W[0].detach()), toy.b[0].detach(), after)


def known(densities: list[float], rows: int) -> dict[str, list[Best]]:
    """Every published code, settled at every density."""
    starts = codes()
    jobs = [(Best(d, W, _bias(W, d), float("nan")), d) for W in starts.values() for d in densities]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the problems are tiny: two at once beat two threads on one
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            best = list(pool.map(lambda job: settled(job[0], job[1], rows), jobs))
    finally:
        torch.set_num_threads(threads)
    width = len(densities)
    return {name: best[k * width : (k + 1) * width] for k, name in enumerate(starts)}


def _bias(W: Tensor, density: float) -> Tensor:
    return torch.where(W.abs().sum(1) > 0, 0.0, density / 2)


def ordered(W: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """The same network with neurons sorted: monosemantic first, then by their most important connected feature."""
    strong = W.gt(0.5 * W.amax(0))
    first = torch.where(strong.any(0), strong.int().argmax(0), N)
    key = first + N * (~monosemantic(W)).long()
    return W[:, key.argsort(stable=True)]


def monosemantic(W: Float[Tensor, "n m"], ratio: float = 0.15) -> Bool[Tensor, " m"]:
    """Neurons with one weight of at least `ratio` of their largest positive one, which must not be tiny.

    The scale is a positive weight because negative ones may grow without effect: they only keep the neuron off.
    """
    top = W.amax(0)
    return ((W.abs() >= ratio * top).sum(0) == 1) & (top > PAIRED)


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
    """Best networks over densities: losses, represented features, monosemantic neurons, codes; and known minima."""
    densities = SMOKE_DENSITIES if config.smoke else DENSITIES
    starts = 12 if config.smoke else 64
    training = FitConfig(
        steps=1000 if config.smoke else 8000, batch=256 if config.smoke else 512, learning_rate=1e-2,
        schedule="cosine", seed=config.seed, device=config.device,
    )  # fmt: skip
    say(f"training {starts} networks at each of {len(densities)} densities")
    found = best_networks(densities, starts, training)
    linear = best_networks((0.3,), 4, training, hidden="linear")[0]
    say("settling the published codes at every density")
    rows = 2**12 if config.smoke else 2**14
    curves = known(list(densities), rows)
    winners = [settled(b, b.density, rows) for b in found]
    lowest = [min(some, key=lambda b: b.loss) for some in zip(winners, *curves.values(), strict=True)]
    if not config.smoke:
        lowest = [settled(b, b.density, 2**16) for b in lowest]
    say("a bias in the hidden layer")
    biased = hidden_bias(0.3, 4, 400 if config.smoke else 3000, config.seed)
    privileged = next(b for b in found if b.density == 0.3)
    values = _quantities(found, lowest, starts, config.seed)
    values |= _basis(linear, privileged, biased, config.seed)
    exact = _exact(lowest)
    figures = (_weights(found), _regimes(found, lowest), _energies(found, curves), _bases(linear, privileged))
    return Outcome(values, exact, figures)


def tag(density: float) -> str:
    """Density as part of a quantity's name."""
    return f"p{density:g}".replace("0.", "0_")


def _exact(lowest: list[Best]) -> dict[str, float]:
    """What the lowest known minimum at every density says."""
    found = dict[str, float]()
    for b in lowest:
        mono, count = regime(b.W)
        found |= {f"loss_{tag(b.density)}": b.loss, f"mono_{tag(b.density)}": mono}
        found[f"represented_{tag(b.density)}"] = count
    return found | _shapes({b.density: b.W for b in lowest})


def _shapes(by: dict[float, Tensor]) -> dict[str, float]:
    """Numbers that say which published code the networks use."""
    dense, middle = [d for d in by if d >= 0.5], [d for d in by if 0.2 <= d <= 0.4]
    sparse = [pairs(by[d]) for d in by if d <= 0.04]
    counts = [regime(W) for W in by.values()]
    shapes = {
        "monotone": float(all(a[1] <= b[1] and a[0] >= b[0] for a, b in pairwise(counts))),
        "all_mono_dense": _share([regime(by[d]) == (M, M) for d in dense]),
        "three_in_two": _share([three_in_two(by[d]) for d in middle]),
        "two_neurons": float(min(two for two, _ in sparse)),
        "distinct_pairs": float(min(different for _, different in sparse)),
    }
    if 0.15 in by:
        shapes["five_in_three"] = float(regime(by[0.15]) == (2, 7))
        shapes["six_in_four"] = float(regime(by[0.12]) == (1, 7))
        shapes["marker_p0_12"], shapes["marker_p0_08"] = (float(marker_code(by[d])) for d in (0.12, 0.08))
    return shapes


MEANINGS = {
    "monotone": "features never fewer, monosemantic neurons never more with falling density",
    "all_mono_dense": "share of densities from 0.5 with five monosemantic neurons",
    "three_in_two": "share of densities from 0.2 to 0.4 with three monosemantic neurons and the code of three in two",
    "two_neurons": "features with exactly two positive weights > 0.3, densities up to 0.04",
    "distinct_pairs": "different pairs of neurons used, densities up to 0.04",
    "five_in_three": "2 monosemantic neurons and 7 features at 0.15",
    "six_in_four": "1 monosemantic neuron and 7 features at 0.12",
    "marker_p0_12": "one neuron separates 2-of-the-others from 1-of-the-others",
    "marker_p0_08": "one neuron separates 3-of-the-others from 1-of-the-others",
}


def _quantities(found: list[Best], lowest: list[Best], starts: int, seed: int) -> dict[str, Measurement]:
    values = dict[str, Measurement]()

    def note(name: str, value: float, method: str) -> None:
        values[name] = measured(name, value, method=f"{method}; best of {starts} starts", seed=seed)

    for b in found:
        mono, count = regime(b.W)
        note(f"loss_{tag(b.density)}", b.loss, "expected loss by enumeration of active sets")
        note(f"represented_{tag(b.density)}", float(count), "features with ‖Wᵢ‖ > 0.5")
        note(f"mono_{tag(b.density)}", float(mono), "neurons whose other weights are below 0.15 of the largest")
    for name, value in _shapes({b.density: b.W for b in found}).items():
        note(name, value, MEANINGS[name])
    note("share_at_best", min(b.share for b in found), "least share of starts within 1 % of the best, over densities")
    excess = max(b.loss / low.loss for b, low in zip(found, lowest, strict=True))
    note("loss_over_best_known", excess, "largest ratio over densities to the lowest minimum known")
    return values


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


# --------------------------------------------------------------------------------------------------- the basis
def alignment(W: Float[Tensor, "n m"]) -> float:
    """Largest squared weight of a neuron over the sum of its squares, averaged over neurons. Range: [1/n, 1]."""
    square = W.square()
    return float((square.amax(0) / square.sum(0)).mean())


def hidden_bias(density: float, count: int, steps: int, seed: int) -> Float[Tensor, " i"]:
    """Share of (row, hidden unit) that is on in networks with a trained hidden bias."""
    law, data = law_of(density), rng.stream(seed, "hidden bias")
    toy = Toy(N, M, count, hidden="relu", seed=seed)
    c = torch.zeros(count, 1, M)

    def hidden(x: Tensor) -> Tensor:
        return (x @ toy.W + c).relu()

    def loss(step: int) -> Tensor:
        x = law.sample(256, data, count)
        return (law.importance.float() * (toy.read(hidden(x)) - x).square()).sum(-1).mean(-1)

    minimize([toy.W, toy.b, c], loss, steps=steps, peak=1e-2)
    return (hidden(law.sample(10_000, data, count)) > 0).float().mean((1, 2)).detach()


def _basis(linear: Best, privileged: Best, biased: Tensor, seed: int) -> dict[str, Measurement]:
    method = "largest squared weight of a neuron over the sum of squares, mean over neurons; density 0.3"
    return {
        "alignment_linear": measured("alignment_linear", alignment(linear.W), method=method, seed=seed),
        "alignment_relu": measured("alignment_relu", alignment(privileged.W), method=method, seed=seed),
        "on_with_bias": measured(
            "on_with_bias", biased.tolist(), method="share of hidden units on, trained hidden bias, density 0.3; seeds", seed=seed
        ),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- figures
def weight_grid(W: Float[Tensor, "n m"], title: str) -> Panel:
    """Neurons × features as colors."""
    n, m = W.shape
    picture = sketch.grid(range(n), range(m), W.T, diverging=True)
    return Panel(
        title, "feature, most important first", "neuron", grid=picture, color_label="weight", color_range=(-1.5, 1.5)
    )


def _weights(found: list[Best]) -> Figure:
    index = torch.arange(float(N))
    frames = tuple(
        Frame(
            f"{b.density:g}",
            (
                weight_grid(b.W, f"W: {regime(b.W)[1]} features, {regime(b.W)[0]} monosemantic neurons"),
                stack(b.W, f"loss {b.loss:.4g}", index, "feature", (0.0, N - 1.0)),
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


def _regimes(found: list[Best], lowest: list[Best]) -> Figure:
    x = [1 / b.density for b in found]
    counts, known = ([regime(b.W) for b in rows] for rows in (found, lowest))
    lines = (
        sketch.line("features, lowest known minimum", x, [c[1] for c in known]),
        sketch.line("monosemantic neurons, lowest known minimum", x, [c[0] for c in known]),
        sketch.points("features, trained", x, [c[1] for c in counts]),
        sketch.points("monosemantic neurons, trained", x, [c[0] for c in counts]),
        sketch.line("as many as neurons", (x[0], x[-1]), (M, M), "guide"),
    )
    panel = Panel("Regimes", "1 / density", "count", lines, x_log=True)
    return Figure(
        "E8-regimes", "Features and monosemantic neurons over density", SOURCE,
        "Features climb from 5 to 10 while monosemantic neurons fall from 5 to 0: the two trade off step by step.",
        "Counts depend on thresholds: 0.5 for a feature's length, 0.15 for a neuron's second weight.",
        sketch.still(panel), columns=1,
    )  # fmt: skip


def _energies(found: list[Best], curves: dict[str, list[Best]]) -> Figure:
    x = [1 / b.density for b in found]
    guess = [float(law_of(b.density).importance[M:].sum()) * (b.density / 3 - b.density**2 / 4) for b in found]
    lines = [
        sketch.line(name, x, [b.loss / g for b, g in zip(row, guess, strict=True)]) for name, row in curves.items()
    ]
    dots = sketch.points("best trained network", x, [b.loss / g for b, g in zip(found, guess, strict=True)])
    panel = Panel(
        "Loss of every code", "1 / density", "loss over five features kept", (*lines, dots), x_log=True, y_log=True
    )
    return Figure(
        "E8-energies", "Which code is best at which density", "",
        "Every line is one code of the paper, settled anew at each density; the lowest line changes from left to right, and "
        "the trained networks sit on it.",
        "A code may turn into another one as it settles, and other assignments of features to words may be lower.",
        sketch.still(panel), columns=1,
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
        sketch.still(*panels), columns=2,
    )  # fmt: skip
