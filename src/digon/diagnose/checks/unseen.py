"""P17. How many features are too rare to have been seen?"""

from jaxtyping import Float, Int
from torch import Tensor

from ...measures import unseen
from ...records import Check, Measurement
from ..evidence import Evidence, not_applicable

COMPLETE = 1.05
"""Least number of features over the number seen, up to which little is missing at this number of rows."""
_P17 = ("P17", "unseen features", "more features exist than were seen")


def unseen_features(evidence: Evidence) -> Check:
    """P17. A lower bound on the number of features from how often every ray was seen. It excludes nothing."""
    found = evidence.rays
    if found is None:
        return not_applicable(*_P17, "There are too few rows or units to look for directions.")
    if not len(found.directions):
        return not_applicable(*_P17, "No isolated directions: there is nothing to count.")
    return unseen_of(found.counts, found.floor, evidence.seed)


def unseen_of(counts: Float[Tensor, " k"] | Int[Tensor, " k"], fewest: int | float, seed: int = 0) -> Check:
    """P17 of given atoms, from how often each fired; an atom was found only if it fired `fewest` times.

    Raises: ConfigError for counts below 0 or `fewest` below 1.
    """
    whole = fewest <= 1
    bound = unseen.chao1(counts) if whole else unseen.detected(counts, fewest)
    seen = int((counts >= max(fewest, 1)).sum())
    statistic = Measurement(
        "features_at_least", bound.value, bound.low, bound.high, n=int(counts.sum()),
        method="Chao1, log-normal interval" if whole else f"atoms found, each over its chance of firing {fewest:.0f} times",
        seed=seed, source="Chao 1984, 1987" if whole else "Horvitz & Thompson 1952", null=float(seen),
    )  # fmt: skip
    if whole:
        share = unseen.coverage(counts)
        seen_share = f"; {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of all firings are of those seen"
    else:
        seen_share = f"; an atom needs {fewest:.0f} rows to be found, so rarer ones leave no trace here"
    sentence = (
        f"{seen} features were seen, and at least {bound.value:.1f} [{bound.low:.1f}, {bound.high:.1f}] exist{seen_share}. "
        "Nothing bounds their number from above."
    )
    if not seen:
        return not_applicable(*_P17, "No atom fired: there is nothing to count.")
    verdict = "for" if bound.low > COMPLETE * seen else "silent"
    return Check(*_P17, verdict, sentence, statistic, COMPLETE * seen)
