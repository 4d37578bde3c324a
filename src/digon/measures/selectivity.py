"""How selective is a unit: how often is it active, how heavy are its tails, how much does the token alone decide?

    density    P(a > threshold)
    kurtosis   E(a − μ)⁴ / σ⁴                        a Gaussian reads 3
    η²         Var(E[a | token]) / Var(a)            the ceiling of every explanation that looks at one token only

The plug-in η² is too large: a token seen once explains itself, and so do tokens that repeat within one document. The
default here multiplies activations of the same token in *different* documents,

    E_t[E[a|t]²] ≈ Σ_t p_t (S_t² − Σ_doc S²_{t,doc}) / (n_t² − Σ_doc n²_{t,doc})

which has the right mean whatever happens within a document. The square of the overall mean, which both variances
subtract, is corrected likewise: the estimated sampling variance of the mean, documents being the units, is taken off.
Tokens of a single document cannot be judged; their share is reported as uncovered, and both Var(E[a|t]) and Var(a) are
taken over the covered tokens.

Sources: correlation ratio (Pearson 1905); ceiling of look-up explanations after Bills et al. 2023; the cross-document
product is the unbiased U-statistic of a random-effects variance.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import stats

CHUNK = 128
"""Units whose token tables are in memory at once."""


def density(values: Float[Tensor, "n d"], threshold: float = 0.0) -> Float[Tensor, " d"]:
    """Share of rows above the threshold. Range: [0, 1]."""
    return (values > threshold).double().mean(0)


def power_sums(
    values: Float[Tensor, "n d"], documents: Int[Tensor, " n"], count: int, threshold: float = 0.0
) -> Float[Tensor, "docs k d"]:
    """Per document: rows, active rows, and sums of the first four powers about each unit's mean.

    Density, mean and kurtosis follow from these, for any weighting of the documents.
    """
    center = center_of(values)
    sums = torch.zeros(count, 6, values.shape[1], dtype=torch.float64, device=values.device)
    sums[:, 0] = torch.bincount(documents, minlength=count).double()[:, None]
    for part, owners in zip(values.split(stats.STRETCH), documents.split(stats.STRETCH), strict=True):
        present, member = stats.membership(owners)
        member = member.to(part.dtype)
        x = part - center
        square = x.square()
        for k, column in enumerate([(part > threshold).to(x.dtype), x, square, square * x, square.square()], 1):
            sums[:, k].index_add_(0, present, (member @ column).double())
    return sums


def center_of(values: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Mean of every unit, added up in float64 and rounded to the precision of the values.

    Rounded, because a constant unit then centers to exactly 0 rather than to the noise of the arithmetic.
    """
    total = torch.stack([part.sum(0, dtype=torch.float64) for part in values.split(16_384)]).sum(0)
    return (total / len(values)).to(values.dtype)


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
    index = _Index.of(tokens, documents, groups, generator)
    parts = [_chunk(values[:, i : i + CHUNK], index) for i in range(0, values.shape[1], CHUNK)]
    whole, left_out = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts], 1)
    low, high = stats.jackknife_interval(whole, left_out)
    uncovered = 1 - float(index.token_rows[index.covered].sum() / len(values))
    return Ceiling(whole.clamp(0, 1), low.clamp(0, 1), high.clamp(0, 1), uncovered)


@dataclass(frozen=True)
class _Index:
    """Rows sorted by token, then group of documents, then document.

    A pair is a token in a document, a slot a token in a group. Every level is a run of consecutive members of the level
    below, so that all sums are sums over runs, and leaving out a group touches only that group's slots.
    """

    order: Int[Tensor, " n"]
    rows_of_pair: Int[Tensor, " pairs"]
    rows_of_slot: Int[Tensor, " slots"]
    pairs_of_slot: Int[Tensor, " slots"]
    slots_of_token: Int[Tensor, " v"]
    document_of_pair: Int[Tensor, " pairs"]
    group_of_slot: Int[Tensor, " slots"]
    group_of_document: Int[Tensor, " docs"]
    groups: int

    @classmethod
    def of(
        cls, tokens: Int[Tensor, " n"], documents: Int[Tensor, " n"], groups: int, generator: torch.Generator
    ) -> "_Index":
        count = int(documents.max()) + 1
        group = stats.document_groups(count, groups, generator).to(documents.device)
        key, order = ((tokens * groups + group[documents]) * count + documents).sort()
        pair, rows_of_pair = key.unique_consecutive(return_counts=True)
        slot, pairs_of_slot = (pair // count).unique_consecutive(return_counts=True)
        rows_of_slot = (key // count).unique_consecutive(return_counts=True)[1]
        slots_of_token = (slot // groups).unique_consecutive(return_counts=True)[1]
        levels = (order, rows_of_pair, rows_of_slot, pairs_of_slot, slots_of_token)
        return cls(*levels, pair % count, slot % groups, group, groups)

    @cached_property
    def slot_rows(self) -> Float[Tensor, "slots 2"]:
        """Rows of every slot, and the sum of the squared rows of its pairs."""
        rows = self.rows_of_pair.double()[:, None]
        return _runs(torch.cat([rows, rows.square()], 1), self.pairs_of_slot)

    @cached_property
    def token_counts(self) -> Float[Tensor, "v 2"]:
        """The same of every token."""
        return _runs(self.slot_rows, self.slots_of_token)

    @property
    def token_rows(self) -> Float[Tensor, " v"]:
        """Rows of every token."""
        return self.token_counts[:, 0]

    @cached_property
    def covered(self) -> Bool[Tensor, " v"]:
        """Tokens that occur in more than one document."""
        return self.token_counts[:, 0].square() > self.token_counts[:, 1] + 0.5

    @cached_property
    def token_of_slot(self) -> Int[Tensor, " slots"]:
        """The run that every slot belongs to."""
        return torch.arange(len(self.slots_of_token), device=self.order.device).repeat_interleave(self.slots_of_token)

    @cached_property
    def covered_pairs(self) -> tuple[Int[Tensor, " some"], Int[Tensor, " docs"], Float[Tensor, " docs"]]:
        """Pairs of covered tokens sorted by document; how many each document has, and with how many rows."""
        keep = self.covered[self.token_of_slot].repeat_interleave(self.pairs_of_slot)
        pairs = keep.nonzero()[:, 0]
        pairs = pairs[self.document_of_pair[pairs].argsort(stable=True)]
        owners, count = self.document_of_pair[pairs], len(self.group_of_document)
        rows = torch.bincount(
            owners, self.rows_of_pair[pairs].double(), minlength=count
        ).double()  # of nothing: integers
        return pairs, torch.bincount(owners, minlength=count), rows

    def by_group(self, per_slot: Float[Tensor, "slots d"]) -> Float[Tensor, "groups d"]:
        """Sums over the slots of every group."""
        order = self.group_of_slot.argsort(stable=True)
        return _runs(per_slot, torch.bincount(self.group_of_slot, minlength=self.groups), order)


def _runs(
    x: Float[Tensor, "n d"], lengths: Int[Tensor, " runs"], order: Tensor | None = None
) -> Float[Tensor, "runs d"]:
    """Sums over consecutive rows (of `order`)."""
    order = torch.arange(len(x), device=x.device) if order is None else order
    return F.embedding_bag(order, x, lengths.cumsum(0) - lengths, mode="sum")


def _chunk(values: Float[Tensor, "n d"], index: _Index) -> tuple[Float[Tensor, " d"], Float[Tensor, "groups d"]]:
    """η² of some units, and what it is without each group."""
    x = (values - center_of(values)).contiguous()
    pair = _runs(x, index.rows_of_pair, index.order)
    moments = [
        _runs(pair, index.pairs_of_slot),
        _runs(pair.square(), index.pairs_of_slot),
        _runs(x.square(), index.rows_of_slot, index.order),
    ]
    whole = [_runs(m, index.slots_of_token) for m in moments]
    per_token = _terms(index.token_counts, *whole)
    of_slot = index.token_of_slot
    rest = _terms(
        index.token_counts[of_slot] - index.slot_rows, *(w[of_slot] - m for w, m in zip(whole, moments, strict=True))
    )
    total = torch.stack([term.sum(0, dtype=torch.float64) for term in per_token])
    lost = torch.stack([index.by_group(t[of_slot] - r).double() for t, r in zip(per_token, rest, strict=True)], 1)
    pairs, lengths, rows = index.covered_pairs
    sums = _runs(pair, lengths, pairs).double()
    rows = rows[:, None].expand_as(sums)
    by_document = torch.stack([sums.square(), sums * rows, rows.square(), (rows > 0).double()], 1)
    spread = torch.zeros(index.groups, *by_document.shape[1:], dtype=torch.float64, device=x.device)
    spread.index_add_(0, index.group_of_document, by_document)
    return _ratio(total, spread.sum(0)), _ratio(total - lost, spread.sum(0) - spread)


def _terms(
    counts: Float[Tensor, "t 2"], s: Float[Tensor, "t d"], s_square: Float[Tensor, "t d"], square: Float[Tensor, "t d"]
) -> tuple[Float[Tensor, "t d"], ...]:
    """Per token: rows, rows · E[a|t]², sum and sum of squares; 0 for tokens of a single document."""
    cross = counts[:, :1].square() - counts[:, 1:]
    covered = cross > 0.5
    n = torch.where(covered, counts[:, :1], 0.0).to(s.dtype)
    share = torch.where(covered, counts[:, :1] / cross.clamp_min(1), 0.0).to(s.dtype)
    kept = covered.to(s.dtype)
    return n.expand_as(s), share * (s.square() - s_square), kept * s, kept * square


def _ratio(total: Float[Tensor, "*b 4 d"], spread: Float[Tensor, "*b 4 d"]) -> Float[Tensor, "*b d"]:
    n, conditional, s, square = total.unbind(-2)
    sums, mixed, rows, documents = spread.unbind(-2)
    mean = s / n
    of_mean = (sums - 2 * mean * mixed + mean**2 * rows) / n**2 * documents / (documents - 1)
    between = conditional / n - mean**2 + of_mean
    variance = square / n - mean**2 + of_mean
    return torch.where(variance > 1e-9 * square / n, between / variance, math.nan)
