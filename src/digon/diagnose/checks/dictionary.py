"""P06 and P07. Does a dictionary with more atoms than dimensions describe the data in fewer bits, and is it found again?"""

from ...coders.atoms_sparse import SparseAtoms
from ...records import Cause, Check, Measurement
from ..evidence import Evidence, not_applicable

MORE = 1.05
GAIN = 0.2
"""Bits per row and dimension that atoms beyond the dimensions must save; a cut-off unit alone makes .1 to .3."""
RECTIFIED_GAIN = 0.5
DESCRIBED = 0.8
"""Share of rows of which next to nothing is left, from which a dictionary is the data's own."""
TWO_SIDED = 0.3
"""Share of an atom's uses with the rarer sign, on average, from which atoms may be pairs of opposite features."""
AGAIN = 0.95
"""Cosine from which an atom is found again."""
STABLE, UNSTABLE = 0.9, 0.5
_P06 = ("P06", "code length", "more atoms than dimensions describe the activations in fewer bits")
_P07 = ("P07", "stability", "other rows and another start lead to the same atoms")


def code_length(evidence: Evidence) -> Check:
    """P06. The shortest dictionary has more atoms than dimensions, and a complete one takes more bits."""
    found = evidence.sparse
    if found is None:
        return not_applicable(*_P06, "At least 100 rows and 2 units are needed.")
    r, threshold = evidence.dimensions, RECTIFIED_GAIN if evidence.rectified else GAIN
    statistic = Measurement(
        "code_length_gain", found.gain, n=found.rows, unit="bits per row and dimension", method="held-out bits of the best "
        "dictionary with at most as many atoms as dimensions, less those of the best of any size", seed=evidence.seed,
        source="description length after Rissanen 1978", null=0.0,
    )  # fmt: skip
    numbers = (
        f"The shortest dictionary has {len(found)} atoms in {r} dimensions, {found.active:.1f} of them active, and takes "
        f"{found.bits:.0f} bits per row; a complete one takes {found.complete_bits:.0f}, none {found.empty_bits:.0f}"
    )
    if not len(found) or found.empty_bits - found.bits < 0.02 * found.empty_bits:
        return Check(*_P06, "silent", f"{numbers}: nothing sparse is to be seen.", statistic, threshold)
    if len(found) > MORE * r and found.gain > threshold:
        told = not (evidence.rectified or evidence.one_size)
        gone: tuple[Cause, ...] = ("none", "monosemantic", "rotated") if told else ("none",)
        rest = ". Coefficients are of one size, so atoms may be sums of features" if evidence.one_size else ""
        return Check(*_P06, "for", f"{numbers}{rest}.", statistic, threshold, gone)
    if len(found) <= r and found.explained > DESCRIBED:
        sentence = f"{numbers}: {100 * found.explained:.0f} % of rows need no more atoms than there are dimensions."
        if float(found.two_sided.mean()) > TWO_SIDED:
            # a signed feature, or two opposite ones that are hardly ever active together
            sentence = f"{sentence[:-1]}, if none of them is shared by two opposite features."
            return Check(*_P06, "against", sentence, statistic, threshold, ("none",))
        return Check(*_P06, "against", sentence, statistic, threshold, ("none", "superposition"))
    return Check(*_P06, "silent", f"{numbers}: too little to tell.", statistic, threshold)


def stability(evidence: Evidence) -> Check:
    """P07. The dictionary is found again from other rows."""
    found = evidence.sparse
    if found is None or not len(found):
        return not_applicable(*_P07, "There are no atoms to be found again.")
    again = evidence.sparse_again
    if again is None:
        return not_applicable(*_P07, "A second dictionary takes more rows, or fewer units.")
    share = _found_again(found, again)
    statistic = Measurement(
        "atoms_found_again", share, n=len(found), method="share of atoms with a cosine above .95 to one of a dictionary from "
        "other rows and another seed", seed=evidence.seed, source="after PW-MCC (Song et al. 2025)", null=0.0,
    )  # fmt: skip
    numbers = f"{100 * share:.0f} % of {len(found)} atoms are found again among {len(again)} from other rows"
    if share >= STABLE:
        return Check(*_P07, "for", f"{numbers}.", statistic, STABLE, ("none",))
    if share < UNSTABLE:
        sentence = (
            f"{numbers}: no features, or features whose direction is a matter of choice (curves, always together)."
        )
        return Check(*_P07, "against", sentence, statistic, UNSTABLE)
    return Check(*_P07, "silent", f"{numbers}.", statistic, STABLE)


def _found_again(found: SparseAtoms, again: SparseAtoms) -> float:
    if not len(again):
        return 0.0
    return float(((found.directions @ again.directions.T).abs().amax(1) > AGAIN).double().mean())
