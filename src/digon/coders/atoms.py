"""Estimators of directions as coders: a dictionary straight from statistics, and codes over it.

    quartic    directions of independent heavy-tailed features, from fourth cumulants; decoded by a pursuit
    rays       directions that single rows pile up in; decoded by a pursuit
    sparse     the dictionary that describes rows in the fewest bits; a row uses as many atoms as pay for themselves

Atoms have unit length in the units' coordinates for the first two, so that a code is the length of its part of the row;
those of the third have the length at which its own codes decode. None of them finds atoms where there are no features:
the coder then has no atoms and returns the origin.

Where nothing is active is the dictionary's bias: the point where rows coincide. For quartic atoms, if there is none, it
is found with the codes: from the mean, by turns code rows and move to the middle of what is left of them. With
non-negative codes this goes to the corner of the cone of atoms that the rows fill; of signed codes the mean is the origin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..tensors import Codes, Dictionary
from . import atoms_quartic, atoms_rays, atoms_sparse
from .base import check_width
from .pursuit import PursuitCoder, orthogonal
from .pursuit.pieces import NUMBERS, compact, join

QUARTIC_ERROR, RAY_ERROR = 0.1, 0.05
"""Residual, relative to the row, at which a pursuit ends: the atoms are not known better, and more would fit their errors."""
CROWDED = 1.5
"""Maxima per independent feature beyond which they are not features: independent ones have one each."""
ROWS = 1000
"""Rows that the origin is found from."""
TURNS = 20
STILL = 1e-3
"""Share of the typical length of a row: moves of the origin below it end the search."""


@dataclass(frozen=True)
class SparseCoder:
    """The dictionary of fewest bits, with its own codes."""

    dictionary: Dictionary
    found: atoms_sparse.SparseAtoms

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """Codes with the number of atoms per row that takes the fewest bits, of either sign."""
        check_width(x, self.dictionary)
        size = max(16, NUMBERS // max(1, len(self.dictionary)))
        return join([compact(self.found.encode(part.to(self.dictionary.atoms))) for part in x.split(size)])

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        return self.dictionary.decode(codes)


def quartic(
    values: Float[Tensor, "n d"], l0: int, seed: int, *, positive: bool = True, tolerance: float = QUARTIC_ERROR
) -> PursuitCoder:
    """Isolated quartic atoms and a pursuit of at most `l0` of them per row.

    A row ends early once its residual is below `tolerance` times its length. `positive`: codes are not negative, and the
    origin is the corner of the data; else both signs, and the mean.

    Raises: ConfigError for values that are not finite, less than 2 dimensions, or too few rows.
    """
    draws = rng.stream(seed, "quartic coder")
    found = atoms_quartic.quartic_atoms(values, draws)
    crowded = not found.lower_bound and len(found.directions) > CROWDED * found.rank
    atoms = found.directions[found.isolated & (not found.saturated and not crowded)]
    origin = atoms_rays.densest(values, draws)
    if not bool(origin.any()) and not bool((values == 0).all(1).any()):
        origin = _corner(values, atoms, l0, positive)
    return _decoded(Dictionary(atoms, origin), l0, positive, tolerance)


def rays(values: Float[Tensor, "n d"], l0: int, seed: int, *, tolerance: float = RAY_ERROR) -> PursuitCoder:
    """Rays about the point where rows coincide, and a non-negative pursuit of at most `l0` of them per row.

    A row ends early as in `quartic`.
    Raises: ConfigError for fewer than 100 rows, less than 2 units that vary, or values that are not finite.
    """
    found = atoms_rays.rays(values, rng.stream(seed, "rays coder"))
    return _decoded(Dictionary(found.directions, found.origin), l0, True, tolerance)


def sparse(values: Float[Tensor, "n d"], seed: int) -> SparseCoder:
    """The dictionary of fewest bits and its codes.

    Raises: ConfigError for fewer than 100 rows or less than 2 dimensions.
    """
    found = atoms_sparse.sparse_atoms(values, rng.stream(seed, "sparse coder"))
    atoms = found.directions * found.sizes[:, None].to(found.directions)
    return SparseCoder(Dictionary(atoms, found.origin.to(atoms)), found)


def _decoded(dictionary: Dictionary, l0: int, positive: bool, tolerance: float) -> PursuitCoder:
    return orthogonal(dictionary, max(1, min(l0, len(dictionary))), positive=positive, tolerance=tolerance)


def _corner(values: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], l0: int, positive: bool) -> Float[Tensor, " d"]:
    """The origin from which rows are non-negative combinations of few atoms; of signed codes, the mean."""
    rows = values[torch.linspace(0, len(values) - 1, min(ROWS, len(values))).long().to(values.device)]
    origin = rows.mean(0)
    if not len(atoms) or not positive:
        return origin
    typical = float((rows - origin).norm(dim=1).mean())
    for _ in range(TURNS):
        coder = _decoded(Dictionary(atoms, origin), l0, True, 0.0)
        move = (rows - coder.decode(coder.encode(rows))).median(0).values
        origin = origin + move
        if float(move.norm()) <= STILL * typical:
            break
    return origin
