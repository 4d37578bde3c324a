"""Codes by a penalty on their sum: the lasso, its non-negative form, and the penalty that gives a wanted l0.

    min over c:   ½‖x − c A‖² + λ Σ |cᵢ|          (non-negative: c ≥ 0)

FISTA: gradient steps of 1/‖A‖², soft thresholding, momentum that each row gives up whenever it points uphill. A row is
done once its duality gap is small: with residual r and s = min(1, λ / max |r·a|), s r is feasible for the dual and

    gap = ½ (1 − s)² ‖r‖² + Σ |cᵢ| (λ − s sign(cᵢ) r·aᵢ) ≥ distance of the objective from its minimum,

two sums of non-negative terms, so that nothing cancels.

Sources: Tibshirani 1996; Beck & Teboulle 2009 (FISTA); O'Donoghue & Candès 2015 (restart).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import ConfigError
from ...tensors import Codes
from .pieces import NUMBERS, compact, join

LOOK = 10
"""Steps between two looks at the duality gap."""
HALVINGS = 16
LEAST = 1e-4
"""Smallest penalty that is tried, relative to the one that leaves no code."""


@dataclass(frozen=True)
class Lasso:
    """Codes, and how far they may be from the best."""

    codes: Codes
    gap: Float[Tensor, " n"]
    """Duality gap over ½‖x‖²."""


@torch.no_grad()
def lasso(
    x: Float[Tensor, "n d"],
    atoms: Float[Tensor, "k d"],
    penalty: float,
    *,
    positive: bool = True,
    tolerance: float = 1e-6,
    steps: int = 10_000,
) -> Lasso:
    """Codes that minimize ½‖x − c A‖² + penalty Σ |c| row by row, up to a gap of `tolerance` relative to ½‖x‖².

    A row that needs more than `steps` has the gap it came to.
    """
    parts = [
        _fista(part, atoms, penalty, positive, tolerance, steps)
        for part in x.split(max(16, NUMBERS // max(1, 6 * len(atoms))))
    ]
    return Lasso(join([compact(codes) for codes, _ in parts]), torch.cat([gap for _, gap in parts]))


@torch.no_grad()
def penalty_for(
    x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], l0: float | int, *, positive: bool = True
) -> float:
    """The penalty at which rows use `l0` atoms on average; a few hundred rows are enough.

    Raises: ConfigError if no penalty does: more atoms than the rows can tell apart.
    """
    inner = x @ atoms.T
    most = float((inner if positive else inner.abs()).amax()) if inner.numel() else 0.0
    if most <= 0:
        raise ConfigError("no row has anything in common with an atom", expected="rows that the dictionary is made for")
    count = lambda share: _count(lasso(x, atoms, share * most, positive=positive, tolerance=1e-4).codes)  # noqa: E731
    low, high = math.log(LEAST), 0.0
    if count(LEAST) < l0:
        raise ConfigError(
            f"rows use {count(LEAST):.1f} atoms at the smallest penalty, {l0:g} were asked for",
            expected="an l0 below the number of dimensions and of atoms",
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if count(math.exp(middle)) > l0 else (low, middle)
    return most * math.exp((low + high) / 2)


def _count(codes: Codes) -> float:
    return float((codes.values != 0).double().sum(1).mean())


def _fista(
    x: Tensor, atoms: Tensor, penalty: float, positive: bool, tolerance: float, steps: int
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
    found, gaps = x.new_zeros(len(x), len(atoms)), x.new_zeros(len(x))
    live = (x.square().sum(1) > 0).nonzero()[:, 0]
    if not len(atoms) or not len(live):
        return found, gaps
    step, product = _operator(atoms)
    shrink = _shrink(penalty * step, positive)
    inner = x[live] @ atoms.T
    c = y = inner.new_zeros(inner.shape)
    pace = inner.new_ones(len(live), 1)
    for number in range(1, steps + 1):
        fresh = shrink(y + step * (inner - product(y)))
        moved = fresh - c
        uphill = ((y - fresh) * moved).sum(1, keepdim=True) > 0
        faster = (1 + (1 + 4 * pace.square()).sqrt()) / 2
        y = torch.where(uphill, fresh, fresh + (pace - 1) / faster * moved)
        pace, c = torch.where(uphill, 1.0, faster), fresh
        if number % LOOK and number < steps:
            continue
        gap = _gap(x[live], c, atoms, penalty, positive)
        done = gap <= tolerance
        found[live], gaps[live] = c, gap
        if bool(done.all()):
            break
        if bool(done.any()):
            live, inner, c, y, pace = (t[~done] for t in (live, inner, c, y, pace))
    return found, gaps


def _operator(atoms: Float[Tensor, "k d"]) -> tuple[float, Callable[[Tensor], Tensor]]:
    """The step 1/‖A‖², and c ↦ c A Aᵀ by the cheaper of two ways."""
    k, d = atoms.shape
    gram = atoms @ atoms.T if k <= 2 * d else atoms.T @ atoms
    step = 1 / float(torch.linalg.eigvalsh(gram.double())[-1])
    return step, (lambda c: c @ gram) if k <= 2 * d else (lambda c: (c @ atoms) @ atoms.T)


def _shrink(threshold: float, positive: bool) -> Callable[[Tensor], Tensor]:
    if positive:
        return lambda c: (c - threshold).clamp_(min=0)
    return lambda c: torch.nn.functional.softshrink(c, threshold)


def _gap(x: Tensor, c: Tensor, atoms: Tensor, penalty: float, positive: bool) -> Float[Tensor, " n"]:
    residual = x - c @ atoms
    inner = residual @ atoms.T
    largest = (inner if positive else inner.abs()).amax(1)
    s = (penalty / largest.clamp(min=1e-30)).clamp(max=1.0)
    slack = (c.abs() * (penalty - s[:, None] * c.sign() * inner)).sum(1)
    return (0.5 * (1 - s).square() * residual.square().sum(1) + slack) / (0.5 * x.square().sum(1))
