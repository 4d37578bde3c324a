"""How selective is a unit: how often is it active, how heavy are its tails, how much does the token alone decide?

    density    P(a > threshold)
    kurtosis   E(a − μ)⁴ / σ⁴                        a Gaussian reads 3
    η²         Var(E[a | token]) / Var(a)            the ceiling of every explanation that looks at one token only

The plug-in η² is too large: a token seen once explains itself, and so do tokens that repeat within one document. The
default here multiplies activations of the same token in *different* documents,

    E_t[E[a|t]²] ≈ Σ_t p_t (S_t² − Σ_doc S²_{t,doc}) / (n_t² − Σ_doc n²_{t,doc})

which has the right mean whatever happens within a document. Tokens of a single document cannot be judged; their share
is reported as uncovered, and both Var(E[a|t]) and Var(a) are taken over the covered tokens.

Sources: correlation ratio (Pearson 1905); ceiling of look-up explanations after Bills et al. 2023; the cross-document
product is the unbiased U-statistic of a random-effects variance.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import stats

CHUNK = 64
"""Units whose token tables are in memory at once."""


def density(values: Float[Tensor, "n d"], threshold: float = 0.0) -> Float[Tensor, " d"]:
    """Share of rows above the threshold. Range: [0, 1]."""
    return (values > threshold).double().mean(0)


def power_sums(
    values: Float[Tensor, "n d"], documents: Int[Tensor, " n"], count: int, threshold: float = 0.0
) -> Float[Tensor, "docs k d"]:
    """Per document: rows, active rows, and sums of the first four powers about each unit's mean.

    All statistics of `from_power_sums` follow from these, for any weighting of the documents.
    """
    centered = values.double() - values.double().mean(0)
    square = centered.square()
    columns = [torch.ones_like(centered), (values > threshold).double(), centered, square, square * centered, square**2]
    return torch.stack([stats.document_sums(column, documents, count) for column in columns], 1)


def density_of(sums: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b d"]:
    """Density from `power_sums`."""
    return sums[..., 1, :] / sums[..., 0, :]


def shift_of(sums: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b d"]:
    """Mean from `power_sums`, relative to the mean over all rows."""
    return sums[..., 2, :] / sums[..., 0, :]


def kurtosis_of(sums: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b d"]:
    """Fourth standardized moment from `power_sums`. Range: ≥ 1; a Gaussian reads 3; NaN for a constant unit."""
    n, m1, m2, m3, m4 = (sums[..., i, :] for i in (0, 2, 3, 4, 5))
    mean, second, third, fourth = m1 / n, m2 / n, m3 / n, m4 / n
    variance = second - mean**2
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    return torch.where(variance > 0, central / variance**2, math.nan)


def token_means(
    values: Float[Tensor, "n d"], tokens: Int[Tensor, " n"], vocabulary: int
) -> tuple[Float[Tensor, "v d"], Float[Tensor, " v"]]:
    """Mean activation after every token, and how often the token occurs; NaN for tokens that never do."""
    sums = torch.zeros(vocabulary, values.shape[1], dtype=torch.float64, device=values.device)
    counts = torch.bincount(tokens, minlength=vocabulary).double()
    return sums.index_add_(0, tokens, values.double()) / counts[:, None], counts


def plug_in_ceiling(values: Float[Tensor, "n d"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " d"]:
    """η² of the sample itself: biased upward, exact only as every token becomes frequent. Range: [0, 1]."""
    kinds, index = tokens.unique(return_inverse=True)
    means, counts = token_means(values, index, len(kinds))
    x = values.double()
    between = (counts[:, None] * (means - x.mean(0)).square()).sum(0)
    total = (x - x.mean(0)).square().sum(0)
    return torch.where(total > 0, between / total, math.nan)


@dataclass(frozen=True)
class Ceiling:
    """The context-free ceiling of every unit."""

    value: Float[Tensor, " d"]
    """η², clipped to [0, 1]; NaN for constant units."""
    low: Float[Tensor, " d"]
    high: Float[Tensor, " d"]
    uncovered: float
    """Share of rows whose token occurs in one document only."""


def context_free_ceiling(
    values: Float[Tensor, "n d"],
    tokens: Int[Tensor, " n"],
    documents: Int[Tensor, " n"],
    generator: torch.Generator,
    groups: int = 20,
) -> Ceiling:
    """η² = Var(E[a|token]) / Var(a) with the bias removed, and a jackknife interval over groups of documents.

    Range: [0, 1]; shuffled tokens read 0. Source: see the module.
    """
    kinds, token = tokens.unique(return_inverse=True)
    pair_key, pair = (token * (int(documents.max()) + 1) + documents).unique(return_inverse=True)
    document_of_pair = pair_key % (int(documents.max()) + 1)
    token_of_pair = pair_key // (int(documents.max()) + 1)
    group_of_document = stats.document_groups(int(documents.max()) + 1, groups, generator)
    index = _Index(token_of_pair, group_of_document[document_of_pair.cpu()].to(tokens.device), pair, len(kinds), groups)
    parts = [_chunk(values[:, i : i + CHUNK].double(), index) for i in range(0, values.shape[1], CHUNK)]
    whole, left_out = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts], 1)
    low, high = stats.jackknife_interval(whole, left_out)
    counts = torch.bincount(token_of_pair, minlength=len(kinds))
    lonely = (counts[token] < 2).double().mean()
    return Ceiling(whole.clamp(0, 1), low.clamp(0, 1), high.clamp(0, 1), float(lonely))


@dataclass(frozen=True)
class _Index:
    token_of_pair: Int[Tensor, " pairs"]
    group_of_pair: Int[Tensor, " pairs"]
    pair_of_row: Int[Tensor, " n"]
    kinds: int
    groups: int

    @cached_property
    def order(self) -> Int[Tensor, " n"]:
        """Rows sorted by pair."""
        return self.pair_of_row.argsort(stable=True)

    @cached_property
    def counts(self) -> Int[Tensor, " pairs"]:
        """Rows of every pair."""
        return torch.bincount(self.pair_of_row, minlength=len(self.token_of_pair))

    def pair_sums(self, sorted_rows: Float[Tensor, "n d"]) -> Float[Tensor, "pairs d"]:
        """Sums of the rows of every pair; segments of sorted rows add up faster than scattered ones."""
        return torch.segment_reduce(sorted_rows, "sum", lengths=self.counts, axis=0)

    def by_group(self, per_pair: Float[Tensor, "pairs d"]) -> Float[Tensor, "groups v d"]:
        """Sums over pairs per group of documents and token."""
        slot = self.group_of_pair * self.kinds + self.token_of_pair
        out = torch.zeros(self.groups * self.kinds, per_pair.shape[1], dtype=per_pair.dtype, device=per_pair.device)
        return out.index_add_(0, slot, per_pair).view(self.groups, self.kinds, -1)


def _chunk(x: Float[Tensor, "n d"], index: _Index) -> tuple[Float[Tensor, " d"], Float[Tensor, "groups d"]]:
    x = x - x.mean(0)
    x = x[index.order]
    sums, squares = index.pair_sums(x), index.pair_sums(x.square())
    count = index.counts.to(x.dtype)[:, None]
    tables = [index.by_group(t) for t in (count, count.square(), sums, sums.square(), squares)]
    whole = _ratio([t.sum(0) for t in tables])
    left_out = torch.stack([_ratio([t.sum(0) - t[g] for t in tables]) for g in range(index.groups)])
    return whole, left_out


def _ratio(tables: list[Tensor]) -> Float[Tensor, " d"]:
    n, n_square, s, s_square, square = tables
    cross = n**2 - n_square
    covered = cross > 0.5
    weight = torch.where(covered, n, 0.0)
    total = weight.sum()
    conditional = torch.where(covered, (s**2 - s_square) / cross.clamp_min(1), 0.0)
    mean = torch.where(covered, s, 0.0).sum(0) / total
    between = (weight * conditional).sum(0) / total - mean**2
    variance = torch.where(covered, square, 0.0).sum(0) / total - mean**2
    return torch.where(variance > 1e-12, between / variance, math.nan)
