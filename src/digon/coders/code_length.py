"""Rows in the fewest bits: which atoms of a dictionary, how much of each, and what is left over as noise.

    bits = log2 C(n, s) + s b + (r - s) / 2 log2(1 + |residual|^2 / ((r - s) delta)),   b = 1 + log2(1 / delta) / 2

Rows are coded by orthogonal matching pursuit, all at once; every row takes as many atoms as make it shortest. An atom
whose coefficients are mostly of one size needs fewer bits for them. Without that, sums of features of one size would
save a coefficient, and look like features of their own.

Sources: orthogonal matching pursuit (Pati et al. 1993); description length after Rissanen 1978; the bits are derived here.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..worlds.population import has_numba

DELTA = 1e-3
"""Precision of coefficients and residuals: variance relative to that of a whitened dimension."""
MOST_ACTIVE = 10
"""Most atoms per row that are tried."""
IDLE = 4
"""Steps of a pursuit that may fail to pay before a row is left alone."""
EXPLAINED = 0.02
"""Share of a row's squared length that may be left of a row that is explained."""
WINDOWS = (1.0, 2.0, 4.0, 8.0)
"""Half widths, in precisions, of the windows about an atom's usual coefficient."""
RIDGE = 1e-5
"""Added to the squared length of every atom, for atoms that are alike."""
PIECE = 2**24


@dataclass(frozen=True)
class Coded:
    """Rows under a dictionary."""

    codes: Float[Tensor, "m n"]
    bits: Float[Tensor, " m"]
    active: Float[Tensor, " m"]
    left: Float[Tensor, "m r"]
    length: Float[Tensor, " m"]
    """Squared length of the rows."""

    @property
    def explained(self) -> Bool[Tensor, " m"]:
        """Rows of which next to nothing is left."""
        return self.left.square().sum(1) <= EXPLAINED * self.length

    @property
    def fvu(self) -> float:
        """Unexplained share of the squared length of all rows."""
        return float(self.left.square().sum() / self.length.sum().clamp(min=1e-30))


def total_bits(coded: Coded, rows: int) -> float:
    """Bits per row, with the dictionary's own cost, half a coefficient per entry, spread over `rows`."""
    n, r = coded.codes.shape[1], coded.left.shape[1]
    saved = float(one_size_savings(coded.codes).sum()) / max(1, len(coded.codes))
    return float(coded.bits.mean()) - saved + n * r * _coefficient() / 2 / rows


def one_size_savings(codes: Float[Tensor, "m n"]) -> Float[Tensor, " n"]:
    """Bits that every atom saves on its coefficients by naming their usual size once.

    A coefficient is either near that size, and takes a sign and its place in a narrow window, or it is coded in full;
    the windows of `WINDOWS` are tried. Naming the size takes a coefficient, and the share near it a number too.
    """
    n = codes.shape[1]
    row, atom = codes.nonzero(as_tuple=True)
    signed = codes[row, atom].double()
    order = signed.abs().argsort()
    order = order[atom[order].argsort(stable=True)]
    size, atom, positive = signed[order].abs(), atom[order], (signed[order] > 0).double()
    uses = torch.bincount(atom, minlength=n)
    usual = (
        size[((uses.cumsum(0) - uses) + uses // 2).clamp(max=max(0, len(size) - 1))] if len(size) else size.new_zeros(n)
    )
    total = lambda weights: size.new_zeros(n).index_add_(0, atom, weights)  # noqa: E731
    best = size.new_zeros(n)
    for window in WINDOWS:
        near = ((size - usual[atom]).abs() <= window * math.sqrt(DELTA)).double()
        k = total(near)
        sign = _entropy(total(near * positive), k)
        short = k * math.log2(2 * window) + sign + _entropy(k, uses.double()) + (uses - k) * _coefficient()
        saved = uses * _coefficient() - short - _coefficient() - torch.log2(1.0 + uses)
        best = torch.maximum(best, saved)
    return best


def _entropy(part: Float[Tensor, " n"], whole: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Bits that tell which `part` of a `whole` it is, for counts."""
    p = part / whole.clamp(min=1)
    return -whole * (torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)


def _coefficient() -> float:
    return 1 + 0.5 * math.log2(1 / DELTA)


def code(z: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"]) -> Coded:
    """Every row with the number of atoms that takes the fewest bits, in pieces of bounded size."""
    n, r = atoms.shape
    most = min(MOST_ACTIVE, n, r - 1)
    price = [_choices(n, s) + s * _coefficient() for s in range(most + 1)]
    compiled = z.device.type == "cpu" and has_numba()
    width = r + 3 * n if compiled else MOST_ACTIVE * r + 3 * n
    parts = [_coded(piece, atoms, price, compiled) for piece in z.split(max(16, PIECE // width))]
    if len(parts) == 1:
        return parts[0]
    return Coded(*(torch.cat([getattr(p, name) for p in parts]) for name in Coded.__dataclass_fields__))


def _coded(z: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], price: list[float], compiled: bool) -> Coded:
    (m, r), length = z.shape, z.square().sum(1)
    if len(price) == 1:
        return Coded(z.new_zeros(m, len(atoms)), _bits(length, 0, r, 0.0), z.new_zeros(m), z.clone(), length)
    chosen, weights, active = (_compiled if compiled else _pursuit)(z, atoms, length, price)
    weights = weights.to(z)
    codes = z.new_zeros(m, len(atoms)).scatter_add_(1, chosen, weights)
    left = z - codes @ atoms
    count = active.to(z)
    bits = _bits(left.square().sum(1), count, r, torch.tensor(price).to(z)[active])
    return Coded(codes, bits, count, left, length)


def _compiled(z: Tensor, atoms: Tensor, length: Tensor, price: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """`_pursuit`, several times faster."""
    from .shortest_kernel import compiled_pursuit

    (m, r), most = z.shape, len(price) - 1
    fixed = ((atoms @ atoms.T).numpy(), np.array(price), (float(r), RIDGE, DELTA, IDLE))
    chosen, active = torch.zeros(m, most, dtype=torch.int64), torch.zeros(m, dtype=torch.int64)
    weights = torch.zeros(m, most)
    inputs = [each.numpy() for each in ((z @ atoms.T).float(), length.float(), chosen, weights, active)]
    count = torch.get_num_threads()
    ends = [m * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda rows: compiled_pursuit(rows, *fixed, *inputs), pairwise(ends)))
    return chosen, weights, active


def _pursuit(z: Tensor, atoms: Tensor, length: Tensor, price: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms, coefficients and number of atoms of every row; a row leaves once nothing is left of it or a few steps did
    not pay."""
    m, r = z.shape
    most = len(price) - 1
    best, active = _bits(length, 0, r, 0.0), torch.zeros(m, dtype=torch.int64, device=z.device)
    on, gram = z @ atoms.T, atoms @ atoms.T
    rows = torch.arange(m, device=z.device)
    picks, coefficients = rows.new_zeros(m, most), z.new_zeros(m, most)
    chosen, residual, idle = rows.new_zeros(m, 0), z, rows.new_zeros(m)
    for s in range(1, 1 + most):
        free = on[rows] if s == 1 else residual @ atoms.T
        pick = free.abs_().scatter_(1, chosen, -1).argmax(1)
        chosen = torch.cat([chosen, pick[:, None]], 1)
        inner = gram[chosen[:, :, None], chosen[:, None, :]] + RIDGE * torch.eye(s, device=z.device)
        weights = torch.linalg.solve(inner, on[rows].gather(1, chosen)[..., None])[..., 0]
        residual = z[rows] - torch.bmm(weights[:, None], atoms[chosen])[:, 0]
        error = residual.square().sum(1)
        bits = _bits(error, s, r, price[s])
        better = bits < best[rows]
        at = rows[better]
        best[at], active[at] = bits[better], s
        picks[at, :s], coefficients[at, :s] = chosen[better], weights[better]
        idle = torch.where(better, 0, idle + 1)
        go = (idle < IDLE) & (error > (r - s) * DELTA / 4)
        rows, chosen, residual, idle = rows[go], chosen[go], residual[go], idle[go]
        if not len(rows):
            break
    return picks, coefficients, active


def _choices(n: int, s: int) -> float:
    """log2 of the number of ways to choose s of n atoms."""
    return (math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)) / math.log(2)


def _bits(
    error: Float[Tensor, " m"], s: int | Float[Tensor, " m"], r: int, price: float | Float[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Of rows with s atoms; `price`: of those and their coefficients."""
    free = r - s
    return price + 0.5 * free * torch.log2(1 + error / (free * DELTA))
