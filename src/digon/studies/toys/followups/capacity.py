"""How should features share the dimensions? Quadratic neurons, where the whole answer is a formula.

Model: features x_i, independent, symmetric, of variance 1 and kurtosis β; the target is Σ v_i x_i², the network
Σ_k (w_k · x)² plus a constant. With G the Gram matrix of the features' directions and a_i = G_ii − v_i, the best
constant leaves

    loss = (β − 1) Σ a_i² + 2 Σ_{i≠j} G_ij²
    C_i = G_ii² / Σ_j G_ij²                 capacity of feature i, in [0, 1]; their sum is at most d

For fixed C_i the best G_ii leaves L_i(C) = v_i² · 2(β − 1)(1 − C) / (2 + (β − 3) C), so Σ L_i(C_i) over capacities
that add up to d bounds the loss from below (water filling). The bound is attained: at an interior optimum
G_ii = μ C_i with one μ for all features that share, which is a tight frame, and the Schur–Horn theorem supplies it.
β > 3: L is convex, features share. β < 3: concave, every feature gets a dimension or none. A feature that is zero with
probability 1 − p and else U[−1, 1] has β = 9 / (5p): sparse features are the ones that share.

Source: Scherlis et al. 2022, "Polysemanticity and Capacity in Neural Networks"; the attainment argument is ours.
"""

import numpy as np
from scipy.optimize import minimize

from .... import rng
from ....records import Figure, Panel, Series
from ..base import Outcome, Say, StudyConfig, measured
from ..sketch import grid, line, points, still

D = 3
IMPORTANCES = np.geomspace(1.0, 0.25, 8)
"""v_i of the experiment: eight features for three dimensions."""
KURTOSES = (1.8, 2.5, 3.0, 4.0, 6.0, 12.0)
STARTS = 20


def feature_loss(capacity: np.ndarray, v: np.ndarray, kurtosis: float) -> np.ndarray:
    """L_i(C): least loss of features with the given capacities."""
    return v**2 * 2 * (kurtosis - 1) * (1 - capacity) / (2 + (kurtosis - 3) * capacity)


def water_filling(v: np.ndarray, d: int, kurtosis: float) -> np.ndarray:
    """Capacities that minimize Σ L_i(C_i) under 0 ≤ C_i ≤ 1 and Σ C_i = d.

    Range: [0, 1]. For β ≤ 3 the d most important features get all. Source: module docstring.
    """
    order = np.argsort(-v)
    if kurtosis <= 3 or len(v) <= d:
        out = np.zeros(len(v))
        out[order[:d]] = 1.0
        return out

    def at(multiplier: float) -> np.ndarray:
        return ((v * (kurtosis - 1) / multiplier - 2) / (kurtosis - 3)).clip(0, 1)

    low, high = 1e-9 * v.max(), v.max() * (kurtosis - 1)
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).sum() > d else (low, middle)
    return at(high)


def loss_and_gradient(W: np.ndarray, v: np.ndarray, kurtosis: float) -> tuple[float, np.ndarray]:
    """Exact loss of directions W [n, d], with the best output constant, and its gradient."""
    G = W @ W.T
    a = np.diag(G) - v
    off = G - np.diag(np.diag(G))
    loss = (kurtosis - 1) * (a**2).sum() + 2 * (off**2).sum()
    return float(loss), 4 * (kurtosis - 1) * a[:, None] * W + 8 * off @ W


def capacities(W: np.ndarray) -> np.ndarray:
    """C_i of directions W [n, d]; 0 for features of norm below 0.01."""
    G = W @ W.T
    size = np.diag(G)
    return np.where(size > 1e-4, size**2 / (G**2).sum(1).clip(1e-12), 0.0)


def train(v: np.ndarray, d: int, kurtosis: float, starts: int, seed: int) -> tuple[float, np.ndarray]:
    """Best loss and directions over random starts of L-BFGS on the exact loss."""
    draw = rng.numpy_stream(seed, "capacity", round(1000 * kurtosis))
    best, found = np.inf, np.zeros((len(v), d))
    for _ in range(starts):
        start = 0.5 * draw.standard_normal(len(v) * d)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            loss, gradient = loss_and_gradient(flat.reshape(-1, d), v, kurtosis)
            return loss, gradient.ravel()

        end = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14})
        if end.fun < best:
            best, found = float(end.fun), end.x.reshape(-1, d)
    return best, found


def gradient_descent(v: np.ndarray, d: int, kurtosis: float, seeds: range, steps: int = 6000) -> np.ndarray:
    """Losses that plain gradient descent reaches from several starts, without choosing the best."""
    W = np.stack([0.5 * rng.numpy_stream(s, "capacity descent").standard_normal((len(v), d)) for s in seeds])
    rate = 0.02 / (kurtosis + 1)
    for _ in range(steps):
        G = W @ W.mT
        a = np.diagonal(G, axis1=1, axis2=2) - v
        off = G - np.einsum("sn,nm->snm", np.diagonal(G, axis1=1, axis2=2), np.eye(len(v)))
        W = W - rate * (4 * (kurtosis - 1) * a[..., None] * W + 8 * off @ W)
    return np.array([loss_and_gradient(w, v, kurtosis)[0] for w in W])


def sharing_threshold(seed: int, starts: int, step: float) -> float:
    """Kurtosis at which two equal features begin to share one dimension (n = 2, d = 1)."""
    for kurtosis in np.arange(2.5, 3.5, step):
        _, W = train(np.ones(2), 1, float(kurtosis), starts, seed)
        if capacities(W).max() < 0.98:
            return float(kurtosis - step / 2)
    return float("nan")


def phase_diagram(kurtosis: np.ndarray, ratio: np.ndarray, seed: int) -> np.ndarray:
    """Capacity [kurtosis, ratio] of the second of two features with v = (1, ratio) in one dimension, by training."""
    out = np.zeros((len(kurtosis), len(ratio)))
    for i, beta in enumerate(kurtosis):
        for j, r in enumerate(ratio):
            out[i, j] = capacities(train(np.array([1.0, r]), 1, float(beta), 4, seed)[1])[1]
    return out


def theory_diagram(kurtosis: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The same from the formula."""
    return np.array([[water_filling(np.array([1.0, r]), 1, float(b))[1] for r in ratio] for b in kurtosis])


def monte_carlo(W: np.ndarray, v: np.ndarray, density: float, rows: int, seed: int) -> tuple[float, float, float]:
    """Sampled loss of one network on sparse symmetric features scaled to variance 1, its standard error, and β."""
    draw = rng.numpy_stream(seed, "capacity rows")
    active = draw.random((rows, len(v))) < density
    x = active * draw.uniform(-1, 1, (rows, len(v))) * (3 / density) ** 0.5
    error = ((x @ W) ** 2).sum(1) - (x**2) @ v
    squares = (error - error.mean()) ** 2
    return float(squares.mean()), float(squares.std() / rows**0.5), 9 / (5 * density)


def run(config: StudyConfig, say: Say) -> Outcome:
    """Train quadratic networks at several kurtoses and compare with water filling."""
    smoke, v = config.smoke, IMPORTANCES
    say("capacity: training quadratic networks on their exact loss")
    starts = 8 if smoke else STARTS
    ratios, plain, sums, found, allocation = [], [], [], [], []
    for beta in KURTOSES:
        plan = water_filling(v, D, beta)
        least = feature_loss(plan, v, beta).sum()
        loss, W = train(v, D, beta, starts, config.seed)
        ratios.append(loss / least)
        sums.append(capacities(W).sum())
        found.append(capacities(W))
        allocation.append(plan)
        if beta > 3:
            plain.append(gradient_descent(v, D, beta, range(3), 2000 if smoke else 6000) / least)
    whole = [np.abs(c - c.round()).max() for c, beta in zip(found, KURTOSES, strict=True) if beta < 3]
    gaps = [np.abs(c - a).max() for c, a, beta in zip(found, allocation, KURTOSES, strict=True) if beta != 3]
    sharing = [int(((a > 0.02) & (a < 0.98)).sum()) for a in found]
    say("capacity: locating where sharing begins")
    threshold = [sharing_threshold(s, 6, 0.05) for s in range(config.seed, config.seed + 3)]
    axis_b, axis_r = np.linspace(1.5, 8, 8 if smoke else 27), np.geomspace(0.2, 5, 9 if smoke else 33)
    trained, exact = phase_diagram(axis_b, axis_r, config.seed), theory_diagram(axis_b, axis_r)
    matches = float((np.abs(trained - exact) < 0.05).mean())
    W = train(v, D, 6.0, 2, config.seed)[1]
    sampled, error, beta = monte_carlo(W, v, 0.3, 400_000, config.seed)
    z = abs(sampled - loss_and_gradient(W, v, beta)[0]) / error
    seed = config.seed
    values = {
        "attained": measured("attained", max(ratios), method="worst ratio of trained to water-filling loss", seed=seed),
        "descent_attained": measured(
            "descent_attained", np.stack(plain).max(0), method="gradient descent, worst kurtosis above 3, three seeds", seed=seed
        ),
        "whole_below_3": measured("whole_below_3", max(whole), method="largest distance of a capacity to 0 or 1"),
        "allocation_gap": measured("allocation_gap", max(gaps), method="largest difference to water filling"),
        "threshold": measured("threshold", threshold, method="scan of the kurtosis, three seeds", seed=seed),
        "capacity_sum": measured("capacity_sum", sums, method=f"sum of capacities, {len(KURTOSES)} kurtoses"),
        "sharing_grows": measured(
            "sharing_grows",
            float(sharing[0] == sharing[1] == 0 < sharing[3] <= sharing[4] <= sharing[5]),
            method="number of features with a capacity between 0 and 1, by kurtosis",
        ),
        "diagram_agrees": measured("diagram_agrees", matches, method="share of pixels within 0.05 of water filling"),
        "monte_carlo_z": measured("monte_carlo_z", z, method="distance to 400,000 samples in standard errors"),
    }  # fmt: skip
    exact_values = {"attained": 1.0, "threshold": 3.0, "capacity_sum": float(D)}
    figures = (_allocation(v, found, allocation), _diagram(axis_b, axis_r, trained, exact))
    return Outcome(values, exact_values, figures)


def _allocation(v: np.ndarray, found: list[np.ndarray], theory: list[np.ndarray]) -> Figure:
    panels = tuple(
        Panel(
            f"kurtosis {beta:g}", "importance v", "capacity",
            (line("water filling", v, t), points("trained", v, c)),
            x_log=True,
        )
        for beta, c, t in zip(KURTOSES, found, theory, strict=True)
    )  # fmt: skip
    return Figure(
        "F1-allocation", "Capacity by importance", "Scherlis et al. 2022, capacity allocation",
        "Below kurtosis 3 a feature gets a whole dimension or none. Above, important features keep one, the middle "
        "ones share, the least important get nothing.",
        "At kurtosis exactly 3 every split is equally good, so trained points may lie anywhere.",
        still(*panels),
    )  # fmt: skip


def _diagram(kurtosis: np.ndarray, ratio: np.ndarray, trained: np.ndarray, exact: np.ndarray) -> Figure:
    edge = np.linspace(max(3.0, kurtosis[0]), kurtosis[-1], 60)
    edges = (line("feature 2 ignored", 2 / (edge - 1), edge), line("feature 1 ignored", (edge - 1) / 2, edge))
    edges = tuple(_within(e, ratio) for e in edges)
    panels = tuple(
        Panel(
            title, "v₂ / v₁", "kurtosis", edges, grid(ratio, kurtosis, values),
            x_log=True, color_label="capacity of feature 2", color_range=(0.0, 1.0),
        )
        for title, values in (("trained", trained), ("theory", exact))
    )  # fmt: skip
    return Figure(
        "F1-phases", "Two features, one dimension: who gets it?", "Scherlis et al. 2022, phase diagram",
        "A wedge of shared capacity opens at kurtosis 3 and widens as features get heavier tails (sparser).",
        "The network is quadratic and its loss has no bias to learn; the ReLU model's diagram has other boundaries.",
        still(*panels), columns=2,
    )  # fmt: skip


def _within(edge: Series, ratio: np.ndarray) -> Series:
    keep = [i for i, x in enumerate(edge.x) if ratio[0] <= x <= ratio[-1]]
    return line(edge.name, [edge.x[i] for i in keep], [edge.y[i] for i in keep])
