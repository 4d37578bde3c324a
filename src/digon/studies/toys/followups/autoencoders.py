"""Do sparse autoencoders take features out of superposition, and can one see it without knowing the features?

Data: n unit directions in d < n dimensions, feature i active with a probability that decays as 0.99^i, about five at a
time, strengths U[0, 1], activity correlated through a Gaussian copula. Autoencoder of k latents:

    c = ReLU(W_enc x + b),   x̂ = Σ c_j D_j with ‖D_j‖ = 1,   loss = mean over d of (x − x̂)² + λ Σ|c| / d

    MMCS(truth, learned)    mean over true directions of the largest cosine with a learned one
    MMCS(small, large)      the same from one dictionary to the next larger one: needs no truth
    dead latents            never active on fresh data

Every λ and every seed is one instance; sizes k are trained one after the other. Then the same autoencoder, and the
TopK one of `coders`, read the hidden layer of a trained toy network whose features are the rows of its weights.

Source: Sharkey, Braun and Millidge 2022, "Taking features out of superposition with sparse autoencoders" (interim
report). Reduced here to 64 dimensions and 128 features; `full` takes their 256 and 512.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from .... import rng
from ....coders.sae import SAEConfig
from ....coders.train import TrainConfig, train
from ....errors import ConfigError
from ....measures.geometry import represented
from ....records import Figure, Measurement, Panel
from ....worlds.features import features
from ....worlds.fit import FitConfig, fit
from ....worlds.loops import minimize
from ....worlds.toys import Toy
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, grid, line, points, series, still

SOURCE = "Sharkey, Braun and Millidge 2022, Taking features out of superposition with sparse autoencoders"


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is."""

    d: int
    n: int
    active: float
    """Mean number of active features."""
    ratios: tuple[float, ...]
    """Latents per true feature."""
    penalties: tuple[float, ...]
    steps: int
    batch: int
    seeds: int
    rate: float = 3e-3


SMOKE = Sizes(16, 24, 2.0, (0.5, 1.0, 2.0), (0.003, 0.1, 3.0), 250, 256, 3)
PAPER = Sizes(64, 128, 5.0, (0.25, 0.5, 1.0, 2.0, 4.0), (0.003, 0.03, 0.1, 0.3, 1.0, 3.0), 2500, 256, 3)
FULL = Sizes(
    256,
    512,
    5.0,
    (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    tuple(10 ** (e / 4) for e in range(-10, 5, 2)),
    20_000,
    1024,
    3,
    1e-3,
)


@dataclass(frozen=True)
class Truth:
    """Directions and the law of their activity."""

    directions: Float[Tensor, "n d"]
    threshold: Float[Tensor, " n"]
    """A feature is active where its normal number is below this."""
    mixer: Float[Tensor, "n n"]
    """Makes independent normal numbers correlated."""

    def sample(self, rows: int, g: torch.Generator) -> Float[Tensor, "rows d"]:
        """Activations."""
        return self.strengths(rows, g) @ self.directions

    def strengths(self, rows: int, g: torch.Generator) -> Float[Tensor, "rows n"]:
        """How strongly each feature is active."""
        normal = torch.randn(rows, len(self.threshold), generator=g) @ self.mixer
        return (normal < self.threshold) * torch.rand(normal.shape, generator=g)


def truth(n: int, d: int, active: float, seed: int) -> Truth:
    """Random directions, decaying probabilities, random correlations.

    Raises: ConfigError if a feature would have to be active with a probability of 1 or more.
    """
    weight = 0.99 ** torch.arange(n, dtype=torch.float64)
    probability = active * weight / weight.sum()
    if active <= 0 or float(probability.max()) >= 1:
        raise ConfigError(
            f"{active:g} of {n} features active on average", expected="between 0 and the number of features"
        )
    g = rng.stream(seed, "truth", n, d)
    directions = F.normalize(torch.randn(n, d, generator=g), dim=1)
    mixer = torch.randn(n, n, generator=g)
    threshold = math.sqrt(2) * torch.erfinv(2 * probability - 1)
    return Truth(directions, threshold.float(), F.normalize(mixer, dim=0))


# --------------------------------------------------------------------------------------------------- autoencoders
@dataclass(frozen=True)
class Autoencoders:
    """Trained side by side, one per instance."""

    encoder: Float[Tensor, "i k d"]
    bias: Float[Tensor, "i k"]
    decoder: Float[Tensor, "i k d"]
    """Unit rows."""

    def codes(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "i rows k"]:
        """Latents."""
        return torch.baddbmm(self.bias[:, None], x.expand(len(self.bias), -1, -1), self.encoder.mT).relu()

    def dead(self, x: Float[Tensor, "rows d"]) -> Bool[Tensor, "i k"]:
        """Latents that are active in no row."""
        return torch.stack([(x @ e.T + b).amax(0) <= 0 for e, b in zip(self.encoder, self.bias, strict=True)])


Draw = Callable[[int, torch.Generator], Tensor]
"""Rows of activations on demand."""


def learn(draw: Draw, k: int, d: int, penalties: Float[Tensor, " i"], sizes: Sizes, seed: int) -> Autoencoders:
    """Train one autoencoder of k latents for every penalty, all on the same data."""
    g = rng.stream(seed, "autoencoder", k)
    starts = [torch.nn.init.orthogonal_(torch.empty(k, d), generator=g) for _ in penalties]
    decoder = F.normalize(torch.stack(starts), dim=2)
    encoder, bias = decoder.clone(), torch.zeros(len(penalties), k)

    def loss(_: int) -> Tensor:
        x = draw(sizes.batch, g)
        c = torch.baddbmm(bias[:, None], x.expand(len(penalties), -1, -1), encoder.mT).relu()
        error = (c @ F.normalize(decoder, dim=2) - x).square().mean((1, 2))
        return error + penalties * c.sum((1, 2)) / (len(x) * d)

    minimize([encoder, bias, decoder], loss, steps=sizes.steps, peak=sizes.rate)
    return Autoencoders(encoder, bias, F.normalize(decoder, dim=2))


def mmcs(reference: Float[Tensor, "n d"], learned: Float[Tensor, "*i k d"]) -> Float[Tensor, "*i"]:
    """Mean over reference rows of the largest cosine with a learned row. Range: [−1, 1]; 1 if each is found."""
    return (F.normalize(reference, dim=1) @ F.normalize(learned, dim=-1).mT).amax(-1).mean(-1)


def chance_mmcs(n: int, d: int, k: int, seed: int) -> float:
    """MMCS of k random directions."""
    g = rng.stream(seed, "chance")
    return float(mmcs(torch.randn(n, d, generator=g), torch.randn(k, d, generator=g)))


def topk(draw: Draw, d: int, width: int, l0: int, steps: int, seed: int) -> Float[Tensor, "k d"]:
    """Atoms of the TopK autoencoder of `coders`, trained on the same data."""

    def batches(start: int) -> Iterator[Tensor]:
        step = start
        while True:
            yield draw(512, rng.stream(seed, "topk", step))
            step += 1

    shape = SAEConfig(d_in=d, width=width, l0=l0, dead_after=20_000, seed=seed)
    training = TrainConfig(steps=steps, lr=3e-3, log_every=steps, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        return train(shape, batches, training, Path(folder) / "sae").dictionary.atoms


# --------------------------------------------------------------------------------------------------- the study
def run(config: StudyConfig, say: Say) -> Outcome:
    """MMCS over penalty and size, with and without the truth, dead latents, and the hidden layer of a toy network."""
    sizes = SMOKE if config.smoke else FULL if config.full else PAPER
    values = dict[str, Measurement]()
    sweep = _sweep(config, sizes, values, say)
    say("autoencoders: best penalty, other seeds")
    best = sizes.penalties[int(values["best_penalty_index"].value)]
    _seeds(config, sizes, best, values)
    say("autoencoders: hidden layer of a toy network")
    hidden = _hidden(config, values)
    return Outcome(values, {"chance": values["chance"].value}, (*sweep, hidden))


def _sweep(config: StudyConfig, sizes: Sizes, values: dict[str, Measurement], say: Say) -> tuple[Figure, ...]:
    source = truth(sizes.n, sizes.d, sizes.active, config.seed)
    fresh = source.sample(20_000, rng.stream(config.seed, "fresh"))
    penalties, widths = torch.tensor(sizes.penalties), [int(r * sizes.n) for r in sizes.ratios]
    nets = list[Autoencoders]()
    for k in widths:
        say(f"autoencoders: {k} latents for {sizes.n} features in {sizes.d} dimensions")
        nets.append(learn(source.sample, k, sizes.d, penalties, sizes, config.seed))
    table = np.array([mmcs(source.directions, net.decoder).numpy() for net in nets])
    dead = np.array([net.dead(fresh).double().mean(1).numpy() for net in nets])
    larger = np.array([
        [float(mmcs(a.decoder[i], b.decoder[i])) for i in range(len(penalties))]
        for a, b in pairwise(nets)
    ])  # fmt: skip
    loss = np.array([_error(net, fresh) for net in nets])
    one = widths.index(sizes.n)
    column = int(table[one].argmax())
    elbow, top = widths[int(larger[:, column].argmax())], widths[int(table[:, column].argmax())]
    method = f"{sizes.n} features in {sizes.d} dimensions, {sizes.steps:,} steps"
    for name, value in {
        "best_penalty_index": column, "best_mmcs": table[one, column], "low_penalty_mmcs": table[one, 0],
        "high_penalty_mmcs": table[one, -1], "elbow_log2": math.log2(elbow / sizes.n), "best_size_ratio": top / sizes.n,
        "undercomplete_mmcs": table[0].max(),
        "chance": chance_mmcs(sizes.n, sizes.d, sizes.n, config.seed),
    }.items():  # fmt: skip
        values[name] = measured(name, float(value), method=method, seed=config.seed)
    say("autoencoders: four times longer, for latents to die")
    longer, best = replace(sizes, steps=4 * sizes.steps), penalties[column : column + 1]
    shares = [
        float(learn(source.sample, k, sizes.d, best, longer, config.seed).dead(fresh).double().mean())
        for k in (sizes.n, widths[-1])
    ]
    values["dead_rise"] = measured(
        "dead_rise", shares[1] - shares[0], method=f"{widths[-1]} latents against {sizes.n}, {longer.steps:,} steps"
    )
    return _maps(sizes, widths, table, larger, dead, loss), _curves(sizes, widths, column, table, larger, dead)


def _error(net: Autoencoders, x: Float[Tensor, "rows d"]) -> list[float]:
    """Share of the variance that reconstruction leaves, per instance."""
    out = []
    for e, b, d in zip(net.encoder, net.bias, net.decoder, strict=True):
        out.append(float(((x @ e.T + b).relu() @ d - x).square().sum() / (x - x.mean(0)).square().sum()))
    return out


def _seeds(config: StudyConfig, sizes: Sizes, penalty: float, values: dict[str, Measurement]) -> None:
    """MMCS at the best penalty for other directions and other starts, with one and two latents per feature."""
    found: dict[int, list[float]] = {1: [], 2: []}
    baseline = list[float]()
    for s in range(sizes.seeds):
        seed = config.seed + s + 1
        source = truth(sizes.n, sizes.d, sizes.active, seed)
        for ratio, into in found.items():
            net = learn(source.sample, ratio * sizes.n, sizes.d, torch.tensor([penalty]), sizes, seed)
            into.append(float(mmcs(source.directions, net.decoder[0])))
        atoms = topk(source.sample, sizes.d, sizes.n, max(round(sizes.active), 1), sizes.steps // 2, seed)
        baseline.append(float(mmcs(source.directions, atoms)))
    method = f"{sizes.n} features in {sizes.d} dimensions, λ = {penalty:g}, {sizes.seeds} seeds"
    for ratio, samples in found.items():
        name = f"mmcs_ratio_{ratio}"
        values[name] = measured(name, samples, method=method, seed=config.seed)
    values["mmcs_topk"] = measured("mmcs_topk", baseline, method=f"{method}; TopK of digon.coders", seed=config.seed)


def _hidden(config: StudyConfig, values: dict[str, Measurement]) -> Figure:
    """Features of a trained toy network, recovered from its hidden layer alone."""
    n, m, density, seeds = (12, 6, 0.05, 3) if config.smoke else (32, 16, 0.04, 3)
    law, toy = features(n, density), Toy(n, m, seeds, seed=config.seed)
    fit(toy, law, FitConfig(steps=800 if config.smoke else 4000, batch=512, learning_rate=3e-3, seed=config.seed))
    sizes = Sizes(m, n, n * density, (1.0,), (0.03, 0.1, 0.3), 400 if config.smoke else 2500, 256, seeds)
    scores, base, panels = list[float](), list[float](), list[Panel]()
    for s, W in enumerate(toy.W.detach()):
        rows = W[represented(W)]

        def draw(count: int, g: torch.Generator, W: Tensor = W) -> Tensor:
            return law.sample(count, g)[0] @ W

        net = learn(draw, 2 * n, m, torch.tensor(sizes.penalties), sizes, config.seed + s)
        found = mmcs(rows, net.decoder)
        best = int(found.argmax())
        scores.append(float(found[best]))
        base.append(chance_mmcs(len(rows), m, 2 * n, config.seed + s))
        cosines = (F.normalize(rows, dim=1) @ net.decoder[best].T).amax(1).sort(descending=True).values
        panels.append(Panel(f"network {s + 1}: {len(rows)} features in {m} dimensions", "feature, sorted",
                            "largest cosine", (series("bars", "learned", np.arange(len(rows)), cosines),)))  # fmt: skip
    method = f"ReLU-output toys, n = {n}, m = {m}, density {density}, {2 * n} latents, best of three λ"
    values["hidden_mmcs"] = measured("hidden_mmcs", scores, method=method, seed=config.seed)
    values["hidden_gain"] = measured(
        "hidden_gain", np.array(scores) - base, method=f"{method}; minus random directions"
    )
    return Figure(
        "F9-hidden", "Features of a toy network, read from its hidden layer", "",
        "Nearly every feature that the network embeds has a learned latent along its direction.",
        "The penalty was chosen with the truth in hand; on a real network one has only the curves of the other figures.",
        still(*panels), columns=3,
    )  # fmt: skip


def _maps(
    sizes: Sizes, widths: list[int], table: np.ndarray, larger: np.ndarray, dead: np.ndarray, loss: np.ndarray
) -> Figure:
    x, panels = np.log10(sizes.penalties), list[Panel]()
    drawn = {"MMCS with the truth": table, "MMCS with the next larger": larger,
             "share of dead latents": dead, "variance left over": loss.clip(0, 1)}  # fmt: skip
    for name, values in drawn.items():
        y = np.log2(np.array(widths[: len(values)]) / sizes.n)
        panels.append(Panel(name, "log₁₀ λ", "latents / features (log₂)", color_range=(0.0, 1.0),
                            grid=grid(x, y, values)))  # fmt: skip
    return Figure(
        "F9-maps", "Autoencoders over penalty and size", SOURCE,
        "A band of λ in which the true directions are found, wherever there are latents enough; the same band shows in the "
        "agreement between dictionaries, which needs no truth.",
        "The best λ depends on the scale and the density of the data.", still(*panels), columns=2,
    )  # fmt: skip


def _curves(
    sizes: Sizes, widths: list[int], column: int, table: np.ndarray, larger: np.ndarray, dead: np.ndarray
) -> Figure:
    k = np.array(widths, float)
    shown = (
        across("with the truth", k, table[:, column][None]), points("with the next larger", k[:-1], larger[:, column]),
        points("dead latents, share", k, dead[:, column]), line("true number", [sizes.n] * 2, [0, 1], "guide"),
    )  # fmt: skip
    panel = Panel(f"λ = {sizes.penalties[column]:g}", "latents", "MMCS or share", shown, x_log=True)
    return Figure(
        "F9-size", "How many features are there?", SOURCE,
        "Up to the true number the dictionaries agree with the truth more and more; beyond it agreement between "
        "dictionaries falls. (Spare latents die only later in training.)",
        "Sizes are a factor 2 apart, so the true number is known only to that.", still(panel), columns=1,
    )  # fmt: skip
