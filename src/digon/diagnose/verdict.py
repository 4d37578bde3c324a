"""From evidence to a verdict: which causes are left standing, how probable are they, and what would split them?

1. Preflight: data that allows no claim gets none.
2. Checks, each with the causes that its outcome contradicts.
3. Probabilities learned from worlds of known cause, and the set that held the true cause for nine in ten of them. A site
   unlike all those worlds gets no probabilities.
4. The set of the verdict is that set without what checks contradict. If nothing is left, checks and worlds disagree, and
   the verdict is "undecided".
5. Causes that this access cannot tell apart stand together: a look-up table of single inputs and sparse features are the
   same bag of activations; so are exclusive features on a polygon and a circle that is sampled at few points.

Polysemantic units alone never make a verdict of superposition.

Source: the ontology of Chan 2024; what is undecidable, and at which access, is listed in `UNDECIDABLE`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import PathError
from ..records import CAUSES, Cause, Check, Count, Diagnosis, Label
from . import posterior as opinions
from .budget import budget_of
from .checks import run_checks
from .evidence import Evidence
from .posterior import LEVELS, Opinion, Posterior
from .preflight import Preflight, preflight
from .quantities import by_method, count, described
from .statistics import statistics

MEANING: dict[Cause, str] = {
    "none": "no features that could be told apart",
    "monosemantic": "one feature per unit",
    "rotated": "features that are mixed linearly, no more than there are dimensions",
    "superposition": "more sparse features than dimensions",
    "manifold": "features on circles or other curves",
    "magnitude": "features told apart by size, not by direction",
    "relational": "variables that are present only through each other",
    "lookup": "a look-up code of single inputs",
    "mixed": "several of these side by side",
}
EXCLUSIVE = 0.5
"""Share of atoms with another one that they are never active with, from which atoms may be points of one curve."""


@dataclass(frozen=True)
class Pair:
    """Causes that the same activations could have, and what tells them apart."""

    causes: frozenset[Cause]
    why: str
    access: str
    """Level from which an experiment decides."""
    experiment: str


UNDECIDABLE: tuple[Pair, ...] = (
    Pair(frozenset({"superposition", "lookup"}), "a table of single inputs is a bag of features that are active once", "A+",
         "say which rows are the same input (--ids): directions of features return on other inputs, those of a table do not"),
    Pair(frozenset({"rotated", "lookup"}), "a table of few inputs is a bag of features that are active once", "A+",
         "say which rows are the same input (--ids), and use more distinct inputs than dimensions"),
    Pair(frozenset({"superposition", "manifold"}), "exclusive features on a polygon are a circle sampled at few points", "C",
         "move the activation between two atoms and watch the network's output: on a manifold it moves smoothly, atoms snap"),
    Pair(frozenset({"rotated", "relational"}), "a direction may carry a relation of two variables as well as one of them", "B",
         "label the variables of the inputs (--labels): relations show in products of labels, not in single ones"),
    Pair(frozenset({"monosemantic", "relational"}), "a unit may carry a relation of two variables as well as one of them", "B",
         "label the variables of the inputs (--labels): relations show in products of labels, not in single ones"),
    Pair(frozenset({"rotated", "superposition"}), "opposite features share a direction, and a non-linearity bends sums", "B",
         "label features (--labels) and compare readers: in superposition sparse codes read what linear probes cannot"),
    Pair(frozenset({"rotated", "manifold"}), "features that are always active together fill a plane, as a curve of many sizes does", "B",
         "label the two features: a curve has one variable where they have two"),
    Pair(frozenset({"monosemantic", "rotated"}), "some units are near features, and some are not", "B",
         "label what the units respond to: aligned parts mean one feature per unit"),
    Pair(frozenset({"superposition", "mixed"}), "a part with few features beside a crowded one looks like one crowd", "B",
         "look at the blocks, and diagnose the units of each of them apart"),
)  # fmt: skip
MORE_ROWS = "look at more rows, from more documents; then at the checks one by one"


def diagnose(
    evidence: Evidence,
    site: str = "",
    say: Callable[[str], None] = lambda _: None,
    *,
    posterior: Posterior | None = None,
    ids: Collection[str] | None = None,
) -> Diagnosis:
    """Why are the units of a site polysemantic? A set of causes, calibrated on worlds of known cause.

    `say` is told what is running. `posterior`: another one than the package carries. `ids`: only these checks, and
    nothing else: causes that they do not contradict, without probabilities or numbers of features.
    """
    name = site or evidence.activations.site
    found = preflight(evidence.activations)
    if found.refused:
        return _refused(name, found, evidence.access)
    clean = _clean(evidence, found)
    checks = run_checks(clean, ids, say)
    if ids is not None:
        causes, questions = conclude(checks, None, clean.access, {})
        return Diagnosis(
            name, causes, _sentence(causes, None, clean.access), clean.access, rank=clean.dimensions, checks=checks,
            undecided=questions, next_experiment=next_experiment(causes, clean.access), notes=found.notes,
            measurements=found.measurements,
        )  # fmt: skip
    say("verdict")
    numbers = statistics(clean, checks)
    opinion = _opinion(numbers, clean.access, posterior)
    causes, questions = conclude(checks, opinion, clean.access, numbers)
    return _complete(name, clean, found, checks, opinion, causes, questions)


def _complete(
    site: str,
    clean: Evidence,
    found: Preflight,
    checks: tuple[Check, ...],
    opinion: Opinion | None,
    causes: tuple[Label, ...],
    questions: tuple[str, ...],
) -> Diagnosis:
    """The verdict with everything that was measured."""
    budget, blocks = budget_of(clean, causes, any(c.id == "P08" and c.verdict == "for" for c in checks))
    n = count(clean, causes)
    known = clean.sparse is not None and len(clean.sparse) > 0
    return Diagnosis(
        site, causes, _sentence(causes, opinion, clean.access, n, clean.dimensions), clean.access,
        {} if opinion is None or opinion.novel else dict(opinion.probabilities), n, clean.dimensions,
        n.point / max(1, clean.dimensions), clean.sparse.active if known and clean.sparse is not None else math.nan, checks,
        blocks, (*questions, *(f"caution: {text}" for text in found.cautions)), next_experiment(causes, clean.access),
        by_method(clean, checks), (*described(clean), *found.measurements),
        _at_all_units(budget, found), found.notes,
    )  # fmt: skip


def conclude(
    checks: Sequence[Check], opinion: Opinion | None, access: str, numbers: Mapping[str, float]
) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """The set of causes, and one sentence for everything that stays open.

    >>> conclude([Check("P0", "t", "c", "for", "s", excludes=CAUSES[1:])], None, "A", {})
    (('none',), ())
    """
    return decide({cause for check in checks for cause in check.excludes}, opinion, access, numbers)


def decide(
    excluded: Collection[Cause], opinion: Opinion | None, access: str, numbers: Mapping[str, float]
) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """The same from what the checks exclude."""
    standing: tuple[Cause, ...] = tuple(cause for cause in CAUSES if cause not in excluded)
    if not standing:
        return ("undecided",), ("the checks contradict each other, so nothing is excluded",)
    if opinion is not None and opinion.novel:
        words = " | ".join(standing)
        return ("undecided",), (
            f"the data is unlike every world of the benchmark ({opinion.distance:.1f} times the limit), so nothing is claimed; "
            f"the checks alone would leave {words}",
        )  # fmt: skip
    left: tuple[Cause, ...] = standing
    if opinion is not None:
        left = tuple(cause for cause in standing if cause in opinion.causes)
    if not left:
        assert opinion is not None, "standing causes are left without an opinion"
        return ("undecided",), (
            f"checks and benchmark disagree: checks leave {' | '.join(standing)}, worlds like this one were "
            f"{' | '.join(opinion.causes)}",
        )
    together = _merged({*left}, access, numbers)
    causes: tuple[Label, ...] = tuple(cause for cause in CAUSES if cause in together)
    return causes, _open(causes, access)


def _merged(causes: set[Cause], access: str, numbers: Mapping[str, float]) -> set[Cause]:
    """With the causes that this access cannot tell from those."""
    if LEVELS.index(access) < LEVELS.index("A+"):
        if "superposition" in causes:
            causes = {*causes, "lookup"}
        if "lookup" in causes and not causes & {"superposition", "rotated"}:
            causes = {*causes, "superposition" if numbers.get("atoms", 0) > 1 else "rotated"}
    corners = numbers.get("exclusive", 0) >= EXCLUSIVE
    if LEVELS.index(access) < LEVELS.index("C") and corners and causes & {"superposition", "manifold"}:
        causes = {*causes, "superposition", "manifold"}
    return causes


def _open(causes: Sequence[str], access: str) -> tuple[str, ...]:
    if len(causes) < 2:
        return ()
    known = [p for p in UNDECIDABLE if p.causes <= set(causes)]
    sentences = [f"{' | '.join(sorted(p.causes))}: {p.why}; access {p.access} splits them" for p in known]
    told = {cause for p in known for cause in p.causes}
    rest = [cause for cause in causes if cause not in told]
    if rest:
        sentences.append(f"{' | '.join(rest)}: worlds of these causes look like this one too often to leave them out")
    return tuple(sentences)


def next_experiment(causes: Sequence[str], access: str = "A") -> str:
    """The experiment that splits what is left, of those that take the least access; empty if nothing is left to split."""
    if len(causes) == 1 and causes[0] != "undecided":
        return ""
    pairs = [p for p in UNDECIDABLE if p.causes <= set(causes)]
    further = [p for p in pairs if LEVELS.index(p.access) > LEVELS.index(access)] or pairs
    if further:
        return min(further, key=lambda p: LEVELS.index(p.access)).experiment
    return MORE_ROWS


def _refused(site: str, found: Preflight, access: str) -> Diagnosis:
    return Diagnosis(
        site, ("undecided",), f"undecided: {found.refused}", access, n_features=Count(),
        undecided=(found.refused,), next_experiment="repair the activations, or collect more rows, and ask again",
        measurements=found.measurements, notes=found.notes,
    )  # fmt: skip


def _clean(evidence: Evidence, found: Preflight) -> Evidence:
    """The evidence on the rows and units that are fit to be looked at; itself, with all that it knows, if all are."""
    if found.activations.values is evidence.activations.values:
        return evidence
    rows, network = found.kept_rows, evidence.network
    return replace(
        evidence,
        activations=found.activations,
        inputs=None if evidence.inputs is None else evidence.inputs[rows],
        labels=None if evidence.labels is None else evidence.labels[rows],
        network=None if network is None else lambda values: network(found.restore(values)),
    )


def _opinion(numbers: Mapping[str, float], access: str, posterior: Posterior | None) -> Opinion | None:
    """What the benchmark's worlds say; None where the package carries no table of them."""
    try:
        model = posterior or opinions.shipped()
    except PathError:
        return None
    return model.of(numbers, access)


def _sentence(
    causes: Sequence[Label], opinion: Opinion | None, access: str, n: Count | None = None, rank: int = 0
) -> str:
    if tuple(causes) == ("undecided",):
        return "undecided: nothing is claimed about these activations."
    size = ""
    if n is not None and math.isfinite(n.point) and n.point:
        size = f" About {n.point:.0f} features in {rank} dimensions."
    sure = ""
    if opinion is not None:
        share = min(1.0, sum(opinion.probabilities[c] for c in CAUSES if c in causes))
        sure = f" ({100 * share:.0f} % of the probability)"
    if len(causes) == 1:
        return f"{causes[0]}: {MEANING[causes[0]]}{sure}.{size}"  # type: ignore[index]
    names = " | ".join(f"{cause} ({MEANING[cause]})" for cause in causes)  # type: ignore[index]
    return f"one of these, and access {access} cannot say which: {names}{sure}.{size}"


def _at_all_units(budget: dict[str, tuple[float, ...]], found: Preflight) -> dict[str, tuple[float, ...]]:
    """Shares at the numbers that the units had; NaN for units that were left out."""
    if found.shift is None:
        return budget
    full = {label: [math.nan] * len(found.shift) for label in budget}
    for label, shares in budget.items():
        for unit, share in zip(found.kept_units.tolist(), shares, strict=True):
            full[label][unit] = share
    return {label: tuple(shares) for label, shares in full.items()}
