"""How good could, how bad must a simulation be, given what was not seen?

A correlation over the tokens that were seen says nothing of the others. Its bounds are the smallest and the largest
correlation over *all* tokens that any values in [0, scale] of the missing ones would give, both exact:

    best    where it is positive, the correlation is quasiconcave in the missing values m: they lie on one line of the
            real ones, cut to the range, m = clip(α + β·a); α and β are found by repeating m = mean + (‖m‖/ρ‖a‖)(a − mean a)
    worst   minus the best for −a, where that is positive; else at a corner: k missing values at the scale, those with the
            smallest a, for k from 0 to all

The corners are tried for both, so that a repetition that stops early can only widen nothing and never invert the bounds.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...records import Measurement

ROUNDS = 200
ROUNDING = 1e-24
"""Share of the sum of squares below which the spread about the mean is rounding."""
Values = NDArray[np.float64]


def score(real: Sequence[float], simulated: Sequence[float], scale: int) -> Measurement:
    """Correlation over the tokens with a simulated value; low and high are its bounds over all tokens.

    Range: [−1, 1]; NaN where fewer than two are known or a side is constant.
    Raises: ValueError if the lengths differ.
    """
    a, m = np.asarray(real, float), np.asarray(simulated, float)
    if a.shape != m.shape:
        raise ValueError(f"{len(a)} real and {len(m)} simulated values")
    known = np.isfinite(m)
    missing = int((~known).sum())
    low, high = bounds(a, m, float(scale))
    method = f"Pearson over {int(known.sum())} tokens; bounds if the {missing} missing were worst and best"
    return Measurement(
        "rho_simulated",
        correlation(a[known], m[known]),
        low,
        high,
        int(known.sum()),
        "",
        method,
        None,
        "Bills et al. 2023",
    )


def bounds(real: Values, simulated: Values, scale: float) -> tuple[float, float]:
    """Smallest and largest correlation that the missing values allow; both the correlation itself if none is missing."""
    gone = ~np.isfinite(simulated)
    if not gone.any():
        rho = correlation(real, simulated)
        return rho, rho
    # the correlation with −a of the best values for −a is the worst for a
    return -_best(-real, simulated, gone, scale), _best(real, simulated, gone, scale)


def correlation(a: Values, m: Values) -> float:
    """Pearson correlation; NaN where a side is constant or shorter than two."""
    if len(a) < 2:
        return math.nan
    x, y = a - a.mean(), m - m.mean()
    left, right = float(x @ x), float(y @ y)
    varies = left > ROUNDING * float(a @ a) and right > ROUNDING * float(m @ m)
    return float(x @ y) / math.sqrt(left) / math.sqrt(right) if varies else math.nan


def _best(real: Values, simulated: Values, gone: NDArray[np.bool_], scale: float) -> float:
    filled = np.where(gone, 0.0, simulated)
    order = np.flatnonzero(gone)[np.argsort(-real[gone], kind="stable")]
    best, start = correlation(real, filled), filled.copy()
    for place in order:  # one more at the scale
        filled[place] = scale
        rho = correlation(real, filled)
        if not rho <= best:
            best, start = (rho, filled.copy()) if not math.isnan(rho) else (best, start)
    return best if math.isnan(best) or best <= 0 else max(best, _inside(real, start, gone, scale))


def _inside(real: Values, m: Values, gone: NDArray[np.bool_], scale: float) -> float:
    """Largest correlation with the missing values inside their range, from a start where it is positive."""
    a = real - real.mean()
    norm, best = float(np.sqrt(a @ a)), correlation(real, m)
    for _ in range(ROUNDS):
        spread = m - m.mean()
        line = m.mean() + float(np.sqrt(spread @ spread)) / (best * norm) * a
        m = np.where(gone, np.clip(line, 0.0, scale), m)
        rho = correlation(real, m)
        if not rho > best + 1e-13:
            break
        best = rho
    return best
