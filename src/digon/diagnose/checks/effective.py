"""P15. Does a sparse autoencoder spread its activity over more latents than it would on data without features?"""

import math

from ... import rng
from ...coders.effective import EffectiveFeatures, effective
from ...measures import stats
from ...records import Check, Measurement
from ..evidence import Evidence, not_applicable

MOST_UNITS = 256
"""Widest site: the autoencoders of a wider one take minutes, and fewer dimensions would manufacture superposition."""
FEWEST_ROWS = 1000
FEWEST_PER_UNIT = 10
DIFFERS = 0.1
"""Difference from the null that is worth a word."""
_P15 = ("P15", "effective features", "the activations use more latents per unit than data without features do")


def effective_features(evidence: Evidence) -> Check:
    """P15. ψ of a sparse autoencoder minus ψ of one on noise of the same covariance. It excludes nothing."""
    rows, d = evidence.activations.values.shape
    if d > MOST_UNITS:
        reason = f"The site has {d} units; the autoencoders of this check are trained for up to {MOST_UNITS}."
        return not_applicable(*_P15, reason)
    if d < 2 or rows < max(FEWEST_ROWS, FEWEST_PER_UNIT * d):
        needed = max(FEWEST_ROWS, FEWEST_PER_UNIT * d)
        return not_applicable(*_P15, f"{rows} rows of {d} units are too few: {needed} rows and 2 units are needed.")
    values = evidence.activations.values
    if float(values.float().std(0).amax()) <= 0:
        return not_applicable(*_P15, "The activations never vary.")
    found = effective(values, rng.stream(evidence.seed, "P15"))
    excess, reach = _excess(found)
    psi, null = (float(x.mean()) for x in (found.data, found.null))
    statistic = Measurement(
        "effective_features_excess", excess, excess - reach, excess + reach, n=found.rows, unit="features per unit",
        method="tied sparse autoencoders on the activations, on Gaussian and on elliptical noise of the same covariance: ψ − ψ_null, "
        "mean over widths and starts, t interval over starts", seed=evidence.seed, source="after Bereska et al. 2025", null=0.0,
    )  # fmt: skip
    widths = ", ".join(
        f"{float(p):.2f} with {w}" for w, p in zip(found.widths, found.data.mean(0) - found.null.mean(0), strict=True)
    )
    sentence = (
        f"Autoencoders use {psi:.2f} effective features per unit, where noise of the same covariance and no feature reads "
        f"{null:.2f}; the difference is {widths} latents per unit. The index says nothing by itself: noise reads about 2, "
        "and superposition often less than noise."
    )
    known = math.isfinite(reach)
    if known and excess - reach > DIFFERS:
        return Check(*_P15, "for", sentence, statistic, DIFFERS)
    if known and excess + reach < -DIFFERS:
        return Check(*_P15, "against", sentence, statistic, DIFFERS)
    return Check(*_P15, "silent", sentence, statistic, DIFFERS)


def _excess(found: EffectiveFeatures) -> tuple[float, float]:
    """ψ − ψ_null, mean over widths and starts, and half of its 95 % interval over starts."""
    each = (found.data - found.null).mean(1).double()
    if len(each) < 2:
        return float(each.mean()), math.nan
    return float(each.mean()), stats.student(len(each)) * float(each.std()) / math.sqrt(len(each))
