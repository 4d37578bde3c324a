"""Numbered checks: what does one test say for or against one claim about a site?

A check looks at the `Evidence` and answers for / against / silent / not applicable, in one sentence with its numbers,
and names the causes that its outcome speaks against. Silence is an answer: it never counts as evidence for the
opposite unless the check says so in `excludes`.

    P01  units respond to several kinds of context      exemplar clusters
    P02  the neurons' basis is privileged               whitened rotation test
    P03  independent linear features                    ICA residual dependence

To add a check: write a function from `Evidence` to `Check` and list it in `CHECKS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import rng
from ..measures import basis
from ..records import CAUSES, Cause, Check, Measurement
from ..tensors import Activations

MAX_UNITS = 256
"""Largest site that P03 unmixes; beyond it ICA takes hours, and truncating the site would manufacture superposition."""
ROWS_PER_UNIT = 50
"""Rows that P03 needs for every unit of the site."""
MIN_DOCUMENTS = 20
NOT_INDEPENDENT: tuple[Cause, ...] = ("none", "superposition", "manifold", "magnitude", "relational", "mixed")
"""Causes whose parts no linear map makes independent; a relation, seen without labels, is a feature like any other."""
BASIS_Z = 6.0
"""Heavy-tailed rotated worlds reach 4 by chance: their rotations vary little."""


@dataclass(frozen=True)
class Evidence:
    """What the checks are given about one site."""

    activations: Activations
    seed: int
    polysemantic: Measurement | None = None
    """Share of units flagged by `measures.clusters`, with its interval; `null` is the level of false calls."""
    access: str = "A"
    """A: activations; A+: and which input each row is; B: labels; C: the network; D: retraining."""


def not_applicable(id: str, title: str, claim: str, reason: str) -> Check:
    """A check that cannot answer here, and why."""
    return Check(id, title, claim, "not applicable", reason)


def several_meanings(evidence: Evidence) -> Check:
    """P01. Exemplars of the units fall into groups that the rest of the layer tells apart."""
    id, title, claim = "P01", "several meanings", "some units respond to several kinds of context"
    share = evidence.polysemantic
    if share is None or share.n == 0:
        return not_applicable(id, title, claim, "No unit has enough exemplars in different documents; use more text.")
    level = share.null if math.isfinite(share.null) else 0.05
    found = f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] of {share.n} units"
    if share.low > level:
        sentence = f"The exemplars of {found} fall into separate groups; at most {100 * level:.0f} % would by chance."
        return Check(id, title, claim, "for", sentence, share, level, ("none",))
    sentence = f"The exemplars of {found} fall into separate groups, no more than chance explains; few or many faint "
    return Check(id, title, claim, "silent", sentence + "meanings would look the same.", share, level)


def privileged_basis(evidence: Evidence) -> Check:
    """P02. Whitened activations have heavier tails along the units' axes than along random rotations of them."""
    id, title, claim = "P02", "privileged basis", "the units' axes are special directions"
    values = evidence.activations.values
    rows, d = values.shape
    if d < 2 or rows < 4 * d:
        reason = f"{rows} rows are too few for {d} units: whitening needs at least {4 * d}; harvest more tokens."
        return not_applicable(id, title, claim, reason)
    test = basis.rotation_test(values, rng.stream(evidence.seed, "P02"))
    statistic = Measurement(
        "basis_z", test.z, n=test.rows, method="ZCA-whitened kurtosis against 39 Haar rotations", seed=evidence.seed,
        source="after Elhage et al. 2023", null=0.0, p=test.p,
    )  # fmt: skip
    numbers = f"{test.z:.1f} standard deviations above random rotations (p = {test.p:.3f})"
    if test.p <= 0.05 and test.z > BASIS_Z:
        sentence = (
            f"Tails along the units' axes lie {numbers}: the axes are special, as a non-linearity alone can make them."
        )
        return Check(id, title, claim, "for", sentence, statistic, BASIS_Z, ("none",))
    sentence = f"Tails along the units' axes lie {numbers}: the axes are no better than any others."
    return Check(id, title, claim, "silent", sentence, statistic, BASIS_Z, ("monosemantic",))


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


CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "P01": several_meanings,
    "P02": privileged_basis,
    "P03": independent_features,
}


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """All checks, in the order of their numbers."""
    return tuple(check(evidence) for check in CHECKS.values())
