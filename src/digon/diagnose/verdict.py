"""From checks to a verdict: which causes are left standing, and what would split them?

A cause is left standing unless some check speaks against it. The verdict is therefore a set; more than one cause means
"undecided", and the verdict then names the experiment that would split what is left. Polysemantic units alone never
make a verdict of superposition: no outcome of P01–P03 leaves it standing alone. Checks that together exclude everything
contradict each other; the verdict says so and keeps every cause.

Source: the elimination logic follows the ontology of Chan 2024; the experiments are those that separate its classes.
"""

from collections.abc import Sequence

from ..records import CAUSES, Cause, Check, Diagnosis

MEANING: dict[Cause, str] = {
    "none": "no features that could be told apart",
    "monosemantic": "one feature per unit",
    "rotated": "features that are mixed linearly, no more than there are units",
    "superposition": "more sparse features than units",
    "manifold": "features on circles or other curves",
    "magnitude": "features told apart by size, not by direction",
    "relational": "variables that are present only through each other",
    "lookup": "a look-up code of single inputs",
    "mixed": "several of these side by side",
}

EXPERIMENTS: tuple[tuple[frozenset[Cause], str], ...] = (
    (
        frozenset({"rotated", "superposition"}),
        "compare the held-out code length of a sparse dictionary with more atoms than units to that of a complete one: only "
        "superposition makes the larger one shorter",
    ),
    (
        frozenset({"superposition", "lookup"}),
        "learn the dictionary on half of the distinct inputs and decode the other half: a look-up code does not generalize",
    ),
    (
        frozenset({"superposition", "manifold"}),
        "move the activation between two atoms and watch the network's output: features on a manifold move smoothly, atoms snap",
    ),
    (
        frozenset({"monosemantic", "rotated"}),
        "label what the units respond to, or unmix a narrower site with ICA: aligned parts mean one feature per unit",
    ),
    (frozenset({"none"}), "compare with a network of random weights on the same text"),
)


def diagnose(site: str, checks: Sequence[Check], access: str = "A") -> Diagnosis:
    """The causes that the checks leave standing, in words."""
    excluded = {cause for check in checks for cause in check.excludes}
    left: tuple[Cause, ...] = tuple(cause for cause in CAUSES if cause not in excluded)
    if not left:
        return Diagnosis(
            site, CAUSES, "undecided: the checks contradict each other, so nothing is excluded.", access,
            checks=tuple(checks), undecided=("the checks contradict each other",),
            next_experiment="repeat with more documents and another seed; then look at the checks one by one",
        )  # fmt: skip
    if len(left) == 1:
        sentence = f"{left[0]}: {MEANING[left[0]]} is the only cause that the checks leave standing."
        return Diagnosis(site, left, sentence, access, checks=tuple(checks))
    names = ", ".join(f"{cause} ({MEANING[cause]})" for cause in left)
    gone = ", ".join(cause for cause in CAUSES if cause in excluded) or "nothing"
    sentence = f"undecided from activations alone: {names}. Excluded: {gone}."
    return Diagnosis(
        site, left, sentence, access, checks=tuple(checks), undecided=(" | ".join(left),),
        next_experiment=next_experiment(left),
    )  # fmt: skip


def next_experiment(left: Sequence[Cause]) -> str:
    """The first experiment that splits the causes that are left."""
    for pair, experiment in EXPERIMENTS:
        if pair <= set(left):
            return experiment
    return "ask for more access: labels of the inputs, or the network itself"
