"""Directions of features from fourth-order statistics: how many independent features, and where do they point?

Whitened activations z [n, r] of independent features with directions uᵢ have the fourth cumulant Σ κᵢ uᵢ⊗uᵢ⊗uᵢ⊗uᵢ, to
which Gaussian noise adds nothing. As a matrix M on symmetric r × r matrices,

    M = E[v vᵀ] − c cᵀ − 2 I,   v = vech(z zᵀ),  c = vech(I)      (off-diagonal entries times √2)

it has rank min(features, r (r + 1) / 2), and its range P is spanned by the vech(uᵢ uᵢᵀ):

1. Rank: eigenvalues of M above twice the size of the most negative one, which is noise where all κ are positive; the
   same on each half of the rows shows how sure that is.
2. Atoms: F(x) = ‖Pᵀ vech(x xᵀ)‖² on the unit sphere is 1 at the uᵢ and nowhere else; it is climbed from many rows of
   the data until new starts find nothing new.
3. A maximum is isolated if F falls off in every direction; along the circle of a two-dimensional feature it does not.

Wide data: M has r⁴ / 4 entries. Beyond 48 dimensions it is never formed; `atoms_quartic_wide` climbs the cumulant itself
and counts eigenvalues of M restricted to the atoms found, which bounds the rank from below.

Limits: features with κ ≤ 0 are not seen; antipodal pairs count once; features that are active together look like more
features than there are; a random length of whole rows (elliptical data) looks like every direction at once (saturated).

Sources: De Lathauwer, Castaing & Cardoso 2007 (rank of the quadricovariance); Kileel & Pereira 2019, "Subspace power
method for symmetric tensor decomposition".
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ConfigError
from ..measures.unmix import whitening
from .atoms_quartic_wide import quartic_limit, wide_atoms

MOST_DIMENSIONS = 48
"""Dimensions up to which M is formed: (r²/2)² entries, at 48 dimensions 1.4 million."""
MOST_ROWS = 100_000
MOST_NUMBERS = 10**8
"""Rows times units that are looked at: 65,000 rows of 1,536 units."""
ROWS_PER_DIMENSION = 16
"""Rows for every dimension that wide data must have: whitening learns r²/2 numbers from them."""
UNIFORM = 0.5
"""Tails in random directions, relative to those along maxima, from which all directions are alike."""
SATURATED = 0.8
"""Share of all possible dimensions of M beyond which its rank says nothing."""
PULL = 0.3
"""How much of the old direction a step keeps."""
ACCEPTED = 0.9
"""F at a maximum that is taken for an atom."""
SAME = 0.98
"""Cosine from which two maxima are one."""
FLAT = -0.1
"""Largest curvature of F (its value at an atom being 1) at an isolated maximum."""
STEPS = 100
STILL = 1e-5
"""Change of F in a step with which a start has arrived."""
PIECE = 2**25
STARTS = 256
"""Starts that climb together."""
PATIENCE = 3
"""Rounds of starts without a new atom that end the search."""


@dataclass(frozen=True)
class QuarticAtoms:
    """What fourth-order statistics say about the features behind some activations."""

    directions: Float[Tensor, "k d"]
    """Unit directions in the units' coordinates; the side with the heavier tail is positive."""
    fit: Float[Tensor, " k"]
    """F at every direction. Range: (0.9, 1]."""
    isolated: Bool[Tensor, " k"]
    """Whether the direction stands alone, rather than on a curve of equally good ones."""
    rank: int
    """Eigenvalues above the floor: the number of independent features, unless saturated."""
    low: int
    """Smaller and larger rank of the two halves of the rows."""
    high: int
    dimensions: int
    """r, dimensions of the activations."""
    eigenvalues: Float[Tensor, " e"]
    """Largest eigenvalues of M, descending."""
    floor: float
    """Size of an eigenvalue that noise explains."""
    rows: int
    """Rows that were used."""
    uniform: float = 0.0
    """Cumulant in random directions over that along maxima. Range: about 0 to 1; 1 if all directions are alike."""
    lower_bound: bool = False
    """Whether there may be more features than `rank`: always so beyond 48 dimensions."""
    exhausted: bool = True
    """Whether the last starts found nothing new."""

    @property
    def saturated(self) -> bool:
        """Whether the rank is at its limit: too many features, or no features at all (elliptical data)."""
        return self.uniform > UNIFORM or self.rank >= SATURATED * self.dimensions * (self.dimensions + 1) / 2


def quartic_atoms(values: Float[Tensor, "n d"], generator: torch.Generator) -> QuarticAtoms:
    """Number and directions of the features behind activations; beyond 48 dimensions, a lower bound of the number.

    Rows beyond 100,000, and beyond 10⁸ numbers, are thinned evenly. Raises: ConfigError for values that are not finite,
    less than 2 dimensions, or too few rows: 4 r, and 16 r beyond 48 dimensions.
    """
    n, d = values.shape
    rows = min(n, MOST_ROWS, max(1, MOST_NUMBERS // max(1, d)))
    x = values[torch.linspace(0, max(0, n - 1), rows).long().to(values.device)].float()
    if not rows or not bool(x.sum(dtype=torch.float64).isfinite()):
        raise ConfigError("no rows, NaN or infinity", expected="rows of finite numbers")
    z, back = whiten(x)
    r = z.shape[1]
    least = max(8, (4 if r <= MOST_DIMENSIONS else ROWS_PER_DIMENSION) * r)
    if rows < least or r < 2:
        raise ConfigError(
            f"{rows} rows of {r} dimensions: features of an excess kurtosis below {quartic_limit(rows, r):.0f} are lost in noise",
            expected=f"at least 2 dimensions and {least} rows",
        )
    if r <= MOST_DIMENSIONS:
        return _narrow(z, back, generator)
    found = wide_atoms(z, generator)
    directions = torch.nn.functional.normalize(found.directions @ back, dim=1).to(values)
    return QuarticAtoms(
        directions, found.fit, found.isolated, found.ranks[0], *found.ranks, r, found.eigenvalues, found.floor, rows,
        found.uniform, True, found.exhausted,
    )  # fmt: skip


def _narrow(z: Float[Tensor, "n r"], back: Float[Tensor, "r d"], generator: torch.Generator) -> QuarticAtoms:
    n, r = z.shape
    wide = r * (r + 1) // 2
    halves = [quadricovariance(part) for part in (z[::2], z[1::2])]
    rank, floor, eigenvalues, P = rank_of((halves[0] + halves[1]) / 2)
    counts = [int(((P * (M @ P)).sum(0) > floor).sum()) for M in halves]
    surface = _Climb(P, r)
    found = surface.search(z, generator) if 0 < rank < SATURATED * wide else torch.zeros(0, r).to(z)
    # The side with the heavier tail is where the feature is active.
    found = torch.stack([x * (z @ x).pow(3).mean().sign() for x in found]) if len(found) else found
    isolated = torch.tensor([surface.curvature(x) < FLAT for x in found], dtype=torch.bool, device=z.device)
    fit = surface.value(found)[0] if len(found) else torch.zeros(0).to(z)
    directions = torch.nn.functional.normalize(found @ back, dim=1)
    return QuarticAtoms(directions, fit, isolated, rank, min(counts), max(counts), r, eigenvalues, floor, n)


def whiten(values: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, "r d"]]:
    """Uncorrelated coordinates of unit variance in the span of the data, and the way back: x − mean = z @ back."""
    mean, _, into, back = whitening(values)
    return (values - mean) @ into, back


def quadricovariance(z: Float[Tensor, "n r"]) -> Float[Tensor, "D D"]:
    """M of whitened rows; what a Gaussian of the same covariance would have is taken off."""
    n, r = z.shape
    i, j = torch.triu_indices(r, r, device=z.device)
    weight = _weights(r, z)
    total = torch.zeros(len(i), len(i), device=z.device)
    for part in z.split(max(1, PIECE // len(i))):
        v = part[:, i] * part[:, j] * weight
        total += v.T @ v
    C = z.T @ z / n
    c = vech(C)
    Ci, Cj = C[i], C[j]
    gaussian = (Ci[:, i] * Cj[:, j]).add_(Ci[:, j] * Cj[:, i]).mul_(weight).mul_(weight[:, None])
    return total.div_(n).sub_(gaussian).sub_(torch.outer(c, c))


def vech(S: Float[Tensor, "*b r r"]) -> Float[Tensor, "*b D"]:
    """Symmetric matrices as vectors with the same inner product."""
    i, j = torch.triu_indices(S.shape[-1], S.shape[-1], device=S.device)
    return S[..., i, j] * _weights(S.shape[-1], S)


def unvech(v: Float[Tensor, "*b D"], r: int) -> Float[Tensor, "*b r r"]:
    """The symmetric matrices back."""
    i, j = torch.triu_indices(r, r, device=v.device)
    entries = v / _weights(r, v)
    S = torch.zeros(*v.shape[:-1], r, r, device=v.device, dtype=v.dtype)
    S[..., i, j] = entries
    S[..., j, i] = entries
    return S


def _weights(r: int, like: Tensor) -> Float[Tensor, " D"]:
    i, j = torch.triu_indices(r, r, device=like.device)
    return torch.where(i == j, 1.0, math.sqrt(2.0)).to(like)


def rank_of(M: Float[Tensor, "D D"]) -> tuple[int, float, Float[Tensor, " e"], Float[Tensor, "D k"]]:
    """Eigenvalues above twice the size of the most negative one: their number, that floor, the largest eigenvalues, and
    the eigenvectors of those above the floor."""
    values, vectors = torch.linalg.eigh(M.double())
    values, vectors = values.flip(0).float(), vectors.flip(1).float()
    floor = 2 * float(values[-1].clamp(max=0).abs()) + 1e-6 * float(values[0].abs())
    rank = int((values > floor).sum())
    return rank, floor, values[: max(rank + 10, 20)], vectors[:, :rank]


class _Climb:
    """F(x) = ‖Pᵀ vech(x xᵀ)‖² on the sphere, and its maxima."""

    def __init__(self, P: Float[Tensor, "D k"], r: int) -> None:
        self.r = r
        self.Q = unvech(P.T.contiguous(), r)
        """The basis of the range as symmetric matrices [k, r, r]."""
        self.flat = self.Q.flatten(1)

    def value(self, x: Float[Tensor, "s r"]) -> tuple[Float[Tensor, " s"], Float[Tensor, "s r"]]:
        """F at every x, and the projection of x xᵀ onto the range, applied to x."""
        a = (x[:, :, None] * x[:, None, :]).flatten(1) @ self.flat.T
        B = (a @ self.flat).view(-1, self.r, self.r)
        return a.square().sum(1), (B @ x[:, :, None])[..., 0]

    def climb(self, x: Float[Tensor, "s r"]) -> tuple[Float[Tensor, "s r"], Float[Tensor, " s"]]:
        """Maxima that starts lead to, with their values."""
        x, moving, before = x.clone(), torch.arange(len(x), device=x.device), torch.zeros(len(x), device=x.device)
        for _ in range(STEPS):
            F, step = self.value(x[moving])
            x[moving] = torch.nn.functional.normalize(step + PULL * x[moving], dim=1)
            still = (F - before[moving]).abs() > STILL
            before[moving] = F
            moving = moving[still]
            if not len(moving):
                break
        return x, self.value(x)[0]

    def search(self, z: Float[Tensor, "n r"], generator: torch.Generator) -> Float[Tensor, "k r"]:
        """All maxima with F above the limit, from rows of the data, the longer ones more often."""
        found = torch.zeros(0, self.r, device=z.device)
        most, quiet = 3 * len(self.Q) + 16, 0
        weight = z.square().sum(1).cpu()
        while quiet < PATIENCE and len(found) < most:
            start = torch.multinomial(weight, min(STARTS, len(z)), generator=generator)
            x, F = self.climb(torch.nn.functional.normalize(z[start.to(z.device)], dim=1))
            before = len(found)
            for one in x[F > ACCEPTED]:
                if not len(found) or float((found @ one).abs().max()) < SAME:
                    found = torch.cat([found, one[None]])
            quiet = quiet + 1 if len(found) == before else 0
        return found

    def curvature(self, x: Float[Tensor, " r"]) -> float:
        """Largest curvature of F along the sphere at a maximum, over that of an isolated direction of its own (−1)."""
        Y = self.Q @ x
        a = Y @ x
        B = torch.einsum("k,kij->ij", a, self.Q)
        hessian = 4 * B + 8 * Y.T @ Y
        tangent = torch.eye(self.r, device=x.device) - torch.outer(x, x)
        curved = tangent @ hessian @ tangent - 4 * float(a.square().sum()) * tangent
        # the direction of x itself is not on the sphere: put it below everything
        return float(torch.linalg.eigvalsh(curved - 100 * torch.outer(x, x))[-1]) / 4
