"""Does a small MLP compute more ReLUs than it has neurons? Compressed computation, and the control that explains it.

    MLP             y' = W_out ReLU(W_in x),  m = n/2 neurons,  x_i ~ U[−1, 1] with probability p
    clean labels    y = ReLU(x)
    mixed labels    y = ReLU(x) + M x,  M symmetric with entries of standard deviation σ

A residual stream with random embedding E turns clean labels into mixed ones, M = I − EᵀE. Naive: m features exactly, the
other n − m ignored; without mixing this costs (n − m) p/6. Mixed labels can be fitted *below* that number although there
is more to fit. That is no computation in superposition: with one active feature, positive or negative, the network is

    A₊ = W_out ReLU(W_in),   A₋ = W_out ReLU(−W_in),    both of rank ≤ m,   with targets I + M and −M

    loss = p/6 (‖A₊ − I − M‖² + ‖A₋ + M‖²) ≥ p/6 (rest_m(I + M) + rest_m(M)),   rest_m(A) = Σ_{k>m} s_k(A)².

For M = 0 the bound is the naive loss itself: nothing can beat it where features come alone. M spreads the spectrum of
I + M, so that half its directions hold more than half of it. For a semicircle of radius R = 2σ√n the m = n/2 largest
eigenvalues, with −M left alone, cost per feature p/6 (½ (1 − 8R/3π + R²/4) + R²/4), least at R = 16/9π: σ = 8/(9π√n).
A semi-nonnegative factorization of I + M, which computes nothing, shows the same gain.

Source: Bhagat et al. 2025, "Compressed Computation is (probably) not Computation in Superposition", of which only the
title was checked: model and sizes are our reading of it. The bounds, the controls and the best σ are ours.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ....records import Figure, Panel
from ....worlds.loops import minimize
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, grid, line, points, still

SOURCE = "Bhagat et al. 2025, Compressed Computation is (probably) not Computation in Superposition"
DENSITY = 0.01
SIGMAS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06)
"""Mixing for n = 100; other n are scaled so that 2σ√n stays."""
DENSITIES = (0.003, 0.03, 0.1, 0.3, 1.0)
CHOSEN = 3
"""Which σ is looked at closely."""


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is."""

    n: int
    limit_steps: int
    """Steps on the loss of single active features, which needs no samples."""
    steps: int
    """Steps on samples, starting there."""
    batch: int
    rows: int
    """Fresh rows for evaluation."""


SMOKE = Sizes(20, 1000, 150, 128, 60_000)
PAPER = Sizes(100, 3000, 1500, 512, 40_000)


def mixing(n: int, sigma: float, g: torch.Generator) -> Float[Tensor, "n n"]:
    """Symmetric, zero diagonal, entries of standard deviation `sigma`.

    Raises: ConfigError for a negative sigma.
    """
    if sigma < 0:
        raise ConfigError(f"sigma = {sigma:g}", expected="at least 0")
    upper = torch.randn(n, n, generator=g).triu(1)
    return sigma * (upper + upper.T)


def samples(n: int, density: Float[Tensor, " i"], rows: int, g: torch.Generator) -> Float[Tensor, "i rows n"]:
    """Sparse inputs, each instance at its density."""
    shape = (len(density), rows, n)
    active = torch.rand(shape, generator=g) < density[:, None, None]
    return active * (2 * torch.rand(shape, generator=g) - 1)


def output(W_in: Float[Tensor, "i n m"], W_out: Float[Tensor, "i m n"], x: Float[Tensor, "i b n"]) -> Tensor:
    """y' [i, b, n]; rows of W_in are what features write into neurons."""
    return (x @ W_in).relu() @ W_out


def labels(x: Float[Tensor, "i b n"], M: Float[Tensor, "i n n"]) -> Float[Tensor, "i b n"]:
    """ReLU(x) + M x."""
    return torch.baddbmm(x.relu(), x, M.mT)


def naive_loss(n: int, m: int, density: float | Tensor) -> float | Tensor:
    """Clean labels: m features exactly, the others left out. Summed over features."""
    return (n - m) * density / 6


def single_loss(
    W_in: Float[Tensor, "i n m"], W_out: Float[Tensor, "i m n"], M: Float[Tensor, "i n n"]
) -> Float[Tensor, " i"]:
    """Loss / (n p/6) where features come alone: the limit p → 0."""
    eye = torch.eye(M.shape[1], dtype=M.dtype)
    plus = W_in.relu() @ W_out - eye - M
    minus = (-W_in).relu() @ W_out + M
    return (plus.square().sum((1, 2)) + minus.square().sum((1, 2))) / M.shape[1]


def rank_bound(M: Float[Tensor, "i n n"], m: int) -> Float[Tensor, " i"]:
    """What `single_loss` is at least."""
    eye = torch.eye(M.shape[1], dtype=torch.float64)
    rest = [torch.linalg.svdvals(A.double())[:, m:].square().sum(1) for A in (eye + M, M)]
    return (rest[0] + rest[1]) / M.shape[1]


def semicircle_loss(sigma: float | np.ndarray, n: int) -> float | np.ndarray:
    """`single_loss` of the n/2 largest eigenvalues of I + M with −M left alone, n → ∞. Source: module docstring."""
    R = 2 * np.asarray(sigma) * math.sqrt(n)
    return 0.5 * (1 - 8 * R / (3 * math.pi) + R**2 / 4) + R**2 / 4


def best_sigma(n: int) -> float:
    """Mixing at which `semicircle_loss` is least."""
    return 8 / (9 * math.pi * math.sqrt(n))


def eigen_overlap(W_in: Float[Tensor, "i n m"], M: Float[Tensor, "i n n"]) -> Float[Tensor, " i"]:
    """Share of the squared input weights in the span of M's m largest eigenvectors. Range: [0, 1]; m/n by chance."""
    m = W_in.shape[2]
    vectors = torch.linalg.eigh(M.double()).eigenvectors[:, :, -m:]
    inside = (vectors.mT @ W_in.double()).square().sum((1, 2))
    return inside / W_in.double().square().sum((1, 2))


@dataclass(frozen=True)
class Trained:
    """Networks side by side, and what they are trained on."""

    W_in: Float[Tensor, "i n m"]
    W_out: Float[Tensor, "i m n"]
    M: Float[Tensor, "i n n"]
    density: Float[Tensor, " i"]

    def take(self, which: Tensor | slice) -> "Trained":
        """Some of the networks."""
        return Trained(self.W_in[which], self.W_out[which], self.M[which], self.density[which])


def initial(M: Tensor, density: Tensor, m: int, g: torch.Generator) -> Trained:
    """Random weights."""
    i, n = M.shape[:2]
    W_in = torch.randn(i, n, m, generator=g) / n**0.5
    return Trained(W_in, torch.randn(i, m, n, generator=g) / m**0.5, M, density)


def train(start: Trained, sizes: Sizes, g: torch.Generator, *, factorize: bool = False) -> Trained:
    """First the loss of single features, then samples at each network's own density.

    `factorize` keeps W_in nonnegative and skips the samples: a semi-nonnegative factorization of I + M.
    """
    W_in, W_out = start.W_in.clone(), start.W_out.clone()
    used = (lambda w: w.abs()) if factorize else (lambda w: w)
    minimize([W_in, W_out], lambda _: single_loss(used(W_in), W_out, start.M), steps=sizes.limit_steps, peak=1e-2)
    if factorize:
        return Trained(W_in.abs(), W_out, start.M, start.density)
    n = start.M.shape[1]
    scale = start.density * n / 6

    def sampled(_: int) -> Tensor:
        x = samples(n, start.density, sizes.batch, g)
        return (output(W_in, W_out, x) - labels(x, start.M)).square().sum(2).mean(1) / scale

    minimize([W_in, W_out], sampled, steps=sizes.steps, peak=3e-3, warmup=0.05)
    return Trained(W_in, W_out, start.M, start.density)


@torch.no_grad()
def evaluate(net: Trained, rows: int, g: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Loss over the naive loss, on the labels of training and on clean ones, per network."""
    n, m = net.W_in.shape[1:]
    total, piece, done = torch.zeros(2, len(net.M), dtype=torch.float64), 2000, 0
    while done < rows:
        x = samples(n, net.density, piece, g)
        y = output(net.W_in, net.W_out, x)
        for k, target in enumerate((labels(x, net.M), x.relu())):
            total[k] += (y - target).square().sum((1, 2)).double()
        done += piece
    mixed, clean = (total / done / naive_loss(n, m, net.density.double())).numpy()
    return mixed, clean


def run(config: StudyConfig, say: Say) -> Outcome:
    """Loss over naive for clean and mixed labels, its bound, the control by factorization, and other densities."""
    sizes = SMOKE if config.smoke else PAPER
    n, m, seeds = sizes.n, sizes.n // 2, 3
    sigmas = [s * (100 / n) ** 0.5 for s in SIGMAS]
    g = rng.stream(config.seed, "compressed")
    M = torch.stack([mixing(n, s, g) for s in sigmas for _ in range(seeds)])
    say("compressed: mixed and clean labels")
    density = DENSITY * 100 / n  # one active feature per row on average, as for n = 100
    net = train(initial(M, torch.full((len(M),), density), m, g), sizes, g)
    mixed, clean = (e.reshape(len(sigmas), seeds) for e in evaluate(net, sizes.rows, g))
    bound = 2 * rank_bound(M, m).view(len(sigmas), seeds).numpy()
    chosen = slice(CHOSEN * seeds, (CHOSEN + 1) * seeds)
    say("compressed: factorization instead of training")
    control = train(initial(M[chosen], net.density[chosen], m, g), sizes, g, factorize=True)
    factorized = evaluate(control, sizes.rows, g)[0]
    method = f"n = {n}, m = {m}, density {density:g}, {seeds} seeds, {sizes.rows:,} fresh rows"
    found = {
        "clean_ratio": mixed[0], "mixed_ratio": mixed[CHOSEN], "mixed_on_clean": clean[CHOSEN],
        "factorized_ratio": factorized, "overlap": eigen_overlap(net.W_in[chosen], M[chosen]).numpy(),
        "best_sigma_factor": np.array(sigmas)[mixed.argmin(0)] / best_sigma(n),
        "limit_over_bound": 2 * single_loss(net.W_in, net.W_out, M).view(len(sigmas), seeds).numpy()[0] / bound[0],
    }  # fmt: skip
    values = {k: measured(k, v, method=method, seed=config.seed) for k, v in found.items()}
    with_noise = mixed[CHOSEN] / _honest(sigmas[CHOSEN], n)
    values["mixed_over_honest"] = measured("mixed_over_honest", with_noise, method=f"{method}; naive with its mixing")
    exact = {"clean_ratio": 1.0, "best_sigma_factor": 1.0}
    say("compressed: other densities")
    densities, table = _densities(config, sizes, M[[0, CHOSEN * seeds]], g)
    sparse = [p for p in densities if p <= 0.1]
    lowest = float(table[0, : len(sparse)].min())
    values["worst_clean"] = measured("worst_clean", lowest, method=f"least ratio over densities {sparse}")
    figures = (
        _sigma_figure(n, sigmas, mixed, clean, bound, factorized),
        _matrix_figure(net.take(chosen)),
        _density_figure(n, densities, table),
    )
    return Outcome(values, exact, figures)


def _honest(sigma: float, n: int) -> float:
    """Naive loss with the mixing of all features left out too, over the naive loss without it (m = n/2)."""
    return 1 + 4 * sigma**2 * n


def _densities(
    config: StudyConfig, sizes: Sizes, M: Float[Tensor, "two n n"], g: torch.Generator
) -> tuple[tuple[float, ...], np.ndarray]:
    """Loss over naive [clean or mixed, density]."""
    densities = DENSITIES[1:4] if config.smoke else DENSITIES
    column = torch.tensor(densities)
    net = initial(M.repeat_interleave(len(densities), 0), column.repeat(2), sizes.n // 2, g)
    return densities, evaluate(train(net, sizes, g), sizes.rows // 2, g)[0].reshape(2, -1)


def _sigma_figure(
    n: int, sigmas: list[float], mixed: np.ndarray, clean: np.ndarray, bound: np.ndarray, factorized: np.ndarray
) -> Figure:  # fmt: skip
    x, fine = np.array(sigmas), np.linspace(0, sigmas[-1], 61)
    shown = (
        across("trained, mixed labels", x, mixed.T), across("the same networks on clean labels", x, clean.T),
        points("factorization of I + M", [sigmas[CHOSEN]], [factorized.mean()]),
        line("half the spectrum of I + M", fine, 2 * semicircle_loss(fine, n)),
        line("rank bound, single features", x, bound.mean(1)),
        line("naive, clean", x, np.ones(len(x)), "guide"),
        line("naive, with the mixing left out", fine, [_honest(s, n) for s in fine], "guide"),
    )  # fmt: skip
    return Figure(
        "F12-mixing", "Compressed computation and its control", SOURCE,
        "Without mixing the trained network is as good as naive, not better. With mixed labels it falls below, least near "
        "the σ that half a spectrum predicts; on clean labels the same networks are worse than naive.",
        "The mixing here is symmetric and normal, as a random embedding gives; other mixings have other spectra.",
        still(Panel(f"n = {n}, m = {n // 2}", "σ of the mixing", "loss / naive loss", shown)), columns=1,
    )  # fmt: skip


def _matrix_figure(net: Trained) -> Figure:
    order = torch.linalg.eigh(net.M[0]).eigenvectors.flip(1)
    plus = net.W_in[0].relu() @ net.W_out[0]
    k = np.arange(1, len(order) + 1)
    share = (order.mT @ net.W_in[0]).square().sum(1) / net.W_in[0].square().sum()
    size = len(order) // 2
    spectrum = (
        line("I + M", k, torch.linalg.eigvalsh(net.M[0]).flip(0) + 1),
        points("network, symmetric part", k, torch.linalg.eigvalsh((plus + plus.T) / 2).flip(0)),
    )
    return Figure(
        "F12-spectrum", "What a network with mixed labels has learned", SOURCE,
        "The network follows the upper half of the spectrum of I + M and lies in those eigenvectors, not in features.",
        "One network of three.",
        still(Panel("spectrum", "eigenvalue", "size", spectrum),
              Panel("where the input weights lie", "eigenvector of M", "share of squared weights",
                    (points("network", k, share), line("by chance", k, np.full(len(k), 0.5 / size), "guide"))),
              Panel("A₊ of the first features", "feature", "output",
                    grid=grid(k[:30], k[:30], plus.T[:30, :30], diverging=True), square=True)), columns=3,
    )  # fmt: skip


def _density_figure(n: int, densities: tuple[float, ...], table: np.ndarray) -> Figure:
    x = np.array(densities)
    return Figure(
        "F12-density", "The same at other densities", "",
        "Clean labels stay at the naive loss while features are sparse.",
        "Dense features can be fitted better than naively by averages, which is no use of sparsity.",
        still(Panel(f"n = {n}", "density", "loss / naive loss",
                    (points("clean labels", x, table[0]), points("mixed labels", x, table[1]),
                     line("naive", x, np.ones(len(x)), "guide")), x_log=True)), columns=1,
    )  # fmt: skip
