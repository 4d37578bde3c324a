"""Directions of features from sparsity alone: which dictionary describes the activations in the fewest bits?

A row that is a sum of few features is described by which atoms it uses and how much of each; what is left over is
described as noise. The number of atoms is not given: a dictionary grows while that makes held-out rows shorter.

1. Whiten about the origin, with a small ridge, so that no unit's size decides.
2. Code rows by orthogonal matching pursuit; the number of atoms of each row is the one with the fewest bits:

       log2 C(n, s) + s b + (r - s) / 2 log2(1 + |residual|^2 / ((r - s) delta)),   b = 1 + log2(1 / delta) / 2

3. Update all atoms by least squares (method of optimal directions).
4. Grow: rows that are badly described pile up, once their known parts are taken off, around the atoms that are missing;
   a mean shift that looks only at the rows nearest to a direction climbs to them.
5. Prune: the least used atoms go as long as other rows get no longer. A dictionary costs r b / 2 bits per atom.

The same with at most r atoms gives the best complete dictionary. Features that are correlated, but no more than there
are dimensions, are described as well by it; in superposition it takes more bits.

Limits: local optima; features active in fewer than a handful of rows; more active features than a third of the dimensions.

Sources: orthogonal matching pursuit (Pati et al. 1993); method of optimal directions (Engan et al. 1999); description
length after Rissanen 1978; growth by residuals and the bits per row are derived here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigError
from .atoms_rays import densest

DELTA = 1e-3
"""Precision of coefficients and residuals: variance relative to that of a whitened dimension."""
RIDGE = 1e-3
MOST_ACTIVE = 10
"""Most atoms per row that are tried."""
FIT_ROWS = 8000
TEST_ROWS = 4000
LEAST_ROWS, ROWS_PER_ATOM = 2000, 30
"""Rows that growing looks at."""
FEWEST_USES = 4
STARTS = 256
SHIFTS = 12
LOOSE, TIGHT = 0.5, 0.9
"""Cosine, relative to the nearest row, from which rows pull at a direction: for what is left of rows, and for rows."""
ROUNDS = 16
PATIENCE, FEW = 4, 64
"""Rounds without progress that end a search, half as many with more atoms than a few."""
LEAST_GAIN = 3e-3
"""Relative change of the bits that counts as progress."""
IDLE = 4
"""Steps of a pursuit that may fail to pay before a row is left alone."""
SHAKEN = 0.15
"""Share of the atoms, those of the worst described rows, that are given up to get out of a local optimum."""
EXPLAINED = 0.02
"""Share of a row's squared length that may be left of a row that is explained."""
SAME = 0.97
"""Cosine from which two atoms are one."""
MOST_ATOMS = 20
"""Atoms per dimension at which growth ends."""
PIECE = 2**24


@dataclass(frozen=True)
class SparseAtoms:
    """The dictionary that describes some activations in the fewest bits."""

    directions: Float[Tensor, "n d"]
    """Unit directions in the units' coordinates; the side that is used more is positive."""
    uses: Float[Tensor, " n"]
    """Share of held-out rows that use each atom."""
    two_sided: Float[Tensor, " n"]
    """Share of an atom's uses that have the rarer sign. Range: 0 to 0.5."""
    bits: float
    """Bits per held-out row, the dictionary's own cost included."""
    complete_bits: float
    """The same for the best dictionary with at most as many atoms as dimensions."""
    empty_bits: float
    """The same without a dictionary."""
    active: float
    """Mean number of atoms per held-out row."""
    complete_active: float
    fvu: float
    """Unexplained share of the squared length of held-out rows."""
    complete_fvu: float
    explained: float
    """Share of held-out rows of which next to nothing is left."""
    complete_explained: float
    dimensions: int
    """r, dimensions of the activations."""
    origin: Float[Tensor, " d"]
    rows: int
    sizes: Float[Tensor, " n"]
    """Length of every atom in the units' coordinates where its coefficient is 1."""
    _there: Float[Tensor, "d r"]
    """To the coordinates in which rows are coded."""
    _atoms: Float[Tensor, "n r"]

    def encode(self, values: Float[Tensor, "m d"]) -> Float[Tensor, "m n"]:
        """Coefficients of the whitened atoms; a row uses those that make it shortest, with either sign."""
        return _code((values.float() - self.origin) @ self._there, self._atoms).codes

    @property
    def gain(self) -> float:
        """Bits per row and dimension that atoms beyond a complete dictionary save."""
        return (self.complete_bits - self.bits) / max(1, self.dimensions)

    def __len__(self) -> int:
        return len(self.directions)


@dataclass(frozen=True)
class _Frame:
    """Whitened coordinates z = (x - origin) @ there, and the way back."""

    there: Float[Tensor, "d r"]
    back: Float[Tensor, "r d"]


@dataclass(frozen=True)
class _Coded:
    """Rows under a dictionary."""

    codes: Float[Tensor, "m n"]
    bits: Float[Tensor, " m"]
    active: Float[Tensor, " m"]
    left: Float[Tensor, "m r"]
    length: Float[Tensor, " m"]
    """Squared length of the rows."""

    @property
    def explained(self) -> Tensor:
        """Rows of which next to nothing is left."""
        return self.left.square().sum(1) <= EXPLAINED * self.length


def sparse_atoms(
    values: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    start: Float[Tensor, "k d"] | None = None,
    origin: Float[Tensor, " d"] | None = None,
) -> SparseAtoms:
    """The shortest dictionary of some activations. Cost: about 2 s for d = 64, at most 12,000 rows are looked at.

    `start`: directions to begin with, such as rays. `origin`: where nothing is active; default: the densest point.

    Raises: ConfigError for fewer than 100 rows or less than 2 dimensions.
    """
    if len(values) < 100 or values.shape[1] < 2:
        raise ConfigError(f"{len(values)} rows of {values.shape[1]} units", expected="at least 100 rows and 2 units")
    order = torch.randperm(len(values), generator=generator).to(values.device)
    test_rows = min(TEST_ROWS, len(values) // 3)
    x = values[order[: test_rows + FIT_ROWS]].float()
    center = densest(values, generator).float() if origin is None else origin.float()
    sure = origin is not None or bool(center.any()) or bool((x == 0).all(1).any())
    center = center if sure else _mode(x)
    begin, frame, atoms = start, _frame(x - center), x[:0]
    for _ in range(1 if sure else 2):
        fit = (x[test_rows:] - center) @ frame.there
        known = fit[:0] if begin is None or not len(begin) else _unit(begin.float() @ frame.there)
        atoms = _search(fit, known, MOST_ATOMS * fit.shape[1], generator)
        # what is left on average belongs to the origin
        moved = center if sure else center + _code(fit, atoms).left.mean(0) @ frame.back
        begin, old, frame, center = atoms @ frame.back, frame, _frame(x - moved), moved
        atoms = _unit(begin @ frame.there) if len(begin) else atoms
        del old
    z = (x - center) @ frame.there
    test, fit, r = z[:test_rows], z[test_rows:], z.shape[1]
    coded = _code(test, atoms)
    complete = _complete(fit, atoms, coded, generator)
    whole = _code(test, complete)
    signs = torch.sign((coded.codes > 0).sum(0) - (coded.codes < 0).sum(0) + 0.5)
    fires = (coded.codes != 0).sum(0).float()
    rarer = torch.minimum((coded.codes > 0).sum(0), (coded.codes < 0).sum(0)) / fires.clamp(min=1)
    outward = _unit((atoms * signs[:, None]) @ frame.back).to(values)
    fvu = lambda c: float(c.left.square().sum() / c.length.sum().clamp(min=1e-30))  # noqa: E731
    return SparseAtoms(
        outward, fires / len(test), rarer,
        _total(coded, len(atoms), r, len(values)), _total(whole, len(complete), r, len(values)),
        float(_code(test, atoms[:0]).bits.mean()), float(coded.active.mean()), float(whole.active.mean()),
        fvu(coded), fvu(whole), float(coded.explained.float().mean()), float(whole.explained.float().mean()),
        r, center, len(x), (atoms @ frame.back).norm(dim=1), frame.there, atoms * signs[:, None],
    )  # fmt: skip


def _mode(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Half-sample mode of every unit: where it is when nothing is active, if that is often so. Source: Bickel 2006."""
    x = x.sort(0).values
    while len(x) > 3:
        half = (len(x) + 1) // 2
        width = x[half - 1 :] - x[: len(x) - half + 1]
        first = width.argmin(0)
        x = x.gather(0, first + torch.arange(half, device=x.device)[:, None])
    return x.mean(0)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def _frame(x: Float[Tensor, "n d"]) -> _Frame:
    """Second moment about the origin to the identity, after scaling every unit; weak directions stay weak."""
    size = x.square().mean(0).sqrt()
    scaled = (x / torch.where(size > 0, size, math.inf)).double()
    spread, axes = torch.linalg.eigh(scaled.T @ scaled / len(x))
    kept = spread > 1e-7 * spread[-1]
    scale = (spread[kept] + RIDGE * spread[kept].mean()).rsqrt()
    there = (axes[:, kept] * scale) / torch.where(size > 0, size, math.inf)[:, None]
    back = (axes[:, kept] / scale).T * size
    return _Frame(there.float(), back.float())


def _total(coded: _Coded, n: int, r: int, rows: int) -> float:
    """Bits per row with the dictionary's own cost spread over all rows."""
    return float(coded.bits.mean()) + n * r * _coefficient() / 2 / rows


def _coefficient() -> float:
    return 1 + 0.5 * math.log2(1 / DELTA)


def _code(z: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"]) -> _Coded:
    """Every row with the number of atoms that takes the fewest bits, in pieces of bounded size."""
    step = max(16, PIECE // max(1, MOST_ACTIVE * z.shape[1] + 3 * len(atoms)))
    parts = [_code_piece(piece, atoms) for piece in z.split(step)]
    return _Coded(*(torch.cat([getattr(p, name) for p in parts]) for name in _Coded.__dataclass_fields__))


def _code_piece(z: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"]) -> _Coded:
    """Pursuit of all rows at once; a row leaves once nothing is left of it or two steps in a row did not pay."""
    m, r = z.shape
    n = len(atoms)
    length = z.square().sum(1)
    best = _bits(length, 0, r, 0.0)
    codes, left, active = z.new_zeros(m, n), z.clone(), z.new_zeros(m)
    gram, on = atoms @ atoms.T, z @ atoms.T
    rows = torch.arange(m, device=z.device)
    chosen, residual, idle = rows.new_zeros(m, 0), z, rows.new_zeros(m)
    for s in range(1, 1 + min(MOST_ACTIVE, n, r - 1)):
        free = on[rows] if s == 1 else residual @ atoms.T
        pick = free.abs_().scatter_(1, chosen, -1).argmax(1)
        chosen = torch.cat([chosen, pick[:, None]], 1)
        inner = gram[chosen[:, :, None], chosen[:, None, :]] + 1e-5 * torch.eye(s, device=z.device)
        weights = torch.linalg.solve(inner, on[rows].gather(1, chosen)[..., None])[..., 0]
        residual = z[rows] - torch.bmm(weights[:, None], atoms[chosen])[:, 0]
        error = residual.square().sum(1)
        bits = _bits(error, s, r, _choices(n, s))
        better = bits < best[rows]
        at = rows[better]
        best[at], active[at], left[at] = bits[better], float(s), residual[better]
        codes[at] = z.new_zeros(len(at), n).scatter_(1, chosen[better], weights[better])
        idle = torch.where(better, 0, idle + 1)
        go = (idle < IDLE) & (error > (r - s) * DELTA / 4)
        rows, chosen, residual, idle = rows[go], chosen[go], residual[go], idle[go]
        if not len(rows):
            break
    return _Coded(codes, best, active, left, length)


def _choices(n: int, s: int) -> float:
    """log2 of the number of ways to choose s of n atoms."""
    return (math.lgamma(n + 1) - math.lgamma(s + 1) - math.lgamma(n - s + 1)) / math.log(2)


def _bits(error: Float[Tensor, " m"], s: int, r: int, price: float) -> Float[Tensor, " m"]:
    free = r - s
    return price + s * _coefficient() + 0.5 * free * torch.log2(1 + error / (free * DELTA))


def _search(
    fit: Float[Tensor, "m r"], atoms: Float[Tensor, "k r"], most: int, generator: torch.Generator
) -> Float[Tensor, "n r"]:
    """Grow, refine and prune until held-out rows get no shorter."""
    r, third = fit.shape[1], len(fit) // 4
    check, rows = fit[:third], fit[third:]
    bits = lambda w: _total(_code(check, w), len(w), r, len(fit))  # noqa: E731
    if len(atoms):
        atoms = _refine(rows, atoms, 2)
    best, fewest, failures, settled = atoms, bits(atoms), 0, False
    for _ in range(ROUNDS):
        some = rows[: max(LEAST_ROWS, ROWS_PER_ATOM * (len(atoms) + 16))]
        shaken = bool(failures) or settled
        if shaken:
            atoms = _shaken(some, best, failures, generator)
        for _ in range(1 + shaken):
            atoms, settled = _grown(some, atoms, settled, most, generator)
        atoms = _pruned(check, atoms, bits)
        now = bits(atoms)
        failures = 0 if now < fewest - LEAST_GAIN * abs(fewest) else failures + 1
        if now < fewest:
            best, fewest = atoms, now
        if failures > (PATIENCE if len(best) <= FEW else PATIENCE // 2) or len(best) >= most:
            break
    return _pruned(check, _refine(rows, best, 4), bits) if len(best) else best


def _grown(
    rows: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], settled: bool, most: int, generator: torch.Generator
) -> tuple[Float[Tensor, "k r"], bool]:
    """With atoms for what is unexplained, refined; and whether next to nothing had been."""
    coded, limit = _code(rows, atoms), max(16, len(atoms))
    left = coded.left[~coded.explained]
    fresh = [atoms]
    if len(left) >= FEWEST_USES:
        fresh += [_piles(left, LOOSE, generator)[:limit]]
        # features that lie near each other pull a loose shift between them
        fresh += [_piles(left, TIGHT, generator)[: limit // 2]] if len(atoms) else []
    several = rows[coded.active > 1]
    if settled and len(several) >= FEWEST_USES:
        # nothing is left to explain, but what takes two atoms may be one of its own
        fresh += [_piles(several, TIGHT, generator)[:limit]]
    together = torch.cat(fresh)
    distinct = _distinct(together, torch.arange(len(together), 0, -1))[:most]
    return _refine(rows, distinct, 3), float(coded.explained.float().mean()) > 1 - 2 * EXPLAINED


def _shaken(
    rows: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], turn: int, generator: torch.Generator
) -> Float[Tensor, "k r"]:
    """Without the atoms that two features may share: those whose rows take the most bits, that fire with another one, or any,
    by turns."""
    coded = _code(rows, atoms)
    uses = (coded.codes != 0).float()
    fires = uses.sum(0).clamp(min=1)
    if turn % 3 == 0:
        doubt = (uses.T @ coded.bits) / fires
    elif turn % 3 == 1:
        doubt = (uses.T @ uses).fill_diagonal_(0).amax(0) / fires
    else:
        doubt = torch.rand(len(atoms), generator=generator).to(atoms)
    share = SHAKEN * (1 + turn // 3)
    return atoms[doubt.argsort()[: len(atoms) - math.ceil(share * len(atoms))].sort().values]


def _refine(rows: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], steps: int) -> Float[Tensor, "k r"]:
    """Code and update; atoms that are hardly used or that became equal go."""
    for _ in range(steps):
        if not len(atoms):
            return atoms
        codes = _code(rows, atoms).codes
        uses = (codes != 0).sum(0)
        inner = codes.T @ codes + 1e-3 * torch.eye(len(atoms), device=rows.device)
        moved = torch.linalg.solve(inner, codes.T @ rows)
        keep = (uses >= FEWEST_USES) & (moved.norm(dim=1) > 1e-6)
        atoms = _distinct(_unit(moved[keep]), uses[keep])
    return atoms


def _distinct(atoms: Float[Tensor, "n r"], uses: Int[Tensor, " n"]) -> Float[Tensor, "k r"]:
    """One of each group of atoms that point the same way, the most used ones first."""
    atoms = atoms[uses.to(atoms.device).argsort(descending=True, stable=True)]
    same = ((atoms @ atoms.T).abs() > SAME).tril(-1)
    gone = torch.zeros(len(atoms), dtype=torch.bool, device=atoms.device)
    for i in same.any(1).nonzero()[:, 0].tolist():
        gone[i] = bool((same[i] & ~gone).any())
    return atoms[~gone]


def _piles(rows: Float[Tensor, "m r"], within: float, generator: torch.Generator) -> Float[Tensor, "k r"]:
    """Directions that rows pile up around, the fullest first: a mean shift of the rows nearest to a direction."""
    size = rows.norm(dim=1)
    u = _unit(rows[size > 0.3 * size.median()])
    x = u[torch.randperm(len(u), generator=generator)[:STARTS].to(u.device)]
    for _ in range(SHIFTS):
        near = u @ x.T
        # only the rows nearest to a direction pull at it: others are other features at work
        pull = (near.abs() - within * near.abs().amax(0)).clamp(min=0) * near.sign()
        x = _unit(pull.T @ u)
    full = ((u @ x.T).abs() > 0.9).sum(0)
    return _distinct(x, full)


def _pruned(
    check: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], bits: Callable[[Tensor], float]
) -> Float[Tensor, "k r"]:
    """Without the least used atoms, as long as other rows get no longer."""
    share, fewest = 0.25, bits(atoms)
    while share * len(atoms) >= 1:
        uses = (_code(check, atoms).codes != 0).sum(0)
        keep = uses.argsort(descending=True)[: len(atoms) - max(1, int(share * len(atoms)))]
        fewer = atoms[keep.sort().values]
        now = bits(fewer)
        if now <= fewest:
            atoms, fewest = fewer, now
        else:
            share /= 2
    return atoms


def _complete(
    fit: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], coded: _Coded, generator: torch.Generator
) -> Float[Tensor, "k r"]:
    """The best dictionary with at most r atoms: the most used ones, refined."""
    r = fit.shape[1]
    if len(atoms) <= r:
        return atoms
    most = (coded.codes != 0).sum(0).argsort(descending=True)[:r]
    return _refine(fit, atoms[most], 5)
