"""Codes over a dictionary that is known: greedy pursuits, the lasso, and exact recovery.

    matching        one atom at a time, never revised: the cheapest
    orthogonal      one atom at a time, all chosen ones fitted again: best for a given l0 and atoms that are not alike
    lasso           least squares with a penalty on the sum of the codes: stable under noise, shrinks the codes
    basis_pursuit   the row exactly, with the least sum: the decoder whose limits theory knows (Donoho & Tanner)

Atoms of any length: each solver sees unit atoms, so that the length of an atom does not decide whether it is used, and
its codes are divided by the lengths again. Where nothing is active is the dictionary's bias.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import ConfigError, NonFiniteError
from ...tensors import Codes, Dictionary
from ..base import check_width
from . import equality, greedy, shrinkage

SAMPLE = 256
"""Rows from which the penalty for an l0 is found."""
ROUNDING = 4
"""Length of a row, over what rounding makes of the origin's, at which the row counts as lying there."""


@dataclass(frozen=True)
class PursuitCoder:
    """A dictionary, and the way in which codes over it are found."""

    dictionary: Dictionary
    pursue: Callable[[Float[Tensor, "n d"], Float[Tensor, "k d"]], Codes]
    """Codes of rows over unit atoms."""

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """Codes of raw activations. Raises: NonFiniteError if a row holds NaN or infinity."""
        check_width(x, self.dictionary)
        if not bool(x.isfinite().all()):
            raise NonFiniteError("activations hold NaN or infinity", expected="finite numbers")
        unit, norms = _unit(self.dictionary)
        codes = self.pursue(self._centered(x.to(unit)), unit)
        norms = norms if codes.indices is None else norms[codes.indices]
        return Codes(codes.values / norms, codes.indices, codes.width)

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        return self.dictionary.decode(codes)

    def _centered(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        # what rounding leaves of a row at the origin has a direction too, and would be coded
        bias = self.dictionary.bias
        rows = x - bias
        least = ROUNDING * torch.finfo(rows.dtype).eps * bias.norm()
        return rows * (rows.norm(dim=1, keepdim=True) > least)


def matching(dictionary: Dictionary, l0: int, *, positive: bool = True, tolerance: float = 0.0) -> PursuitCoder:
    """Matching pursuit of `l0` steps; a row ends early once its residual is below `tolerance` times its length.

    >>> pair = Dictionary(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
    >>> matching(pair, 1).encode(torch.tensor([[4.0, 1.0]])).dense()
    tensor([[2., 0.]])
    """
    _check(dictionary, l0, tolerance)
    return PursuitCoder(
        dictionary,
        lambda x, atoms: greedy.matching_pursuit(x, atoms, l0, positive=positive, tolerance=tolerance),
    )


def orthogonal(dictionary: Dictionary, l0: int, *, positive: bool = True, tolerance: float = 0.0) -> PursuitCoder:
    """Orthogonal matching pursuit with at most `l0` atoms; a row ends early as in `matching`."""
    _check(dictionary, l0, tolerance)
    return PursuitCoder(
        dictionary,
        lambda x, atoms: greedy.orthogonal_matching_pursuit(x, atoms, l0, positive=positive, tolerance=tolerance),
    )


def lasso(dictionary: Dictionary, penalty: float, *, positive: bool = True, tolerance: float = 1e-6) -> PursuitCoder:
    """min ½‖x − x̂‖² + penalty Σ |cᵢ| ‖aᵢ‖, up to a duality gap of `tolerance` relative to ½‖x‖²."""
    if penalty <= 0:
        raise ConfigError(f"penalty = {penalty:g}", expected="above 0")
    return PursuitCoder(
        dictionary,
        lambda x, atoms: shrinkage.lasso(x, atoms, penalty, positive=positive, tolerance=tolerance).codes,
    )


def lasso_of_l0(
    dictionary: Dictionary, l0: float | int, x: Float[Tensor, "n d"], *, positive: bool = True, tolerance: float = 1e-6
) -> PursuitCoder:
    """The lasso with the penalty at which rows like `x` use `l0` atoms on average; 256 of them are looked at.

    Raises: ConfigError if no penalty does.
    """
    if not 0 < l0 <= len(dictionary) or not len(x):
        raise ConfigError(
            f"l0 = {l0:g} for {len(x)} rows", expected=f"rows, and more than 0 to {len(dictionary)} atoms"
        )
    unit, _ = _unit(dictionary)
    some = x[torch.linspace(0, len(x) - 1, min(SAMPLE, len(x))).long().to(x.device)]
    penalty = shrinkage.penalty_for(some.to(unit) - dictionary.bias, unit, l0, positive=positive)
    return lasso(dictionary, penalty, positive=positive, tolerance=tolerance)


def basis_pursuit(dictionary: Dictionary, *, positive: bool = True) -> PursuitCoder:
    """x̂ = x with the least Σ |cᵢ| ‖aᵢ‖.

    `encode` raises ConfigError for rows that no codes reproduce: they lie outside of the span, or the cone, of the atoms.
    """

    def pursue(x: Tensor, atoms: Tensor) -> Codes:
        found = equality.basis_pursuit(x, atoms, positive=positive)
        missed = int((~found.solved).sum())
        if missed:
            raise ConfigError(
                f"{missed} of {len(x)} rows are no {'non-negative ' if positive else ''}combination of the atoms",
                hint="a pursuit or the lasso leaves a residual instead",
            )
        return found.codes

    return PursuitCoder(dictionary, pursue)


def _unit(dictionary: Dictionary) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    norms = dictionary.atoms.norm(dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    return dictionary.atoms / norms[:, None], norms


def _check(dictionary: Dictionary, l0: int, tolerance: float) -> None:
    if not 1 <= l0 <= max(1, len(dictionary)):
        raise ConfigError(f"l0 = {l0}", expected=f"1 to the number of atoms, {len(dictionary)}")
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance = {tolerance:g}", expected="0 or more, and below 1")
