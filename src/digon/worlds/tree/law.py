"""Which features does the tree world have, and how often is each active? Its settings, its law, its directions.

The law of a row, for feature i = 1 … n in the order of falling frequency:

1. Wish      pᵢ falls as a power of i, rescaled to run from `most` to `least`.
2. Trees     the first `roots` features are roots; features are hung below them level by level, `branching` to a parent,
             down to `depth` levels. What is left over stands alone.
3. Fire      ε ~ N(0, 1) of `rank` dimensions is shared by the row; feature i fires where Cᵢ·ε + √(1 − ‖Cᵢ‖²) η > Φ⁻¹(1 − p′ᵢ),
             a Gaussian copula of low rank. Roots and lone features have p′ = p. A child has p′ = p/p_parent · (1 + Σ p_sibling/p_parent),
             at most 1: this makes up for the parent's silence and for lost draws among siblings.
4. Strength  a feature that fires has max(0, μᵢ + σᵢ·N(0, 1)), μ falling from 5 to 4 over i, σᵢ = |N(½, ½)|.
5. Gate      a child is active only where its parent is; of several siblings one, chosen at random, stays active.
             With `scale_children`, a child's strength is multiplied by its parent's strength over the parent's mean.
6. Row       x = bias + Σ strengthᵢ · atomᵢ; atoms are unit vectors, random but for a tight frame.

Given ε all of this is independent from tree to tree, and so only roots, lone features and children of active parents
need to be drawn.

Source: Chanin & Garriga-Alonso 2026, "SynthSAEBench" (arXiv 2602.14687), whose 16,384 × 768 world has this law with another
seed. The paper scales children by parents, the world released with it does not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...tensors import Dictionary

STRENGTH = (5.0, 4.0)
"""Mean strength of the first and of the last feature."""
SPREAD = (0.5, 0.5)
"""Mean and deviation of the normal variable whose absolute value is a feature's spread of strength."""
BIAS = 0.5
"""Length of the offset of all rows."""
RESIDUE = 0.01
"""Least variance of a feature's own part of the copula."""
DRAWS = 4096
"""Points of ε, evenly spread, over which densities below the roots are averaged."""
WIDEST = 16
"""Most children that a parent may have."""


@dataclass(frozen=True)
class TreeConfig:
    """Size and law of a tree world. Raises: ConfigError for settings that contradict each other."""

    features: int = 16_384
    d: int = 768
    roots: int = 128
    """Number of trees; 0 for features without hierarchy."""
    branching: int = 4
    """Children of a parent."""
    depth: int = 3
    """Levels below a root."""
    most: float = 0.4
    """Wished density of the most frequent feature."""
    least: float = 5e-4
    """Wished density of the rarest feature."""
    exponent: float = 0.5
    """How fast wished densities fall with the rank."""
    rank: int = 25
    """Dimensions of the shared normal variable; 0 for features that fire independently."""
    correlation: float = 0.1
    """Standard deviation of the entries of C."""
    scale_children: bool = False
    """Whether a child's strength follows its parent's: False in the released world, True in the paper."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("features", 1), ("d", 1), ("roots", 0), ("branching", 1), ("depth", 0), ("rank", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}", expected=f"at least {least}")
        if self.roots > self.features:
            raise ConfigError(f"{self.roots} roots among {self.features} features", expected="no more than features")
        if self.branching > WIDEST:
            raise ConfigError(f"branching = {self.branching}", expected=f"at most {WIDEST}")
        if not 0 < self.least <= self.most < 1:
            raise ConfigError(f"densities from {self.least} to {self.most}", expected="0 < least ≤ most < 1")
        if not (self.exponent >= 0 and self.correlation >= 0):
            raise ConfigError(f"exponent {self.exponent}, correlation {self.correlation}", expected="no less than 0")


FULL = TreeConfig()
"""The published size: 34 of 16,384 features active in 768 dimensions."""
SMALL = TreeConfig(features=2048, d=128, roots=16, most=0.22)
"""For processors: 6 of 2,048 active, as hard as the full size by the dimensions that sparse recovery needs."""


@dataclass(frozen=True)
class Law:
    """What decides whether and how strongly each feature is active."""

    wish: Float[Tensor, " n"]
    """Wished density p."""
    firing: Float[Tensor, " n"]
    """P(fires) before gates: p′."""
    mixing: Float[Tensor, "n r"]
    """C: how the shared variable moves each feature."""
    residue: Float[Tensor, " n"]
    """Standard deviation of each feature's own part."""
    threshold: Float[Tensor, " n"]
    """Where the sum of both must lie for the feature to fire."""
    mean: Float[Tensor, " n"]
    spread: Float[Tensor, " n"]
    parent: Int[Tensor, " n"]
    """−1 for roots and lone features."""
    first_child: Int[Tensor, " n"]
    children: Int[Tensor, " n"]
    """How many features from `first_child` on hang below a feature."""

    def to(self, device: torch.device) -> "Law":
        """The same on another device."""
        return Law(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def tops(self) -> Int[Tensor, " t"]:
        """Roots and lone features."""
        return (self.parent < 0).nonzero().squeeze(1)


def build(config: TreeConfig) -> Law:
    """The law that belongs to some settings; its random parts come from the seed."""
    n = config.features
    wish = _wishes(config)
    parent = _parents(config)
    below = (parent >= 0).nonzero().squeeze(1)
    children = torch.bincount(parent[below], minlength=n)
    first = torch.full((n,), n).scatter_reduce(0, parent[below], below, "amin")
    firing = wish.clone()
    siblings = torch.zeros_like(wish).index_add(0, parent[below], wish[below])
    above, own = wish[parent[below]], wish[below]
    firing[below] = (own / above * (1 + (siblings[parent[below]] - own) / above)).clamp(max=1)
    shape = (n, config.rank)
    mixing = config.correlation * torch.randn(
        shape, generator=rng.stream(config.seed, "tree", "copula"), dtype=torch.float64
    )
    residue = (1 - mixing.square().sum(1)).clamp(min=RESIDUE).sqrt()
    normal = torch.randn(n, generator=rng.stream(config.seed, "tree", "spread"), dtype=torch.float64)
    return Law(
        wish=wish,
        firing=firing,
        mixing=mixing,
        residue=residue,
        threshold=-torch.special.ndtri(firing),
        mean=torch.linspace(*STRENGTH, n, dtype=torch.float64),
        spread=(SPREAD[0] + SPREAD[1] * normal).abs(),
        parent=parent,
        first_child=torch.where(children > 0, first, 0),
        children=children,
    )


def directions(config: TreeConfig) -> Dictionary:
    """Unit atoms in a tight frame, rounded to bfloat16 so that a row needs half the memory traffic, and an offset."""
    g = rng.stream(config.seed, "tree", "atoms")
    atoms = torch.nn.functional.normalize(torch.randn(config.features, config.d, generator=g))
    bias = torch.nn.functional.normalize(torch.randn(1, config.d, generator=g))[0] * BIAS
    return Dictionary(separate(atoms).bfloat16().float(), bias)


def separate(atoms: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Unit rows near the given ones with the least Σ_{i≠j} (aᵢ·aⱼ)²: a tight frame, or orthogonal rows if there are few.

    The polar factor is the nearest tight frame; taking unit lengths moves a little away from it, so this is done twice.
    A hundred of Adam's steps on that sum, as published, end at the same value and nearly the same rows.
    """
    exact = atoms.double()  # so that the number of threads does not show in the rounded atoms
    for _ in range(2):
        wide = len(exact) >= exact.shape[1]
        values, axes = torch.linalg.eigh(exact.T @ exact if wide else exact @ exact.T)
        root = (axes * values.clamp(min=1e-12).rsqrt()) @ axes.T
        exact = torch.nn.functional.normalize(exact @ root if wide else root @ exact)
    return exact.to(atoms)


def densities(law: Law, seed: int, draws: int = DRAWS) -> Float[Tensor, " n"]:
    """P(active) of every feature: exact for roots and lone features, else the mean over points of ε of the exact P(active | ε).

    Accuracy: about 1 % of the value.
    """
    positive = torch.special.ndtr(law.mean / law.spread)
    total = (law.mixing.square().sum(1) + law.residue.square()).sqrt()
    found = torch.special.ndtr(-law.threshold / total) * positive
    members = ((law.parent >= 0) | (law.children > 0)).nonzero().squeeze(1)
    if (law.parent < 0).all():
        return found
    # members are the first features, so that their numbers stay valid
    trees = Law(**{name: value[: len(members)].to(_single(value)) for name, value in vars(law).items()})
    rank = law.mixing.shape[1]
    key = rng.derive(seed, "tree", "densities")
    points = torch.quasirandom.SobolEngine(rank, scramble=True, seed=key) if rank else None
    sums, size = torch.zeros(len(members), dtype=torch.float64), max(1, 2**22 // len(members))
    for start in range(0, draws, size):
        count = min(size, draws - start)
        spread = points.draw(count).clamp(1e-6, 1 - 1e-6) if points else torch.zeros(count, 0)
        level = torch.special.ndtri(spread) @ trees.mixing.T - trees.threshold
        fires = torch.special.ndtr(level / trees.residue) * positive[: len(members)].float()
        sums += _active(trees, fires).sum(0, dtype=torch.float64)
    below = law.parent[: len(members)] >= 0
    found[: len(members)] = torch.where(below, sums / draws, found[: len(members)])
    return found


def _single(values: Tensor) -> torch.dtype:
    return torch.float32 if values.is_floating_point() else values.dtype


def _active(law: Law, fires: Float[Tensor, "e n"]) -> Float[Tensor, "e n"]:
    """P(active | ε) from P(fires with a positive strength | ε), parents before their children."""
    active = fires.clone()
    parents = (law.children > 0).nonzero().squeeze(1)
    while len(parents):
        for count in law.children[parents].unique().tolist():
            some = parents[law.children[parents] == count]
            group = law.first_child[some, None] + torch.arange(count)
            active[:, group] = active[:, some, None] * _survival(fires[:, group])
        below = torch.isin(law.parent, parents)
        parents = (below & (law.children > 0)).nonzero().squeeze(1)
    return active


def _survival(p: Float[Tensor, "e m c"]) -> Float[Tensor, "e m c"]:
    """P(fires and is chosen) of siblings that fire independently: p · E[1 / (1 + how many others fire)].

    1/(1+k) = ∫₀¹ sᵏ ds, and E[sᵏ] = Π (1 − p + p s) over the others, a polynomial: Gauss–Legendre is exact.
    """
    total = torch.zeros_like(p)
    for node, weight in zip(*np.polynomial.legendre.leggauss(p.shape[-1] // 2 + 1), strict=True):
        stays = 1 - p * (1 - node) / 2
        # without division, as a factor may be 0
        left = torch.cat([torch.ones_like(p[..., :1]), stays[..., :-1].cumprod(-1)], -1)
        flipped = stays.flip(-1)
        right = torch.cat([torch.ones_like(p[..., :1]), flipped[..., :-1].cumprod(-1)], -1).flip(-1)
        total += weight / 2 * left * right
    return p * total


def _wishes(config: TreeConfig) -> Float[Tensor, " n"]:
    fall = torch.arange(1, config.features + 1, dtype=torch.float64) ** -config.exponent
    reach = fall[0] - fall[-1]
    share = (fall - fall[-1]) / reach if reach > 0 else torch.ones_like(fall)
    return config.least + (config.most - config.least) * share


def _parents(config: TreeConfig) -> Int[Tensor, " n"]:
    """Parent of every feature, level by level, until features or levels run out."""
    parent = torch.full((config.features,), -1)
    start, width = 0, config.roots
    for _ in range(config.depth):
        first = start + width
        count = min(width * config.branching, config.features - first)
        parent[first : first + count] = start + torch.arange(count) // config.branching
        start, width = first, count
    return parent
