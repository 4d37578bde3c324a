"""P12 and P13. Are directions shared by inputs, or does every input have its own? Both need to know the inputs."""

import math

from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from ... import rng
from ...coders.atoms_rays import rays
from ...measures import inputs as measures
from ...measures.inputs import FEWEST_INPUTS, InputGeneralization
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable

FEWEST_ROWS = 100
MOST_WITHIN = 0.5
"""Share of the variance within inputs, from which the input does not say what the activations are."""
EXPLAINED = 0.1
"""Unexplained share up to which a dictionary is one of these activations."""
REUSED, NOT_REUSED = 0.5, 0.1
"""Share of directions that several fresh inputs share: more speaks for features, less for a look-up code."""
GROWS, SATURATES = 0.7, 0.5
"""Slope of log directions against log inputs."""
GAP = 3.0
"""Unexplained share of fresh inputs over that of seen ones."""
GENERALIZES = 0.02
"""Unexplained share of fresh inputs that is small whatever the gap."""
SHARED, OWN = 3.0, 1.25
"""Dimensionality of directions over that of inputs."""
_P12 = ("P12", "distinct-input generalization", "every input has a direction of its own")
_P13 = ("P13", "data points and features", "dimensions are spent on single inputs, not on features that inputs share")


COINCIDE = 0.5
"""Share of inputs with the activations of another one, from which they may be classes or collisions of a table."""
_COLLIDE = (
    "inputs share directions, but most of them share all of their activations: classes of inputs, or a table in which "
)
_COLLIDE += "inputs collide"


def distinct_inputs(evidence: Evidence) -> Check:
    """P12. A dictionary of half of the distinct inputs does not explain the other half."""
    reason = _unfit(evidence, "whether directions learned on some inputs explain others")
    if reason is not None:
        return not_applicable(*_P12, reason)
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    generator = rng.stream(evidence.seed, "P12")
    values = evidence.activations.values.float()
    whole = evidence.rays
    assert whole is not None, "checked by _unfit"

    def learn(rows: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
        return rays(rows, generator).directions if len(rows) >= FEWEST_ROWS else rows[:0]

    relative = values - whole.origin
    reason = _no_inputs(relative, evidence)
    if reason is not None:
        return not_applicable(*_P12, reason)
    found = measures.generalization(relative, inputs, learn, generator)
    low, high = _interval(found)
    statistic = Measurement(
        "direction_reuse", found.reuse, low, high, n=found.directions, method="share of directions, learned on half of the distinct "
        "inputs, that alone explain two or more of the other inputs; Wilson interval", seed=evidence.seed, source="derived", null=0.0,
    )  # fmt: skip
    verdict, sentence, gone = _generalization(found, evidence.activations.d, _collide(relative, evidence))
    return Check(*_P12, verdict, sentence, statistic, NOT_REUSED, gone)


def _interval(found: InputGeneralization) -> tuple[float, float]:
    """95 % interval of the reuse; NaN without directions."""
    if not found.directions:
        return math.nan, math.nan
    ends = binomtest(round(found.reuse * found.directions), found.directions).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def _generalization(found: InputGeneralization, d: int, collide: bool) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    if found.within > MOST_WITHIN:
        return (
            "silent",
            f"Inputs explain only {100 * (1 - found.within):.0f} % of the variance: they are not what is coded.",
            (),
        )
    if not found.directions or found.seen_fvu > EXPLAINED or math.isnan(found.slope):
        return "silent", (
            f"{found.directions} directions leave {100 * found.seen_fvu:.0f} % of the inputs that they were learned from "
            "unexplained: this dictionary does not describe the activations, so nothing follows from it."
        ), ()  # fmt: skip
    numbers = (
        f"{found.directions} directions of half of {found.inputs} inputs leave {100 * found.seen_fvu:.1f} % of those inputs "
        f"unexplained and {100 * found.fresh_fvu:.1f} % of the others; {100 * found.reuse:.0f} % of the directions return in "
        f"two or more others, and their number grows as inputs to the power {found.slope:.2f}"
    )
    if found.reuse < NOT_REUSED and found.gap > GAP and found.slope > GROWS:
        if found.inputs <= d:
            return "silent", f"{numbers}: one input per feature and a look-up code of so few inputs look the same.", ()
        gone: tuple[Cause, ...] = ("none", "monosemantic", "rotated", "superposition")
        return "for", f"{numbers}: a code of single inputs.", gone
    generalizes = found.fresh_fvu <= GENERALIZES or (found.gap < GAP and found.fresh_fvu <= EXPLAINED)
    if found.reuse > REUSED and generalizes and found.slope < SATURATES:
        if collide:
            return "silent", f"{numbers}: {_COLLIDE}.", ()
        return "against", f"{numbers}: inputs share the directions.", ("lookup",)
    return "silent", f"{numbers}: between features and a code of single inputs.", ()


def data_points(evidence: Evidence) -> Check:
    """P13. A single input has as much of a dimension for itself as a direction has."""
    reason = _unfit(evidence, "whether dimensions are spent on single inputs")
    if reason is not None:
        return not_applicable(*_P13, reason)
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    values = evidence.activations.values.float()
    whole = evidence.rays
    assert whole is not None, "checked by _unfit"
    relative = values - whole.origin
    reason = _no_inputs(relative, evidence)
    if reason is None and not len(whole.directions):
        reason = "No isolated directions: there is nothing to compare single inputs with."
    if reason is not None:
        return not_applicable(*_P13, reason)
    found = measures.data_dimensionality(relative, inputs, whole.directions)
    statistic = Measurement(
        "direction_over_input_dimensionality", found.ratio, n=found.inputs, method="mean dimensionality of the rays over "
        "that of the distinct inputs", seed=evidence.seed, source="after Henighan et al. 2023", null=1.0,
    )  # fmt: skip
    numbers = (
        f"A direction has {found.of_directions:.3f} of a dimension for itself and one of {found.inputs} inputs "
        f"{found.of_inputs:.3f} ({found.ratio:.1f} times less)"
    )
    if found.unexplained > EXPLAINED:
        rest = f"{numbers}, but the directions leave {100 * found.unexplained:.0f} % unexplained: nothing follows from that."
        return Check(*_P13, "silent", rest, statistic, SHARED)
    if found.ratio > SHARED and _collide(relative, evidence):
        return Check(*_P13, "silent", f"{numbers}: {_COLLIDE}.", statistic, SHARED)
    if found.ratio > SHARED:
        return Check(*_P13, "against", f"{numbers}: inputs share directions.", statistic, SHARED, ("lookup",))
    if found.ratio < OWN and found.inputs > evidence.activations.d:
        return Check(*_P13, "for", f"{numbers}: as many directions as inputs.", statistic, OWN, ("none",))
    return Check(*_P13, "silent", f"{numbers}: too near to tell features from single inputs.", statistic, SHARED)


def _unfit(evidence: Evidence, question: str) -> str | None:
    if evidence.inputs is None:
        return (
            f"Which rows are the same input is not known (access {evidence.access}). With the identity of the inputs "
            f"(access A+) this check could settle {question}, that is, tell a look-up code from shared features."
        )
    rows, d = evidence.activations.values.shape
    if rows < FEWEST_ROWS or d < 2:
        return f"{rows} rows of {d} units are too few: at least {FEWEST_ROWS} rows and 2 units are needed."
    return None


def _no_inputs(relative: Float[Tensor, "n d"], evidence: Evidence) -> str | None:
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    means, _, _ = measures.distinct(relative, inputs)
    length = means.norm(dim=1)
    count = int((length > measures.NEAR * length.amax()).sum())
    if count < FEWEST_INPUTS:
        return f"{count} distinct inputs activate something; at least {FEWEST_INPUTS} are needed."
    return None


def _collide(relative: Float[Tensor, "n d"], evidence: Evidence) -> bool:
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    return measures.coincidence(measures.distinct(relative, inputs)[0]) > COINCIDE
