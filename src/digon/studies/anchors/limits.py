"""Anchors from theory: which sparse codes ℓ1 recovers, and how many dimensions one threshold needs to read features.

Reading. A Gaussian dictionary of n features in d dimensions, k of them active with value 1; feature i is read as w_i · h.
Given h, the scores of active and silent features are

    A_i = H + σ (Z_i − Z̄),   B_j = σ W_j,   H ~ χ²_d / d,   σ = √(k H / d),   Z, W standard normal,

and one threshold reads all features if the least A is above the largest B. To first order that takes
k (√(2 ln k) + √(2 ln(n − k)))² dimensions; with the quantiles Φ⁻¹(1 − 1/k) and Φ⁻¹(1 − 1/(n − k)) in place of the square
roots, one active feature is expected below the threshold and one silent feature above it (if H were 1: it is not, and
for few dimensions its scatter costs some more).

Sources: Donoho & Tanner 2009; Amelunxen et al. 2014; law of scores and first order after "Ball & Box" (theorem 3.1,
corollary 6.3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import chi2

from ... import rng
from ...measures.bounds import donoho_tanner, read_dimensions, recovery_dimensions
from ..toys.base import Outcome, Say
from ..toys.paper.sensing import half_recovered
from .base import Table, seeds

# -------------------------------------------------------------------------------------------------- recovery
TABLE = {
    1 / 64: (0.117, 0.137), 1 / 32: (0.137, 0.164), 1 / 16: (0.164, 0.203), 1 / 8: (0.204, 0.264),
    1 / 4: (0.267, 0.365), 1 / 2: (0.386, 0.558), 3 / 4: (0.534, 0.766),
}  # fmt: skip
"""d/n → k/d at the threshold, for signed and for non-negative codes."""
SIZE, TRIALS = 200, 16


def recovery(seed: int, say: Say) -> Outcome:
    """The curve at published points, and linear programs beside it."""
    table = Table(seed)
    for column, name in enumerate(("signed", "nonnegative")):
        error = max(abs(float(donoho_tanner(d, signed=not column)) - row[column]) for d, row in TABLE.items())
        table.note(f"table_{name}", error, f"largest distance from the published value at {len(TABLE)} points", 0.0)
    for delta in (1 / 4, 1 / 2, 3 / 4):
        k = round(float(donoho_tanner(delta, signed=False)) * delta * SIZE)
        say(f"linear programs: {k} of {SIZE} features")
        limit = recovery_dimensions(SIZE, k, signed=False)
        found = [half_recovered(SIZE, k, TRIALS, s) / limit for s in seeds(seed, "recovery")]
        text = f"dimensions at which half of the vectors are recovered over the curve's, n = {SIZE}, k = {k}"
        table.note(f"programs_{100 * delta:.0f}", found, text, 1.0)
    return table.outcome()


# ----------------------------------------------------------------------------------------------------- reads
SIZES = ((256, 4), (1024, 8), (4096, 16))
DRAWS, SCORES = 20_000, 1_000_000
DICTIONARIES, SUPPORTS = 25, 8


@dataclass(frozen=True)
class Scores:
    """Draws of the law of scores for n features of which k are active, the same for every d."""

    n: int
    k: int
    u: np.ndarray
    """Quantiles of H."""
    gap: np.ndarray
    """Largest W less the least Z − Z̄: what H / σ must exceed."""
    active: np.ndarray
    """Z − Z̄ [draws, k]."""
    silent: np.ndarray
    """Some W."""

    @classmethod
    def draw(cls, n: int, k: int, seed: int) -> "Scores":
        """Independent draws."""
        g = rng.numpy_stream(seed, "scores", n, k)
        Z = g.standard_normal((DRAWS, k))
        Z -= Z.mean(1, keepdims=True)
        largest = ndtri(g.random(DRAWS) ** (1 / (n - k)))
        return cls(n, k, g.random(DRAWS), largest - Z.min(1), Z, g.standard_normal(SCORES))

    def success(self, d: float) -> float:
        """Share of draws in which one threshold reads all features. Range: [0, 1]."""
        return float((np.sqrt(chi2.ppf(self.u, d) / self.k) > self.gap).mean())

    def margin(self, d: float) -> float:
        """Active score that one in k falls below, less the silent score that one in n − k exceeds."""
        H = chi2.ppf(self.u, d) / d
        sigma = np.sqrt(self.k * H / d)
        A = H[:, None] + sigma[:, None] * self.active
        B = np.resize(sigma, len(self.silent)) * self.silent
        return float(np.quantile(A, 1 / self.k) - np.quantile(B, 1 - 1 / (self.n - self.k)))


def crossing(rises: Callable[[float], float], low: float, high: float, precision: float = 0.05) -> float:
    """Where a growing function of the number of dimensions changes its sign."""
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) > 0 else (middle, high)
    return (low + high) / 2


def finite_size(n: int, k: int) -> float:
    """Dimensions at which one active and one silent feature are expected on the wrong side of the threshold."""
    return k * float(ndtri(1 - 1 / k) + ndtri(1 - 1 / (n - k))) ** 2


def read_rate(n: int, k: int, d: int, seed: int) -> float:
    """Share of random supports of which one threshold reads all features, from Gaussian dictionaries."""
    g, hits = rng.numpy_stream(seed, "dictionaries", n, k), 0
    for _ in range(DICTIONARIES):
        W = g.standard_normal((n, d), dtype=np.float32)
        for _ in range(SUPPORTS):
            on = np.zeros(n, bool)
            on[g.choice(n, k, replace=False)] = True
            scores = W @ W[on].sum(0)
            hits += bool(scores[on].min() > scores[~on].max())
    return hits / (DICTIONARIES * SUPPORTS)


def reads(seed: int, say: Say) -> Outcome:
    """Formulas, the law of scores and real dictionaries at three sizes."""
    table, shares = Table(seed), list[np.ndarray]()
    for n, k in SIZES:
        say(f"{n} features, {k} active")
        first, finite = read_dimensions(n, k), finite_size(n, k)
        table.note(f"first_order_{n}", first, "formula", first)
        table.note(f"quantiles_{n}", finite, "formula", finite)
        laws = [Scores.draw(n, k, s) for s in seeds(seed, "reads")]
        text = f"{DRAWS:,} draws of the law of scores, n = {n}, k = {k}"
        crossed = [crossing(law.margin, float(k), 3 * first) for law in laws]
        table.note(f"finite_size_{n}", crossed, f"dimensions with one error expected on each side; {text}")
        half = [crossing(lambda d, law=law: law.success(d) - 0.5, float(k), 3 * first) for law in laws]
        shares.append(np.array(half) / first)
        table.note(f"half_{n}", half, f"dimensions at which half of the reads succeed; {text}")
        table.note(f"above_{n}", [law.success(first) for law in laws], f"reads that succeed at the first order; {text}")
        real = [read_rate(n, k, round(float(np.mean(half))), s) for s in seeds(seed, "reads")]
        text = f"{DICTIONARIES} dictionaries of {SUPPORTS} supports a seed, n = {n}, k = {k}"
        table.note(f"dictionaries_{n}", real, f"reads that succeed where the law says one half; {text}", 0.5)
    grows = np.diff(np.stack(shares), axis=0).min(0) > 0
    table.note("approach", grows.astype(float), "does half over first order grow with the size, both times?")
    return table.outcome()
