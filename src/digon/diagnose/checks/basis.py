"""P02. Are the units' own axes special directions?"""

import torch

from ... import rng
from ...measures.basis import TurnTest, rotation_test, turn_test
from ...records import Check, Measurement
from ..evidence import Evidence, not_applicable

BASIS_Z = 6.0
"""Heavy-tailed rotated worlds reach 4 by chance: their rotations vary little."""
MOSTLY = 0.5
"""Share of pairs of neighbors that must gain by a turn for the units themselves not to be the special directions."""
FEWEST_PAIRS = 3


def privileged_basis(evidence: Evidence) -> Check:
    """P02. Whitened activations have heavier tails along the units' axes than along random rotations of them."""
    id, title, claim = "P02", "privileged basis", "the units' axes are special directions"
    values = evidence.activations.values
    reason = _unfit(evidence)
    if reason is not None:
        return not_applicable(id, title, claim, reason)
    test = rotation_test(values, rng.stream(evidence.seed, "P02"))
    statistic = Measurement(
        "basis_z", test.z, n=test.rows, method=f"ZCA-whitened kurtosis against {len(test.null)} Haar rotations",
        seed=evidence.seed, source="after Elhage et al. 2023", null=0.0, p=test.p,
    )  # fmt: skip
    numbers = f"{test.z:.1f} standard deviations above random rotations (p = {test.p:.3f})"
    if test.p > 0.05 or test.z <= BASIS_Z:
        sentence = f"Tails along the units' axes lie {numbers}: the axes are no better than any others."
        return Check(id, title, claim, "silent", sentence, statistic, BASIS_Z, ("monosemantic",))
    turns = turn_test(values, rng.stream(evidence.seed, "P02 turns"))
    sentence = f"Tails along the units' axes lie {numbers}"
    if turns is not None and turns.turned > MOSTLY and evidence.activations.d >= 2 * FEWEST_PAIRS:
        sentence += (
            f", but {100 * turns.turned:.0f} % of neighboring pairs have heavier ones once turned by about "
            f"{turns.angle:.0f}°{_where(turns)}: the axes are near special directions, and are not those."
        )
        return Check(id, title, claim, "for", sentence, statistic, BASIS_Z, ("none", "monosemantic"))
    sentence += ": the axes are special, as a non-linearity alone can make them."
    return Check(id, title, claim, "for", sentence, statistic, BASIS_Z, ("none",))


def _where(turns: TurnTest) -> str:
    """Blocks of neighbors within which no axes are special."""
    plain = [size for size, z in zip(turns.sizes, turns.z.tolist(), strict=True) if z < 2]
    return f", and within blocks of {max(plain)} units no axes are better than others" if plain else ""


def _unfit(evidence: Evidence) -> str | None:
    values = evidence.activations.values
    rows, d = values.shape
    if not rows or not bool(values.sum(dtype=torch.float64).isfinite()):
        return "The activations hold NaN or infinity." if rows else "There are no rows."
    varying = int((values.amax(0) > values.amin(0)).sum())
    if varying < 2:
        return f"{varying} of {d} units vary: there are no directions to compare."
    if rows < 4 * varying:
        return (
            f"{rows} rows are too few for {varying} units: whitening needs at least {4 * varying}; harvest more tokens."
        )
    return None
