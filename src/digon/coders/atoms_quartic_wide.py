"""Directions of features from fourth moments of wide data, where the matrix M of `atoms_quartic` would not fit.

M has r⁴ / 4 entries; everything here needs products of rows with directions only.

1. Atoms: maxima of the fourth cumulant κ(x) = E(xᵀz)⁴ − 3 (E(xᵀz)²)² on the sphere, climbed on half of the rows by
   x ← E[(xᵀz)³ z] − 3 E(xᵀz)² C x from rows of the other half, less what atoms that are known explain of those rows.
2. A maximum counts if κ on the other half stands out of its error and of that of random directions, and if a climb
   there ends at the same place: maxima of the sample alone do not.
3. Rank, from below: M restricted to the span of the vech(uᵢ uᵢᵀ) has no more eigenvalues above a limit than M itself
   (Courant and Fischer), and needs the products of fourth moments E(uᵢᵀz)²(uⱼᵀz)² only.
4. A maximum is isolated if κ falls off in every direction, by power iteration on the curvature.

Data of one random length per row (elliptical) is as heavy-tailed in random directions as at the maxima: saturated.

Source: Hyvärinen & Oja 1997 (fixed point); restriction and validation are derived here.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

STARTS = 512
"""Starts that climb together."""
WORK = 3e12
"""Multiplications spent on climbing."""
STEPS = 20
STILL = 1e-4
"""1 − |cos| of a step with which a start has arrived."""
SAME = 0.9
"""Cosine from which two maxima are one."""
AGREE = 0.7
"""Cosine between the maxima on both halves of the rows from which they are one and the same."""
ERRORS = 5.0
"""Standard errors by which κ must stand out."""
STANDS_OUT = 3.0
"""And so many times must it be that of random directions."""
LAST = 3
"""Steps on all rows at the end."""
FEW_NEW = 0.02
"""Share of the starts of a round that find new atoms, below which the search ends."""
PEELED = 4
"""Atoms that are taken out of a row before it starts a climb."""
FLAT = 0.7
"""Curvature across an atom over that along it (1 = as on a circle), up to which it is isolated."""
PROBES = 128
PIECE = 2**22


@dataclass(frozen=True)
class WideAtoms:
    """Atoms in white coordinates; the fields are those of `QuarticAtoms`."""

    directions: Float[Tensor, "k r"]
    fit: Float[Tensor, " k"]
    isolated: Bool[Tensor, " k"]
    ranks: tuple[int, int]
    eigenvalues: Float[Tensor, " e"]
    floor: float
    uniform: float
    exhausted: bool


def wide_atoms(z: Float[Tensor, "n r"], generator: torch.Generator) -> WideAtoms:
    """Atoms of white rows and a lower bound of their number. Cost: 2 n r multiplications per start and step."""
    here, there = _Half(z[::2]), _Half(z[1::2])
    probes = normalize(torch.randn(PROBES, z.shape[1], generator=generator).to(z), dim=1)
    even = [half.cumulant(probes) for half in (here, there)]
    uniform = float(sum(k.mean() for k, _ in even)) / 2
    limit = STANDS_OUT * max(0.0, uniform)
    found, best, exhausted = _search(here, there, limit, generator)
    for _ in range(LAST):  # both halves together, which errs less than either
        found = normalize(here.pull(found) + there.pull(found), dim=1)
    x = _distinct(found, found[:0])
    fit = (here.climb(x, LAST) * there.climb(x, LAST)).sum(1).square()
    low, high, eigenvalues, floor = _rank(here, there, x, max(float(e.median()) for _, e in even))
    # The side with the heavier tail is where the feature is active.
    x = x * (here.skewness(x) + there.skewness(x)).sign()[:, None]
    return WideAtoms(
        x, fit, _isolated(here, there, x, generator), (low, high), eigenvalues, floor,
        uniform / max(best, 1e-12) if best > 0 else 0.0, exhausted,
    )  # fmt: skip


class _Half:
    """Half of the rows, and their fourth moments along directions."""

    def __init__(self, z: Float[Tensor, "n r"]) -> None:
        self.z = z.contiguous()
        self.C = z.T @ z / len(z)

    def pieces(self, count: int) -> tuple[Tensor, ...]:
        return self.z.split(max(256, PIECE // max(1, count)))

    def pull(self, x: Float[Tensor, "s r"]) -> Float[Tensor, "s r"]:
        """Gradient of the fourth cumulant, over 4."""
        total = torch.zeros_like(x)
        for part in self.pieces(len(x)):
            y = part @ x.T
            total.addmm_((y * y * y).T, part)
        turned = x @ self.C
        return total / len(self.z) - 3 * (turned * x).sum(1, keepdim=True) * turned

    def climb(self, x: Float[Tensor, "s r"], steps: int) -> Float[Tensor, "s r"]:
        """The maxima that directions lead to."""
        x, moving = x.clone(), torch.arange(len(x), device=x.device)
        for _ in range(steps):
            new = normalize(self.pull(x[moving]), dim=1)
            moved = 1 - (new * x[moving]).sum(1).abs()
            x[moving] = new
            moving = moving[moved > STILL]
            if not len(moving):
                break
        return x

    def cumulant(self, x: Float[Tensor, "s r"]) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
        """κ along directions, and its standard error."""
        fourth, eighth = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
        for part in self.pieces(len(x)):
            square = (part @ x.T).square_()
            fourth += square.square_().sum(0, dtype=torch.float64)
            eighth += square.square_().sum(0, dtype=torch.float64)
        n = len(self.z)
        fourth, eighth = fourth / n, eighth / n
        second = ((x @ self.C) * x).sum(1).double()
        return (fourth - 3 * second.square()).float(), ((eighth - fourth.square()).clamp(min=0) / n).sqrt().float()

    def skewness(self, x: Float[Tensor, "s r"]) -> Float[Tensor, " s"]:
        """Mean third power along directions."""
        return sum(((part @ x.T) ** 3).sum(0) for part in self.pieces(len(x))) + torch.zeros(len(x)).to(x)

    def squares(self, x: Float[Tensor, "s r"]) -> Float[Tensor, "s s"]:
        """M restricted to the x xᵀ: E(xᵢᵀz)²(xⱼᵀz)² less what a Gaussian has."""
        total = torch.zeros(len(x), len(x), device=x.device)
        for part in self.pieces(len(x)):
            y = (part @ x.T).square_()
            total.addmm_(y.T, y)
        S = x @ self.C @ x.T
        return total / len(self.z) - torch.outer(S.diagonal(), S.diagonal()) - 2 * S.square()

    def bend(self, x: Float[Tensor, "s r"], v: Float[Tensor, "s r"]) -> Float[Tensor, "s r"]:
        """The cumulant's Hessian at x applied to v, over 12: cum(x, x, v, ·)."""
        total = torch.zeros_like(x)
        for part in self.pieces(2 * len(x)):
            total.addmm_(((part @ x.T).square_() * (part @ v.T)).T, part)
        xC, vC = x @ self.C, v @ self.C
        xx, xv = (xC * x).sum(1, keepdim=True), (xC * v).sum(1, keepdim=True)
        return total / len(self.z) - xx * vC - 2 * xv * xC


def _search(
    here: _Half, there: _Half, limit: float, generator: torch.Generator
) -> tuple[Float[Tensor, "k r"], float, bool]:
    """Validated maxima, the median κ of all that stand out of their error, and whether the search came to an end."""
    n, r = here.z.shape
    found, heights = torch.zeros(0, r).to(here.z), []
    weight = there.z.square().sum(1).cpu()
    rounds = max(1, int(WORK / (2 * n * r * STARTS * (STEPS / 2))))
    for _ in range(rounds):
        start = torch.multinomial(weight, min(STARTS, len(weight)), generator=generator).to(here.z.device)
        x = here.climb(_peeled(there.z[start], found), STEPS)
        x = _distinct(x, found)
        kappa, error = there.cumulant(x)
        sure = kappa > ERRORS * error
        heights += kappa[sure].tolist()
        x = x[sure & (kappa > limit)]
        same = (there.climb(x, 3) * x).sum(1).abs() > AGREE
        found = torch.cat([found, x[same]])
        if int(same.sum()) < FEW_NEW * len(start):
            return found, _median(heights), True
        if len(found) > 16 * r:
            break
    return found, _median(heights), False


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2] if numbers else 0.0


def _peeled(z: Float[Tensor, "s r"], found: Float[Tensor, "k r"]) -> Float[Tensor, "s r"]:
    """Directions of rows, less the atoms that explain most of them."""
    if len(found):
        for _ in range(PEELED):
            y = z @ found.T
            at = y.abs().argmax(1)
            size = y.gather(1, at[:, None])
            some = size.abs() > 0.3 * z.norm(dim=1, keepdim=True)
            z = z - torch.where(some, size, 0.0) * found[at]
    return normalize(z, dim=1)


def _distinct(x: Float[Tensor, "s r"], found: Float[Tensor, "k r"]) -> Float[Tensor, "m r"]:
    """Directions that are neither known nor repeat an earlier one."""
    if len(found):
        x = x[(x @ found.T).abs().amax(1) < SAME]
    same = (x @ x.T).abs().tril(-1) > SAME
    return x[~same.any(1)]


def _rank(
    here: _Half, there: _Half, x: Float[Tensor, "k r"], error: float
) -> tuple[int, int, Float[Tensor, " e"], float]:
    """Smaller and larger number of eigenvalues of M on the atoms' span that noise does not explain, on the halves."""
    if not len(x):
        return 0, 0, torch.zeros(0).to(x), ERRORS * error
    spread, axes = torch.linalg.eigh((x @ x.T).square())
    kept = spread > 1e-3 * spread[-1]
    white = axes[:, kept] / spread[kept].sqrt()
    values = [torch.linalg.eigvalsh(white.T @ half.squares(x) @ white).flip(0) for half in (here, there)]
    floor = max(ERRORS * error, *(2 * -float(v[-1].clamp(max=0)) for v in values))
    counts = [int((v > floor).sum()) for v in values]
    return min(counts), max(counts), (values[0] + values[1]) / 2, floor


def _isolated(here: _Half, there: _Half, x: Float[Tensor, "k r"], generator: torch.Generator) -> Bool[Tensor, " k"]:
    """Whether κ falls off in every direction: found on one half, judged on the other."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    # Along a curve of atoms lie its other atoms: the nearest one is a good start.
    across = lambda v: normalize(v - (v * x).sum(1, keepdim=True) * x, dim=1)  # noqa: E731
    near = (x @ x.T).abs().fill_diagonal_(0)
    v = across(x[near.argmax(1)] + 0.1 * normalize(torch.randn(x.shape, generator=generator).to(x), dim=1))
    for _ in range(4):
        v = across(here.bend(x, v))
    kappa = there.cumulant(x)[0].clamp(min=1e-12)
    return 3 * (there.bend(x, v) * v).sum(1) / kappa < FLAT


def quartic_limit(n: int, r: int) -> float:
    """κ up to which a direction in r dimensions is lost in the sampling noise of n rows: 2 √(15 r / n)."""
    return 2 * math.sqrt(15 * r / max(1, n))
