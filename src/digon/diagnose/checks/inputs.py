"""P12 and P13. Are directions shared by inputs, or does every input have its own? Both need to know the inputs.

Both are careful in the same way. A code of single inputs is only claimed where inputs recur and have the same
activations each time, where codes are about equally long, and where nothing that some inputs show returns in others.
Features are only claimed where lengths vary more than those of a Gaussian and sparse directions of some inputs are
sparse on others.
"""

from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...measures import inputs as measures
from ...measures.inputs import FEWEST_INPUTS, Sharing
from ...records import Cause, Check, Measurement, Verdict
from ..evidence import Evidence, not_applicable

FEWEST_ROWS = 100
MOST_WITHIN = 0.5
"""Share of the variance within inputs, from which the input does not say what the activations are."""
RECURRING = 30
"""Rows beyond the first of their input that show that an input has the same activations again."""
SPARSE = 2.5
"""Standard errors of the held-out kurtosis from which inputs share sparse directions."""
EQUAL, EQUAL_FLOORED = 0.75, 1.5
"""Spread of lengths up to which codes are about equally long, and behind a rectifier, which spreads them."""
FEATURES, FEATURES_FLOORED = 1.05, 1.35
"""Spread of lengths from which sparse features add up; a Gaussian reads 1."""
FLOORED = 0.2
"""Share of values at the floor of their unit, that tells a rectifier."""
TAILS = 0.05
"""Whitened fourth power above that of a Gaussian, up to which nothing is sparse."""
CODES_PER_DIMENSION = 1.4
"""Codes per dimension that they span, up to which their lengths say nothing."""
COINCIDE = 0.5
"""Share of inputs with the activations of another one, from which they are classes or collisions of a table."""
EXPLAINED = 0.1
"""Unexplained share up to which a dictionary is one of these activations."""
SHARED, OWN = 3.0, 1.25
"""Dimensionality of directions over that of inputs."""
_P12 = ("P12", "distinct-input generalization", "every input has a direction of its own")
_P13 = ("P13", "data points and features", "dimensions are spent on single inputs, not on features that inputs share")
_NOT_LOOKUP: tuple[Cause, ...] = ("none", "monosemantic", "rotated", "superposition")


def distinct_inputs(evidence: Evidence) -> Check:
    """P12. What half of the distinct inputs have in common says nothing about the other half."""
    reason = _unfit(evidence, "whether directions learned on some inputs explain others")
    if reason is not None:
        return not_applicable(*_P12, reason)
    found = _sharing(evidence)
    statistic = Measurement(
        "held_out_kurtosis", found.sparse, found.sparse - 2 * found.sparse_error, found.sparse + 2 * found.sparse_error,
        n=found.inputs, method="kurtosis of directions on distinct inputs that they were not found on, above an elliptical law; two standard "
        "errors over inputs", seed=evidence.seed, source="derived; directions after De Lathauwer et al. 2000", null=0.0,
    )  # fmt: skip
    verdict, sentence, gone = _generalization(found, evidence)
    return Check(*_P12, verdict, sentence, statistic, SPARSE * found.sparse_error, gone)


def _generalization(found: Sharing, evidence: Evidence) -> tuple[Verdict, str, tuple[Cause, ...]]:
    """Verdict, sentence and excluded causes."""
    if found.within > MOST_WITHIN:
        explained = f"Inputs explain only {100 * (1 - found.within):.0f} % of the variance: they are not what is coded."
        return "silent", explained, ()
    numbers = (
        f"Sparse directions of half of {found.inputs} inputs have a kurtosis on the others that exceeds chance by "
        f"{found.sparse:.2f} (± {2 * found.sparse_error:.2f}), and squared lengths vary {found.spread:.2f} times as much as "
        "those of a Gaussian"
    )
    if _features(found):
        if found.coinciding > COINCIDE:
            return "silent", f"{numbers}, but most inputs have the activations of another one: classes, or a table.", ()
        return "against", f"{numbers}: inputs share directions.", ("lookup",)
    if _table(found, evidence):
        collide = f" ({found.codes:.0f} codes: inputs collide)" if found.coinciding > COINCIDE else ""
        return "for", f"{numbers}: inputs recur, and every one has a code of its own{collide}.", _NOT_LOOKUP
    if found.codes <= CODES_PER_DIMENSION * found.rank:
        return "silent", f"{numbers}: so few inputs have a dimension each, with or without features.", ()
    if not _recurs(found, evidence):
        return "silent", f"{numbers}; inputs hardly recur, so noise looks like a code of single inputs.", ()
    return "silent", f"{numbers}: between features and a code of single inputs.", ()


def _features(found: Sharing) -> bool:
    """Whether inputs share sparse directions, and their lengths vary as those of sums of features do."""
    least = FEATURES_FLOORED if found.floored > FLOORED else FEATURES
    wide = found.spread - 2 * found.spread_error > least and found.tails > 0
    return wide and found.sparse > SPARSE * found.sparse_error


def _table(found: Sharing, evidence: Evidence) -> bool:
    """Whether inputs recur as codes of equal length that have nothing in common."""
    collide = found.coinciding > COINCIDE
    most = EQUAL_FLOORED if found.floored > FLOORED or collide else EQUAL
    spread = min(found.spread + 2 * found.spread_error, found.white_spread + 2 * found.white_spread_error)
    equal = spread < most and found.tails - found.tails_error < TAILS
    common = found.sparse > SPARSE * found.sparse_error and found.beyond_units > SPARSE
    uneven = found.spread - 2 * found.spread_error > FEATURES_FLOORED
    enough = found.codes >= FEWEST_INPUTS - 0.5 and found.codes > CODES_PER_DIMENSION * found.rank
    return _recurs(found, evidence) and equal and enough and not (common or uneven)


def _recurs(found: Sharing, evidence: Evidence) -> bool:
    return len(evidence.activations) - found.inputs >= RECURRING


def data_points(evidence: Evidence) -> Check:
    """P13. A single input has as much of a dimension for itself as a direction has."""
    reason = _unfit(evidence, "whether dimensions are spent on single inputs")
    whole = evidence.rays if reason is None else None
    if whole is not None and not len(whole.directions):
        reason = "No isolated directions: there is nothing to compare single inputs with."
    if reason is not None:
        return not_applicable(*_P13, reason)
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    assert whole is not None, "checked by _unfit"
    generator = rng.stream(evidence.seed, "P13")
    values, names = measures.some_inputs(evidence.activations.values.float(), inputs, generator)
    relative = values - whole.origin
    reason = _no_inputs(relative, names)
    if reason is not None:
        return not_applicable(*_P13, reason)
    found, common = measures.data_dimensionality(relative, names, whole.directions), _sharing(evidence)
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
    if found.ratio > SHARED and common.coinciding > COINCIDE:
        words = "most inputs have the activations of another one, as classes of inputs and tables with collisions have"
        return Check(*_P13, "silent", f"{numbers}, but {words}.", statistic, SHARED)
    if found.ratio > SHARED and _features(common):
        return Check(*_P13, "against", f"{numbers}: inputs share directions.", statistic, SHARED, ("lookup",))
    if found.ratio < OWN and _table(common, evidence):
        return Check(*_P13, "for", f"{numbers}: as many directions as inputs.", statistic, OWN, ("none",))
    return Check(*_P13, "silent", f"{numbers}: too near to tell features from single inputs.", statistic, SHARED)


def _sharing(evidence: Evidence) -> Sharing:
    inputs = evidence.inputs
    assert inputs is not None, "checked by _unfit"
    return measures.sharing(evidence.activations.values.float(), inputs, rng.stream(evidence.seed, "distinct inputs"))


def _unfit(evidence: Evidence, question: str) -> str | None:
    inputs = evidence.inputs
    if inputs is None:
        return (
            f"Which rows are the same input is not known (access {evidence.access}). With the identity of the inputs "
            f"(access A+) this check could settle {question}, that is, tell a look-up code from shared features."
        )
    rows, d = evidence.activations.values.shape
    if rows < FEWEST_ROWS or d < 2:
        return f"{rows} rows of {d} units are too few: at least {FEWEST_ROWS} rows and 2 units are needed."
    count = len(inputs.unique())
    if count < FEWEST_INPUTS:
        return f"{count} distinct inputs activate something; at least {FEWEST_INPUTS} are needed."
    if not bool((evidence.activations.values != evidence.activations.values[0]).any()):
        return f"The activations of {count} inputs do not differ: there is nothing to compare."
    return None


def _no_inputs(relative: Float[Tensor, "n d"], inputs: Tensor) -> str | None:
    length = measures.distinct(relative, inputs)[0].norm(dim=1)
    count = int((length > measures.NEAR * length.amax()).sum())
    if count < FEWEST_INPUTS:
        return f"{count} distinct inputs activate something; at least {FEWEST_INPUTS} are needed."
    return None
