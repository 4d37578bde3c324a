"""Numbered checks: what does one test say for or against one claim about a site?

A check looks at the `Evidence` and answers for / against / silent / not applicable, in one sentence with its numbers,
and names the causes that its outcome speaks against. Silence is an answer: it never counts as evidence for the
opposite unless the check says so in `excludes`.

    P01  units respond to several kinds of context      exemplar clusters
    P02  the neurons' basis is privileged               whitened rotation test
    P03  independent linear features                    ICA residual dependence

To add a check: write a function from `Evidence` to `Check` in a module of its own and list it in `CHECKS`.
"""

from collections.abc import Callable

from ...records import Check
from ..evidence import Evidence
from .basis import privileged_basis
from .independence import independent_features
from .meanings import several_meanings

CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "P01": several_meanings,
    "P02": privileged_basis,
    "P03": independent_features,
}


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """All checks, in the order of their numbers."""
    return tuple(check(evidence) for check in CHECKS.values())
