"""P04 and P05. Are there more directions of features than dimensions? By fourth moments, and by rows that pile up in rays."""

import torch

from ...records import Cause, Check, Measurement
from ..evidence import Evidence, not_applicable

MORE = 1.05
"""Directions per dimension from which there are more of them than dimensions."""
COVERS = 0.1
"""Share of the rows that lie on rays, from which rays describe the data."""
ON = 0.1
"""Share of the largest unit from which a unit takes part in a direction."""
CLASHES = 0.05
"""Share of the units that may take part in both ends of a line that is cut off, or in neither."""
_P04 = ("P04", "quartic atoms", "there are more independent features than dimensions")
_P05 = ("P05", "rays", "there are more isolated directions than dimensions")


def quartic(evidence: Evidence) -> Check:
    """P04. The fourth cumulant has more dimensions than the data."""
    found = evidence.quartic
    if found is None:
        return not_applicable(*_P04, "Fourth moments of so many units take more rows than there are; use more tokens.")
    r, isolated = found.dimensions, int(found.isolated.sum())
    statistic = Measurement(
        "quartic_rank", found.rank, found.low, found.high, found.rows, "features", "eigenvalues of the fourth cumulant above "
        "noise; interval: the two halves of the rows", evidence.seed, "De Lathauwer et al. 2007", null=0.0,
    )  # fmt: skip
    numbers = f"The fourth cumulant has rank {found.rank} in {r} dimensions, {isolated} of {len(found.directions)} directions stand alone"
    if found.saturated:
        return Check(
            *_P04, "silent", f"{numbers}: every direction looks like a feature, as in elliptical data.", statistic, r
        )
    if found.low > MORE * r and isolated > MORE * r:
        return Check(
            *_P04, "for", f"{numbers}: more than dimensions, unless features are correlated.", statistic, r, ("none",)
        )
    if 0 < found.rank <= r and isolated == found.rank:
        sentence = f"{numbers}: no more than dimensions. Features without heavy tails and opposite pairs are not seen."
        return Check(*_P04, "against", sentence, statistic, r, ("none",))
    return Check(*_P04, "silent", f"{numbers}: nothing follows from that.", statistic, r)


def single_sources(evidence: Evidence) -> Check:
    """P05. Rows with a single active feature pile up in more directions than there are dimensions."""
    found = evidence.rays
    if found is None:
        return not_applicable(*_P05, "At least 100 rows and 2 units are needed.")
    r, count = evidence.dimensions, len(found.directions)
    lines = lines_of(found.directions, evidence.rectified)
    statistic = Measurement(
        "rays", count, n=found.rows, unit="directions", method="caps that hold twice the rows of a Gaussian's fullest and are "
        "tighter than an arc", seed=evidence.seed, source="after Georgiev et al. 2005", null=0.0,
    )  # fmt: skip
    numbers = f"{count} rays on {lines} lines in {r} dimensions, with {100 * found.covered:.0f} % of the rows on them"
    if lines > MORE * r:
        # sums of features of one size pile up too
        shorter = evidence.sparse is not None and len(evidence.sparse) > MORE * r
        confirmed = shorter and not evidence.rectified and not evidence.one_size
        gone: tuple[Cause, ...] = ("none", "monosemantic", "rotated") if confirmed else ("none",)
        rest = (
            " Units are cut off at their minimum: signed features would be cut in two."
            if evidence.rectified and count > lines
            else ""
        )
        return Check(*_P05, "for", f"{numbers}.{rest}", statistic, r, gone)
    if count and found.covered > COVERS and not len(found.loose):
        return Check(*_P05, "against", f"{numbers}, and nothing else piles up.", statistic, r, ("none",))
    loose = f"; {len(found.loose)} more directions are full but not tight, as on curves" if len(found.loose) else ""
    return Check(*_P05, "silent", f"{numbers}{loose}.", statistic, r)


def lines_of(directions: torch.Tensor, cut_off: bool = False) -> int:
    """Number of lines among unit directions [k, d]: two opposite ones are one line.

    `cut_off`: units have no negative side. The two ends of a line then light up units that complement each other.
    """
    if not len(directions):
        return 0
    mirrored = (directions @ directions.T) < -0.95
    if cut_off:
        on = (directions > ON * directions.amax(1, keepdim=True)).float()
        both, none = on @ on.T, (1 - on) @ (1 - on).T
        slack = CLASHES * directions.shape[1]
        mirrored |= (both <= slack) & (none <= slack)
    return len(directions) - int(mirrored.any(1).sum()) // 2
