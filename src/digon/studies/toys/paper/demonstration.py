"""Do networks store more features than dimensions, and when? Linear and ReLU networks side by side.

    linear   x' = x W Wᵀ + b          keeps the m most important features, whatever the density
    ReLU     x' = ReLU(x W Wᵀ + b)    stores more of them the sparser they are

n = 20, m = 5, importance 0.7^i and n = 80, m = 20, importance 0.9^i at seven densities.

1. Train several networks per density and keep the one with the lowest exact loss: ReLU networks on fresh samples (Adam,
   cosine decay), linear networks on their exact loss.
2. Count represented features (norm above 0.5) and dedicated ones among them (interference under 0.2).
3. Compare with two formulas: the best linear network, and the best mixture of dedicated features, unit digons and
   ignored features.
4. Check the mathematical section: the loss with at most one active feature, and the linear loss of Gaussian features.

Source: Elhage et al. 2022, demonstrating superposition, basic results and mathematical understanding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....measures.geometry import gram, interference, norms
from ....records import Figure, Frame, Panel
from ....worlds.closed import digons_loss, interference_error, linear_loss, own_error
from ....worlds.features import features
from ....worlds.fit import FitConfig, fit
from ....worlds.population import expected_loss
from ....worlds.toys import Activation, Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..diagram import Settled, best
from ..sketch import grid, line, points, series, still

DENSITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
SOURCE = "Elhage et al. 2022, demonstrating superposition"
REPEATS = 3
Note = Callable[[str, float, str], None]
"""Takes one sample of a quantity and how it was obtained."""


@dataclass(frozen=True)
class Size:
    """One of the two sizes of the paper."""

    n: int
    m: int
    decay: float
    judged: tuple[float, ...]
    """Densities at which the digon formula is compared with."""

    @property
    def importance(self) -> Float[Tensor, " n"]:
        """Importance of every feature."""
        return self.decay ** torch.arange(self.n, dtype=torch.float64)


SMALL = Size(20, 5, 0.7, (0.3, 0.1, 0.03))
LARGE = Size(80, 20, 0.9, (0.3, 0.1, 0.03))


@dataclass(frozen=True)
class Trained:
    """The best network at every density, and the loss of every start."""

    size: Size
    density: tuple[float, ...]
    best: Settled
    losses: Float[Tensor, "p starts"]
    """Exact losses in units of the best linear network's."""

    @property
    def ratio(self) -> np.ndarray:
        """Lowest loss over that of the best linear network, per density."""
        return self.losses.min(1).values.numpy()

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Represented features and dedicated ones among them, per density."""
        live, alone = norms(self.best.W) > 0.5, interference(self.best.W) < 0.2
        return live.sum(1).numpy(), (live & alone).sum(1).numpy()


def train(
    size: Size, densities: tuple[float, ...], starts: int, config: FitConfig, output: Activation, repeats: int = 1
) -> list[Trained]:
    """The best of `starts` networks at every density, `repeats` times."""
    count = starts * repeats
    column = torch.tensor(densities, dtype=torch.float64).repeat_interleave(count)[:, None].expand(-1, size.n)
    law = features(size.n, column, size.importance)
    toy = Toy(size.n, size.m, len(column), output=output, seed=config.seed)
    fit(toy, law, config)
    W, b = toy.W.detach().double(), toy.b.detach().double()
    kind = "linear" if output == "linear" else "relu"
    loss = expected_loss(W, b, law, output=kind)
    linear = linear_loss(torch.tensor(densities, dtype=torch.float64), size.importance, size.m)
    parts = []
    for piece in torch.arange(len(loss)).view(len(densities), repeats, starts).unbind(1):
        which = piece.flatten()
        won = best(Settled(W[which], b[which], loss[which]), starts)
        parts.append(Trained(size, densities, won, loss[which].view(-1, starts) / linear[:, None]))
    return parts


def merged(parts: list[Trained]) -> Trained:
    """The best of all repeats at every density."""
    W, b, loss = (torch.stack([getattr(p.best, name) for p in parts], 1).flatten(0, 1) for name in ("W", "b", "loss"))
    losses = torch.cat([p.losses for p in parts], 1)
    return Trained(parts[0].size, parts[0].density, best(Settled(W, b, loss), len(parts)), losses)


def formula(size: Size, density: float) -> tuple[float, int, int]:
    """Loss over the best linear one, represented and dedicated features of the best mixture of digons."""
    loss, represented, dedicated = digons_loss(density, size.importance, size.m)
    linear = linear_loss(torch.tensor(density, dtype=torch.float64), size.importance, size.m)
    return loss / float(linear), represented, dedicated


def few_active_loss(
    W: Float[Tensor, "n m"], b: Float[Tensor, " n"], density: float, importance: Float[Tensor, " n"]
) -> float:
    """Loss given that at most one feature is active: the two sparsest terms of the paper's expansion, normalized.

    Silent: Σ I_j ReLU(b_j)². One feature i: its own error, and what it causes in the outputs j.
    """
    G = gram(W)
    n, off = len(b), 1 - torch.eye(len(b), dtype=G.dtype)
    silent = (importance * b.clamp(min=0).square()).sum()
    one = (importance * own_error(G.diagonal(), b)).sum()
    one = one + (importance[None] * interference_error(G, b[None].expand(n, n)) * off).sum()
    none, single = (1 - density) ** n, density * (1 - density) ** (n - 1)
    return float((none * silent + single * one) / (none + n * single))


def sampled_few_active(
    W: Float[Tensor, "n m"],
    b: Float[Tensor, " n"],
    density: float,
    importance: Float[Tensor, " n"],
    rows: int,
    seed: int,
) -> tuple[float, float]:
    """The same loss from samples, and its standard error."""
    draw, n = rng.stream(seed, "few"), len(b)
    none, single = (1 - density) ** n, density * (1 - density) ** (n - 1)
    active = torch.rand(rows, generator=draw, dtype=torch.float64) < n * single / (none + n * single)
    which = torch.randint(0, n, (rows,), generator=draw)
    x = torch.zeros(rows, n, dtype=torch.float64)
    x[torch.arange(rows), which] = active * torch.rand(rows, generator=draw, dtype=torch.float64)
    each = (importance * (x - torch.relu(x @ gram(W) + b)).square()).sum(1)
    return float(each.mean()), float(each.std() / rows**0.5)


def gaussian_linear_loss(W: Float[Tensor, "n m"], importance: Float[Tensor, " n"]) -> float:
    """Linear loss of independent standard Gaussian features: Σ I_i (1 − |W_i|²)² + Σ_{i≠j} I_j (W_j·W_i)²."""
    G = gram(W)
    own = G.diagonal()
    return float((importance * (1 - own).square()).sum() + (importance * (G.square().sum(0) - own.square())).sum())


def run(config: StudyConfig, say: Say) -> Outcome:
    """Both sizes, both kinds of network, and the mathematical section."""
    smoke, seed = config.smoke, config.seed
    samples: dict[str, list[float]] = {}
    methods: dict[str, str] = {}
    exact: dict[str, float] = {}

    def note(name: str, sample: float, method: str) -> None:
        samples.setdefault(name, []).append(sample)
        methods[name] = method

    densities = (1.0, 0.1, 0.01) if smoke else DENSITIES
    figures = list[Figure]()
    for size in (SMALL,) if smoke else (SMALL, LARGE):
        starts, steps = (2, 1500) if smoke else (8 if size is SMALL else 3, 8000)
        recipe = FitConfig(
            steps=steps, batch=256 if smoke else 512, learning_rate=1e-2 if smoke else 3e-3, schedule="cosine",
            seed=rng.derive(seed, "demonstration", size.n),
        )  # fmt: skip
        say(f"n = {size.n}, m = {size.m}: training linear networks")
        linear = train(size, densities, 2, FitConfig(engine="exact", seed=recipe.seed), "linear")[0]
        say(f"n = {size.n}, m = {size.m}: training ReLU networks")
        parts = train(size, densities, starts, recipe, "relu", REPEATS)
        _judge_linear(note, exact, linear)
        for part in parts:
            _judge(note, exact, part)
        relu = merged(parts)
        figures += [_matrices(linear, relu), _bars(linear, relu), _losses(relu)]
        if size is SMALL:
            _judge_mathematics(note, relu, 200_000 if smoke else 1_000_000, seed)
    values = {name: measured(name, samples[name], method=methods[name], seed=seed) for name in samples}
    return Outcome(values, exact, tuple(figures))


def _judge_linear(note: Note, exact: dict[str, float], linear: Trained) -> None:
    size, tag = linear.size, f"n{linear.size.n}"
    text = f"n = {size.n}, m = {size.m}, worst of {len(linear.density)} densities"
    note(f"linear_worst_{tag}", float(linear.ratio.max()), f"loss over its minimum, {text}")
    note(f"linear_least_{tag}", float(linear.losses.min()), f"loss over its minimum, {text}")
    seen = norms(linear.best.W) > 0.5  # the direction of a feature of norm 0 is noise
    over = float(interference(linear.best.W)[seen].max())
    note(f"linear_interference_{tag}", over, f"largest interference of a represented feature, {text}")
    exact |= {f"linear_worst_{tag}": 1.0, f"linear_interference_{tag}": 0.0}


def _judge(note: Note, exact: dict[str, float], relu: Trained) -> None:
    """What one repeat says; `note` collects the repeats."""
    size, tag = relu.size, f"n{relu.size.n}"
    many, alone = relu.counts()
    starts = relu.losses.shape[1]
    for k, density in enumerate(relu.density):
        place = f"{tag}_{density:g}".replace(".", "")
        ratio, represented, dedicated = formula(size, density)
        note(f"ratio_{place}", float(relu.ratio[k]), f"loss over the linear one, best of {starts}")
        note(f"represented_{place}", float(many[k]), f"features of norm above 0.5, best of {starts}")
        note(f"dedicated_{place}", float(alone[k]), f"of them with interference under 0.2, best of {starts}")
        if density in (*size.judged, 1.0):
            exact |= {f"represented_{place}": represented, f"dedicated_{place}": dedicated}
        if density in size.judged:
            note(f"over_digons_{place}", float(relu.ratio[k]) / ratio, f"loss over the digon formula, best of {starts}")
    text = f"n = {size.n}, m = {size.m}, over the densities from dense to sparse"
    note(f"ratio_rise_{tag}", float(np.diff(relu.ratio).max()), f"largest rise of the loss over the linear one, {text}")
    note(f"dedicated_rise_{tag}", float(np.diff(alone).max()), f"largest rise of the dedicated count, {text}")
    note(f"represented_fall_{tag}", float(-np.diff(many).min()), f"largest fall of the represented count, {text}")
    sparse = [k for k, p in enumerate(relu.density) if p <= 0.01]
    note(f"ratio_sparse_{tag}", float(relu.ratio[sparse].max()), "loss over the linear one, worst up to density 0.01")
    _judge_biases(note, relu, tag)


def _judge_biases(note: Note, relu: Trained, tag: str) -> None:
    W, b = relu.best.W, relu.best.b
    size, over = norms(W), interference(W)
    dense = torch.tensor([p >= 0.1 for p in relu.density])[:, None]
    expected = torch.tensor(relu.density, dtype=torch.float64)[:, None] / 2
    dedicated = (size > 0.5) & (over < 0.02)
    text = "largest distance over densities from 0.1"
    note(f"bias_dedicated_{tag}", float(b.abs()[dedicated & dense].max()), f"{text}, interference under 0.02")
    ignored = (size < 0.05) & dense
    note(f"bias_ignored_{tag}", float((b - expected).abs()[ignored].max()), f"{text}, norm under 0.05")


def _judge_mathematics(note: Note, relu: Trained, rows: int, seed: int) -> None:
    k = relu.density.index(0.1)
    W, b, importance = relu.best.W[k], relu.best.b[k], relu.size.importance
    wanted = few_active_loss(W, b, 0.1, importance)
    draw = rng.stream(seed, "gaussian")
    for repeat in range(REPEATS):
        mean, error = sampled_few_active(W, b, 0.1, importance, rows, seed + repeat)
        note("few_active_z", abs(mean - wanted) / error, f"distance to {rows:,} samples in standard errors")
        x = torch.randn(rows // 4, relu.size.n, generator=draw, dtype=torch.float64)
        sampled = float((importance * (x - x @ gram(W)).square()).sum(1).mean())
        ratio = sampled / gaussian_linear_loss(W, importance)
        note("gaussian_ratio", ratio, f"loss of {rows // 4:,} Gaussian samples over the formula")


def _matrices(linear: Trained, relu: Trained) -> Figure:
    size = relu.size
    index = np.arange(1, size.n + 1)
    frames = []
    for k, density in enumerate(relu.density):
        panels = []
        for name, found in (("linear", linear), ("ReLU", relu)):
            W, b = found.best.W[k], found.best.b[k]
            heat = grid(index, index, np.round(gram(W).numpy(), 3), diverging=True)
            panels.append(Panel(f"{name}: W Wᵀ", "feature", "feature", grid=heat, square=True, color_range=(-1.0, 1.0)))
            panels.append(Panel(f"{name}: biases", "feature", "bias", (series("bars", "bias", index, b),)))
        frames.append(Frame(f"{density:g}", tuple(panels)))
    return Figure(
        f"E1-matrices-n{size.n}", f"{size.n} features in {size.m} dimensions: what comes out of what goes in", SOURCE,
        "Linear networks keep the most important features at every density. ReLU networks store more of them the sparser "
        "they are, at the price of interference, which is mostly negative and clipped away.",
        "One network per density, the best of several starts.", tuple(frames), "density", 4,
    )  # fmt: skip


def _bars(linear: Trained, relu: Trained) -> Figure:
    size = relu.size
    index = np.arange(1, size.n + 1)
    frames = []
    for k, density in enumerate(relu.density):
        panels = tuple(
            Panel(
                name, "feature", "norm",
                (series("bars", "norm", index, norms(f.best.W[k]), color=interference(f.best.W[k]).clamp(max=2.0)),),
                color_label="interference", color_range=(0.0, 1.0),
            )
            for name, f in (("linear", linear), ("ReLU", relu))
        )  # fmt: skip
        frames.append(Frame(f"{density:g}", panels))
    return Figure(
        f"E1-norms-n{size.n}", f"{size.n} features in {size.m} dimensions: norms, colored by interference", SOURCE,
        "Superposition begins with the less important features and reaches all of them when features are sparse.",
        "Norms say what is represented, not how well: see the loss.", tuple(frames), "density", 2,
    )  # fmt: skip


def _losses(relu: Trained) -> Figure:
    size, p = relu.size, np.array(relu.density)
    theory = [formula(size, float(v)) for v in p]
    many, alone = relu.counts()
    x = np.repeat(p, relu.losses.shape[1])
    loss = (line("digon formula", p, [t[0] for t in theory]), points("every start", x, relu.losses))
    counts = (
        line("represented, formula", p, [t[1] for t in theory]), line("dedicated, formula", p, [t[2] for t in theory]),
        points("represented", p, many), points("dedicated", p, alone),
    )  # fmt: skip
    return Figure(
        f"E1-losses-n{size.n}", f"{size.n} features in {size.m} dimensions: loss and counts", "",
        "The loss falls further below that of the best linear network the sparser the features are; digons explain it "
        "down to density 0.03.",
        "Under density 0.03 arrangements with more than two features per dimension win; the formula knows digons only.",
        still(
            Panel("loss over that of the best linear network", "density", "ratio", loss, x_log=True),
            Panel("features", "density", "count", counts, x_log=True),
        ),
        columns=2,
    )  # fmt: skip
