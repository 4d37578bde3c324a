"""P09. Do labelled variables add up in the activations, or do they only show through each other?

A single variable always adds up: one direction per level. It takes two.
"""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.additivity import Additivity, additivity
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable

LEAST = 0.02
"""Share of the variance below which an effect is not worth a word."""
SURE = 5.0
"""Standard errors of the gain."""
DOMINATES = 3.0
"""Interactions over main effects, from which variables show through each other and not by themselves."""
MOST_COLLINEAR = 0.5
"""Share of comparable variables whose effects differ only in scale."""
_ID, _TITLE, _CLAIM = "P09", "encoding additivity", "labelled variables are present only through each other"
_RELATION: tuple[Cause, ...] = (
    "none", "monosemantic", "rotated", "superposition", "manifold", "magnitude", "lookup",
)  # fmt: skip
_MAGNITUDE: tuple[Cause, ...] = ("none", "monosemantic", "rotated", "superposition", "relational", "lookup")


def encoding_additivity(evidence: Evidence) -> Check:
    """P09. Interactions of labelled variables explain what no sum of their main effects explains."""
    labels = evidence.labels
    if labels is None:
        reason = (
            f"No labels of the inputs are known (access {evidence.access}). With labels (access B) this check could settle "
            "whether variables of the inputs add up, or are present only through each other."
        )
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    try:
        found = additivity(
            evidence.activations.values.float(), labels, row_groups(evidence), rng.stream(evidence.seed, "P09")
        )
    except ConfigError as error:
        reason = f"There are {error.problem}: a single variable always adds up; at least two are needed."
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    statistic = Measurement(
        "interaction_gain", found.gain, found.gain - 2 * found.gain_error, found.gain + 2 * found.gain_error, n=found.rows,
        method="variance of unseen rows explained by products of two variables beyond main effects; two standard errors over "
        "documents", seed=evidence.seed, source="analysis of variance", null=0.0,
    )  # fmt: skip
    verdict, sentence, gone = _read(found)
    return Check(_ID, _TITLE, _CLAIM, verdict, sentence, statistic, LEAST, gone)


def row_groups(evidence: Evidence) -> Int[Tensor, " n"]:
    """Rows that may not be split between fitting and scoring: those of one input, or else of one document."""
    if evidence.inputs is not None and len(evidence.inputs.unique()) < len(evidence.inputs):
        return evidence.inputs
    documents = evidence.activations.documents
    if documents is not None and len(documents.unique()) >= 4:
        return documents
    return torch.arange(len(evidence.activations), device=evidence.activations.values.device)


def _read(found: Additivity) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    numbers = (
        f"Main effects of {found.variables} variables explain {100 * max(0.0, found.main):.1f} % of the variance of unseen "
        f"rows, and products of two of them {100 * max(0.0, found.gain):.1f} % more"
    )
    clear = found.gain > LEAST and found.gain > SURE * found.gain_error
    if clear and found.gain > DOMINATES * max(0.0, found.main):
        return "for", f"{numbers}: the variables are present only through each other.", _RELATION
    if found.swapped:
        words = (
            f"{numbers}; {found.swapped} of them move variance from one direction to another (ratio {found.swap:.2f}, "
            f"{found.swap_z:.0f} standard errors): they say where other features point."
        )
        return "for", words, _RELATION
    if not math.isnan(found.collinear) and found.collinear >= MOST_COLLINEAR and found.main > LEAST:
        words = (
            f"{numbers}: they add up, but {100 * found.collinear:.0f} % of comparable variables share their directions and "
            f"differ in scale alone (by {found.decay:.2f} from one to the next): magnitudes tell them apart."
        )
        return "against", words, _MAGNITUDE
    if found.main < LEAST and not clear:
        return "silent", f"{numbers}: these variables are not what is coded.", ()
    if clear and found.gain > found.main / DOMINATES:
        return "silent", f"{numbers}: sums and relations both; a non-linearity on top of features would do that.", ()
    return "against", f"{numbers}: the variables add up.", ("relational",)
