"""P03. Does a linear map take the site apart into independent parts?"""

from ...measures.basis import ResidualDependence
from ...measures.unmix import Unmixing, unfit_to_unmix
from ...records import CAUSES, Cause, Check, Measurement
from ..evidence import Evidence, not_applicable

DEPENDENT = 2.0
UNSETTLED = 100.0
"""Dependence left in an independent model, over that of shifted parts, from which the unmixing has failed on it; about 1 to 5."""
"""Dependence over that of the best independent model, from which no linear map made the parts independent."""
NOT_INDEPENDENT: tuple[Cause, ...] = ("none", "superposition", "manifold", "magnitude", "mixed")
"""Causes whose parts no linear map makes independent; a relation, seen without labels, is a feature like any other."""


def independent_features(evidence: Evidence) -> Check:
    """P03. A linear map takes the site apart into independent, non-Gaussian parts."""
    id, title, claim = (
        "P03",
        "independent linear features",
        "at most as many independent features as units, mixed linearly",
    )
    unmixing, found = evidence.unmixing, evidence.independence
    if unmixing is None or found is None:
        return not_applicable(id, title, claim, why_not_unmixed(evidence))
    statistic = Measurement(
        "residual_dependence", found.excess, n=found.rows, method="ICA on half of the documents, dependence on the other "
        "half over that of the best independent model", seed=evidence.seed, source="after Hyvärinen & Oja 2000",
        null=1.0, p=found.p,
    )  # fmt: skip
    numbers = (
        f"The {len(unmixing)} best linear parts{_how(unmixing)} depend on each other {found.excess:.1f} times as much as "
        f"independent ones would ({found.excess_normed:.1f} times once all rows have one length)"
    )
    if found.reference > UNSETTLED:
        sentence = f"Independent models of the data, unmixed in the same way, stay dependent ({found.reference:.1f}): nothing follows."
        return Check(id, title, claim, "silent", sentence, statistic, DEPENDENT)
    if max(found.excess, found.excess_normed) >= DEPENDENT:
        sentence = f"{numbers}: {_reasons(found)}; this check cannot tell which."
        return Check(id, title, claim, "against", sentence, statistic, DEPENDENT)
    if found.gaussian_share > 0.9:
        sentence = f"{numbers}, but {100 * found.gaussian_share:.0f} % of them are Gaussian: no features that could be told apart."
        others: tuple[Cause, ...] = tuple(cause for cause in CAUSES if cause != "none")
        return Check(id, title, claim, "silent", sentence, statistic, DEPENDENT, others)
    return _independent(found, Check(id, title, claim, "for", numbers, statistic, DEPENDENT))


def _independent(found: ResidualDependence, check: Check) -> Check:
    halfway = (1 + found.random_alignment) / 2
    aligned = found.alignment > halfway
    where = "along the units" if aligned else "rotated against the units"
    sentence = (
        f"{check.sentence}, and they lie {where}: the largest unit's share in a part is {found.alignment:.2f}, where random "
        f"directions read {found.random_alignment:.2f}."
    )
    excluded: list[Cause] = [*NOT_INDEPENDENT, "rotated" if aligned else "monosemantic"]
    if float(found.kurtosis.median()) > 0:
        # dense codes of a look-up table are independent too, but have light tails
        excluded.append("lookup")
    return Check(check.id, check.title, check.claim, "for", sentence, check.statistic, check.threshold, tuple(excluded))


def _how(unmixing: Unmixing) -> str:
    """What the reader must know about the unmixing: its rank, where it stopped, and what took the place of documents."""
    units = unmixing.components.shape[1]
    words: list[str] = [f"all dimensions of {units} units"] if len(unmixing) < units else []
    if not unmixing.converged:
        words.append(f"not settled after {unmixing.steps} steps")
    if not unmixing.by_document:
        words.append("tested on other stretches of rows, for want of documents")
    return f" ({'; '.join(words)})" if words else ""


def _reasons(found: ResidualDependence) -> str:
    if found.excess_normed < DEPENDENT:
        return "rows share a length that varies, or features depend, or there are too many"
    return "too many features, correlated ones or non-linear ones"


def why_not_unmixed(evidence: Evidence) -> str:
    """The sentence for a site that is not unmixed."""
    return unfit_to_unmix(evidence.activations.values) or "The units vary in one dimension only: nothing to unmix."
