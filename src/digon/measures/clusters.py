"""Does a unit respond to several kinds of context? Clusters among its exemplars, against two nulls.

1. Exemplars: rows from the upper tail of the unit, spread over that tail, one per document.
2. Embedding: what the *rest* of the layer does on those rows: units standardized and clipped at three standard
   deviations (so that one outlier is not a cluster), the unit's own column left out, principal components of the
   layer, rows normalized: what a context is about, not how strongly.
3. Cluster index for K = 2, 3, 4: share of the exemplars' variance that remains within the K best groups (K-means on
   their leading components).
4. Nulls; both must be beaten, and p is corrected for the three K:
   (i)  as many random rows, for which the unit plays no role;
   (ii) one Gaussian cloud, however elongated. With the centered exemplars written as U S Vᵀ, Gaussian rows have U
        uniform over orthonormal frames, independent of S and V. Drawing U anew and keeping S is therefore an exact
        test for *every* covariance (also of the leading components alone); nothing is estimated. (SigClust draws a new cloud from an estimated covariance;
        the spectrum then varies from draw to draw, and with 64 rows that noise buries two real groups.)
5. Effect: how much more variance the groups take in than under the nearer null, in units of the variance among
   random rows, so that fine structure within one kind of context counts for little. K groups must reach
   (K − 1) · `EFFECT`.
6. Senses: among the K that reach it, the one that beats the nulls most clearly; their shares of the exemplars.

This finds units with a *few* meanings that the rest of the layer tells apart. A unit that mixes dozens of features in
equal parts, or whose meanings leave no trace elsewhere in the layer, stays silent: silence is not monosemanticity.

Sources: top-example clustering after Gupta & Kumar 2025 (PSI, its label-free part), percentile sampling after PRISM
2025; cluster index after SigClust, Liu, Hayes, Nobel & Marron 2008; left-spherical conditioning after Dawid 1977.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student
from torch import Tensor

from . import stats

TAIL = 0.02
"""Share of the rows that counts as the upper tail of a unit."""
CLIP = 3.0
"""Standardized activations are cut off here."""
DIMENSIONS = 64
"""Principal components of the layer that embed a row."""
PARTS = 16
"""Leading components of each set of exemplars in which groups are sought: with 64 rows, the rest is noise."""
DRAWS = 40
"""Draws of the single cloud (four times as many of random rows); the tail beyond them is Student's."""
SENSES = (2, 3, 4)
"""Numbers of groups that are tried."""
EFFECT = 0.015
"""Least gap per group beyond the first."""
BATCH = 64
"""Units judged at once."""


@dataclass(frozen=True)
class ExemplarClusters:
    """One row per unit; NaN where a unit has too few exemplars."""

    index: Float[Tensor, " units"]
    """Within-group share of variance at the chosen K. Range: [0, 1]."""
    chance: Float[Tensor, " units"]
    """Mean of the index over draws of random rows, at the same K."""
    cloud: Float[Tensor, " units"]
    """Mean of the index over draws of one Gaussian cloud with the exemplars' spectrum, at the same K."""
    z: Float[Tensor, " units"]
    """How many standard deviations the index lies below the nearer null."""
    gap: Float[Tensor, " units"]
    """The effect: index below the nearer null, times the exemplars' variance relative to that of random rows."""
    p: Float[Tensor, " units"]
    """Larger of the two nulls' p-values, times the number of K tried."""
    polysemantic: Bool[Tensor, " units"]
    """Rejected at a false discovery rate of 5 % over the units, with a large enough effect."""
    senses: Float[Tensor, " units"]
    """Number of groups; 1 where the unit is not called polysemantic."""
    shares: Float[Tensor, "units k"]
    """Share of the exemplars in each sense, largest first; 0 beyond the last sense."""


def standardize(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Units with mean 0 and standard deviation 1, clipped; a unit that never varies is 0 throughout."""
    scale = values.std(0)
    x = (values - values.mean(0)).div_(torch.where(scale > 0, scale, math.inf)).clamp_(-CLIP, CLIP)
    return x.sub_(x.mean(0))


def principal_axes(x: Float[Tensor, "n d"], count: int = DIMENSIONS) -> Float[Tensor, "d r"]:
    """Directions of largest variance of centered rows."""
    covariance = (x.T @ x).double() / len(x)
    return torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count].to(x.dtype)


def tail_exemplars(
    column: Float[Tensor, " n"], documents: Int[Tensor, " n"], count: int, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """Rows spread over the upper tail of one unit, each from a document of its own.

    Fewer than `count` where the tail holds fewer documents. Only rows above the unit's median qualify.
    """
    size = max(int(TAIL * len(column)), 4 * count)
    top = column.topk(min(size, len(column))).indices
    top = top[column[top] > column.median()]
    shuffled = top[torch.randperm(len(top), generator=generator, device=generator.device).to(top.device)]
    document = documents[shuffled]
    order = document.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = document[order][1:] != document[order][:-1]
    one_per_document = shuffled[order[first]]
    ranked = one_per_document[column[one_per_document].argsort(descending=True)]
    if len(ranked) <= count:
        return ranked
    # equal steps through the ranks: the tail is covered, not only its tip
    return ranked[torch.linspace(0, len(ranked) - 1, count, device=ranked.device).long()]


def cluster_index(x: Float[Tensor, "*b m r"], groups: int) -> Float[Tensor, "*b"]:
    """Share of the variance that K-means leaves within groups.

    Range: [0, 1]; 0 when the rows are copies of as many points as there are groups.

    >>> cluster_index(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), 2)
    tensor(0.)
    """
    return k_means(x, groups)[0]


def k_means(
    x: Float[Tensor, "*b m r"], groups: int, iterations: int = 8
) -> tuple[Float[Tensor, "*b"], Int[Tensor, "*b m"]]:
    """Cluster index and the group of every row: the better of two starts from points far apart.

    One start begins at the row farthest from the mean, the other at the row nearest to it.
    """
    x = x - x.mean(-2, keepdim=True)
    norms = x.square().sum(-1)
    outer = _lloyd(x, norms, norms.argmax(-1), groups, iterations)
    inner = _lloyd(x, norms, norms.argmin(-1), groups, iterations)
    better = inner[0] < outer[0]
    within = torch.where(better, inner[0], outer[0])
    labels = torch.where(better[..., None], inner[1], outer[1])
    return (within / norms.sum(-1).clamp_min(1e-30)).clamp(0, 1), labels


def _lloyd(
    x: Float[Tensor, "*b m r"], norms: Float[Tensor, "*b m"], start: Int[Tensor, "*b"], groups: int, iterations: int
) -> tuple[Float[Tensor, "*b"], Int[Tensor, "*b m"]]:
    centers = _take(x, start)
    for _ in range(groups - 1):
        centers = torch.cat([centers, _take(x, _distances(x, norms, centers).amin(-1).argmax(-1))], -2)
    for _ in range(iterations):
        weight = F.one_hot(_distances(x, norms, centers).argmin(-1), groups).to(x.dtype).mT
        centers = (weight @ x) / weight.sum(-1, keepdim=True).clamp_min(1)
    nearest = _distances(x, norms, centers).min(-1)
    return nearest.values.sum(-1), nearest.indices


def _take(x: Float[Tensor, "*b m r"], row: Int[Tensor, "*b"]) -> Float[Tensor, "*b 1 r"]:
    return x.gather(-2, row[..., None, None].expand(*row.shape, 1, x.shape[-1]))


def _distances(
    x: Float[Tensor, "*b m r"], norms: Float[Tensor, "*b m"], centers: Float[Tensor, "*b k r"]
) -> Float[Tensor, "*b m k"]:
    return (norms[..., None] - 2 * x @ centers.mT + centers.square().sum(-1)[..., None, :]).clamp_min(0)


def exemplar_clusters(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"],
    generator: torch.Generator,
    exemplars: int = 64,
) -> ExemplarClusters:
    """Test every unit for several groups among its exemplars. Source: see the module."""
    width, device = values.shape[1], values.device
    found = [tail_exemplars(values[:, u], documents, exemplars, generator) for u in range(width)]
    # units with too few documents in their tail cannot be judged
    able = torch.tensor([u for u, rows in enumerate(found) if len(rows) == exemplars], dtype=torch.long, device=device)
    x = standardize(values)
    axes = principal_axes(x)
    draw = torch.randint(len(x), (4 * DRAWS, exemplars), generator=generator, device=generator.device).to(device)
    chance = _Chance.of(F.normalize(x[draw] @ axes, dim=-1))
    table = values.new_full((6, width), math.nan)
    shares = values.new_full((width, max(SENSES)), math.nan)
    for part in able.split(BATCH) if len(able) else ():
        rows = torch.stack([found[u] for u in part.tolist()])
        own = x[rows, part[:, None]]
        rest = F.normalize(x[rows] @ axes - own[..., None] * axes[part][:, None, :], dim=-1)
        table[:, part], shares[part] = _judge(rest, chance, generator)
    index, mean_chance, mean_cloud, z, gap, senses = table
    p = torch.from_numpy(student.sf(z.double().cpu().numpy(), DRAWS - 1)).to(z) * len(SENSES)
    p = p.clamp(max=1)
    polysemantic = stats.benjamini_hochberg(p) & (gap >= EFFECT * (senses - 1))
    one = ~polysemantic & p.isfinite()
    senses = torch.where(one, 1.0, senses)
    single = torch.eye(max(SENSES)).to(shares)[0]
    shares = torch.where(one[:, None], single, shares)
    return ExemplarClusters(index, mean_chance, mean_cloud, z, gap, p, polysemantic, senses, shares)


@dataclass(frozen=True)
class _Chance:
    """What random rows read at every K."""

    index: dict[int, Tensor]
    variance: Float[Tensor, ""]

    @classmethod
    def of(cls, rows: Float[Tensor, "draws m r"]) -> "_Chance":
        parts, variance = _leading(rows)
        share = parts.square().sum((1, 2)) / variance
        return cls({k: 1 - share * (1 - cluster_index(parts, k)) for k in SENSES}, variance.mean())


def _judge(
    x: Float[Tensor, "u m r"], chance: _Chance, generator: torch.Generator
) -> tuple[Float[Tensor, "6 u"], Float[Tensor, "u k"]]:
    """Index, both null means, z, gap and K at the best K, and the shares of its groups."""
    parts, total = _leading(x)
    share, relative = parts.square().sum((1, 2)) / total, total / chance.variance
    cloud = _clouds(parts, generator)
    tried: list[Tensor] = []
    shares: list[Tensor] = []
    for groups in SENSES:
        index, labels = k_means(parts, groups)
        index = 1 - share * (1 - index)
        random, single = chance.index[groups], 1 - share[:, None] * (1 - cluster_index(cloud, groups))
        below_chance, below_single = random.mean() - index, single.mean(-1) - index
        z = torch.minimum(below_chance / random.std().clamp_min(1e-9), below_single / single.std(-1).clamp_min(1e-9))
        gap = torch.minimum(below_chance, below_single) * relative
        means = random.mean().expand_as(index), single.mean(-1)
        tried.append(torch.stack([index, *means, z, gap, torch.full_like(index, groups)]))
        sizes = F.one_hot(labels, max(SENSES)).to(x.dtype).mean(-2)
        shares.append(sizes.sort(-1, descending=True).values)
    table = torch.stack(tried)
    large = table[:, 4] >= EFFECT * (table[:, 5] - 1)
    # a K with a large enough effect goes before one without, whatever their z
    best = torch.where(large, table[:, 3] + 1e6, table[:, 3]).argmax(0)
    chosen = torch.stack(shares).gather(0, best[None, :, None].expand(1, -1, max(SENSES)))[0]
    return table.gather(0, best.expand(1, table.shape[1], -1))[0], chosen


def _leading(x: Float[Tensor, "u m r"]) -> tuple[Float[Tensor, "u m s"], Float[Tensor, " u"]]:
    """Rows along their own leading components, and the variance (times the rows) of all components."""
    centered = x - x.mean(-2, keepdim=True)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    return (u * s[:, None, :])[..., :PARTS], s.square().sum(-1)


def _clouds(parts: Float[Tensor, "u m s"], generator: torch.Generator) -> Float[Tensor, "u draws m s"]:
    """Rows of one Gaussian cloud each, with exactly the spectrum of the rows given, which lie along their components."""
    spectrum = parts.square().sum(1).sqrt()
    noise = torch.randn(DRAWS, *parts.shape[1:], generator=generator, device=generator.device).to(parts)
    # columns orthogonal to the constant, as those of centered rows are
    frames = torch.linalg.qr(noise - noise.mean(1, keepdim=True)).Q
    return frames * spectrum[:, None, None, :]
