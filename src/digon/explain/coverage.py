"""How many explanations does a unit need? The coverage curve, and the effective number of explanations.

1. Candidates: pieces of an explanation, each of one kind of context (`pieces`), made without knowing how many there should be.
2. Order: greedily, the piece that explains most of what is left on the rows that explanations learn from; weights are fitted there,
   none below 0.
3. End: before the first piece whose gain in ρ² on the calibrate split, which nothing has learned from, could be 0.
4. Curve: ρ² of the first k pieces together on the test split, intervals by bootstrap over documents.
5. Shares qᵢ of the gains; N_eff = 1/Σ qᵢ². Noise in qᵢ adds its variance to Σ qᵢ² and would make N_eff too small: it is
   taken off.

A union of K disjoint parts with equal shares reads K, whatever its noise: N_eff asks how the explained part is divided, not how
much is explained. Nothing explained reads NaN. k of the parts, each of density p, score ρ² = k(1 − Kp)/(K(1 − kp)): k/K for rare
parts; frequent ones gain more the later they are added, so N_eff of five parts that fill half of the text reads 4.3.

Source: curve and number are ours; 1/Σ q² is the inverse Simpson index, Hill 1973.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from .. import records
from ..measures import stats
from .exemplars import Excerpts
from .explainers.base import finite_mean
from .moments import correlation_of
from .pieces import Piece, describe
from .populations import Whole

MOST = 24
"""Pieces that are ever added."""
LEAST = 1e-3
"""Gain in explained variance, on the rows that are learned from, below which none is added."""
DRAWS = 400
SURE = 0.05
"""One-sided level at which a gain may be chance."""
SOURCE = "Hill 1973"


@dataclass(frozen=True)
class Covered:
    """A coverage curve and what it is made of."""

    record: records.Coverage
    pieces: tuple[Piece, ...]
    """Those that were added, in order."""
    shares: Float[Tensor, " k"]
    """Share of each in the gain in ρ², on unseen documents; sums to 1."""
    predicted: Float[Tensor, " n"]
    """What they say together, on every row."""


def cover(
    values: Float[Tensor, " n"],
    pieces: Sequence[Piece],
    excerpts: Excerpts,
    token_text: Callable[[int], str],
    generator: torch.Generator,
) -> Covered:
    """Coverage curve of one unit.

    Range: N_eff ≥ 1, at most the number of pieces; NaN if no piece explains anything.
    Raises: NonFiniteError if an activation that is learned from is not finite.
    """
    seen = excerpts.row_split("fit") | excerpts.row_split("select")
    finite_mean(values[seen][:, None])
    rows = seen.nonzero()[:, 0]
    order, weights = greedy(values[rows], torch.stack([p.values[rows] for p in pieces]).T if pieces else None)
    columns = torch.stack([pieces[i].values for i in order], 1) if order else values.new_zeros(len(values), 0)
    steps = columns @ weights.to(columns) if order else columns
    test, calibrate = Whole(values[:, None], excerpts).sums(steps)
    kept = _certain(calibrate, generator) if order else 0
    n = int(excerpts.row_split("test").sum())
    why = "no piece explains anything" if len(calibrate) > 1 else f"{len(calibrate)} documents in the calibrate split"
    record, shares = _curve(
        test[..., :kept], [describe(pieces[i], token_text) for i in order[:kept]], n, generator, why
    )
    predicted = steps[:, kept - 1] if kept else torch.zeros_like(values)
    return Covered(record, tuple(pieces[i] for i in order[:kept]), shares, predicted)


def greedy(values: Float[Tensor, " n"], columns: Float[Tensor, "n m"] | None) -> tuple[list[int], Float[Tensor, "k k"]]:
    """Order of the columns, and the weights of the first 1, 2, … of them (one column of weights per step).

    The next column is that whose part orthogonal to those before explains most of the residual, with a positive sign.
    """
    if columns is None:
        return [], torch.zeros(0, 0)
    x, y = columns.double(), values.double()
    x, y = x.sub_(x.mean(0)) if x is not columns else x - x.mean(0), y - y.mean()
    gram, target, power = x.T @ x, x.T @ y, float(y @ y)
    order: list[int] = []
    steps: list[Tensor] = []
    while len(order) < min(MOST, len(gram)):
        left, free = target.clone(), gram.diagonal().clone()
        if order:
            solved = torch.linalg.lstsq(gram[order][:, order], gram[order]).solution
            left = left - gram[:, order] @ steps[-1]
            free = free - (gram[order] * solved).sum(0)
        gain = left.clamp_min(0).square() / free.clamp_min(1e-9 * power)
        gain[free <= 1e-6 * gram.diagonal()] = 0
        gain[order] = 0
        best = int(gain.argmax())
        if not float(gain[best]) > LEAST * power:
            break
        order.append(best)
        steps.append(_positive(gram[order][:, order], target[order]))
    table = torch.zeros(len(order), len(order), dtype=torch.float64)
    for k, step in enumerate(steps):
        table[: k + 1, k] = step
    return order, table


def _entropy_number(shares: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """exp of the entropy: weighs small shares more than 1/Σ q² does."""
    return torch.special.entr(shares).sum(-1).exp()


def _positive(gram: Float[Tensor, "k k"], target: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Least squares with weights of at least 0, from moments."""
    scale = gram.diagonal().sqrt()
    root = torch.linalg.cholesky(gram / (scale[:, None] * scale) + 1e-9 * torch.eye(len(gram)))
    rotated = torch.linalg.solve_triangular(root, (target / scale)[:, None], upper=False)[:, 0]
    return torch.from_numpy(nnls(root.T.numpy(), rotated.numpy())[0]) / scale


def _explained(sums: Float[Tensor, "*b 6 k"]) -> Float[Tensor, "*b k"]:
    """ρ² of every step; 0 where nothing varies or the sign is wrong."""
    return correlation_of(sums).nan_to_num(0.0).clamp_min(0).square()


def _resampled(sums: Float[Tensor, "docs 6 k"], generator: torch.Generator) -> Float[Tensor, "draws k"]:
    return _explained(stats.resampled(sums, generator, DRAWS))


def _gains(explained: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    return torch.diff(explained, dim=-1, prepend=torch.zeros_like(explained[..., :1]))


def _certain(sums: Float[Tensor, "docs 6 k"], generator: torch.Generator) -> int:
    """Steps before the first one whose gain could be chance."""
    if len(sums) < 2:
        return 0
    low = _gains(_resampled(sums, generator)).quantile(SURE, dim=0)
    chance = (low <= 0).nonzero()
    return int(chance[0]) if len(chance) else len(low)


def _curve(
    sums: Float[Tensor, "docs 6 k"], names: list[str], n: int, generator: torch.Generator, why: str
) -> tuple[records.Coverage, Float[Tensor, " k"]]:
    """The record and the shares; `why` says what it means if there is no gain at all."""
    method = f"{len(names)} pieces in greedy order; gains in ρ² on {len(sums)} unseen documents, noise taken off, bootstrap over documents"
    found = _explained(sums.sum(0))
    if len(sums) < 2 or not bool((found > 0).any()):
        why = f"{len(sums)} documents in the test split" if len(sums) < 2 else why
        nothing = records.Measurement("effective_explanations", math.nan, n=n, method=why)
        return records.Coverage((), (), (), (), nothing), torch.zeros_like(found)
    drawn = _resampled(sums, generator)
    shares, drawn_shares = _shares(found), _shares(drawn)
    noise = float(drawn_shares.var(0).sum())
    value = _corrected(shares, noise)
    # a draw carries the noise twice: that of the sample and that of resampling it
    spread = _corrected(drawn_shares, 2 * noise)
    effective = _measured("effective_explanations", float(value), spread, n, method)
    plain = method.replace(", noise taken off", "")
    entropy = _measured("entropy_explanations", float(_entropy_number(shares)), _entropy_number(drawn_shares), n, plain)
    curve, low, high = (tuple(x.tolist()) for x in (found, *stats.percentile_interval(drawn)))
    return records.Coverage(tuple(names), curve, low, high, effective, entropy), shares


def _measured(name: str, value: float, draws: Float[Tensor, " b"], n: int, method: str) -> records.Measurement:
    return stats.to_measurement(name, value, stats.percentile_interval(draws), n, method=method, source=SOURCE)


def _shares(explained: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
    gains = _gains(explained).clamp_min(0)
    return gains / gains.sum(-1, keepdim=True).clamp_min(1e-12)


def _corrected(shares: Float[Tensor, "*b k"], noise: float) -> Float[Tensor, "*b"]:
    """N_eff with the variance of the shares taken off; never more than there are pieces."""
    found = 1 / (shares.square().sum(-1) - noise).clamp(1 / shares.shape[-1], 1.0)
    return torch.where(shares.sum(-1) > 0, found, math.nan)
