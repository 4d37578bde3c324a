"""Which k-gons are critical points when features come one at a time, how low and how flat are they?

Data: one of c features is active, with a value from U[0, 1]. Model: x' = ReLU(W Wᵀ x + b) with two hidden dimensions.
The loss on all data is a finite sum of integrals of squared lines,

    L(W, b) = 1/c Σ_i [ ∫ (x − ReLU(W_i² x + b_i))² dx + Σ_{j≠i} ∫ ReLU(W_j·W_i x + b_j)² dx ],

whose critical points are regular k-gons (norm l, bias b) with c − k features at zero. A feature at zero with bias
1/(2c) lowers the loss by 1/(4c²) and is written "+". With h the potential of the polygon, L = (h + c − k) / (3c).

The learning coefficient λ of a nondegenerate critical manifold is half the rank of the Hessian; n samples prefer the
point with the lowest free energy n L + λ log n + ½‖w‖².

Source: Chen et al. 2023, "Dynamical versus Bayesian Phase Transitions in a Toy Model of Superposition".
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import root, root_scalar

from ....errors import ConfigError

PUBLISHED = {
    4: (1.0, 0.0),
    5: (1.17046, -0.28230),
    6: (1.32053, -0.61814),
    7: (1.44839, -0.96691),
    8: (1.55045, -1.29119),
}
"""Norm and bias of the critical k-gons as printed; starts of the search."""


@dataclass(frozen=True)
class Level:
    """A critical point: k corners, some of the other features with a positive bias."""

    k: int
    plus: int
    loss: float
    rank: int
    """Rank of the Hessian; −1 where the loss is not twice differentiable."""
    square: float
    """½ (‖W‖² + ‖b‖²) without the biases that change nothing."""
    W: np.ndarray
    b: np.ndarray

    @property
    def name(self) -> str:
        """Number of corners, a plus per positive bias elsewhere."""
        return f"{self.k}{'+' * self.plus}"


def loss_and_gradient(W: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact loss [...] of W [..., c, 2] and b [..., c], and its gradients."""
    G, B = W @ W.swapaxes(-1, -2), b[..., None, :]
    # Output j is on between `start` and `stop` of the active feature's value.
    zero = np.divide(-B, G, out=np.zeros_like(G), where=G != 0).clip(0, 1)
    start = np.where(G > 0, zero, 0.0)
    stop = np.where(G < 0, zero, np.where((G > 0) | (B > 0), 1.0, 0.0))
    m0, m1, m2 = stop - start, (stop * stop - start * start) / 2, (stop * stop * stop - start * start * start) / 3
    c = G.shape[-1]
    slope = G - np.eye(c)
    square = slope * slope * m2 + 2 * slope * B * m1 + B * B * m0 - np.eye(c) * m2
    to_G = 2 * (slope * m2 + B * m1) / c
    to_b = 2 * (slope * m1 + B * m0).sum(-2) / c
    return np.asarray(1 / 3 + square.sum((-1, -2)) / c), (to_G + to_G.swapaxes(-1, -2)) @ W, to_b


def polygon(k: int, c: int, norm: float, bias: float, plus: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """W [c, 2] and b [c] of a k-gon; features at zero have bias 1/(2c) (the first `plus` of them) or −1."""
    angle = 2 * np.pi * np.arange(k) / k
    W, b = np.zeros((c, 2)), np.full(c, -1.0)
    W[:k] = norm * np.stack([np.cos(angle), np.sin(angle)], 1)
    b[:k], b[k : k + plus] = bias, 1 / (2 * c)
    return W, b


def search(k: int, start: tuple[float, float]) -> tuple[float, float, float] | None:
    """Norm, bias and potential h of a critical k-gon near `start` (norm, bias), or None if there is none.

    Raises: ConfigError for fewer than three corners.
    """
    if k < 3:
        raise ConfigError(f"a polygon of {k} corners", expected="three or more")

    def slopes(at: np.ndarray) -> list[float]:
        W, b = polygon(k, k, *at)
        _, to_W, to_b = loss_and_gradient(W, b)
        return [float((to_W * W).sum() / at[0]), float(to_b.sum())]

    found = root(slopes, np.array(start), tol=1e-14)
    norm, bias = float(abs(found.x[0])), float(found.x[1])
    if max(map(abs, slopes(np.array([norm, bias])))) > 1e-10 or norm**2 + bias <= 1e-3:
        return None
    return norm, bias, 3 * k * float(loss_and_gradient(*polygon(k, k, norm, bias))[0])


def critical(k: int) -> tuple[float, float, float]:
    """Norm, bias and potential h of the critical k-gon, 3 ≤ k ≤ 8.

    Raises: ConfigError for other numbers of corners.
    """
    if k in (3, 4):
        return 1.0, 0.0, 0.0  # the corners do not disturb each other: no error at all
    if k not in PUBLISHED:
        raise ConfigError(f"a polygon of {k} corners", expected="3 to 8", hint="`search` looks near a start")
    found = search(k, PUBLISHED[k])
    assert found is not None, k
    return found


def search_widely(k: int) -> tuple[float, float, float] | None:
    """A critical k-gon from a grid of starts."""
    starts = [(norm, b) for norm in np.linspace(0.9, 1.8, 5) for b in np.linspace(-1.8, -0.3, 6)]
    return next((found for start in starts if (found := search(k, start)) is not None), None)


def hessian(W: np.ndarray, b: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Second derivatives by central differences of the exact gradient; parameters in the order W, b."""
    c = len(b)
    moved = np.concatenate([W.ravel(), b]) + step * np.concatenate([np.eye(3 * c), -np.eye(3 * c)])
    _, to_W, to_b = loss_and_gradient(moved[:, : 2 * c].reshape(-1, c, 2), moved[:, 2 * c :])
    flat = np.concatenate([to_W.reshape(len(moved), -1), to_b], 1)
    H = (flat[: 3 * c] - flat[3 * c :]) / (2 * step)
    return (H + H.T) / 2


def levels(c: int) -> list[Level]:
    """The k-gon levels of c features, four corners and up, from the highest loss to the lowest."""
    out: list[Level] = []
    for k in range(4, c + 1):
        found = critical(k)
        for plus in range(c - k + 1):
            W, b = polygon(k, c, *found[:2], plus)
            rank = int((np.abs(np.linalg.eigvalsh(hessian(W, b))) > 1e-6).sum()) if k > 4 else -1
            square = 0.5 * float((W**2).sum() + (b[: k + plus] ** 2).sum())
            out.append(Level(k, plus, float(loss_and_gradient(W, b)[0]), rank, square, W, b))
    return sorted(out, key=lambda level: -level.loss)


def crossover(high: Level, low: Level, prior: bool = True) -> float:
    """Number of samples beyond which the free energy n L + λ log n (+ ½‖w‖²) prefers the lower level."""
    loss, rank = low.loss - high.loss, (low.rank - high.rank) / 2
    constant = low.square - high.square if prior else 0.0
    return float(root_scalar(lambda n: n * loss + rank * math.log(n) + constant, bracket=(20, 1e6)).root)
