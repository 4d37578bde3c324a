"""Are the contexts that fire a unit alike? Mean cosine of pairs of rows, weighted by how strongly both fire it, against chance.

    MS = Σ_{i<j} rᵢ rⱼ cos(eᵢ, eⱼ) / Σ_{i<j} rᵢ rⱼ = (‖Σ rᵢ êᵢ‖² − Σ rᵢ²) / ((Σ rᵢ)² − Σ rᵢ²)

r are the activations from their least (0) to their largest (1), e embeddings of the rows, such as what the rest of the layer does
there. The right side takes N steps instead of N². Embeddings crowd in a cone, so MS of a unit that responds to nothing in
particular is not 0 but the mean cosine of all pairs, (‖Σ ê‖² − N)/(N (N − 1)): exactly what MS is on average if r is permuted.
The variance under permutations is known as well, so z needs no draws.

A unit with one meaning reads z ≫ 0. So does one with two meanings, if each is narrow: MS falls with the number of meanings but
does not count them.

Sources: MS after Pach et al. 2025; the identity after MonoLoss 2026; moments under permutations after Mantel 1967.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class Similarity:
    """One number per unit; NaN for a unit that never varies."""

    score: Float[Tensor, " units"]
    """MS. Range: [−1, 1]."""
    null: Float[Tensor, ""]
    """MS of permuted activations, on average; the same for all units."""
    z: Float[Tensor, " units"]
    """How many standard deviations, over permutations, the score lies above the null."""


def monosemanticity(embeddings: Float[Tensor, "n d"], values: Float[Tensor, "n units"]) -> Similarity:
    """MS of every unit beside its exact mean and deviation under permutations. Source: see the module.

    Raises: ConfigError for fewer than four rows.

    >>> import torch
    >>> e = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> found = monosemanticity(e, torch.tensor([[1.0], [1.0], [0.0], [0.0]]))
    >>> float(found.score), round(float(found.null), 4)
    (1.0, -0.1667)
    """
    n = len(embeddings)
    if n < 4:
        raise ConfigError(f"similarity among {n} rows", expected="at least four")
    rows, r = F.normalize(embeddings.double(), dim=1), values.double() - values.double().amin(0)
    r = r / r.amax(0)  # 0/0 where a unit never varies
    s1, s2, s3, s4 = (r.pow(power).sum(0) for power in range(1, 5))
    pairs = s1.square() - s2
    score = ((r.T @ rows).square().sum(1) - s2) / pairs
    total, gram = rows.sum(0), rows.T @ rows
    cosines = total @ total - n
    null = cosines / (n * (n - 1))
    # sums over ordered pairs: of entries, of their squares, of squared row sums
    a = (pairs, s2.square() - s4, s1.square() * s2 - 2 * s1 * s3 + s4)
    b = (cosines, gram.square().sum() - n, (rows @ total - 1).square().sum())
    second = 2 * a[1] * b[1] / (n * (n - 1)) + 4 * (a[2] - a[1]) * (b[2] - b[1]) / (n * (n - 1) * (n - 2))
    apart = [x[0].square() + 2 * x[1] - 4 * x[2] for x in (a, b)]
    second = second + apart[0] * apart[1] / (n * (n - 1) * (n - 2) * (n - 3))
    spread = (second / pairs.square() - null.square()).clamp_min(0).sqrt()
    return Similarity(score, null, (score - null) / spread)
