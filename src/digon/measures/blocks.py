"""Do the parts of a linear unmixing hang together in blocks, and what shape has a block: axes, atoms or a continuum?

Blocks. Unmix with ICA on some documents; on the others correlate the energies |s| of every two parts. An edge is a
correlation that permuted parts do not reach (false discovery rate 5 %) and that the best independent model of the same
data (parts permuted, mixed and unmixed again) does not reach by half: an unmixing from finitely many rows leaves
cross-talk. Blocks are the connected components. Rows whose directions are uniform once whitened have only a common
length: one Gaussian with a varying scale, and no blocks.

Shape of a block. On rows that are away from the origin, compare the number of directions within half an angle with that
within the angle. Around an isolated direction the share is near 1 at some angle; in a continuum of m - 1 dimensions it
is 2^-(m-1) at every angle. At most as many isolated directions as dimensions are axes; more of them are corners of a
polygon or points of a curve, which nothing in the activations tells apart. A curve around the origin has one length:
the ellipsoid x'Qx = 1 that fits best leaves little scatter; parts with sizes of their own fill the space between.

Separability. Least mutual information of two coordinates over rotations, minus its mean over permutations.

Sources: separability after Engels et al. 2024, "Not All Language Model Features Are One-Dimensionally Linear"; false
discoveries after Benjamini & Hochberg 1995; the block and shape tests are derived here.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import ConfigError
from .basis import _unmix  # pyright: ignore[reportPrivateUsage]

Shape = Literal["axes", "atoms", "continuum", "mixture", "unclear"]
"""axes: at most as many isolated directions as dimensions; atoms: more; continuum: none; mixture: both at once."""

MODELS = 3
"""Independent models of the data that are unmixed again."""
CROSS_TALK = 1.5
"""An edge must be so many times as strong as the strongest of an independent model."""
WEAKEST = 0.03
"""Energy correlations below this are never edges."""
AWAY = 0.3
"""Length, relative to that of a typical active row (fourth over second moment), from which a row is active."""
TYLER = 20
"""Steps of Tyler's estimate."""
SPHERICAL = 5.0
"""Standard errors within which fourth moments of directions must be those of the uniform law."""
ANGLES = tuple(math.radians(a) for a in (1, 2, 4, 8, 12, 16, 24))
"""Angles around a direction at which its neighbors are counted."""
ISOLATED = 0.9
"""Share of neighbors within half an angle that makes a direction isolated."""
SMALLEST_ATOM = 0.01
"""Share of the rows that an isolated direction must hold."""
SHAPE_ROWS = 1500


@dataclass(frozen=True)
class Blocks:
    """Which parts depend on each other."""

    members: tuple[tuple[int, ...], ...]
    """Blocks of two or more parts, the largest first."""
    correlations: Float[Tensor, "r r"]
    """Energy correlations of the parts on documents that the unmixing has not seen."""
    threshold: float
    """Correlation from which two parts hang together."""
    parts: Float[Tensor, "n r"]
    """Those parts, of unit variance on the documents of the unmixing."""
    kurtosis: Float[Tensor, " r"]
    """Excess kurtosis of the parts."""
    excess: float
    """Sum of squared energy correlations over the largest of the independent models: about 1 if parts are independent."""
    spherical: bool
    """True if whitened rows differ in nothing but length."""


@dataclass(frozen=True)
class ShapeOfBlock:
    """What the rows of one block look like."""

    shape: Shape
    atoms: int
    """Isolated directions."""
    lines: int
    """Lines that they lie on: two opposite directions are one line."""
    isolated: float
    """Share of the rows that lie on one."""
    tightness: float
    """Median share of neighbors within half an angle, at the angle where it is largest."""
    scatter: float
    """Standard deviation of the length relative to the best ellipsoid: 0 = a curve of one size."""
    open: float
    """Length of the mean direction: about 0 around the origin, near 1 in a narrow cone."""
    rows: int
    """Rows away from the origin."""


def dependence_blocks(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"],
    seed: int,
    permutations: int = 39,
    max_rows: int = 20_000,
) -> Blocks:
    """Blocks of parts whose energies depend on each other. Cost: four unmixings of at most `max_rows` rows.

    Raises: ConfigError with fewer than two documents, two units that vary, or four rows per unit.
    """
    alive = values.std(0) > 0
    if len(documents.unique()) < 2 or int(alive.sum()) < 2 or len(values) < 4 * values.shape[1]:
        raise ConfigError(
            f"{len(values)} rows of {int(alive.sum())} units that vary, in {len(documents.unique())} documents",
            expected="at least 2 documents, 2 units and 4 rows per unit",
        )
    generator = np.random.default_rng(seed)
    rows = torch.arange(0, len(documents), max(1, -(-len(documents) // max_rows)))
    x, owner = values[rows][:, alive].double().cpu().numpy(), documents[rows].cpu().numpy()
    names = np.unique(owner)
    fit = np.isin(owner, generator.permutation(names)[: len(names) // 2])
    ica, _ = _unmix(x[fit], seed)
    everything = np.asarray(ica.transform(x))
    models: list[np.ndarray] = []
    for model in range(MODELS):
        surrogate = ica.inverse_transform(generator.permuted(everything, axis=0))
        again, _ = _unmix(surrogate[fit], seed + model + 1)
        models.append(_energy_correlations(np.asarray(again.transform(surrogate[~fit]))))
    reference = max(float(np.abs(model).max()) for model in models)
    parts = everything[~fit]
    correlations = _energy_correlations(parts)
    threshold = max(_discoveries(parts, correlations, generator, permutations), CROSS_TALK * reference, WEAKEST)
    spherical = _spherical(parts)
    edges = (np.abs(correlations) > threshold) & (not spherical)
    _, label = connected_components(edges, directed=False)
    groups = [tuple(np.flatnonzero(label == b).tolist()) for b in np.unique(label)]
    members = tuple(sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g)))
    excess = (parts**4).mean(0) / (parts**2).mean(0) ** 2 - 3
    over = float((correlations**2).sum()) / max(float((model**2).sum()) for model in models)
    return Blocks(
        members, torch.from_numpy(correlations), threshold, torch.from_numpy(parts), torch.from_numpy(excess), over,
        spherical,
    )  # fmt: skip


def _energy_correlations(parts: np.ndarray) -> np.ndarray:
    energy = np.abs(parts - np.median(parts, axis=0))
    return np.atleast_2d(np.corrcoef(energy, rowvar=False)) - np.eye(parts.shape[1])


def _discoveries(parts: np.ndarray, found: np.ndarray, generator: np.random.Generator, permutations: int) -> float:
    """Smallest correlation that is a discovery at a rate of 5 % false ones, by permutation; infinite if none is."""
    above = np.triu_indices(len(found), 1)
    null = np.concatenate(
        [np.abs(_energy_correlations(generator.permuted(parts, axis=0))[above]) for _ in range(permutations)]
    )
    seen = np.sort(np.abs(found[above]))[::-1]
    false = (len(null) - np.searchsorted(np.sort(null), seen)) / permutations
    good = np.flatnonzero(false / np.arange(1, len(seen) + 1) <= 0.05)
    return float(np.nextafter(seen[good[-1]], 0)) if len(good) else math.inf


def _spherical(parts: np.ndarray) -> bool:
    """Are the directions of the whitened rows uniform, as far as fourth moments tell?

    Whitened by second moments, and by Tyler's estimate, which the lengths of the rows do not reach.
    """
    z = parts - parts.mean(0)
    n, r = z.shape
    shape = z.T @ z / n
    uniform = (1 + 2 * np.eye(r)) / (r * (r + 2))
    for step in range(TYLER + 1):
        spread, axes = np.linalg.eigh(shape)
        white = z @ (axes / np.sqrt(np.maximum(spread, 1e-12 * spread[-1])))
        length = (white**2).sum(1, keepdims=True).clip(1e-12)
        if step in (0, TYLER):
            square = white**2 / length
            moment = square.T @ square / n
            error = np.sqrt(np.maximum((square**2).T @ (square**2) / n - moment**2, 1e-300) / n)
            if bool((np.abs(moment - uniform) < SPHERICAL * error).all()):
                return True
        shape = (z / length).T @ z
        shape = shape / np.trace(shape)
    return False


def shape_of_block(rows: Float[Tensor, "n m"], generator: torch.Generator) -> ShapeOfBlock:
    """Axes, atoms or a continuum? Rows of one block, in any linear coordinates. Cost: 1500^2 products.

    The origin is the coordinatewise median: the point where nothing is active, if that is so on half of the rows.

    Raises: ConfigError with less than two dimensions.
    """
    if rows.shape[1] < 2:
        raise ConfigError(f"a block of {rows.shape[1]} dimensions", expected="at least 2")
    x = (rows - rows.median(0).values).double()
    long = x.norm(dim=1)
    x = x[long > AWAY * (long.pow(4).mean() / long.square().mean().clamp(min=1e-300)).sqrt()]
    x = x[torch.randperm(len(x), generator=generator)[:SHAPE_ROWS].to(x.device)]
    if len(x) < 50:
        return ShapeOfBlock("unclear", 0, 0, 0.0, math.nan, math.nan, math.nan, len(x))
    # Second moment about the origin to the identity: a linear map moves directions together, and white rows fairly.
    spread, axes = torch.linalg.eigh(x.T @ x / len(x))
    x = x @ axes / spread.clamp(min=1e-12).sqrt()
    u = torch.nn.functional.normalize(x, dim=1)
    angle = (2 * torch.asin((torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist") / 2).clamp(max=1))).float()
    angle.fill_diagonal_(math.inf)
    tight = torch.stack([_tightness(angle, a) for a in ANGLES])
    medians = tight.median(1).values
    best = int(medians.argmax())
    atoms, isolated = _atoms(angle, tight[best], ANGLES[best])
    shape: Shape = "mixture"
    if isolated > 0.8:
        shape = "axes" if len(atoms) <= rows.shape[1] else "atoms"
    elif isolated < 0.2:
        shape = "continuum"
    lines = _lines(u[atoms], ANGLES[best])
    return ShapeOfBlock(
        shape, len(atoms), lines, isolated, float(medians[best]), _scatter(x), float(u.mean(0).norm()), len(x)
    )


def _tightness(angle: Float[Tensor, "n n"], within: float) -> Float[Tensor, " n"]:
    """Share of a row's neighbors that lie within half of the angle; 0 where there are fewer than five."""
    near = (angle < within).sum(1)
    return torch.where(near >= 5, (angle < within / 2).sum(1) / near.clamp(min=1), 0.0)


def _atoms(angle: Float[Tensor, "n n"], tight: Float[Tensor, " n"], within: float) -> tuple[list[int], float]:
    """One row on every isolated direction, the fullest first, and the share of rows on them."""
    inside, free = angle < within, tight >= ISOLATED
    atoms: list[int] = []
    held, least = 0, max(5, math.ceil(SMALLEST_ATOM * len(angle)))
    while True:
        counts = (inside & free).sum(1) * free
        size = int(counts.max()) + 1
        if size < least:
            return atoms, held / len(angle)
        at = int(counts.argmax())
        members = inside[at] & free
        members[at] = True
        free = free & ~members
        atoms.append(at)
        held += size


def _lines(u: Float[Tensor, "k m"], within: float) -> int:
    """Number of lines among directions."""
    kept: list[Tensor] = []
    for axis in u:
        if all(abs(float(axis @ other)) < math.cos(within) for other in kept):
            kept.append(axis)
    return len(kept)


def _scatter(x: Float[Tensor, "n m"]) -> float:
    """Scatter of the lengths about the ellipsoid x'Qx = 1 that fits best."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    design = x[:, i] * x[:, j]
    q = torch.linalg.lstsq(design, torch.ones(len(x), 1, dtype=x.dtype, device=x.device), driver="gelsd").solution
    length = (design @ q)[:, 0].clamp(min=0).sqrt()
    return float(length.std() / length.mean().clamp(min=1e-12))


def separability(
    plane: Float[Tensor, "n 2"], generator: torch.Generator, *, bins: int = 10, angles: int = 45, permutations: int = 5
) -> float:
    """Least mutual information [bits] of two coordinates over rotations, less its mean under permutation.

    Range: about 0 for two independent coordinates, up to log2(bins). Source: see the module.

    Raises: ConfigError with fewer than `bins` squared rows.
    """
    if len(plane) < bins**2:
        raise ConfigError(f"{len(plane)} rows for {bins}^2 cells", expected="at least one row per cell")
    x = plane.double() - plane.double().mean(0)
    spread, axes = torch.linalg.eigh(x.T @ x / len(x))
    x = x @ axes / spread.clamp(min=1e-300).sqrt()
    found: list[float] = []
    for turn in torch.linspace(0, math.pi / 2, angles + 1)[:-1].tolist():
        c, s = math.cos(turn), math.sin(turn)
        a, b = _cells(c * x[:, 0] - s * x[:, 1], bins), _cells(s * x[:, 0] + c * x[:, 1], bins)
        null = [
            _information(a, b[torch.randperm(len(b), generator=generator).to(b.device)], bins)
            for _ in range(permutations)
        ]
        found.append(_information(a, b, bins) - sum(null) / permutations)
    return min(found)


def _cells(x: Float[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    low, high = x.aminmax()
    return ((x - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)


def _information(a: Int[Tensor, " n"], b: Int[Tensor, " n"], bins: int) -> float:
    joint = torch.bincount(a * bins + b, minlength=bins**2).double().view(bins, bins) / len(a)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / product[seen]).log2()).sum())
