"""Do the parts of a linear unmixing hang together in blocks, and what shape has a block: axes, atoms or a continuum?

Blocks. Unmix with ICA on some documents; on the others correlate the energies |s| of every two parts. An edge is a
correlation that shifted parts do not reach (false discovery rate 5 %) and that the best independent model of the same
data (parts shifted and unmixed again) does not reach by half: an unmixing from finitely many rows leaves
cross-talk. Among independent features a pair is found in 0 to 5 % of worlds (measured: 4 to 32 units, 200 worlds each).
Blocks are the connected components. Rows whose directions are uniform once whitened have only a common length: one
Gaussian with a varying scale, and no blocks.

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

import torch
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import ConfigError
from .basis import ResidualDependence
from .unmix import Parts, held_out, same_on_any_threads, shifted, unmix

Shape = Literal["axes", "atoms", "continuum", "mixture", "unclear"]
"""axes: at most as many isolated directions as dimensions; atoms: more; continuum: none; mixture: both at once."""

CROSS_TALK = 1.5
"""An edge must be so many times as strong as the strongest of an independent model."""
WEAKEST = 0.03
"""Energy correlations below this are never edges."""
AWAY = 0.3
"""Length, relative to that of a typical active row (fourth over second moment), from which a row is active."""
TYLER, WIDE_TYLER = 20, 8
"""Steps of Tyler's estimate, and of that for more than 160 parts."""
WIDE = 160
NULL_PAIRS = 200_000
"""Pairs of shifted parts that make up the null: many parts need few shifts."""
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

    @property
    def largest(self) -> int:
        """Parts of the largest block; 1 if there is none."""
        return len(self.members[0]) if self.members else 1


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


@dataclass(frozen=True)
class DependenceNumbers:
    """What an unmixing says in numbers; the fields are those of `ResidualDependence` and `Blocks`."""

    parts: int
    """Rank of the data."""
    excess: float
    excess_normed: float
    p: float
    gaussian_share: float
    sub_gaussian_share: float
    kurtosis: tuple[float, float, float, float, float]
    """Quantiles of the parts' excess kurtosis: 10 %, 25 %, 50 %, 75 % and 90 %."""
    alignment: float
    random_alignment: float
    energy_excess: float
    """`Blocks.excess`."""
    blocks: int
    """Blocks of two or more parts."""
    largest_block: int
    """Parts of the largest one; 1 if there is none."""
    spherical: bool
    converged: bool

    @property
    def giant_share(self) -> float:
        """Share of the parts in the largest block."""
        return self.largest_block / self.parts


def numbers_of(dependence: ResidualDependence, blocks: Blocks) -> DependenceNumbers:
    """The numbers of one unmixing, side by side."""
    return DependenceNumbers(
        len(dependence.kurtosis), dependence.excess, dependence.excess_normed, dependence.p, dependence.gaussian_share,
        dependence.sub_gaussian_share, dependence.kurtosis_quantiles, dependence.alignment, dependence.random_alignment,
        blocks.excess, len(blocks.members), blocks.largest, blocks.spherical, dependence.converged,
    )  # fmt: skip


def dependence_blocks(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"] | None,
    seed: int,
    permutations: int = 39,
    max_rows: int | None = None,
) -> Blocks:
    """Blocks of parts whose energies depend on each other. Cost: an unmixing, and one more per independent model.

    Raises: ConfigError with less than two units that vary, or fewer than four rows per unit.
    """
    alive = int((values.amax(0) > values.amin(0)).sum()) if len(values) else 0
    if alive < 2 or len(values) < 4 * alive:
        raise ConfigError(
            f"{len(values)} rows of {alive} units that vary", expected="at least 2 units and 4 rows per unit"
        )
    generator = torch.Generator().manual_seed(seed)
    unmixing = unmix(values, documents, generator, max_rows=max_rows)
    return blocks_of(held_out(values, unmixing, generator), generator, permutations)


def blocks_of(found: Parts, generator: torch.Generator, permutations: int = 39) -> Blocks:
    """The same from parts that exist already."""
    with same_on_any_threads(found.values.shape[1]):
        return _blocks(found, generator, permutations)


def _blocks(found: Parts, generator: torch.Generator, permutations: int) -> Blocks:
    models = [_energy_correlations(model) for model in found.models]
    reference = max((float(model.abs().max()) for model in models), default=0.0)
    parts = found.values
    correlations = _energy_correlations(parts)
    count = min(permutations, 1 + 2 * NULL_PAIRS // max(1, parts.shape[1] * (parts.shape[1] - 1)))
    threshold = max(_discoveries(parts, correlations, generator, count), CROSS_TALK * reference, WEAKEST)
    spherical = _spherical(parts)
    edges = (correlations.abs() > threshold) & (not spherical)
    label = torch.from_numpy(connected_components(edges.cpu().numpy(), directed=False)[1]).long()
    groups = [tuple((label == b).nonzero()[:, 0].tolist()) for b in (label.bincount() > 1).nonzero()[:, 0]]
    members = tuple(sorted(groups, key=lambda g: (-len(g), g)))
    kurtosis = parts.pow(4).mean(0) / parts.square().mean(0).square().clamp(min=1e-30) - 3
    independent = max((float(model.square().sum()) for model in models), default=1.0)
    over = float(correlations.square().sum()) / max(independent, 1e-30)
    return Blocks(members, correlations, threshold, parts, kurtosis, over, spherical)


def _energies(parts: Float[Tensor, "n r"]) -> Float[Tensor, "n r"]:
    """|s| about the median, of mean 0 and length 1."""
    energy = (parts - parts.median(0).values).abs()
    energy = energy - energy.mean(0)
    return energy / energy.norm(dim=0).clamp(min=1e-30)


def _energy_correlations(parts: Float[Tensor, "n r"]) -> Float[Tensor, "r r"]:
    energy = _energies(parts)
    return (energy.T @ energy).fill_diagonal_(0)


def _discoveries(
    parts: Float[Tensor, "n r"], found: Float[Tensor, "r r"], generator: torch.Generator, permutations: int
) -> float:
    """Smallest correlation that is a discovery at a rate of 5 % false ones, by shifts; infinite if none is."""
    i, j = torch.triu_indices(len(found), len(found), 1, device=found.device)
    energy, null = _energies(parts), []
    for _ in range(permutations):
        moved = shifted(energy, generator)
        null.append((moved.T @ moved)[i, j].abs())
    seen = found[i, j].abs().sort(descending=True).values
    if not len(seen):
        return math.inf
    null = torch.cat(null).sort().values
    false = (len(null) - torch.searchsorted(null, seen)).double() / permutations
    good = (false / torch.arange(1, len(seen) + 1, device=seen.device) <= 0.05).nonzero()[:, 0]
    return math.nextafter(float(seen[good[-1]]), 0) * (1 - 1e-6) if len(good) else math.inf


def _spherical(parts: Float[Tensor, "n r"]) -> bool:
    """Are the directions of the whitened rows uniform, as far as fourth moments tell?

    Whitened by second moments, and by Tyler's estimate, which the lengths of the rows do not reach.
    """
    r = parts.shape[1]
    most = max(20_000, 8 * r) if r <= WIDE else 6 * r
    z = parts[:: -(-len(parts) // most)]
    z = (z - z.mean(0)).double()  # Tyler's estimate of rank-poor parts fails in single precision
    n, steps = len(z), TYLER if r <= WIDE else WIDE_TYLER
    if n < 2 * r:
        return False
    shape = z.T @ z / n
    eye = torch.eye(r, dtype=z.dtype, device=z.device)
    uniform = (1 + 2 * eye) / (r * (r + 2))
    for step in range(steps + 1):
        root = torch.linalg.cholesky(shape + 1e-6 * shape.diagonal().mean() * eye)
        white = torch.linalg.solve_triangular(root, z.T, upper=False)
        length = white.square().sum(0).clamp(min=1e-12)
        if step in (0, steps):
            square = white.square() / length
            moment = square @ square.T / n
            error = ((square.square() @ square.square().T / n - moment.square()).clamp(min=1e-30) / n).sqrt()
            if bool(((moment - uniform).abs() < SPHERICAL * error).all()):
                return True
        shape = (z.T / length) @ z
        shape = shape / shape.trace()
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
