"""P02. Are the units' own axes special directions?"""

from ... import rng
from ...measures import basis
from ...records import Check, Measurement
from ..evidence import Evidence, not_applicable

BASIS_Z = 6.0
"""Heavy-tailed rotated worlds reach 4 by chance: their rotations vary little."""


def privileged_basis(evidence: Evidence) -> Check:
    """P02. Whitened activations have heavier tails along the units' axes than along random rotations of them."""
    id, title, claim = "P02", "privileged basis", "the units' axes are special directions"
    values = evidence.activations.values
    rows, d = values.shape
    if d < 2 or rows < 4 * d:
        reason = f"{rows} rows are too few for {d} units: whitening needs at least {4 * d}; harvest more tokens."
        return not_applicable(id, title, claim, reason)
    test = basis.rotation_test(values, rng.stream(evidence.seed, "P02"))
    statistic = Measurement(
        "basis_z", test.z, n=test.rows, method="ZCA-whitened kurtosis against 39 Haar rotations", seed=evidence.seed,
        source="after Elhage et al. 2023", null=0.0, p=test.p,
    )  # fmt: skip
    numbers = f"{test.z:.1f} standard deviations above random rotations (p = {test.p:.3f})"
    if test.p <= 0.05 and test.z > BASIS_Z:
        sentence = (
            f"Tails along the units' axes lie {numbers}: the axes are special, as a non-linearity alone can make them."
        )
        return Check(id, title, claim, "for", sentence, statistic, BASIS_Z, ("none",))
    sentence = f"Tails along the units' axes lie {numbers}: the axes are no better than any others."
    return Check(id, title, claim, "silent", sentence, statistic, BASIS_Z, ("monosemantic",))
