"""P03. Does a linear map take the site apart into independent parts?"""

from ...measures import basis
from ...records import CAUSES, Cause, Check, Measurement
from ...tensors import Activations
from ..evidence import Evidence, not_applicable

MAX_UNITS = 256
"""Largest site that P03 unmixes; beyond it ICA takes hours, and truncating the site would manufacture superposition."""
ROWS_PER_UNIT = 50
"""Rows that P03 needs for every unit of the site."""
MIN_DOCUMENTS = 20
NOT_INDEPENDENT: tuple[Cause, ...] = ("none", "superposition", "manifold", "magnitude", "relational", "mixed")
"""Causes whose parts no linear map makes independent; a relation, seen without labels, is a feature like any other."""


def independent_features(evidence: Evidence) -> Check:
    """P03. A linear map takes the site apart into independent, non-Gaussian parts."""
    id, title, claim = (
        "P03",
        "independent linear features",
        "at most as many independent features as units, mixed linearly",
    )
    reason = _unfit_for_ica(evidence.activations)
    if reason is not None:
        return not_applicable(id, title, claim, reason)
    documents = evidence.activations.documents
    assert documents is not None, "checked by _unfit_for_ica"
    found = basis.residual_dependence(evidence.activations.values, documents, evidence.seed)
    statistic = Measurement(
        "residual_dependence", found.excess, n=found.rows, method="ICA on half of the documents, dependence on the other "
        "half over that of the best independent model", seed=evidence.seed, source="after Hyvärinen & Oja 2000", null=1.0,
    )  # fmt: skip
    unsure = "" if found.converged else " (ICA did not converge within its limit)"
    numbers = (
        f"The best linear parts depend on each other {found.excess:.1f} times as much as independent ones would{unsure}"
    )
    if found.excess >= 2:
        sentence = f"{numbers}: too many features, correlated ones or non-linear ones; this check cannot tell which."
        return Check(id, title, claim, "against", sentence, statistic, 2.0)
    if found.gaussian_share > 0.9:
        sentence = f"{numbers}, but {100 * found.gaussian_share:.0f} % of them are Gaussian: no features that could be told apart."
        others: tuple[Cause, ...] = tuple(cause for cause in CAUSES if cause != "none")
        return Check(id, title, claim, "silent", sentence, statistic, 2.0, others)
    return _independent(found, Check(id, title, claim, "for", numbers, statistic, 2.0))


def _independent(found: basis.ResidualDependence, check: Check) -> Check:
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


def _unfit_for_ica(activations: Activations) -> str | None:
    rows, d = activations.values.shape
    if d > MAX_UNITS:
        return (
            f"The site has {d} units; unmixing is done up to {MAX_UNITS}, and looking at fewer dimensions would "
            "manufacture superposition. Choose a narrower site, such as a residual stream."
        )
    if d < 2 or rows < ROWS_PER_UNIT * d:
        return (
            f"{rows} rows are too few to unmix {d} units: at least {ROWS_PER_UNIT * d} are needed; harvest more tokens."
        )
    documents = activations.documents
    if documents is None or len(documents.unique()) < MIN_DOCUMENTS:
        return f"Fewer than {MIN_DOCUMENTS} documents: nothing independent is left to test on; use more documents."
    return None
