"""Does a unit respond to several kinds of context? Clusters among its exemplars, against two nulls.

1. Exemplars: rows from the upper tail of the unit, spread over that tail, at most one per document where possible.
2. Embedding: what the *rest* of the layer does on those rows: principal components of the standardized layer, the
   unit's own direction projected out.
   Rows are normalized: what a context is about, not how strongly.
3. Cluster index for K = 2, 3, 4: share of the exemplars' variance that remains within the K best groups (K-means).
4. Nulls: (i) as many random rows, for which the unit plays no role; (ii) one Gaussian cloud with the exemplars' own
   covariance, which no true grouping beats (SigClust). Both must be beaten; p is corrected for the three K.
   Real layers are not Gaussian: a heavy tail among the other units already beats the cloud by a little. A unit is
   therefore called polysemantic only if its groups also take in a fifth of the variance more than the nearer null's.
5. Senses: the K that beats the nulls most clearly.

This finds units with a *few* meanings that the rest of the layer tells apart. A unit that mixes dozens of features in
equal parts, or whose meanings leave no trace elsewhere in the layer, stays silent: silence is not monosemanticity.

Sources: top-example clustering after Gupta & Kumar 2025 (PSI, its label-free part), percentile sampling after PRISM
2025; the Gaussian null is SigClust, Liu, Hayes, Nobel & Marron 2008.
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
DRAWS = 40
"""Draws of either null; the tail beyond them is Student's."""
SENSES = (2, 3, 4)
"""Numbers of groups that are tried."""
EFFECT = 0.2
"""Least gap between index and nearer null, as a share of the variance: planted single topics with heavy-tailed
neighbors read .10 to .20, planted pairs .21 to .26, triples .25 to .33."""
BATCH = 64
"""Units judged at once."""


@dataclass(frozen=True)
class ExemplarClusters:
    """One row per unit; NaN where a unit has too few exemplars."""

    index: Float[Tensor, " units"]
    """Within-group share of variance at the K that stands out most. Range: [0, 1]."""
    z: Float[Tensor, " units"]
    """How many standard deviations the index lies below the nearer null."""
    gap: Float[Tensor, " units"]
    """How far it lies below the nearer null, as a share of the variance: the effect, where z is the certainty."""
    p: Float[Tensor, " units"]
    """Larger of the two nulls' p-values, times the number of K tried."""
    polysemantic: Bool[Tensor, " units"]
    """Rejected at a false discovery rate of 5 % over the units, with a gap of at least `EFFECT`."""
    senses: Float[Tensor, " units"]
    """Number of groups; 1 where the unit is not called polysemantic."""


def layer_embedding(
    values: Float[Tensor, "n d"], dimensions: int = 32
) -> tuple[Float[Tensor, "n r"], Float[Tensor, "d r"]]:
    """Principal coordinates of the standardized layer, and the direction of every unit among them.

    Units that never vary contribute nothing.
    """
    scale = values.std(0)
    x = (values - values.mean(0)) / torch.where(scale > 0, scale, math.inf)
    covariance = (x.T @ x) / len(x)
    r = min(dimensions, x.shape[1])
    axes = torch.linalg.eigh(covariance.double()).eigenvectors.flip(1)[:, :r].to(x.dtype)
    return x @ axes, covariance.to(x.dtype) @ axes


def tail_exemplars(
    column: Float[Tensor, " n"], documents: Int[Tensor, " n"], count: int, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """Rows spread over the upper tail of one unit, each from a document of its own.

    Fewer than `count` where the tail holds fewer documents. Only rows above the unit's median qualify.
    """
    size = max(int(TAIL * len(column)), 4 * count)
    top = column.topk(min(size, len(column))).indices
    top = top[column[top] > column.median()]
    shuffled = top[torch.randperm(len(top), generator=generator)]
    document = documents[shuffled]
    order = document.argsort(stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = document[order][1:] != document[order][:-1]
    one_per_document = shuffled[order[first]]
    ranked = one_per_document[column[one_per_document].argsort(descending=True)]
    if len(ranked) <= count:
        return ranked
    # equal steps through the ranks: the tail is covered, not only its tip
    return ranked[torch.linspace(0, len(ranked) - 1, count).long()]


def cluster_index(x: Float[Tensor, "*b m r"], groups: int, iterations: int = 12) -> Float[Tensor, "*b"]:
    """Share of the variance that K-means leaves within groups, started from points far apart.

    Range: [0, 1]; 0 when the rows are copies of as many points as there are groups.

    >>> cluster_index(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), 2)
    tensor(0.)
    """
    x = x - x.mean(-2, keepdim=True)
    norms = x.square().sum(-1)
    centers = _take(x, norms.argmax(-1))
    for _ in range(groups - 1):
        centers = torch.cat([centers, _take(x, _distances(x, norms, centers).amin(-1).argmax(-1))], -2)
    for _ in range(iterations):
        weight = F.one_hot(_distances(x, norms, centers).argmin(-1), groups).to(x.dtype).mT
        centers = (weight @ x) / weight.sum(-1, keepdim=True).clamp_min(1)
    within = _distances(x, norms, centers).amin(-1).sum(-1)
    return (within / norms.sum(-1).clamp_min(1e-30)).clamp(0, 1)


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
    embedding, directions = layer_embedding(values)
    rows = [tail_exemplars(values[:, u], documents, exemplars, generator) for u in range(values.shape[1])]
    # units with too few documents in their tail cannot be judged
    able = torch.tensor([u for u, found in enumerate(rows) if len(found) == exemplars], dtype=torch.long)
    random = torch.randint(len(values), (4 * DRAWS, exemplars), generator=generator)
    random_rows = F.normalize(embedding[random], dim=-1)
    index, z, gap = torch.full((3, values.shape[1]), math.nan)
    senses = torch.full((values.shape[1],), math.nan)
    for part in able.split(BATCH) if len(able) else ():
        own = F.normalize(directions[part], dim=-1)
        x = embedding[torch.stack([rows[u] for u in part.tolist()])]
        x = F.normalize(x - (x @ own[..., None]) * own[:, None, :], dim=-1)
        index[part], z[part], gap[part], senses[part] = _judge(x, random_rows, generator)
    p = torch.from_numpy(student.sf(z.double().numpy(), DRAWS - 1)) * len(SENSES)
    p = p.clamp(max=1).to(z.dtype)
    polysemantic = stats.benjamini_hochberg(p) & (gap >= EFFECT)
    senses = torch.where(p.isnan() | polysemantic, senses, 1.0)
    return ExemplarClusters(index, z, gap, p, polysemantic, senses)


def _judge(
    x: Float[Tensor, "u m r"], random_rows: Float[Tensor, "draws m r"], generator: torch.Generator
) -> Float[Tensor, "4 u"]:
    """Cluster index, z, gap and K, at the K whose z is largest."""
    cloud = _clouds(x, generator)
    tried: list[Tensor] = []
    for groups in SENSES:
        index = cluster_index(x, groups)
        chance, single = cluster_index(random_rows, groups), cluster_index(cloud, groups)
        below_chance, below_single = chance.mean() - index, single.mean(-1) - index
        z = torch.minimum(below_chance / chance.std().clamp_min(1e-9), below_single / single.std(-1).clamp_min(1e-9))
        gap = torch.minimum(below_chance, below_single)
        tried.append(torch.stack([index, z, gap, torch.full_like(index, groups)]))
    table = torch.stack(tried)
    best = table[:, 1].argmax(0)
    return table.gather(0, best.expand(1, 4, -1))[0]


def _clouds(x: Float[Tensor, "u m r"], generator: torch.Generator) -> Float[Tensor, "u draws m r"]:
    scales = torch.linalg.svdvals(x - x.mean(-2, keepdim=True)) / math.sqrt(x.shape[-2] - 1)
    noise = torch.randn(len(x), DRAWS, x.shape[-2], scales.shape[-1], generator=generator)
    return noise * scales[:, None, None, :]
