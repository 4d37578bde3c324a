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
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigError
from ..measures.unmix import fast_ica, whitening
from .atoms_rays import densest
from .code_length import EXPLAINED, Coded, code, total_bits

RIDGE = 1e-3
FIT_ROWS, ROWS_PER_DIMENSION = 8000, 10
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
NOTHING = 0.01
"""Share of the bits that two rounds must save for the search to go on."""
LEAST_GAIN = 3e-3
"""Relative change of the bits that counts as progress."""
SHAKEN = 0.15
"""Share of the atoms, those of the worst described rows, that are given up to get out of a local optimum."""
SAME = 0.97
"""Cosine from which two atoms are one."""
WORTH = 0.05
"""Bits per row and dimension that atoms beyond a complete dictionary must save: tiles of a crowded plane save less."""
MOST_ATOMS = 20
"""Atoms per dimension at which growth ends."""
FINEST = 64
"""Share of the dimensions, as one in so many, that pruning takes away at least."""
MANY = 64
"""Dimensions from which a search begins with as many atoms."""
WIDE, WIDE_ROUNDS, WIDE_SHIFTS, WIDE_ATOMS = 256, 3, 6, 4
"""Dimensions from which a search is cut short: rounds, steps of a mean shift, and atoms per dimension."""


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
        return code((values.float() - self.origin) @ self._there, self._atoms).codes

    @property
    def gain(self) -> float:
        """Bits per row and dimension that atoms beyond a complete dictionary save."""
        return (self.complete_bits - self.bits) / max(1, self.dimensions)

    def __len__(self) -> int:
        return len(self.directions)


@dataclass(frozen=True)
class _Frame:
    """Whitened coordinates about an origin."""

    origin: Float[Tensor, " d"]
    there: Float[Tensor, "d r"]
    back: Float[Tensor, "r d"]

    def of(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        return (x - self.origin) @ self.there


def sparse_atoms(
    values: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    start: Float[Tensor, "k d"] | None = None,
    origin: Float[Tensor, " d"] | None = None,
    patience: int = PATIENCE,
) -> SparseAtoms:
    """The shortest dictionary of some activations. Cost: about 2 s for d = 64, at most 12,000 rows are looked at up to 800 dimensions.

    `start`: directions to begin with, such as rays. `origin`: where nothing is active; default: the densest point.
    `patience`: tries without progress that end the search, half as many with more than 64 atoms.

    Raises: ConfigError for fewer than 100 rows or less than 2 dimensions.
    """
    if len(values) < 100 or values.shape[1] < 2:
        raise ConfigError(f"{len(values)} rows of {values.shape[1]} units", expected="at least 100 rows and 2 units")
    order = torch.randperm(len(values), generator=generator).to(values.device)
    test_rows = min(TEST_ROWS, len(values) // 3)
    x = values[order[: test_rows + max(FIT_ROWS, ROWS_PER_DIMENSION * values.shape[1])]].float()
    frame, atoms = _dictionary(x[test_rows:], densest(values, generator).float(), start, origin, patience, generator)
    test, fit = frame.of(x[:test_rows]), frame.of(x[test_rows:])
    coded, r, rows = code(test, atoms), test.shape[1], len(values)
    complete = _complete(fit, atoms, coded, _unit(frame.there), generator)
    whole = code(test, complete)
    if total_bits(whole, rows) < total_bits(coded, rows):
        # the search was caught: begin again where fewer atoms do better
        atoms = _search(fit, complete, patience, generator)
        coded = code(test, atoms)
    if len(atoms) > r and total_bits(whole, rows) - total_bits(coded, rows) < WORTH * r:
        atoms, coded = complete, whole
    positive, negative = (coded.codes > 0).sum(0), (coded.codes < 0).sum(0)
    atoms = torch.where((negative > positive)[:, None], -atoms, atoms)
    outward, fires = atoms @ frame.back, positive + negative
    return SparseAtoms(
        _unit(outward).to(values), fires / len(test), torch.minimum(positive, negative) / fires.clamp(min=1),
        total_bits(coded, rows), total_bits(whole, rows), float(code(test, atoms[:0]).bits.mean()),
        float(coded.active.mean()), float(whole.active.mean()), coded.fvu, whole.fvu,
        float(coded.explained.float().mean()), float(whole.explained.float().mean()), r, frame.origin, len(x),
        outward.norm(dim=1), frame.there, atoms,
    )  # fmt: skip


def _dictionary(
    x: Float[Tensor, "n d"],
    densest_point: Float[Tensor, " d"],
    start: Float[Tensor, "k d"] | None,
    origin: Float[Tensor, " d"] | None,
    patience: int,
    generator: torch.Generator,
) -> tuple[_Frame, Float[Tensor, "atoms r"]]:
    """The shortest dictionary, and the coordinates that it lives in.

    Without a point where rows coincide, the origin is the mode of every unit at first, and then takes what is left on
    average once the dictionary is known.
    """
    sure = origin is not None or bool(densest_point.any()) or bool((x == 0).all(1).any())
    if origin is None:
        origin = densest_point if sure else _mode(x)
    frame = _frame(x, origin.float())
    known = x.new_zeros(0, frame.there.shape[1])
    if start is not None and len(start):
        known = _unit(start.float() @ frame.there)
    atoms = _search(frame.of(x), known, patience, generator)
    if sure:
        return frame, atoms
    frame, known = _moved(x, frame, atoms)
    wide = x.shape[1] > WIDE
    atoms = _refine(frame.of(x), known, 2) if wide else _search(frame.of(x), known, patience, generator)
    return _moved(x, frame, atoms)


def _moved(x: Float[Tensor, "n d"], frame: _Frame, atoms: Float[Tensor, "k r"]) -> tuple[_Frame, Float[Tensor, "k s"]]:
    """Coordinates about the origin that takes what is left on average, and the atoms in them."""
    moved = _frame(x, frame.origin + code(frame.of(x), atoms).left.mean(0) @ frame.back)
    return moved, _unit(atoms @ frame.back @ moved.there)


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


def _frame(x: Float[Tensor, "n d"], origin: Float[Tensor, " d"]) -> _Frame:
    """Second moment about the origin to the identity, after scaling every unit; weak directions stay weak."""
    x = x - origin
    size = x.square().mean(0).sqrt()
    scaled = (x / torch.where(size > 0, size, math.inf)).double()
    spread, axes = torch.linalg.eigh(scaled.T @ scaled / len(x))
    kept = spread > 1e-7 * spread[-1]
    scale = (spread[kept] + RIDGE * spread[kept].mean()).rsqrt()
    there = (axes[:, kept] * scale) / torch.where(size > 0, size, math.inf)[:, None]
    back = (axes[:, kept] / scale).T * size
    return _Frame(origin, there.float(), back.float())


def _search(
    fit: Float[Tensor, "m r"], atoms: Float[Tensor, "k r"], patience: int, generator: torch.Generator
) -> Float[Tensor, "n r"]:
    """Grow, refine and prune until held-out rows get no shorter."""
    r, wide = fit.shape[1], fit.shape[1] > WIDE
    most = (WIDE_ATOMS if wide else MOST_ATOMS) * r
    patience = 1 if wide else patience
    third = len(fit) // 4
    check, rows = fit[:third], fit[third:]
    bits = lambda w: total_bits(code(check, w), len(fit))  # noqa: E731
    if len(atoms):
        atoms = _refine(rows, atoms, 2)
    best, fewest, failures, settled = atoms, bits(atoms), 0, False
    empty = bits(atoms[:0])
    for step in range(WIDE_ROUNDS if wide else ROUNDS):
        some = rows[: max(LEAST_ROWS, ROWS_PER_ATOM * (max(len(atoms), r if r > MANY else 0) + 16))]
        shaken = bool(len(best)) and (bool(failures) or settled) and not wide
        if shaken:
            atoms = _shaken(some, best, failures, generator)
        for _ in range(1 + shaken):
            atoms, settled = _grown(some, atoms, settled, most, generator)
        atoms = _pruned(check, atoms, len(fit))
        now = bits(atoms)
        failures = 0 if now < fewest - LEAST_GAIN * abs(fewest) else failures + 1
        if now < fewest:
            best, fewest = atoms, now
        nothing = step > 0 and empty - fewest < NOTHING * empty
        if nothing or failures > (patience if len(best) <= FEW else patience // 2) or len(best) >= most:
            break
    return _pruned(check, _refine(rows, best, 4 if not wide else 2), len(fit)) if len(best) else best


def _grown(
    rows: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], settled: bool, most: int, generator: torch.Generator
) -> tuple[Float[Tensor, "k r"], bool]:
    """With atoms for what is unexplained, refined; and whether next to nothing had been."""
    # in many dimensions a few atoms save next to nothing, and the search would end before it began
    coded, limit = code(rows, atoms), max(16, len(atoms), rows.shape[1] if rows.shape[1] > MANY else 0)
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
    return _refine(rows, distinct, 3 if rows.shape[1] <= WIDE else 2), float(
        coded.explained.float().mean()
    ) > 1 - 2 * EXPLAINED


def _shaken(
    rows: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], turn: int, generator: torch.Generator
) -> Float[Tensor, "k r"]:
    """Without the atoms that two features may share: those whose rows take the most bits, that fire with another one, or any,
    by turns."""
    coded = code(rows, atoms)
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
        codes = code(rows, atoms).codes
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
    starts = torch.randperm(len(u), generator=generator)[: max(STARTS, u.shape[1])].to(u.device)
    x = u[starts]
    for step in range(SHIFTS if u.shape[1] <= WIDE else WIDE_SHIFTS):
        near = u @ x.T
        if step == 0:
            # a row of several features is nearest to itself, then to the rows that share one of them
            near[starts, torch.arange(len(starts), device=u.device)] = 0
        # only the rows nearest to a direction pull at it: others are other features at work
        pull = (near.abs() - within * near.abs().amax(0)).clamp(min=0) * near.sign()
        x = _unit(pull.T @ u)
    full = ((u @ x.T).abs() > 0.9).sum(0)
    return _distinct(x, full)


def _pruned(check: Float[Tensor, "m r"], atoms: Float[Tensor, "n r"], rows: int) -> Float[Tensor, "k r"]:
    """Without the least used atoms, as long as other rows get no longer."""
    share, coded = 0.25, code(check, atoms)
    while share * len(atoms) >= max(1, atoms.shape[1] / FINEST):
        uses = (coded.codes != 0).sum(0)
        keep = uses.argsort(descending=True)[: len(atoms) - max(1, int(share * len(atoms)))]
        fewer = atoms[keep.sort().values]
        now = code(check, fewer)
        if total_bits(now, rows) <= total_bits(coded, rows):
            atoms, coded = fewer, now
        else:
            share /= 2
    return atoms


def _complete(
    fit: Float[Tensor, "m r"],
    atoms: Float[Tensor, "n r"],
    coded: Coded,
    axes: Float[Tensor, "d r"],
    generator: torch.Generator,
) -> Float[Tensor, "k r"]:
    """The best dictionary with at most r atoms: the most used ones, the most independent directions, or the units."""
    r = fit.shape[1]
    if len(atoms) <= r:
        return atoms
    tries = [atoms[(coded.codes != 0).sum(0).argsort(descending=True)[:r]]]
    if r <= WIDE:
        mean, _, there, back = whitening(fit)
        rotation = fast_ica((fit - mean.float()) @ there.float(), generator, restarts=1)[0]
        tries.append(_unit(rotation.float() @ back.float()))
    if len(axes) == r:
        tries.append(axes)
    refined = [_refine(fit, one, 3) for one in tries]
    return min(refined, key=lambda one: total_bits(code(fit, one), len(fit)))
