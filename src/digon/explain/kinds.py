"""Which tokens stand in the same kind of context? What a text says around its tokens, and tokens grouped by it.

1. Tokens: shifted positive pointwise mutual information of tokens within `WINDOW` of each other, its leading singular vectors.
2. Rows: mean vector of the tokens around (the row's own token left out), frequent tokens counted less; centered and whitened.
3. Groups: tokens in the order of what they contribute. Each joins the group whose rows lie in the same direction, or founds one;
   then groups that lie in the same direction are joined. The cosine of two groups is taken between rows of *different* documents
   (one half of the documents against the other) and divided by how well each agrees with itself across the halves. So neither a
   text in which both occur nor a small sample makes two groups look alike, or unlike.

What this can tell: words of one subject or one use from words of another. What it cannot: two meanings in the same kind of context
count as one, and synonyms that are used in different contexts as two. Words that stand in every context, like articles, have no
direction of their own and are never joined.

Sources: mutual information and its smoothing after Levy, Goldberg & Dagan 2015; weights of frequent tokens after Arora, Liang & Ma
2017; correction for attenuation after Spearman 1904.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from .. import rng
from .exemplars import begins

WINDOW = 8
"""Tokens before and after that make a context."""
DIMENSIONS = 64
RIDGE = 0.1
"""Of the mean variance, added before rows are whitened: a text has a few kinds of passages that would drown all others."""
SMOOTHING = 0.75
"""Power of the counts of what stands around."""
RARE = 1e-3
"""Share of the text from which a token's weight falls."""
ALIKE = 0.5
"""Cosine from which two kinds of context are one."""
FEW = 20.0
"""Rows of a token that count as much as its group in how well it agrees with itself."""


@dataclass(frozen=True)
class Surroundings:
    """The rows of a site and what the text says around each of them; all units of a site share it."""

    tokens: Int[Tensor, " n"]
    documents: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    around: Float[Tensor, "n d"]
    """A vector per row; d is 64, or less for a small vocabulary. What the rest of a layer does there would serve as well."""

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, " n"],
        documents: Int[Tensor, " n"],
        positions: Int[Tensor, " n"],
        vocabulary: int,
        seed: int = 0,
    ) -> "Surroundings":
        """Vectors of the text around every row; nothing of it crosses documents or gaps."""
        run = begins(documents, positions).cumsum(0)
        vectors = _token_vectors(tokens, run, vocabulary, seed)
        share = torch.bincount(tokens, minlength=vocabulary).double() / len(tokens)
        rows = (vectors * (RARE / (RARE + share))[:, None].float())[tokens]
        around = torch.zeros_like(rows)
        for lag in range(1, min(WINDOW, len(tokens) - 1) + 1):
            same = (run[lag:] == run[:-lag])[:, None]
            around[lag:] += rows[:-lag] * same
            around[:-lag] += rows[lag:] * same
        return cls(tokens, documents, positions, whitened(F.normalize(around, dim=1)))

    def before(self) -> Int[Tensor, " n"]:
        """The token before every row's, plus 1; 0 where a run begins."""
        previous = torch.cat([self.tokens.new_zeros(1), self.tokens[:-1] + 1])
        return torch.where(begins(self.documents, self.positions), 0, previous)


def whitened(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Centered rows whose directions vary alike, those of little variance less."""
    centered = (rows - rows.mean(0)).double()
    variance, axes = torch.linalg.eigh(centered.T @ centered / max(len(rows), 1))
    variance = variance.clamp_min(0)
    scale = (variance + RIDGE * variance.mean()).rsqrt().nan_to_num(posinf=0.0)
    return (centered @ (axes * scale)).to(rows.dtype)


def _token_vectors(
    tokens: Int[Tensor, " n"], run: Int[Tensor, " n"], vocabulary: int, seed: int
) -> Float[Tensor, "v d"]:
    ids, runs = tokens.numpy(), run.numpy()
    pairs = sparse.csr_matrix((vocabulary, vocabulary), dtype=np.float64)
    for lag in range(1, min(WINDOW, len(ids) - 1) + 1):
        same = runs[lag:] == runs[:-lag]
        ones = np.ones(int(same.sum()))
        pairs = pairs + sparse.coo_matrix((ones, (ids[lag:][same], ids[:-lag][same])), pairs.shape).tocsr()
    pairs = (pairs + pairs.T).tocoo()
    count = np.asarray(pairs.sum(1)).ravel()
    smooth = count**SMOOTHING / max((count**SMOOTHING).sum(), 1.0)
    # what a pair seen once says is worth half: rare pairs would have the largest vectors
    information = np.log(pairs.data / (count[pairs.row] * smooth[pairs.col])) * pairs.data / (pairs.data + 1)
    matrix = sparse.coo_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), pairs.shape).tocsr()
    matrix.eliminate_zeros()
    rank = min(DIMENSIONS, vocabulary - 1, matrix.nnz)
    if rank < 1:
        return torch.zeros(vocabulary, 1)
    u, s, _ = svds(matrix, k=rank, v0=rng.numpy_stream(seed, "surroundings").standard_normal(vocabulary))
    return torch.from_numpy(np.ascontiguousarray(u * np.sqrt(s))).float()


@dataclass(frozen=True)
class _Heap:
    """Sums over the rows of some tokens, or of groups of tokens, in both halves of the documents."""

    vectors: Float[Tensor, "g 2 d"]
    weights: Float[Tensor, "g 2"]
    rows: Float[Tensor, " g"]
    rise: Float[Tensor, " g"]

    def take(self, index: Tensor | slice) -> "_Heap":
        return _Heap(self.vectors[index], self.weights[index], self.rows[index], self.rise[index])

    def added(self, place: int, other: "_Heap") -> "_Heap":
        """With a heap of one added to the one at a place, or behind the last."""
        if place == len(self.rows):
            parts = zip(vars(self).values(), vars(other).values(), strict=True)
            return _Heap(*(torch.cat([a, b]) for a, b in parts))
        for a, b in zip(vars(self).values(), vars(other).values(), strict=True):
            a[place] += b[0]
        return self

    def cosines(self, one: "_Heap") -> Float[Tensor, " g"]:
        """Corrected cosine with a heap of one; −1 where nothing is known, or one rises and the other falls."""
        a, b = (h.vectors / h.weights.clamp_min(1e-30)[..., None] for h in (self, one))
        cross = ((a[:, 0] * b[:, 1]).sum(1) + (a[:, 1] * b[:, 0]).sum(1)) / 2
        # squared lengths of the true means: agreement of the halves, without the noise
        own, its = (a[:, 0] * a[:, 1]).sum(1), (b[:, 0] * b[:, 1]).sum(1)
        large = torch.where(self.rows >= one.rows, own, its)
        own = (own * self.rows + FEW * large) / (self.rows + FEW)
        its = (its * one.rows + FEW * large) / (one.rows + FEW)
        known = (own > 0) & (its > 0) & ((self.rise >= 0) == (one.rise >= 0))
        return torch.where(known, cross / (own * its).clamp_min(1e-30).sqrt(), -1.0)


def group_tokens(
    deviation: Float[Tensor, " n"],
    anchors: Int[Tensor, " n"],
    site: Surroundings,
    chosen: Int[Tensor, " tokens"],
    alike: float = ALIKE,
) -> list[list[int]]:
    """The chosen tokens, the weightiest first, in groups of one kind of context.

    A row counts as much as the unit deviates on it. `anchors` is the token by which a row is grouped; tokens on which the unit
    rises are never put together with tokens on which it falls.
    """
    if not len(chosen):
        return []
    tokens = _heap(deviation, anchors, site, chosen)
    groups, members = tokens.take(slice(1)), [[0]]
    for i in range(1, len(chosen)):
        one = tokens.take(slice(i, i + 1))
        cosines = groups.cosines(one)
        best = int(cosines.argmax())
        place = best if float(cosines[best]) >= alike else len(members)
        members = members if place < len(members) else [*members, []]
        members[place].append(i)
        groups = groups.added(place, one)
    return [[int(chosen[i]) for i in group] for group in _joined(groups, members, alike)]


def _heap(
    deviation: Float[Tensor, " n"], anchors: Int[Tensor, " n"], site: Surroundings, chosen: Int[Tensor, " tokens"]
) -> _Heap:
    """Sums over the rows of every chosen token."""
    k = len(chosen)
    places = torch.full((int(anchors.max()) + 1,), -1)
    places[chosen] = torch.arange(k)
    rows = ((places[anchors] >= 0) & (deviation != 0)).nonzero()[:, 0]
    at, moved = places[anchors[rows]], deviation[rows]
    cell, weight = at * 2 + site.documents[rows] % 2, moved.abs()
    own = site.around[rows] * weight[:, None]
    return _Heap(
        torch.zeros(2 * k, own.shape[1]).index_add_(0, cell, own).unflatten(0, (k, 2)),
        torch.zeros(2 * k).index_add_(0, cell, weight).unflatten(0, (k, 2)),
        torch.bincount(at, minlength=k).float(),
        torch.zeros(k).index_add_(0, at, moved),
    )


def _joined(groups: _Heap, members: list[list[int]], alike: float) -> list[list[int]]:
    """Join the two most alike groups until none are alike."""
    every = [groups.cosines(groups.take(slice(i, i + 1))) for i in range(len(members))]
    cosines = torch.stack(every).fill_diagonal_(-1.0)
    while float(cosines.max()) >= alike:
        i, j = sorted(divmod(int(cosines.argmax()), len(members)))
        groups = groups.added(i, groups.take(slice(j, j + 1)))
        left = torch.arange(len(members)) != j
        groups, cosines = groups.take(left), cosines[left][:, left]
        members[i] = members[i] + members[j]
        members = [m for k, m in enumerate(members) if k != j]
        cosines[i] = cosines[:, i] = groups.cosines(groups.take(slice(i, i + 1)))
        cosines[i, i] = -1.0
    return members
