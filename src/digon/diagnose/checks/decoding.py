"""P10. Is there more to read of the labels than a linear probe reads, and do sparse codes read it?

A gap between a linear and a non-linear probe speaks for superposition as much as for features that are not directions:
what sparse codes read tells which.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.decoding import Decoding, decoding
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable
from .additivity import row_groups

FEWEST_ROWS = 500
GAP = 0.02
"""Skill that makes a gap, and standard errors over labels that it must exceed zero by."""
SURE = 4.0
READ = 0.3
"""Skill from which a label is read at all."""
EXPLAINED = 0.05
"""Share that sparse codes may leave unexplained: noise makes gaps of its own, since sparse codes remove some of it."""
MORE = 1.1
"""Directions per dimension, from which there are more than dimensions."""
_ID, _TITLE, _CLAIM = (
    "P10",
    "decoding gap",
    "labels take less than a dimension each: sparse codes read what no line reads",
)


def decoding_gap(evidence: Evidence) -> Check:
    """P10. Sparse codes, or a small network, read labels that a linear probe does not."""
    labels = evidence.labels
    if labels is None:
        reason = (
            f"No labels of the inputs are known (access {evidence.access}). With labels (access B) this check could settle "
            "whether they are read better from sparse codes than by a linear probe."
        )
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    whole = evidence.rays
    if whole is None or len(evidence.activations) < FEWEST_ROWS:
        rows, d = evidence.activations.values.shape
        reason = f"{rows} rows of {d} units are too few: at least {FEWEST_ROWS} rows and 2 units are needed."
        return not_applicable(_ID, _TITLE, _CLAIM, reason)
    values = evidence.activations.values.float() - whole.origin
    try:
        found = decoding(values, labels, row_groups(evidence), whole.directions, rng.stream(evidence.seed, "P10"))
    except ConfigError as error:
        return not_applicable(_ID, _TITLE, _CLAIM, f"There are {error.problem}: nothing to read.")
    gap, error = found.sparse_gap, found.sparse_gap_error
    statistic = Measurement(
        "decoding_gap", gap, gap - 2 * error, gap + 2 * error, n=found.targets, method="2 AUC - 1 on unseen inputs of "
        "sparse codes, minus that of a linear probe; two standard errors over labels", seed=evidence.seed,
        source="derived; control tasks after Hewitt & Liang 2019", null=0.0,
    )  # fmt: skip
    verdict, sentence, gone = _read(found, len(whole.directions), _dimensions(values))
    return Check(_ID, _TITLE, _CLAIM, verdict, sentence, statistic, GAP, gone)


def _dimensions(values: Float[Tensor, "n d"]) -> int:
    """Dimensions of the rows, those of negligible variance left out."""
    spread = torch.linalg.eigvalsh((values.double().T @ values.double()) / len(values))
    return int((spread > 1e-6 * spread[-1]).sum())


def _read(found: Decoding, directions: int, dimensions: int) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    codes = "no dictionary for sparse codes" if math.isnan(found.sparse) else f"sparse codes {found.sparse:.2f}"
    numbers = (
        f"Of {found.targets} labels a linear probe reads {found.linear:.2f}, {codes}, a small network {found.network:.2f} "
        f"(2 AUC - 1 on unseen inputs; random labels: at most {found.control:.2f})"
    )
    if max(found.linear, found.network) < READ:
        return "silent", f"{numbers}: these labels are hardly coded.", ()
    sparse = found.sparse_gap > max(GAP, SURE * found.sparse_gap_error)
    network = found.network_gap > max(GAP, SURE * found.network_gap_error)
    if found.unexplained > EXPLAINED or math.isnan(found.sparse):
        if network:
            words = f"{numbers}: more than a line reads, but the directions found do not describe the rows."
            return "silent", words, ()
        return "silent", f"{numbers}: a line reads them, as it does where features have a dimension each.", ()
    if sparse and found.sparse_gap > found.network_gap - GAP:
        if directions < MORE * dimensions:
            return "silent", f"{numbers}, but there are {directions} directions in {dimensions} dimensions.", ()
        load = "" if math.isnan(found.load) else f", {found.load:.2f} features per dimension"
        words = f"{numbers}: sparse features with less than a dimension each{load}."
        return "for", words, ("none", "monosemantic", "rotated")
    if network and not sparse:
        return "against", f"{numbers}: what is read is no sum of directions.", ("monosemantic", "rotated")
    if not network and not sparse:
        return "against", f"{numbers}: a line reads what there is to read.", ()
    return "silent", f"{numbers}: between sparse features and features that are no directions.", ()
