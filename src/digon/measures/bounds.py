"""How many features fit into how many dimensions? Bounds and exact curves that toy models are held against.

    packing            how large is the largest cosine among n unit vectors in d dimensions, at best and at random
    capacity           what tight frames, equiangular frames and near-orthogonal directions allow
    sparse recovery    how many dimensions n features need if k of them are active: with any decoder (compressed
                       sensing), with convex decoders (Donoho–Tanner), with one linear read-out and a threshold

n features, d dimensions, k active features, δ = d/n, ρ = k/d. Logarithms are natural.

Sources: Welch 1974; Benedetto & Fickus 2003; Conway, Hardin & Sloane 1996 (orthoplex and simplex bounds);
Lemmens & Seidel 1973 (Gerzon); Dasgupta & Gupta 2003; Wainwright 2009; Donoho & Tanner 2005, 2009; Amelunxen, Lotz,
McCoy & Tropp 2014; Elhage et al. 2022, appendix (Do Ba et al. 2010); linear read-outs: "Ball & Box" (see `read_dimensions`).
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, erfcx

Array = np.ndarray
"""Float64 array of any shape."""
Numbers = np.ndarray | float | int
"""An array or one number."""


# ------------------------------------------------------------------------------------------------- packing


def welch(n: int, d: int, order: int = 1) -> float:
    """Least possible largest |cosine| among n unit vectors in d real dimensions, by the Welch bound of an order.

    max |cos|^{2r} ≥ (n / C(d+r−1, r) − 1) / (n − 1). Order 1 is met by equiangular tight frames alone; higher orders
    are better when n is far above d. Range: [0, 1]; 0 where the bound says nothing.

    >>> round(welch(3, 2), 3), welch(2, 2)
    (0.5, 0.0)
    """
    excess = (n / math.comb(d + order - 1, order) - 1) / max(n - 1, 1)
    return max(excess, 0.0) ** (1 / (2 * order))


def orthoplex(n: int, d: int) -> float:
    """Least possible largest |cosine| once n > d(d+1)/2: 1/√d; 0 below, where the bound does not hold."""
    return d**-0.5 if n > gerzon(d) else 0.0


def least_coherence(n: int, d: int) -> float:
    """The best of these lower bounds on the largest |cosine| among n unit vectors in d dimensions."""
    return max(orthoplex(n, d), *(welch(n, d, r) for r in range(1, 7)))


def gerzon(d: int, field: str = "real") -> int:
    """Most equiangular lines: d(d+1)/2 in real dimensions, d² in complex ones. Met for d = 2, 3, 7, 23.

    >>> [gerzon(d) for d in (2, 3, 7, 23)]
    [3, 6, 28, 276]
    """
    return d * (d + 1) // 2 if field == "real" else d * d


def frame_potential_bound(n: int, d: int) -> float:
    """Least Σᵢⱼ cos²: n²/d for n ≥ d, met by tight frames alone; n below."""
    return n * max(n / d, 1.0)


def tight_dimensionality(n: int, d: int) -> float:
    """Dᵢ of every feature of a tight frame of equal lengths: d/n, at most 1."""
    return min(d / n, 1.0)


def cosine_tail(d: int, least: Numbers) -> Array:
    """P(|cosine| > least) for two random directions in d dimensions, exact (a beta law)."""
    return np.asarray(betainc((d - 1) / 2, 0.5, 1 - np.square(least)))


def random_coherence(n: int, d: int) -> tuple[float, float]:
    """Typical largest |cosine| of random directions: with one vector against the rest, and over all pairs.

    Exact quantiles: the size that is exceeded once on average. They tend to √(2 ln n / d) and √(4 ln n / d).
    """
    one, all_pairs = (math.sqrt(1 - betaincinv((d - 1) / 2, 0.5, 1 / count)) for count in (n - 1, n * (n - 1) / 2))
    return one, all_pairs


# ------------------------------------------------------------------------------------------------ capacity


def johnson_lindenstrauss(n: int, distortion: float) -> float:
    """Dimensions in which n points keep all squared distances within ±distortion: 4 ln n / (ε²/2 − ε³/3).

    Range of distortion: (0, 1). Sufficient, by a random projection; of the best possible order in n and ε.
    """
    return 4 * math.log(n) / (distortion**2 / 2 - distortion**3 / 3)


def nearly_orthogonal(d: int, cosine: float) -> float:
    """A number of directions that surely exist in d dimensions with all |cosines| below a bound.

    n random directions have n(n−1)/2 · P(|cos| > c) bad pairs on average; below one, some choice has none.
    It grows as exp(d c² / 4).
    """
    return 0.5 + math.sqrt(0.25 + 2 / float(cosine_tail(d, cosine)))


# ----------------------------------------------------------------------------------------- sparse recovery


def compressed_sensing_dimensions(n: Numbers, density: Numbers) -> Array:
    """k ln(n/k) with k = n·density: dimensions from which sparse features can be told, up to a constant factor.

    >>> round(float(compressed_sensing_dimensions(100, 0.02)), 3)
    7.824
    """
    return np.asarray(-np.asarray(n) * density * np.log(density))


def features_per_dimension_bound(density: Numbers) -> Array:
    """n over that: 1 / (p ln 1/p), the growth of features per dimension that the bound allows."""
    return np.asarray(-1 / (np.asarray(density) * np.log(density)))


def coherence_sparsity(coherence: float) -> float:
    """Any fewer active features, k < (1 + 1/μ)/2, are recovered by matching pursuit and by ℓ1, in the worst case."""
    return (1 + 1 / coherence) / 2


def lasso_dimensions(n: int, k: int) -> float:
    """2k ln(n − k): noisy support recovery by the lasso with a Gaussian dictionary. Source: Wainwright 2009."""
    return 2 * k * math.log(n - k)


def read_dimensions(n: int, k: int, way: int = 1) -> float:
    """Dimensions in which one linear map and a threshold read every r-way AND of binary features (r = 1: a feature).

    k ((2r − 1) √(2 ln k) + √(2 ln(n − k)))² with a Gaussian dictionary, to first order in n and k.
    Source: "Ball & Box", corollary 6.3 and theorem 6.1.
    """
    active, silent = math.sqrt(2 * math.log(k)), math.sqrt(2 * math.log(n - k))
    return k * ((2 * way - 1) * active + silent) ** 2


def donoho_tanner(delta: Numbers, *, signed: bool = True) -> Array:
    """ρ = k/d up to which ℓ1 recovers typical sparse features from d = δn random measurements, as n → ∞.

    The weak threshold of the cross-polytope (signed codes) or the simplex (non-negative codes), in parametric form:
    ρ = 1 − z Φ(−z)/φ(z) at the z with δ = 2φ / (z + 2(φ − zΦ(−z))), or φ / (z + φ − zΦ(−z)) for non-negative codes.
    Range: (0, 1) for δ in (0, 1).

    Source: Donoho & Tanner 2005, 2009; parametric form after Donoho, Maleki & Montanari 2009.

    >>> round(float(donoho_tanner(0.5)), 3), round(float(donoho_tanner(0.5, signed=False)), 3)
    (0.386, 0.558)
    """
    sides = 2 if signed else 1
    flat = [_threshold(float(d), sides) for d in np.ravel(delta)]
    return np.reshape(np.array(flat), np.shape(delta))


def recovery_dimensions(n: int, k: float | int, *, signed: bool = True) -> float:
    """Dimensions at which ℓ1 recovers k of n typical features: the least d with k/d at most ρ(d/n).

    The statistical dimension of the descent cone: n · min over t of ε(1+t²) + (1−ε)·c·E[(g−t)₊²], ε = k/n.
    Source: Amelunxen et al. 2014, with c = 2 (signed) or 1 (non-negative).
    """
    share, sides = k / n, 2 if signed else 1

    def slope(t: float) -> float:
        # half the derivative in t: E[(g − t)₊²]' = −2(φ − tΦ(−t))
        return share * t - (1 - share) * sides * _density(t) * _slack(t)

    if not 0 < share < 1:
        return float(n if share >= 1 else 0)
    t = _root(slope, 40.0)
    return n * (share * (1 + t * t) + (1 - share) * sides * _density(t) * _second(t))


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _mills(z: float) -> float:
    """Φ(−z)/φ(z), without underflow."""
    return math.sqrt(math.pi / 2) * float(erfcx(z / math.sqrt(2)))


def _slack(z: float) -> float:
    """E[(g − z)₊] / φ(z) = 1 − z Φ(−z)/φ(z)."""
    return 1 - z * _mills(z)


def _second(z: float) -> float:
    """E[(g − z)₊²] / φ(z)."""
    return (1 + z * z) * _mills(z) - z


def _threshold(delta: float, sides: int) -> float:
    if not 0 < delta < 1:
        return math.nan

    def excess(z: float) -> float:
        # δ(z) − delta, multiplied by the positive denominator; φ is divided out where z is large
        return sides * _density(z) - delta * (z + sides * _density(z) * _slack(z))

    # δ falls from 1 at z = 0 to 0
    return _slack(_root(excess, 30.0))


def _root(function: Callable[[float], float], end: float) -> float:
    """The zero between 0 and `end`."""
    return float(brentq(function, 0.0, end, xtol=1e-14, full_output=False))  # pyright: ignore[reportArgumentType]
