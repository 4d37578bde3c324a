"""P14. Does the network need activations so precisely as one that extracts the bits of an index?"""

from ... import rng
from ...errors import ConfigError
from ...measures.precision import precision
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable

MANY_BITS, FEW_BITS = 7, 5
"""Bits from which features would long do, and up to which they do."""
CLIFF = 0.5
"""Error that is left two bits before they are enough; where features add up it is there already gone."""
MANY_PIECES = 32
FEWEST_ROWS = 100
_ID, _TITLE, _CLAIM = "P14", "precision", "the network extracts the bits of an index: it needs many, all at once"
_NOT_LOOKUP: tuple[Cause, ...] = ("none", "monosemantic", "rotated", "superposition")


def needed_precision(evidence: Evidence) -> Check:
    """P14. The output is lost until activations are known to many bits, and goes up and down along a line."""
    network = evidence.network
    values = evidence.activations.values
    if network is None:
        reason = (
            f"What the network makes of the activations is not known (access {evidence.access}). With the network (access "
            "C) this check could settle whether it extracts the bits of an index."
        )
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    if len(values) < FEWEST_ROWS:
        return not_applicable(_ID, _TITLE, _CLAIM, f"{len(values)} rows are too few: {FEWEST_ROWS} are needed.")
    try:
        found = precision(network, values, rng.stream(evidence.seed, "P14"))
    except ConfigError as error:
        return not_applicable(_ID, _TITLE, _CLAIM, f"Here {error.problem}: nothing can be lost.")
    statistic = Measurement(
        "bits", float(found.bits), n=found.rows, unit="bit", method="fewest bits per unit from which the output's squared "
        "error stays below a tenth of its variance", seed=evidence.seed, source="after Bartlett et al. 1998",
    )  # fmt: skip
    before = found.errors[max(0, found.bits - 3)]
    numbers = (
        f"The output needs {found.bits} bits of every unit (two bits earlier its error is {before:.2f} of its variance) and "
        f"has up to {found.pieces:.0f} monotone pieces along a line"
    )
    verdict: Verdict = "silent"
    gone: tuple[Cause, ...] = ()
    if found.bits >= MANY_BITS and before > CLIFF and found.pieces >= MANY_PIECES:
        verdict, gone, words = "for", _NOT_LOOKUP, "as a network does that extracts the bits of an index"
    elif found.bits <= FEW_BITS and found.pieces < MANY_PIECES:
        verdict, words = "against", "no bits are extracted; a table that is read by its nearest code would do that too"
    else:
        words = "between features and the bits of an index"
    return Check(_ID, _TITLE, _CLAIM, verdict, f"{numbers}: {words}.", statistic, float(MANY_BITS), gone)
