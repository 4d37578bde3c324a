"""Codes that reproduce their row exactly with the least sum of sizes: basis pursuit, the decoder of compressed sensing.

    min Σ |cᵢ|   subject to   c A = x          (non-negative: c ≥ 0)

A linear program per row. All rows advance together by Mehrotra's primal-dual interior point method: u the codes (with
signs, their positive and negative parts), s the slack of the dual, w = u / s, and in every step one batch of Cholesky
factors of B diag(w) Bᵀ, B the dictionary in orthonormal coordinates of the space that its atoms span. About fifteen
steps lead to nine digits; what is active in the solution is then where u exceeds s.

Sources: Chen, Donoho & Saunders 1998; Mehrotra 1992; `linear_program` is the reference, by SciPy's HiGHS.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linprog
from torch import Tensor

from ...tensors import Codes
from .pieces import NUMBERS, compact, join

STEPS = 60
SHORT = 0.995
"""Share of the way to the boundary that a step may go."""
SPAN = 1e-10
"""Squared singular value, relative to the largest, below which a direction is not spanned by the atoms."""
ROUNDING = 16
"""Errors of a row, in units of its rounding, that are none."""
RIDGE = 1e-13


@dataclass(frozen=True)
class Exact:
    """Codes, and which rows have any."""

    codes: Codes
    """Zero for a row that is not solved."""
    solved: Bool[Tensor, " n"]
    """False where no codes give the row: it is outside of the span, or of the cone, of the atoms."""


@torch.no_grad()
def basis_pursuit(
    x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], *, positive: bool = True, tolerance: float = 1e-8
) -> Exact:
    """Codes of least Σ |c| with c A = x; gap and errors are below `tolerance`, relative to the optimum and to ‖x‖.

    Rows in float32 lie beside the cone that they were in before rounding: for them it is 2·10⁻⁶ at least.
    """
    tolerance = max(tolerance, ROUNDING * torch.finfo(x.dtype).eps)
    wide = atoms.double()
    if not bool(wide.any()):
        return Exact(compact(x.new_zeros(len(x), len(atoms))), (x == 0).all(1))
    spread, axes = torch.linalg.eigh(wide.T @ wide)
    kept = spread > SPAN * spread[-1]
    axes, white = axes[:, kept], axes[:, kept] / spread[kept].sqrt()
    U = wide @ white
    parts, solved = list[Codes](), list[Tensor]()
    for part in x.split(max(16, NUMBERS // (U.numel() + 20 * len(U)))):
        size = part.double().norm(dim=1, keepdim=True)
        row = part.double() / size.clamp(min=1e-300)
        codes, done = torch.zeros(len(part), len(U)).to(row), size[:, 0] == 0
        at = (~done & ((row - row @ axes @ axes.T).norm(dim=1) <= 10 * tolerance)).nonzero()[:, 0]
        codes[at], done[at] = _interior(row[at] @ white, U, positive, tolerance)
        parts.append(compact((codes * size).to(x)))
        solved.append(done)
    return Exact(join(parts), torch.cat(solved))


def linear_program(x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], *, positive: bool = True) -> Exact:
    """The same, one row after the other, by SciPy."""
    A = atoms.double().cpu().numpy()
    B, k = (A if positive else np.concatenate([A, -A])).T, len(A)
    codes, solved = np.zeros((len(x), k)), np.zeros(len(x), dtype=bool)
    for i, row in enumerate(x.double().cpu().numpy()):
        found = linprog(np.ones(B.shape[1]), A_eq=B, b_eq=row, bounds=(0, None), method="highs")
        if found.x is not None:
            codes[i], solved[i] = found.x if positive else found.x[:k] - found.x[k:], True
    return Exact(compact(torch.from_numpy(codes).to(x)), torch.from_numpy(solved).to(x.device))


@dataclass
class _Rows:
    """Rows under way."""

    row: Int[Tensor, " n"]
    b: Float[Tensor, "n r"]
    u: Float[Tensor, "n m"]
    y: Float[Tensor, "n r"]
    s: Float[Tensor, "n m"]

    def take(self, keep: Bool[Tensor, " n"]) -> "_Rows":
        return _Rows(*(getattr(self, f.name)[keep] for f in fields(self)))


class _Program:
    """min 1·u subject to B u = b, u ≥ 0, with B Bᵀ a multiple of the identity."""

    def __init__(self, U: Float[Tensor, "k r"], positive: bool) -> None:
        self.U, self.positive, self.sides = U, positive, 1 if positive else 2

    def times(self, u: Float[Tensor, "n m"]) -> Float[Tensor, "n r"]:
        """B u."""
        return self.codes(u) @ self.U

    def back(self, y: Float[Tensor, "n r"]) -> Float[Tensor, "n m"]:
        """Bᵀ y."""
        inner = y @ self.U.T
        return inner if self.positive else torch.cat([inner, -inner], 1)

    def codes(self, u: Float[Tensor, "n m"]) -> Float[Tensor, "n k"]:
        """Codes with their signs."""
        return u if self.positive else u[:, : len(self.U)] - u[:, len(self.U) :]

    def factor(self, w: Float[Tensor, "n m"]) -> Float[Tensor, "n r r"]:
        """Cholesky factors of B diag(w) Bᵀ."""
        w = w if self.positive else w[:, : len(self.U)] + w[:, len(self.U) :]
        M = (self.U.T * w[:, None, :]) @ self.U
        M.diagonal(dim1=1, dim2=2).add_(RIDGE * M.diagonal(dim1=1, dim2=2).amax(1, keepdim=True))
        return torch.linalg.cholesky_ex(M)[0]

    def start(self, b: Float[Tensor, "n r"]) -> _Rows:
        """The least squares point, shifted into the inside. Source: Mehrotra 1992."""
        u = self.back(b) / self.sides
        y = self.times(torch.ones_like(u)) / self.sides
        s = 1 - self.back(y)
        u = u + (-1.5 * u.amin(1, keepdim=True)).clamp(min=0)
        s = s + (-1.5 * s.amin(1, keepdim=True)).clamp(min=0)
        both = 0.5 * (u * s).sum(1, keepdim=True)
        more, tighter = (both / t.sum(1, keepdim=True).clamp(min=1e-30) for t in (s, u))
        u, s = u + more.clamp(min=1e-3), s + tighter.clamp(min=1e-3)
        return _Rows(torch.arange(len(b), device=b.device), b, u, y, s)

    def settled(self, at: _Rows) -> Float[Tensor, "n k"]:
        """Codes of what is active, corrected by what the rest had held."""
        on = (at.u > at.s).to(at.u)
        u = at.u * on
        y = torch.cholesky_solve((at.b - self.times(u))[..., None], self.factor(on))[..., 0]
        return self.codes(u + on * self.back(y))


def _interior(
    b: Float[Tensor, "n r"], U: Float[Tensor, "k r"], positive: bool, tolerance: float
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, " n"]]:
    program, found = _Program(U, positive), b.new_zeros(len(b), len(U))
    solved = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    at = program.start(b)
    for _ in range(STEPS):
        primal, dual = at.b - program.times(at.u), 1 - program.back(at.y) - at.s
        size, gap = at.u.sum(1), (at.u * at.s).sum(1)
        errors = torch.stack([primal.norm(dim=1), dual.abs().amax(1), gap / size.clamp(min=1e-300)]).amax(0)
        done, broken = (errors <= tolerance) | (size == 0), ~errors.isfinite()
        solved[at.row[done]] = True
        found[at.row[done]] = program.settled(at.take(done))
        keep = ~(done | broken)
        if not bool(keep.any()):
            break
        if not bool(keep.all()):
            at, primal, dual = at.take(keep), primal[keep], dual[keep]
        _advance(program, at, primal, dual)
    return found, solved


def _advance(program: _Program, at: _Rows, primal: Float[Tensor, "n r"], dual: Float[Tensor, "n m"]) -> None:
    """One step: where the gap would close at once, and then there along the curve that stays inside."""
    w = at.u / at.s
    factor = program.factor(w)
    solve = lambda right: torch.cholesky_solve(right[..., None], factor)[..., 0]  # noqa: E731

    def direction(product: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor, Tensor]:
        goal = primal - program.times(product / at.s - w * dual)
        dy = solve(goal)
        dy = dy + solve(goal - program.times(w * program.back(dy)))  # takes the ridge and rounding off
        ds = dual - program.back(dy)
        return (product - at.u * ds) / at.s, dy, ds

    mean = (at.u * at.s).mean(1, keepdim=True)
    du, dy, ds = direction(-at.u * at.s)
    ahead = (at.u + _reach(at.u, du) * du) * (at.s + _reach(at.s, ds) * ds)
    center = (ahead.mean(1, keepdim=True) / mean).clamp(0, 1) ** 3
    du, dy, ds = direction(center * mean - at.u * at.s - du * ds)
    far, deep = SHORT * _reach(at.u, du), SHORT * _reach(at.s, ds)
    at.u, at.y, at.s = at.u + far * du, at.y + deep * dy, at.s + deep * ds


def _reach(v: Float[Tensor, "n m"], dv: Float[Tensor, "n m"]) -> Float[Tensor, "n 1"]:
    """Largest step up to 1 that leaves all entries positive."""
    return torch.where(dv < 0, -v / dv, torch.inf).amin(1, keepdim=True).clamp(max=1.0)
