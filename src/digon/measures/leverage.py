"""Which atoms share dimensions with which, whatever the inner product?

1. Leverage ℓᵢ = Var(fᵢ) wᵢᵀ C⁻¹ wᵢ: the share of a dimension that feature i has to itself, and how well a linear probe
   reads it (R²). For uncorrelated features that make up all of h, Σ ℓᵢ = rank; any invertible map leaves it alone.
2. The leverage matrix P = W (WᵀW)⁺ Wᵀ of atoms W [n, d] projects onto the dictionary's row relations. A direct sum of
   dictionaries has a block diagonal P; Pᵢᵢ = 1 means that atom i is needed by no other: it has its own dimension.
3. Blocks: cut the weakest links of P; a part is a block if what it shares with the others is a small share of what a
   part in superposition would, Σ_{i∈b, j∉b} Pᵢⱼ² < tolerance · Σ_{i∈b} ℓᵢ(1 − ℓᵢ). Atoms that are only nearly right
   (cos .99) blur P by less than that.
4. A block of n_b atoms spans r_b = Σ_{i∈b} Pᵢᵢ dimensions (rounded): n_b > r_b is superposition, and where.

Give atoms in coordinates in which the data is white (`whitened`): there independent features are orthogonal, and what is
left of cosines is superposition. P itself does not change under invertible maps; rounding and errors of atoms do.

Sources: derived here; leverage scores and direct sums (blocks of the matroid of the atoms) are textbook material.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import ConfigError
from . import geometry, polytopes

OWN = 0.04
"""1 − Pᵢᵢ up to which an atom has a dimension of its own."""
LEAST_VALUE = 0.02
"""Eigenvalue of WᵀW, relative to the mean of those that are not zero, below which a dimension is error of the atoms."""
CUTS = 40
"""Strengths of links at which a dictionary is tried to fall apart."""


@dataclass(frozen=True)
class AtomBlock:
    """Atoms that share dimensions with each other and with no others."""

    members: tuple[int, ...]
    rank: int
    """Dimensions that they share."""
    shape: str = ""
    """Name of the polytope that they form in the metric given; `irregular` if none; empty if it was not asked for."""

    @property
    def load(self) -> float:
        """Atoms per dimension; above 1 they are in superposition."""
        return len(self.members) / self.rank


def leverages(
    atoms: Float[Tensor, "n d"], variances: Float[Tensor, " n"], covariance: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """ℓᵢ of features with these directions and variances in activations with this covariance.

    Range: [0, 1] for uncorrelated features, with sum rank C.

    >>> leverages(torch.eye(2), torch.ones(2), torch.eye(2))
    tensor([1., 1.])
    """
    wide = atoms.double()
    inverse = torch.linalg.pinv(covariance.double(), hermitian=True, rtol=1e-9)
    return (variances * ((wide @ inverse) * wide).sum(1)).to(atoms)


def whitened(atoms: Float[Tensor, "n d"], covariance: Float[Tensor, "d d"]) -> Float[Tensor, "n d"]:
    """Unit directions of the atoms in coordinates in which the data has the identity as covariance."""
    values, axes = torch.linalg.eigh(covariance.double())
    kept = values > 1e-9 * values.amax().clamp(min=1e-300)
    scale = torch.where(kept, values.clamp(min=1e-300).rsqrt(), 0.0)
    return torch.nn.functional.normalize(atoms.double() @ (axes * scale) @ axes.T, dim=1).to(atoms)


def leverage_matrix(atoms: Float[Tensor, "n d"], least: float = LEAST_VALUE) -> Float[Tensor, "n n"]:
    """P = W (WᵀW)⁺ Wᵀ of unit atoms, without dimensions that only errors of the atoms fill.

    Range of the diagonal: [0, 1]; its sum is the rank. Memory: n² numbers. `least` = 0 keeps all dimensions.
    """
    unit = torch.nn.functional.normalize(atoms.double(), dim=1)
    left, values, _ = torch.linalg.svd(unit, full_matrices=False)
    square = values.square()
    present = square > 1e-9 * square.amax().clamp(min=1e-300)
    mean = square[present].median() if bool(present.any()) else square.new_ones(())
    kept = left[:, present & (square > least * mean)]
    return kept @ kept.T


def blocks_of(atoms: Float[Tensor, "n d"], tolerance: float = 0.1) -> tuple[AtomBlock, ...]:
    """The finest direct sum that the atoms fall apart into, the largest block first.

    tolerance: share of links that may lead out of a block; 0.1 lets atoms be off by cos .99, and 0 asks for exact ones.
    Cost: n² memory and about n³. Raises: ConfigError without atoms or for a tolerance outside [0, 1).

    >>> [(b.members, b.rank) for b in blocks_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))]
    [((0, 1), 1), ((2,), 1)]
    """
    if not len(atoms) or not 0 <= tolerance < 1:
        raise ConfigError(f"{len(atoms)} atoms, tolerance {tolerance}", expected="at least one atom, [0, 1)")
    projection = leverage_matrix(atoms).cpu().numpy()
    own = np.diagonal(projection)
    rank = round(float(own.sum()))
    single, rest = np.flatnonzero(own >= 1 - OWN), np.flatnonzero(own < 1 - OWN)
    if not len(rest) and len(atoms) > rank:
        single, rest = rest, single
    groups = [np.array([i]) for i in single]
    if len(rest):
        groups += _split(projection, rest, max(tolerance, 1e-9))
    blocks = [AtomBlock(tuple(g.tolist()), max(1, round(float(own[g].sum())))) for g in groups]
    return tuple(sorted(blocks, key=lambda b: (-len(b.members), b.members)))


def named(atoms: Float[Tensor, "n d"], blocks: tuple[AtomBlock, ...], tolerance: float = 0.1) -> tuple[AtomBlock, ...]:
    """The blocks with the names of the polytopes that they form, up to rotation, in the coordinates given."""
    shapes = (polytopes.identify(atoms[list(b.members)], tolerance=tolerance).name for b in blocks)
    return tuple(AtomBlock(b.members, b.rank, shape) for b, shape in zip(blocks, shapes, strict=True))


def load(atoms: Float[Tensor, "n d"]) -> float:
    """Atoms per dimension that they span. Range: [1, ∞); above 1 there is superposition."""
    return len(atoms) / max(1, round(float(leverage_matrix(atoms).diagonal().sum())))


def welch_ratio(atoms: Float[Tensor, "n d"], rank: int | None = None) -> float:
    """Root mean square cosine over the least that n unit vectors in `rank` dimensions can have.

    Range: [1, ∞): 1 for a tight frame, about √(n/(n − r)) for random directions; NaN where n ≤ r: nothing needs to
    overlap. Source: Welch 1974.

    >>> round(welch_ratio(torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])), 4)
    1.0
    """
    n, r = len(atoms), int(geometry.rank(atoms)) if rank is None else rank
    if n <= r:
        return math.nan
    square = geometry.cosines(atoms.double()).square()
    mean = (square.sum() - square.diagonal().sum()) / (n * (n - 1))
    return math.sqrt(float(mean) / ((n - r) / (r * (n - 1))))


def _split(projection: np.ndarray, members: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Parts of `members` that share next to nothing, split until no part falls apart further."""
    if len(members) < 2:
        return [members]
    inner = np.abs(projection[np.ix_(members, members)])
    own = np.diagonal(inner)
    alone = own * (1 - own)
    links = np.unique(inner[np.triu_indices(len(members), 1)])
    # strongest links first, so that the finest sum is found before coarser ones
    for cut in np.quantile(np.maximum.accumulate(links), 1 - np.linspace(0, 1, CUTS) ** 2):
        count, label = connected_components(inner >= cut, directed=False)
        if count == 1:
            break
        inside = label[:, None] == label
        outward = np.bincount(label, (inner**2 * ~inside).sum(1), count)
        separate = outward < tolerance * np.bincount(label, alone, count)
        if not separate.any():
            continue
        parts = [members[label == k] for k in np.flatnonzero(separate)]
        rest = members[~separate[label]]
        if not len(rest):
            return [piece for part in parts for piece in _split(projection, part, tolerance)]
        shared = (inner[np.ix_(~separate[label], separate[label])] ** 2).sum()
        if shared < tolerance * alone[~separate[label]].sum():
            return [piece for part in [*parts, rest] for piece in _split(projection, part, tolerance)]
    return [members]
