"""Codes one atom at a time: matching pursuit, and orthogonal matching pursuit with or without signs.

    matching      take the atom a with the largest r·a, and (r·a) a off the residual r; what was taken is never revised
    orthogonal    take the same atom, then fit all chosen atoms to the row again by least squares; with non-negative
                  codes, by non-negative least squares (Lawson and Hanson), which may let go of atoms

All rows advance together: one product of residuals and atoms per step. The Gram matrices of the chosen atoms are solved
by batched Cholesky factors in float64, with one step of refinement. With as many atoms as there are, the non-negative
pursuit ends at the non-negative least squares solution.

With fewer than (1 + 1/μ)/2 active atoms, μ the largest |cosine| of two atoms, the orthogonal pursuit finds them all.

Sources: Mallat & Zhang 1993; Pati, Rezaiifar & Krishnaprasad 1993; Bruckstein, Elad & Zibulevsky 2008 (non-negative);
Tropp 2004 (guarantee).
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...tensors import Codes
from .pieces import in_pieces

REVISIONS = 3
"""Steps per atom of a non-negative pursuit, which lets go of atoms now and then."""
LIVELY = 0.75
"""Share of the rows that must still go on; below it, those that are done are put aside."""


@torch.no_grad()
def matching_pursuit(
    x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], l0: int, *, positive: bool = True, tolerance: float = 0.0
) -> Codes:
    """Codes over unit atoms in `l0` steps; a step may return to an atom, so that a row uses `l0` atoms at most.

    A row ends early once its residual is below `tolerance` times its length.
    """
    if not len(atoms):
        return Codes(x.new_zeros(len(x), 0), None, 0)
    return in_pieces(x, 3 * len(atoms) + x.shape[1], lambda part: _matching(part, atoms, l0, positive, tolerance))


@torch.no_grad()
def orthogonal_matching_pursuit(
    x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], l0: int, *, positive: bool = True, tolerance: float = 0.0
) -> Codes:
    """Codes over unit atoms, at most `l0` per row, that are the least squares fit of the atoms they use.

    A row ends early once its residual is below `tolerance` times its length, or no atom makes it smaller.
    """
    if not len(atoms):
        return Codes(x.new_zeros(len(x), 0), None, 0)
    slots = min(l0, len(atoms))
    numbers = 3 * len(atoms) + slots * (x.shape[1] + 6 * slots)
    return in_pieces(x, numbers, lambda part: _orthogonal(part, atoms, slots, positive, tolerance))


def _matching(x: Tensor, atoms: Tensor, l0: int, positive: bool, tolerance: float) -> Codes:
    n, residual, end = len(x), x.clone(), tolerance * x.norm(dim=1)
    values, chosen = x.new_zeros(n, l0), torch.full((n, l0), -1, device=x.device)
    used = chosen.new_zeros(n)
    for _ in range(l0):
        inner = residual @ atoms.T
        pick = (inner if positive else inner.abs()).argmax(1, keepdim=True)
        amount = inner.gather(1, pick)[:, 0]
        amount = torch.where((residual.norm(dim=1) > end) & ((amount > 0) | (not positive)), amount, 0.0)
        if not bool(amount.any()):
            break
        residual.addcmul_(amount[:, None], atoms[pick[:, 0]], value=-1)
        again = chosen == pick
        slot = torch.where(again.any(1), again.int().argmax(1), used)[:, None]
        values.scatter_add_(1, slot, amount[:, None])
        chosen.scatter_(1, slot, torch.where(amount[:, None] != 0, pick, chosen.gather(1, slot)))
        used += (amount != 0) & ~again.any(1)
    return Codes(values, chosen.clamp(min=0), len(atoms))


@dataclass
class _Fits:
    """Rows under way: which atoms they use, in which slots, and how well these fit."""

    row: Int[Tensor, " n"]
    x: Float[Tensor, "n d"]
    residual: Float[Tensor, "n d"]
    left: Float[Tensor, " n"]
    """Length of the residual."""
    weights: Float[Tensor, "n s"]
    chosen: Int[Tensor, "n s"]
    used: Bool[Tensor, "n s"]
    picked: Float[Tensor, "n s d"]
    """Atoms in the slots."""
    gram: Float[Tensor, "n s s"]
    right: Float[Tensor, "n s"]
    """Products of the row with the atoms in the slots."""

    @classmethod
    def start(cls, x: Float[Tensor, "n d"], slots: int) -> "_Fits":
        n, d = x.shape
        wide = {"dtype": torch.float64, "device": x.device}
        return cls(
            torch.arange(n, device=x.device), x, x, x.norm(dim=1), torch.zeros(n, slots, **wide),
            torch.zeros(n, slots, dtype=torch.long, device=x.device),
            torch.zeros(n, slots, dtype=torch.bool, device=x.device), x.new_zeros(n, slots, d),
            torch.zeros(n, slots, slots, **wide), torch.zeros(n, slots, **wide),
        )  # fmt: skip

    @property
    def filled(self) -> int:
        """Slots up to the last one that a row uses."""
        return 1 + int(self.used.any(0).nonzero().amax())

    def take(self, keep: Bool[Tensor, " n"]) -> "_Fits":
        return _Fits(*(getattr(self, f.name)[keep] for f in fields(self)))


def _orthogonal(x: Tensor, atoms: Tensor, slots: int, positive: bool, tolerance: float) -> Codes:
    values, chosen = x.new_zeros(len(x), slots), torch.zeros(len(x), slots, dtype=torch.long, device=x.device)

    def put_aside(fits: _Fits) -> None:
        values[fits.row], chosen[fits.row] = (fits.weights * fits.used).to(x), fits.chosen * fits.used

    fits, going = _Fits.start(x, slots), torch.ones(len(x), dtype=torch.bool, device=x.device)
    noise = 4 * torch.finfo(x.dtype).eps
    for _ in range(slots * (REVISIONS if positive else 1)):
        gain = fits.residual @ atoms.T
        if not positive:
            gain.abs_()
        taken = torch.where(fits.used, -torch.inf, torch.inf).to(gain)
        best, pick = gain.scatter_reduce_(1, fits.chosen, taken, "amin").max(1)
        length = fits.x.norm(dim=1)
        going &= (fits.left > tolerance * length) & (best > noise * length) & ~fits.used.all(1)
        if not bool(going.any()):
            break
        if float(going.double().mean()) < LIVELY:
            put_aside(fits.take(~going))
            fits, pick, going = fits.take(going), pick[going], going[going]
        before = fits.left
        _add(fits, going, pick, atoms)
        _fit(fits, positive)
        going &= fits.left < (1 - noise) * before
    put_aside(fits)
    return Codes(values, chosen, len(atoms))


def _add(fits: _Fits, going: Bool[Tensor, " n"], pick: Int[Tensor, " n"], atoms: Float[Tensor, "k d"]) -> None:
    """Put the atoms that were picked into free slots of the rows that go on."""
    at, fresh = going.nonzero()[:, 0], atoms[pick]
    slot = fits.used.int().argmin(1)[at]
    fits.chosen[at, slot], fits.used[at, slot], fits.picked[at, slot] = pick[at], True, fresh[at]
    fits.weights[at, slot] = 0.0
    s = fits.filled
    inner = torch.einsum("nsd,nd->ns", fits.picked[:, :s], fresh).double()[at]
    fits.gram[at, slot, :s], fits.gram[at, :s, slot] = inner, inner
    fits.right[at, slot] = (fits.x * fresh).sum(1).double()[at]


def _fit(fits: _Fits, positive: bool) -> None:
    """Least squares on the atoms in use, and what it leaves; without negative codes, atoms that would need one go."""
    s = fits.filled
    right, used, weights = fits.right[:, :s], fits.used[:, :s], fits.weights[:, :s]
    gram, ridge = fits.gram[:, :s, :s], torch.finfo(fits.x.dtype).eps ** 0.75
    while True:
        factor = _factor(gram, used, ridge)
        goal = _solve(factor, right * used)
        wrong = used & (goal <= 0)
        if not positive or not bool(wrong.any()):
            weights.copy_(goal)
            break
        # as far as all stay non-negative; every round lets go of an atom
        reach = torch.where(wrong, weights / (weights - goal).clamp(min=1e-300), torch.inf)
        step = reach.amin(1, keepdim=True).clamp(max=1.0)
        weights.lerp_(goal, step)
        used &= ~(wrong & (reach <= step))
        weights.mul_(used)
    picked = fits.picked[:, :s]
    residual = fits.x - torch.einsum("ns,nsd->nd", weights.to(fits.x), picked)
    # the ridge that kept the factors regular, and rounding, are taken off again
    weights += _solve(factor, torch.einsum("nsd,nd->ns", picked, residual).double() * used)
    if positive:
        weights.clamp_(min=0.0)
    fits.residual = fits.x - torch.einsum("ns,nsd->nd", weights.to(fits.x), picked)
    fits.left = fits.residual.norm(dim=1)


def _factor(gram: Float[Tensor, "n s s"], used: Bool[Tensor, "n s"], ridge: float) -> Float[Tensor, "n s s"]:
    """Cholesky factors of the Gram matrices of the atoms in use; the other slots have the identity."""
    both = used[:, :, None] & used[:, None, :]
    inner = torch.where(both, gram, 0.0)
    inner.diagonal(dim1=1, dim2=2).copy_(torch.where(used, 1 + ridge, 1.0))
    return torch.linalg.cholesky(inner)


def _solve(factor: Float[Tensor, "n s s"], right: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    return torch.cholesky_solve(right[..., None], factor)[..., 0]
