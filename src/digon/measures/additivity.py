"""Do the variables of an input add up in its activations, or do they only show through each other?

1. Main effects: least squares on one column per level of every variable; with more rows than balance needs, none has to
   be balanced. The rows that are scored belong to other inputs or documents than those that are fitted.
2. Interactions: products of the columns of two variables. Of all products those count whose covariance with what the
   main effects leave exceeds chance at one false call in all; least squares on them. The gain is the part of the
   variance that they explain beyond the main effects. Features that add up read 0; a relation reads 0 main effect.
3. Context: does a variable move the variance from one direction to another? Sums of features with sizes of their own
   only add variance where a feature is on. A variable that says where a feature points adds it in one direction and
   takes it away in another. Directions come from one half of the rows, their change from the other.
4. Collinearity: variables with the same levels whose effects differ in nothing but scale share their directions: the
   same symbol at another place in a sequence is told apart by magnitude.

Sources: analysis of variance; collinear columns after Csordás et al. 2024, "Recurrent neural networks learn to store
sequences with magnitude codes"; the context test is derived here.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import chi2
from torch import Tensor

from ..errors import ConfigError

MOST_ROWS = 16_000
MOST_UNITS = 128
"""Leading principal directions that are looked at where there are more units."""
MOST_COLUMNS = 192
"""Levels, beyond the first of their variable, of all variables together; the most frequent are kept."""
MOST_LEVELS = 64
FEWEST_PER_LEVEL = 20
"""Rows that a level must have, and rows without it."""
SCREENED = 16
"""Directions on which interactions are screened."""
MOST_PRODUCTS = 400
RIDGE = 1e-3
MOVED, MOVED_Z = 0.7, 8.0
"""Rectified features reach a ratio of 0.9 at 6 standard errors, or 0.56 at 7.5; a context reads 0.96 and more at 19."""
ALIKE = 0.9
"""Cosine of two variables' effects from which they differ in nothing but scale."""


@dataclass(frozen=True)
class Additivity:
    """How variables of the input show in activations."""

    variables: int
    """Variables with at least two frequent levels."""
    main: float
    """Share of the variance of unseen rows that main effects explain."""
    gain: float
    """Share that products of two variables explain beyond them."""
    gain_error: float
    """Standard error of the gain, over groups of rows."""
    products: int
    """Products of levels that stand out."""
    possible: int
    """Products that were tried."""
    swap: float
    """Of the variable that moves the variance most clearly: what it takes away in one direction over what it adds in
    another, the smaller over the larger. Range: [0, 1]."""
    swap_z: float
    """Standard errors of the weaker of the two changes."""
    swapped: int
    """Variables that move variance: a ratio above `MOVED`, and both changes beyond `MOVED_Z` standard errors."""
    collinear: float
    """Share of pairs of variables, with the same three or more levels, whose effects differ only in scale; NaN: none."""
    decay: float
    """Median scale between neighbors of those, sorted by size; NaN without them."""
    rows: int


@dataclass(frozen=True)
class _Design:
    """Columns of levels."""

    x: Float[Tensor, "n c"]
    owner: Int[Tensor, " c"]
    """Variable of every column."""
    level: Int[Tensor, " c"]


def additivity(
    values: Float[Tensor, "n d"], labels: Int[Tensor, "n v"], groups: Int[Tensor, " n"], generator: torch.Generator
) -> Additivity:
    """Main effects, interactions, context and collinearity. `groups`: rows that may not be split, such as documents.

    Cost: about 10⁴ rows times the squares of 128 units and 192 levels: seconds.

    Raises: ConfigError with fewer than two variables that vary, or fewer than four groups.
    """
    keep = torch.randperm(len(values), generator=generator)[:MOST_ROWS].to(values.device)
    h, labels, groups = values[keep].double(), labels[keep], groups[keep].unique(return_inverse=True)[1]
    design = _design(labels)
    used = len(design.owner.unique())
    count = int(groups.max()) + 1
    if used < 2 or count < 4:
        raise ConfigError(
            f"{used} variables that vary, in {count} groups of rows",
            expected=f"two variables with two levels of {FEWEST_PER_LEVEL} rows, and four groups",
        )
    h = _leading(h - h.mean(0))
    total = float(h.square().sum(1).mean())
    first = (torch.randperm(count, generator=generator).to(h.device) % 2 == 0)[groups]
    halves = [_half(h, design, first, generator), _half(h, design, ~first, generator)]
    left_main, left_both = torch.zeros_like(h), torch.zeros_like(h)
    for fit, seen in zip(halves, (first, ~first), strict=True):
        left_main[~seen], left_both[~seen] = fit.left_main, fit.left_both
    gains = (left_main.square().sum(1) - left_both.square().sum(1)) / max(total, 1e-300)
    of_group = torch.zeros(count, dtype=h.dtype, device=h.device).index_add_(0, groups, gains)
    sizes = torch.bincount(groups, minlength=count)
    gain = float(gains.mean())
    error = float((of_group - gain * sizes).square().sum().sqrt()) / len(h)
    swaps = _swaps(left_main, design, first)
    collinear, decay = _collinear(halves[0].effects, halves[1].effects, design)
    main = 1 - float(left_main.square().sum(1).mean()) / max(total, 1e-300)
    return Additivity(
        used,
        main,
        gain,
        error,
        max(fit.products for fit in halves),
        halves[0].possible,
        *swaps,
        collinear,
        decay,
        len(h),
    )


def _design(labels: Int[Tensor, "n v"]) -> _Design:
    """A centered column for every frequent level of every variable, except the most frequent level."""
    columns, owner, level, rare = [], [], [], []
    for j in range(labels.shape[1]):
        names, counts = labels[:, j].unique(return_counts=True)
        if len(names) > MOST_LEVELS:
            continue
        fit = (counts >= FEWEST_PER_LEVEL) & (len(labels) - counts >= FEWEST_PER_LEVEL)
        most = int(counts.argmax())
        for i in fit.nonzero()[:, 0].tolist():
            if i != most:
                columns.append((labels[:, j] == names[i]).double())
                owner.append(j)
                level.append(int(names[i]))
                rare.append(int(counts[i]))
    if not columns:
        return _Design(labels.new_zeros(len(labels), 0).double(), labels.new_zeros(0), labels.new_zeros(0))
    kept = torch.tensor(rare).argsort(descending=True)[:MOST_COLUMNS].sort().values
    x = torch.stack(columns, 1)[:, kept.to(labels.device)]
    pick = lambda t: torch.tensor(t, device=labels.device)[kept.to(labels.device)]  # noqa: E731
    return _Design(x - x.mean(0), pick(owner), pick(level))


def _leading(h: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    if h.shape[1] <= MOST_UNITS:
        return h
    axes = torch.linalg.eigh(h.T @ h).eigenvectors[:, -MOST_UNITS:]
    return h @ axes


@dataclass(frozen=True)
class _Half:
    """What was fitted on some rows and what it leaves of the others."""

    left_main: Float[Tensor, "m r"]
    left_both: Float[Tensor, "m r"]
    effects: Float[Tensor, "c r"]
    products: int
    possible: int


def _half(h: Float[Tensor, "n r"], design: _Design, seen: Bool[Tensor, " n"], generator: torch.Generator) -> _Half:
    x = design.x
    mean = h[seen].mean(0)
    effects = _least_squares(x[seen], h[seen] - mean)
    left = h - mean - x @ effects
    first, second, possible = _products(left[seen], x[seen], design.owner, generator)
    both = left
    if len(first):
        terms = x[:, first] * x[:, second]
        middle = terms[seen].mean(0)
        both = left - (terms - middle) @ _least_squares(terms[seen] - middle, left[seen])
    return _Half(left[~seen], both[~seen], effects, len(first), possible)


def _least_squares(x: Float[Tensor, "n c"], y: Float[Tensor, "n r"]) -> Float[Tensor, "c r"]:
    gram = x.T @ x
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=x.dtype, device=x.device), x.T @ y)


def _products(
    left: Float[Tensor, "n r"], x: Float[Tensor, "n c"], owner: Int[Tensor, " c"], generator: torch.Generator
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], int]:
    """Pairs of columns whose product goes with what the main effects left, beyond chance; and how many were tried."""
    r = left.shape[1]
    turn = torch.eye(r, dtype=x.dtype, device=x.device)
    if r > SCREENED:
        some = torch.randn(r, SCREENED, generator=generator, dtype=x.dtype).to(x.device)
        turn = torch.linalg.qr(some).Q
    y = left @ turn
    y = (y / y.std(0).clamp(min=1e-12)).float()
    wide, square = x.float(), x.float().square()
    spread = (square.T @ square).sqrt().clamp(min=1e-6)
    score = torch.zeros(len(owner), len(owner), device=x.device)
    for column in y.T:
        score += (wide.T @ (column[:, None] * wide) / spread).square()
    apart = torch.triu(owner[:, None] != owner, 1)
    possible = int(apart.sum())
    score = torch.where(apart & (spread.square() > FEWEST_PER_LEVEL / 16), score, 0.0)
    score = torch.where(left.square().mean() > 1e-12, score, 0.0)
    needed = float(chi2.isf(min(0.5, 1 / max(1, possible)), y.shape[1]))
    best = score.flatten().topk(min(MOST_PRODUCTS, score.numel(), max(1, len(x) // 20)))
    chosen = best.indices[best.values > needed]
    return chosen // len(owner), chosen % len(owner), possible


def _swaps(left: Float[Tensor, "n r"], design: _Design, first: Bool[Tensor, " n"]) -> tuple[float, float, int]:
    """Ratio and significance of the clearest variable that moves variance, and how many do.

    The change of the covariance with a column: least squares of all products of two coordinates on all columns.
    """
    x = design.x
    r, c = left.shape[1], x.shape[1]
    if float(left.square().mean()) < 1e-12:
        return 0.0, 0.0, 0
    scaled = left / left.std(0).clamp(min=1e-9)
    gram = x[first].T @ x[first]
    moments = torch.stack([(x[first] * scaled[first, k, None]).T @ scaled[first] for k in range(r)], 1)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(c, dtype=x.dtype, device=x.device)
    change = torch.linalg.solve(gram + ridge, moments.reshape(c, -1)).view(c, r, r)
    axes = torch.linalg.eigh((change + change.mT) / 2).eigenvectors
    low, high = axes[:, :, 0], axes[:, :, -1]
    rest, there = scaled[~first], x[~first]
    inverse = torch.linalg.inv(there.T @ there + ridge)
    found = []
    for directions in (low, high):
        y = (rest @ directions.T).square()
        y = y - y.mean(0)
        weights = there @ inverse
        slope = inverse @ (there.T @ y)
        error = (weights.square().T @ (y - there @ slope).square()).diagonal().sqrt()
        found.append((slope.diagonal(), slope.diagonal() / error.clamp(min=1e-300)))
    (down, down_z), (up, up_z) = found
    size = torch.minimum(down.abs(), up.abs()) / torch.maximum(down.abs(), up.abs()).clamp(min=1e-300)
    opposite = (down < 0) & (up > 0)
    ratio = torch.where(opposite, size, 0.0)
    z = torch.where(opposite, torch.minimum(-down_z, up_z), 0.0)
    best = int((ratio * z).argmax())
    moved = design.owner[(ratio > MOVED) & (z > MOVED_Z)].unique()
    return float(ratio[best]), float(z[best]), len(moved)


def _collinear(one: Float[Tensor, "c r"], other: Float[Tensor, "c r"], design: _Design) -> tuple[float, float]:
    """Share of comparable pairs of variables whose effects differ only in scale, and the scale between neighbors."""
    sets: dict[tuple[int, ...], list[int]] = {}
    for j in design.owner.unique().tolist():
        sets.setdefault(tuple(design.level[design.owner == j].tolist()), []).append(j)
    # the level without a column may differ between variables: compare what the common ones do, about their mean
    names = {j: set(design.level[design.owner == j].tolist()) for group in sets.values() for j in group}
    pairs, alike, sizes = 0, 0, {}
    every = sorted(names)
    for a in every:
        for b in every:
            common = sorted(names[a] & names[b])
            if a >= b or len(common) < 2 or len(common) < 0.6 * max(len(names[a]), len(names[b])):
                continue
            u, v = (_effect(effects, design, j, common) for effects, j in ((one, a), (other, b)))
            pairs += 1
            if float((u * v).sum() / (u.norm() * v.norm()).clamp(min=1e-300)) > ALIKE:
                alike += 1
                sizes[a], sizes[b] = float(u.norm()), float(v.norm())
    if not pairs:
        return math.nan, math.nan
    ordered = sorted(sizes.values(), reverse=True)
    ratios = [low / high for high, low in itertools.pairwise(ordered)]
    return alike / pairs, float(torch.tensor(ratios).median()) if ratios else math.nan


def _effect(effects: Float[Tensor, "c r"], design: _Design, variable: int, common: list[int]) -> Float[Tensor, "l r"]:
    of = effects[design.owner == variable]
    levels = design.level[design.owner == variable].tolist()
    chosen = of[[levels.index(level) for level in common]]
    return chosen - chosen.mean(0)
