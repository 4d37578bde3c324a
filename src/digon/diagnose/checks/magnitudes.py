"""P18. Are symbols told apart by size, so that the same direction means different things at different magnitudes?"""

import torch

from ... import rng
from ...measures.magnitudes import DEPENDENCE, LEVELS, MISFIT, REUSE, Onion, onion
from ...records import Cause, Check, Measurement
from ..evidence import Evidence, not_applicable

FEWEST_ROWS = 1000
MOST_ROWS = 6000
EXCLUDED: tuple[Cause, ...] = ("none", "monosemantic", "rotated", "superposition", "manifold", "lookup")
"""Sparse features would need sizes in exact powers of one number and always one feature for each of them, a look-up table codes
that are sums; variables that are related may well be coded by size, and another part may hide in what is left."""
_P18 = ("P18", "magnitudes", "the same directions carry several symbols, told apart by size")


def magnitudes(evidence: Evidence) -> Check:
    """P18. The activations are a cloud of clouds: the same codebook at sizes 1, γ, γ². Silent where it is not found."""
    activations = evidence.activations
    rows, d = activations.values.shape
    if rows < FEWEST_ROWS or d < 2:
        return not_applicable(
            *_P18, f"{rows} rows of {d} units are too few: {FEWEST_ROWS} rows and 2 units are needed."
        )
    generator = rng.stream(evidence.seed, "P18")
    pick = torch.randperm(rows, generator=generator)[:MOST_ROWS].to(activations.values.device)
    values = activations.values[pick].float()
    varies = values.std(0) > 0
    if int(varies.sum()) < 2:
        return not_applicable(*_P18, "Fewer than two units vary.")
    found = onion(values[:, varies], generator)
    if found is None:
        return Check(*_P18, "silent", "The rows do not fall into clusters that could be symbols.")
    statistic = Measurement(
        "magnitude_misfit", found.misfit, n=found.rows, method="largest |log| of what 1, 2, 3 levels of one codebook leave "
        "unexplained over what a magnitude code leaves; fresh rows", seed=evidence.seed, source="after Csordás et al. 2024",
    )  # fmt: skip
    if not found.nested:
        sentence = f"No magnitude code was found; the best one fails: {_failure(found)}."
        return Check(*_P18, "silent", sentence, statistic, MISFIT)
    levels = f"{found.levels} or more" if found.levels == LEVELS else f"about {found.levels}"
    sentence = (
        f"{found.symbols} symbols return at sizes 1, {found.decay:.2f}, {found.decay**2:.2g}, … ({levels} levels): one level leaves "
        f"{100 * found.unexplained[0]:.0f} % unexplained, two {100 * found.unexplained[1]:.1f} %; levels share "
        f"{100 * min(1.0, found.reuse):.0f} % of the use of their symbols and do not depend on each other."
    )
    return Check(*_P18, "for", sentence, statistic, MISFIT, EXCLUDED)


def _failure(found: Onion) -> str:
    """Why this is no magnitude code, in words."""
    numbers = f"{found.symbols} symbols at sizes 1, {found.decay:.2f}, …"
    if found.misfit >= MISFIT:
        return f"levels of {numbers} are no copies of the whole"
    if found.reuse <= REUSE:
        return f"levels of {numbers} use different symbols"
    if found.dependence >= DEPENDENCE:
        return f"levels of {numbers} depend on each other"
    return f"{numbers} leave no gaps"
