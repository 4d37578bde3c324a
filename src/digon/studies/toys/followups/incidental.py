"""Are neurons polysemantic even when there are neurons enough? Incidental polysemanticity.

Model: identity data (n one-hot inputs), tied weights, m ≥ n neurons, loss Σ_ij (δ_ij − ReLU(W_i · W_j))² + λ ‖W‖₁.

1. L1 makes every feature choose one neuron. The choice is decided by the random start, so two features meet in one
   neuron as birthdays do. With equal signs they interfere and part; with opposite signs ReLU hides them from each other
   and they stay: about n²/(4m) neurons, half of the n²/(2m) pairs that meet.
2. How fast? A feature alone follows dw/dt = (1 − ‖w‖²) w − λ sign(w). All its weights grow by the same factor r and lose
   the same amount, so |w_k(t)| = r(t) (|w_k(0)| − u(t))₊ with du/dt = λ/r. The norm stays near 1, which fixes r; with
   v = u √m and half-normal |w_k(0)| √m = |z|,

       dv/dt = λ √m f₂(v)^½,   ‖w‖₁ = √m f₁/f₂^½,   f_k(v) = E (|z| − v)₊^k.

   The paper's formula, 1/(1/√m + λt), is this for exponential tails; all three are compared.
3. Noise in the hidden layer instead of L1: on W_i comes ±σ (negative excess kurtosis) or a normal number of the same
   variance. Sparse features show as ‖W_i‖₄⁴ near 1.

Source: Lecomte et al. 2023, "What Causes Polysemanticity?" (arXiv 2312.03096); step 2, exact part, is ours.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import ndtr
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ....records import Figure, Frame, Measurement, Panel
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import across, line, log_slope, still
from ..threads import one_thread

SOURCE = "Lecomte et al. 2023, What Causes Polysemanticity?"
L1 = 1e-3
RATE = 1e-3
LOW, HIGH = 0.8, 1.2
"""Sizes between which a weight counts as a whole feature."""
SIGMAS = (0.07, 0.1, 0.15)
KINDS = ("Bernoulli", "Gaussian")


@dataclass(frozen=True)
class Sizes:
    """How large the experiments are."""

    n: int
    neurons: tuple[int, ...]
    instances: int
    steps: int
    noise_steps: int
    """Steps of plain gradient descent under noise."""
    weights: int
    """m of a feature alone."""


SMOKE = Sizes(16, (16, 64, 128), 16, 2500, 3000, 10_000)
PAPER = Sizes(64, (64, 128, 256, 384, 512), 16, 6000, 100_000, 100_000)
FULL = Sizes(256, tuple(range(256, 4097, 256)), 16, 7500, 100_000, 100_000)


# --------------------------------------------------------------------------------------------------- L1 and collisions
def gradient(W: Float[Tensor, "i n m"], penalty: float) -> Float[Tensor, "i n m"]:
    """Gradient of Σ_ij (δ_ij − ReLU(W_i · W_j))² + penalty · Σ |W|."""
    y = (W @ W.mT).relu_()
    D = 4 * (y - torch.eye(W.shape[1], dtype=W.dtype)) * (y > 0)
    return torch.baddbmm(W.sign(), D, W, beta=penalty)


def identity_loss(W: Float[Tensor, "i n m"]) -> Float[Tensor, " i"]:
    """Σ_ij (δ_ij − ReLU(W_i · W_j))²."""
    return ((W @ W.mT).relu_() - torch.eye(W.shape[1], dtype=W.dtype)).square().sum((1, 2))


def sparsify(
    W: Float[Tensor, "i n m"], steps: int, penalty: float = L1, rate: float = RATE, *, plain: bool = False
) -> Float[Tensor, "i n m"]:
    """AdamW (`plain`: gradient descent) on the whole loss from the given weights, which are left as they are."""
    W = W.clone().requires_grad_()
    optimizer = torch.optim.SGD([W], lr=rate) if plain else torch.optim.AdamW([W], lr=rate, fused=True)
    for _ in range(steps):
        with torch.no_grad():
            W.grad = gradient(W, penalty)
        optimizer.step()
    return W.detach()


def whole(W: Float[Tensor, "i n m"]) -> Bool[Tensor, "i n m"]:
    """Weights that carry a whole feature."""
    return (W.abs() > LOW) & (W.abs() < HIGH)


def polysemantic(W: Float[Tensor, "i n m"]) -> Float[Tensor, " i"]:
    """Neurons that carry two or more whole features, per network."""
    return (whole(W).sum(1) >= 2).sum(1).double()


def opposite_share(W: Float[Tensor, "i n m"]) -> float:
    """Share of the neurons with exactly two whole features whose weights have opposite signs; NaN if there are none."""
    big = whole(W)
    pairs = big.sum(1) == 2
    signs = (W.sign() * big).sum(1)[pairs]
    return float((signs == 0).double().mean()) if len(signs) else math.nan


def expected_collisions(n: int, m: int) -> float:
    """Neurons that get features of both signs when each of n features falls on a random neuron with a random sign."""
    return m * (1 - 2 * (1 - 0.5 / m) ** n + (1 - 1 / m) ** n)


def start(n: int, m: int, instances: int, seed: int) -> Float[Tensor, "i n m"]:
    """Random weights of variance 1/m.

    Raises: ConfigError for fewer neurons than features.
    """
    if m < n:
        raise ConfigError(f"{m} neurons for {n} features", expected="at least one neuron per feature")
    return torch.randn(instances, n, m, generator=rng.stream(seed, "incidental", n, m)) / m**0.5


# --------------------------------------------------------------------------------------------------- one feature alone
def alone(m: int, penalty: float, times: np.ndarray, seed: int, step: float = 0.5) -> np.ndarray:
    """‖w‖₁ at the given times, by Euler steps of dw/dt = (1 − ‖w‖²) w − λ sign(w); weights that reach zero are gone."""
    w = np.abs(rng.numpy_stream(seed, "alone").standard_normal(m)) / m**0.5
    out, now = np.empty(len(times)), 0.0
    for k, until in enumerate(times):
        while now < until - 1e-9:
            h = min(step, until - now)
            w = w * (1 + h * (1 - w @ w)) - h * penalty
            if w.min() <= 0:
                w = w[w > 0]
            now += h
        out[k] = w.sum()
    return out


def folded(v: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """E (|z| − v)₊ and E (|z| − v)₊² of a normal z."""
    v = np.asarray(v, dtype=float)
    density, tail = np.exp(-(v**2) / 2) / math.sqrt(2 * math.pi), ndtr(-v)
    return np.asarray(2 * (density - v * tail)), np.asarray(2 * ((1 + v**2) * tail - v * density))


def norm_exact(m: int, penalty: float, times: np.ndarray) -> np.ndarray:
    """‖w‖₁ for m → ∞ weights that start half-normal and keep ‖w‖ = 1.

    Time as a function of the threshold v is an integral, which is inverted on a fine grid.
    Source: own; see the module's docstring.
    """
    v = np.linspace(0, 6.5, 200_001)
    first, second = folded(v)
    speed = 1 / np.sqrt(second)
    t = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(v))]) / (penalty * m**0.5)
    return np.interp(times, t, m**0.5 * first / np.sqrt(second))


def norm_formula(m: int, penalty: float, times: np.ndarray) -> np.ndarray:
    """The paper's 1/(1/√m + λt)."""
    return 1 / (m**-0.5 + penalty * times)


# --------------------------------------------------------------------------------------------------- noise
@dataclass(frozen=True)
class Noisy:
    """Networks trained under noise: rows are kind × sigma × seed."""

    steps: np.ndarray
    fourth: np.ndarray
    """Mean ‖W_i‖₄⁴ [kind, sigma, seed, step]."""
    squared: np.ndarray
    """Mean ‖W_i‖² at the end [kind, sigma, seed]."""


def noise_gradient(W: Float[Tensor, "i n m"], noise: Float[Tensor, "i n m"]) -> Float[Tensor, "i n m"]:
    """Gradient of Σ_ij (δ_ij − ReLU((W_i + noise_i) · W_j))²."""
    h = W + noise
    y = (h @ W.mT).relu_()
    D = 2 * (y - torch.eye(W.shape[1], dtype=W.dtype)) * (y > 0)
    return torch.baddbmm(D.mT @ h, D, W)


def under_noise(steps: int, seeds: int, seed: int, n: int = 8, m: int = 16, rate: float = 0.02) -> Noisy:
    """Gradient descent with fresh noise in every step, all kinds and strengths side by side."""
    g, block = rng.stream(seed, "noise"), 250
    sigma = torch.tensor(SIGMAS).repeat_interleave(seeds).view(-1, 1, 1)
    half = len(SIGMAS) * seeds
    W = torch.randn(half, n, m, generator=g).repeat(2, 1, 1) / m**0.5
    noise: Tensor | None = None
    every, at, fourth = max(steps // 40, 1), list[int](), list[Tensor]()
    for step in range(steps + 1):
        if step % block == 0 or noise is None:
            normal = torch.randn(block, half, n, m, generator=g)
            noise = torch.cat([normal.sign(), normal], 1) * sigma.repeat(2, 1, 1)
        if step % every == 0:
            at.append(step)
            fourth.append(W.pow(4).sum(-1).mean(-1))
        W = W.sub_(noise_gradient(W, noise[step % block]), alpha=rate)
    shape = (2, len(SIGMAS), seeds)
    return Noisy(
        np.array(at), torch.stack(fourth, -1).view(*shape, -1).double().numpy(),
        W.square().sum(-1).mean(-1).view(shape).double().numpy(),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the study
def run(config: StudyConfig, say: Say) -> Outcome:
    """Collisions over the number of neurons, the path of ‖w‖₁, and what kind of noise makes features sparse."""
    sizes = SMOKE if config.smoke else FULL if config.full else PAPER
    values, exact = dict[str, Measurement](), dict[str, float]()
    first = _collisions(config, sizes, values, exact, say)
    say("incidental: one feature alone")
    second = _path(config, sizes, values, exact)
    say("incidental: noise instead of L1")
    with one_thread():
        third = _noise(config, sizes, values)
    return Outcome(values, exact, (first, second, third))


def _collisions(
    config: StudyConfig, sizes: Sizes, values: dict[str, Measurement], exact: dict[str, float], say: Say
) -> Figure:
    n, counts, opposite = sizes.n, list[np.ndarray](), list[float]()
    for m in sizes.neurons:
        say(f"incidental: {n} features, {m} neurons")
        first = start(n, m, sizes.instances, config.seed)
        W = sparsify(first, sizes.steps)
        counts.append(polysemantic(W).numpy())
        opposite.append(opposite_share(W))
        if m == 4 * n:
            kept = _kept(first, W).numpy()
            values["kept_share_adam"] = measured("kept_share_adam", kept, method=f"n = {n}, m = {m}, AdamW")
    say("incidental: other starts")
    _aligned(config, sizes, values)
    wide = [k for k, m in enumerate(sizes.neurons) if m >= 4 * n]
    ratios = np.stack([counts[k] * 4 * sizes.neurons[k] / n**2 for k in wide])
    method = f"n = {n}, m = {', '.join(str(sizes.neurons[k]) for k in wide)}, {sizes.instances} networks each"
    values["collision_ratio"] = measured("collision_ratio", ratios.mean(0), method=method, seed=config.seed)
    chance = [expected_collisions(n, sizes.neurons[k]) * 4 * sizes.neurons[k] / n**2 for k in wide]
    exact["collision_ratio"] = float(np.mean(chance))
    many = np.array([sizes.neurons[k] for k in wide], dtype=float)
    slope = log_slope(many, np.array([max(counts[k].mean(), 1e-3) for k in wide]))
    values["collision_slope"] = measured("collision_slope", slope, method=method, seed=config.seed)
    exact["collision_slope"] = log_slope(many, np.array([expected_collisions(n, sizes.neurons[k]) for k in wide]))
    known = [s for s in opposite if not math.isnan(s)]
    share = float(np.mean(known)) if known else math.nan
    values["opposite_share"] = measured("opposite_share", share, method="neurons with exactly two features")
    m = np.array(sizes.neurons, dtype=float)
    panel = Panel(
        "polysemantic neurons", "neurons m", "neurons with two or more features",
        (across("trained", m, np.stack(counts, 1)), line("n²/(4m)", m, n**2 / (4 * m), "published"),
         line("random choices, both signs", m, [expected_collisions(n, int(k)) for k in m])), x_log=True, y_log=True,
    )  # fmt: skip
    return Figure(
        "F6-collisions", "Features that meet by chance", SOURCE,
        "There are neurons enough for every feature, and still some neurons carry two: about as many as random choices "
        "would give, falling as 1/m.",
        "With hardly more neurons than features, L1 has not finished its work when training ends, and fewer are counted.",
        still(panel), columns=1,
    )  # fmt: skip


def _kept(first: Float[Tensor, "i n m"], W: Float[Tensor, "i n m"]) -> Float[Tensor, " i"]:
    """Share of the features that end on the neuron on which they were largest at the start."""
    return (W.abs().argmax(2) == first.abs().argmax(2)).double().mean(1)


def _aligned(config: StudyConfig, sizes: Sizes, values: dict[str, Measurement]) -> None:
    """Gradient descent from random weights, and from weights in which every feature leans to a neuron of its own."""
    n, m = sizes.n, 4 * sizes.n
    first = start(n, m, sizes.instances // 2, config.seed)
    lean = first.clone()
    lean[:, torch.arange(n), torch.arange(n)] += 0.5
    steps, strong = (2500 if config.smoke else 10_000), 10 * L1
    W, aligned = (sparsify(w, steps, strong, 0.05, plain=True) for w in (first, lean))
    whole_loss = lambda w: (identity_loss(w) + strong * w.abs().sum((1, 2))) / n  # noqa: E731
    method = f"n = {n}, m = {m}, {len(first)} networks, gradient descent, λ = {strong:g}"
    for name, samples in {
        "plain_polysemantic": polysemantic(W), "aligned_polysemantic": polysemantic(aligned),
        "loss_ratio": whole_loss(W) / whole_loss(aligned), "kept_share": _kept(first, W),
    }.items():  # fmt: skip
        values[name] = measured(name, samples.double().numpy(), method=method, seed=config.seed)


def _path(config: StudyConfig, sizes: Sizes, values: dict[str, Measurement], exact: dict[str, float]) -> Figure:
    m = sizes.weights
    penalty = 1.0 / m
    times = np.concatenate([[0.0], np.geomspace(0.1 * m**-0.5, 0.1, 40)]) / penalty
    runs = np.stack([alone(m, penalty, times, config.seed + s, 1.0 if config.smoke else 0.5) for s in range(3)])
    theory, formula = norm_exact(m, penalty, times), norm_formula(m, penalty, times)
    for name, reference in (("formula_gap", formula), ("exact_gap", theory)):
        gaps = np.abs(runs / reference - 1).max(1)
        values[name] = measured(name, gaps, method=f"largest relative distance of ‖w‖₁, m = {m:,}, λ = {penalty:g}")
    late = times * penalty >= 5 * m**-0.5
    exact["formula_gap"] = float(np.abs(theory / formula - 1).max())
    slopes = [log_slope(times[late], r[late]) for r in runs]
    values["late_slope"] = measured("late_slope", slopes, method="‖w‖₁ against time, λt ≥ 5/√m")
    exact["late_slope"] = log_slope(times[late], theory[late])
    x = times[1:] * penalty
    panel = Panel(
        f"m = {m:,} weights of one feature", "λ t", "‖w‖₁",
        (across("simulated", x, runs[:, 1:]), line("exact, m → ∞", x, theory[1:]),
         line("1/(1/√m + λt)", x, formula[1:], "published")), x_log=True, y_log=True,
    )  # fmt: skip
    return Figure(
        "F6-path", "How fast L1 makes a feature sparse", SOURCE,
        "The L1 norm falls as one over time once the small weights are gone, and the winner takes all.",
        "A feature alone: in a network, interference moves the weights before L1 sorts them.",
        still(panel), columns=1,
    )  # fmt: skip


def _noise(config: StudyConfig, sizes: Sizes, values: dict[str, Measurement]) -> Figure:
    found = under_noise(sizes.noise_steps, 4 if config.smoke else 8, config.seed)
    method = f"n = 8, m = 16, σ = {', '.join(map(str, SIGMAS))}, {sizes.noise_steps:,} steps of SGD"
    for k, kind in enumerate(KINDS):
        name = f"fourth_norm_{kind.lower()}"
        values[name] = measured(name, found.fourth[k, :, :, -1].mean(0), method=method, seed=config.seed)
        strong = f"{name}_strong"
        values[strong] = measured(strong, found.fourth[k, -1, :, -1], method=f"the same, σ = {SIGMAS[-1]}")
    frames = [
        Frame(f"σ = {sigma:g}", (Panel(
            "mean ‖W_i‖₄⁴", "step", "fourth norm",
            tuple(across(kind, found.steps, found.fourth[k, s]) for k, kind in enumerate(KINDS)),
        ),)) for s, sigma in enumerate(SIGMAS)
    ]  # fmt: skip
    return Figure(
        "F6-noise", "Noise that makes features sparse", SOURCE,
        "Under ±σ noise the fourth norm rises: features move onto single neurons. Normal noise of equal variance leaves "
        "them spread.",
        "Eight features in sixteen neurons; which noise real networks see is another question.",
        tuple(frames), "strength of the noise", columns=1,
    )  # fmt: skip
