"""What is a direction worth, and what is it? Measured on documents that nothing has seen.

    crossed       mean ρ with the explanations of all other directions: what an explanation says of any direction
    displaced     the text of other documents: a search on it must come to nothing
    bare tokens   θ_t ∝ (G + λI)⁻¹ E[z | token t]: the direction that reads one token; the largest |θ·θ_t| says how
                  much of a direction is that. Beside it the share of ρ² that one token reaches, and the full table of tokens (η²)
    truncation    w cut to the n units whose activation correlates best with the explanation, the explanation held fixed
    units         participation ratio of the units' contributions w·deviation: how many units make up a direction

Source: Bills et al. 2023 for truncation; they name bare tokens as what such a search may find.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..exemplars import Excerpts
from ..explainers.base import SHRINK
from ..moments import correlations, standardized
from .objective import Moments, Ridge
from .space import Space

SIZES = (1, 3, 10, 30, 100, 300, 1000)
"""Units that a truncated direction keeps."""
LEAST_ROWS = 20
"""Rows of a token from which its bare direction is taken."""
PENALTY = 1e-2
"""λ of bare-token directions."""
PIECE = 16_384


def displaced(excerpts: Excerpts, generator: torch.Generator) -> Int[Tensor, " n"]:
    """For every row a row of the same split, nearly always of another document: stretches stay whole, their order is drawn.

    What is simulated from displaced rows knows the language, not the text.
    """
    n = int(excerpts.lengths.sum())
    out = torch.arange(n, device=excerpts.starts.device)
    for split in excerpts.splits.unique().tolist():
        mine = (excerpts.splits == split).nonzero()[:, 0]
        order = torch.randperm(len(mine), generator=generator, device=generator.device).to(mine.device)
        out[excerpts.rows(mine)] = excerpts.rows(mine[order])
    return out


def crossed(
    values: Float[Tensor, "n k"], simulated: Float[Tensor, "n k"], test: Bool[Tensor, " n"]
) -> Float[Tensor, " k"]:
    """Mean ρ of every direction with the explanations of all others, on the test split; NaN for a single one."""
    a, m = (standardized(x[test]) for x in (values, simulated))
    table = a.T @ m / len(a)
    return (table.sum(1) - table.diagonal()) / (len(table) - 1)


@dataclass(frozen=True)
class Tokens:
    """Directions that read one token each."""

    theta: Float[Tensor, "t r"]
    tokens: Int[Tensor, " t"]
    counts: Int[Tensor, " t"]
    """Rows of each in the fit split."""

    @classmethod
    def of(
        cls,
        white: Float[Tensor, "n r"],
        tokens: Int[Tensor, " n"],
        gram: Float[Tensor, "r r"],
        least: int = LEAST_ROWS,
    ) -> "Tokens":
        """One per token with enough rows, by ridge regression of "is it this token?" on rows of the fit split."""
        seen, index, counts = tokens.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(seen), white.shape[1], dtype=torch.float64, device=white.device)
        for part, rows in zip(white.split(PIECE), index.split(PIECE), strict=True):
            sums.index_add_(0, rows, part.double())
        enough = counts >= min(least, int(counts.max()))
        means = sums[enough] / counts[enough, None] - sums.sum(0) / len(white)
        empty = means[:0]
        return cls(Ridge.of(gram).path(means, empty, (PENALTY,))[0], seen[enough], counts[enough])

    def nearest(self, theta: Float[Tensor, "k r"]) -> tuple[Float[Tensor, " k"], Int[Tensor, " k"]]:
        """Largest |cosine| under Σ with a direction that reads one token, and the token."""
        found = (theta.double() @ self.theta.T).abs().max(1)
        return found.values, self.tokens[found.indices]

    def most_frequent(self, count: int) -> Float[Tensor, "m r"]:
        """Directions of the most frequent tokens."""
        return self.theta[self.counts.argsort(descending=True, stable=True)[:count]]


@dataclass(frozen=True)
class TokenShares:
    """How much of what is explained the token itself explains, whatever came before it."""

    one: Float[Tensor, " k"]
    """ρ² of the best single token, on the test split."""
    table: Float[Tensor, " k"]
    """ρ² of the full table of tokens: η² as far as the fit split knows the tokens."""


def token_shares(
    values: Float[Tensor, "n k"], tokens: Int[Tensor, " n"], fit: Bool[Tensor, " n"], test: Bool[Tensor, " n"]
) -> TokenShares:
    """Both, fitted on one split and measured on the other. Range: [0, 1]; 0 where a side is constant."""
    known = values[fit].double()
    seen, index, counts = tokens[fit].unique(return_inverse=True, return_counts=True)
    rest = known.mean(0)
    sums = torch.zeros(len(seen), values.shape[1], dtype=torch.float64, device=values.device).index_add_(
        0, index, known
    )
    rise = (sums + SHRINK * rest) / (counts[:, None] + SHRINK) - rest
    best = seen[(counts[:, None] * rise.square()).argmax(0)]
    there, real = tokens[test], values[test].double()
    place = torch.searchsorted(seen, there).clamp_max(len(seen) - 1)
    table = torch.where((seen[place] == there)[:, None], rise[place], 0.0)
    one = (there[:, None] == best).double()
    return TokenShares(*(correlations(real, x).nan_to_num(0.0).square() for x in (one, table)))


def truncation(
    space: Space,
    theta: Float[Tensor, "k r"],
    rows: Float[Tensor, "n d"],
    simulated: Float[Tensor, "n k"],
    fit: Bool[Tensor, " n"],
    test: Bool[Tensor, " n"],
) -> dict[int, Float[Tensor, " k"]]:
    """ρ on the test split of every direction cut to its n best units; the last entry keeps all.

    Best: largest |correlation| with the explanation on the fit split; the weights of those that stay are not refitted.
    """
    weights, d = space.reads(theta), rows.shape[1]
    scale = torch.where(space.deviation > 0, 1 / space.deviation.clamp_min(1e-300), 0.0)
    cross = Moments.of(
        (rows[fit] - space.mean.to(rows)) * scale.to(rows), simulated[fit], torch.eye(d, dtype=torch.float64)
    )
    rank = cross.cross.abs().argsort(dim=1, descending=True).argsort(dim=1)
    there, target, found = rows[test] - space.mean.to(rows), simulated[test].double(), {}
    for size in (*(s for s in SIZES if s < d), d):
        cut = torch.where(rank < size, weights, 0.0)
        found[size] = correlations(there @ cut.T.to(there), target).nan_to_num(0.0)
    return found


def participation(space: Space, theta: Float[Tensor, "k r"]) -> Float[Tensor, " k"]:
    """Effective number of units that make up each direction, whatever their scale. Range: [1, d]."""
    power = (space.reads(theta) * space.deviation).square()
    return power.sum(1).square() / power.square().sum(1)


def cosines(theta: Float[Tensor, "k r"]) -> Float[Tensor, "k k"]:
    """Cosines of directions under Σ: correlations of their activations."""
    unit = torch.nn.functional.normalize(theta.double(), dim=1)
    return unit @ unit.T
