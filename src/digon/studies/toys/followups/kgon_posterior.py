"""Samples of the posterior of a tiny network: how flat is a critical point, which shape do n data prefer?

Chains move by Hamiltonian Monte Carlo under exp(−n L(w) − ½ |w|²) with the exact loss L of one-hot data (`kgon_levels`).
Around a critical point n (E L − L*) tends to its learning coefficient. Across shapes, replicas at neighboring n are
exchanged, so that the chains at large n see every basin.

Source: Chen et al. 2023, "Dynamical versus Bayesian Phase Transitions in a Toy Model of Superposition"; Lau et al. 2023,
"Quantifying degeneracy in singular models via the learning coefficient" (estimator).
"""

from dataclasses import dataclass

import numpy as np

from .... import rng
from .kgon_levels import Level, loss_and_gradient

C = 6
"""Features."""
LLC_SAMPLES = 200_000
LEAPS = 8
"""Leapfrog steps of an update."""


def hamiltonian(
    w: np.ndarray, n: np.ndarray, pull: float, center: np.ndarray | float, step: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One Hamiltonian Monte Carlo update of chains w [chains, 3c] under exp(−n L − ½ pull |w − center|²).

    Returns the chains and which of them moved.
    """
    c = w.shape[1] // 3

    def potential(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loss, to_W, to_b = loss_and_gradient(at[:, : 2 * c].reshape(-1, c, 2), at[:, 2 * c :])
        slope = np.concatenate([to_W.reshape(len(at), -1), to_b], 1)
        return n * loss + 0.5 * pull * ((at - center) ** 2).sum(1), n[:, None] * slope + pull * (at - center)

    speed = draw.standard_normal(w.shape)
    before, slope = potential(w)
    before, moved, after = before + 0.5 * (speed**2).sum(1), w, before
    with np.errstate(over="ignore", invalid="ignore"):  # a path that runs away is not accepted
        for _ in range(LEAPS):
            speed = speed - 0.5 * step[:, None] * slope
            moved = moved + step[:, None] * speed
            after, slope = potential(moved)
            speed = speed - 0.5 * step[:, None] * slope
        accept = np.log(draw.random(len(w))) < before - after - 0.5 * (speed**2).sum(1)
    return np.where(accept[:, None], moved, w), accept


def sampled_coefficient(level: Level, chains: int, updates: int, seed: int) -> np.ndarray:
    """n (E L − L*) of chains that explore the surroundings of a level: its learning coefficient, one per chain."""
    draw = rng.numpy_stream(seed, "kgons coefficient", level.name)
    start = np.concatenate([level.W.ravel(), level.b])
    w, n = np.repeat(start[None], chains, 0), np.full(chains, float(LLC_SAMPLES))
    total, step = np.zeros(chains), np.full(chains, 0.8 / LLC_SAMPLES**0.5)
    for update in range(updates):
        w, _ = hamiltonian(w, n, 1.0, start, step * draw.uniform(0.5, 1.5, chains), draw)
        if update >= updates // 4:
            c = len(level.b)
            total += loss_and_gradient(w[:, : 2 * c].reshape(-1, c, 2), w[:, 2 * c :])[0] - level.loss
    return LLC_SAMPLES * total / (updates - updates // 4)


@dataclass(frozen=True)
class Posterior:
    """Shares of shapes among samples of the posterior, by number of data."""

    n: np.ndarray
    share: np.ndarray
    """[seeds, n, corners 3 to C]"""


def posterior(n: np.ndarray, seeds: range, updates: int) -> Posterior:
    """Replica exchange over the number of data n [levels], prior N(0, 1) on all parameters, exact loss."""
    draw = rng.numpy_stream(seeds[0], "kgons posterior")
    runs, levels = len(seeds), len(n)
    w, counts = draw.standard_normal((runs * levels, 3 * C)), np.zeros((runs * levels, C + 1))
    samples = np.tile(n, runs)
    step = np.minimum(0.15, 0.8 / samples**0.5)
    for update in range(updates):
        w, _ = hamiltonian(w, samples, 1.0, 0.0, step * draw.uniform(0.5, 1.5, len(w)), draw)
        w = exchange(w.reshape(runs, levels, -1), n, update % 2, draw).reshape(w.shape)
        if update >= updates // 5:
            counts[np.arange(len(w)), corners(w[:, : 2 * C].reshape(-1, C, 2))] += 1
    share = counts[:, 3:] / counts.sum(1, keepdims=True)
    return Posterior(n, share.reshape(runs, levels, -1))


def exchange(w: np.ndarray, n: np.ndarray, first: int, draw: np.random.Generator) -> np.ndarray:
    """Swap neighboring replicas [runs, n, 3c] with the probability that keeps both posteriors."""
    low = np.arange(first, len(n) - 1, 2)
    loss = loss_and_gradient(w[..., : 2 * C].reshape(*w.shape[:-1], C, 2), w[..., 2 * C :])[0]
    gain = (n[low] - n[low + 1]) * (loss[:, low] - loss[:, low + 1])
    run, pair = np.nonzero(np.log(draw.random(gain.shape)) < gain)
    out = w.copy()
    out[run, low[pair]], out[run, low[pair] + 1] = w[run, low[pair] + 1], w[run, low[pair]]
    return out


def crossing(found: Posterior, many: int) -> np.ndarray:
    """Per seed, the number of data at which shapes of `many` corners become more frequent than those of one fewer."""
    out = []
    for share in found.share:
        lead = share[:, many - 3] - share[:, many - 4]
        at = int(np.nonzero(lead < 0)[0].max())
        part = lead[at] / (lead[at] - lead[at + 1]) if at + 1 < len(lead) else np.nan
        out.append(np.exp(np.log(found.n[at]) + part * np.log(found.n[min(at + 1, len(lead) - 1)] / found.n[at])))
    return np.array(out)


def corners(W: np.ndarray) -> np.ndarray:
    """Number of corners of the convex hull of points [..., c, 2]: how many are farthest in some of 720 directions."""
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    far = (W @ np.stack([np.cos(angle), np.sin(angle)])).argmax(-2)
    return (far[..., None, :] == np.arange(W.shape[-2])[:, None]).any(-1).sum(-1)
