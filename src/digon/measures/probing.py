"""How well do a few latents stand for a concept that somebody can name? Sparse probing.

For every concept (a label per row) and every basis, on rows of some documents, k = 1, 2, 5 members are chosen by the size of
their correlation with the label, and a logistic regression reads the label from them. It is scored on rows of other
documents by balanced accuracy: the mean of the shares of rows with and without the concept that it gets right. Guessing
reads ½. Beside the latents stand

    neurons            the site's own units, chosen in the same way
    directions         as many random directions as there are latents, each cut to the latents' mean density, chosen in the
                       same way: what mere width gives
    random latents     k latents that are not chosen (mean of five draws)
    dense              all units of the site: what a linear probe reads

So: latents above directions have learned something; latents above neurons are better units than neurons. A wider dictionary
has more to choose from, which the directions show; copies of a latent add nothing. A concept that nobody named is not missed.

Sources: Gurnee et al. 2023 (sparse probing); Gao et al. 2024 (of latents); logistic regression by scikit-learn.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..errors import ConfigError
from ..tensors import Codes
from . import stats

COUNTS = (1, 2, 5)
"""Members of a sparse probe."""
DRAWS = 5
"""Random choices of latents that are averaged."""
BLOCK = 1024
"""Random directions that are looked at together."""
FEWEST = 20
"""Rows with the concept, and without, that either side needs."""
STEPS = 300
BASES = ("latents", "directions", "random latents", "neurons", "dense")


@dataclass(frozen=True)
class Rows:
    """What probes read and what they are to say. `fit` marks rows to choose and fit on; the others score."""

    x: Float[Tensor, "n d"]
    codes: Codes
    labels: Bool[Tensor, "n c"]
    documents: Int[Tensor, " n"]
    fit: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Probe:
    """One basis at one k, over all concepts."""

    basis: str
    """One of `BASES`."""
    members: int
    """k; for dense all units."""
    value: Float[Tensor, " c"]
    """Balanced accuracy. Range: [0, 1]; ½ guesses. NaN for a concept with fewer than 20 rows of either kind."""
    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    mean: float
    """Over concepts."""
    mean_low: float
    mean_high: float


def sparse_probes(rows: Rows, generator: torch.Generator, counts: Sequence[int] = COUNTS) -> list[Probe]:
    """All bases at all k, with 95 % intervals over the scored documents.

    Raises: ConfigError if no concept has enough rows on both sides.
    """
    known = usable(rows)
    if not bool(known.any()):
        raise ConfigError(
            "no concept has enough rows", expected=f"{FEWEST} rows with it and without it, to fit on and to score"
        )
    picks = {name: pick for name, pick in _candidates(rows, max(counts), generator).items() if pick.shape[2]}
    found = [
        _scored(
            name, k, [_read(rows, pick[:, :, :k], c) if known[c] else None for c in range(len(known))], rows, generator
        )
        for name, pick in picks.items()
        for k in counts
        if k <= pick.shape[2]
    ]
    draws = [_random_columns(rows, max(counts), generator) for _ in range(DRAWS)]
    for k in counts:
        reads = [
            torch.cat([_read(rows, draw[None, :, :k], 0, c) for draw in draws]) if known[c] else None
            for c in range(len(known))
        ]
        found.append(_scored("random latents", k, reads, rows, generator))
    dense = [_read(rows, rows.x[None], 0, c) if known[c] else None for c in range(len(known))]
    return [*found, _scored("dense", rows.x.shape[1], dense, rows, generator)]


def usable(rows: Rows) -> Bool[Tensor, " c"]:
    """Concepts with enough rows of either kind on both sides."""
    sides = [rows.labels[rows.fit], rows.labels[~rows.fit]]
    return torch.stack([(s.sum(0) >= FEWEST) & ((~s).sum(0) >= FEWEST) for s in sides]).all(0)


def correlations(x: Float[Tensor, "n k"], labels: Float[Tensor, "n c"]) -> Float[Tensor, "c k"]:
    """Absolute correlation of every column with every label; 0 for a column or a label that never varies.

    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> round(float(correlations(x, x.flip(0))), 6)
    1.0
    """
    a, y = x.double(), labels.double()
    a, y = a - a.mean(0), y - y.mean(0)
    return _ratio(y.T @ a, a.square().sum(0), y.square().sum(0))


def code_correlations(codes: Codes, labels: Float[Tensor, "n c"]) -> Float[Tensor, "c k"]:
    """The same of sparse codes, touching only what is active."""
    if codes.indices is None:
        return correlations(codes.values, labels)
    y = labels.double() - labels.double().mean(0)
    values, place = codes.values.double().flatten(), codes.indices.long().flatten()
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64, device=values.device)  # noqa: E731
    total = zeros(codes.width).index_add_(0, place, values)
    square = zeros(codes.width).index_add_(0, place, values.square())
    owner = torch.arange(len(codes), device=values.device).repeat_interleave(codes.values.shape[1])
    cross = zeros(codes.width, y.shape[1]).index_add_(0, place, values[:, None] * y[owner])
    return _ratio(cross.T, square - total.square() / len(codes), y.square().sum(0))


def balanced_accuracy_of(sums: Float[Tensor, "*b 4 u"]) -> Float[Tensor, "*b u"]:
    """Mean of the shares that are right among rows with and without, from hits and rows of both.

    >>> balanced_accuracy_of(torch.tensor([[3.0], [4.0], [1.0], [2.0]]))
    tensor([0.6250])
    """
    hits, yes, passes, no = sums.unbind(-2)
    return torch.where((yes > 0) & (no > 0), (hits / yes + passes / no) / 2, math.nan)


def columns_of(codes: Codes, latents: Int[Tensor, " m"]) -> Float[Tensor, "n m"]:
    """Codes of some latents on all rows."""
    if codes.indices is None:
        return codes.values[:, latents]
    return torch.stack([torch.where(codes.indices == i, codes.values, 0.0).sum(1) for i in latents], 1)


def _ratio(cross: Tensor, spread: Tensor, label: Tensor) -> Tensor:
    floor = 1e-12 * float(spread.amax()) if len(spread) else 0.0
    scale = spread.clamp(min=0).sqrt()[None, :] * label.sqrt()[:, None]
    return torch.where((spread > floor)[None, :] & (label > 0)[:, None], cross.abs() / scale.clamp(min=1e-300), 0.0)


def _candidates(rows: Rows, most: int, generator: torch.Generator) -> dict[str, Float[Tensor, "c n k"]]:
    """Per basis and concept the columns that correlate most, the best first."""
    y = rows.labels[rows.fit].double()
    fitted = Codes(
        rows.codes.values[rows.fit], None if rows.codes.indices is None else rows.codes.indices[rows.fit],
        rows.codes.width,
    )  # fmt: skip
    best = code_correlations(fitted, y).topk(min(most, rows.codes.width), 1).indices
    latents = torch.stack([columns_of(rows.codes, own) for own in best])
    units = correlations(rows.x[rows.fit], y).topk(min(most, rows.x.shape[1]), 1).indices
    neurons = rows.x[:, units].permute(1, 0, 2)
    return {"latents": latents, "directions": _directions(rows, y, most, generator), "neurons": neurons}


def _directions(rows: Rows, y: Float[Tensor, "m c"], most: int, generator: torch.Generator) -> Float[Tensor, "c n k"]:
    """The best of as many random directions as there are latents, each active on as many rows as a latent is on average."""
    x, width = rows.x - rows.x[rows.fit].mean(0), rows.codes.width
    density = float((rows.codes.values[rows.fit] != 0).sum()) / (int(rows.fit.sum()) * width)
    kept = max(1, round(density * int(rows.fit.sum())))
    value, column = x.new_zeros(y.shape[1], 0).double(), x.new_zeros(y.shape[1], len(x), 0)
    for start in range(0, width, BLOCK):
        draw = torch.randn(min(BLOCK, width - start), x.shape[1], generator=generator).to(x)
        read = x @ draw.T
        cut = read[rows.fit].topk(kept, 0).values[-1]
        read = torch.where(read >= cut, read, 0.0)
        found = correlations(read[rows.fit], y).topk(min(most, read.shape[1]), 1)
        value = torch.cat([value, found.values], 1)
        column = torch.cat([column, read[:, found.indices].permute(1, 0, 2)], 2)
        best = value.topk(min(most, value.shape[1]), 1)
        value = best.values
        column = column.gather(2, best.indices[:, None, :].expand(-1, len(x), -1))
    return column


def _random_columns(rows: Rows, most: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
    values = rows.codes.values[rows.fit]
    if rows.codes.indices is None:
        alive = (values != 0).any(0).nonzero()[:, 0]
    else:
        alive = rows.codes.indices[rows.fit][values != 0].long().unique()
    return columns_of(rows.codes, alive[torch.randperm(len(alive), generator=generator)[:most].to(alive.device)])


def _read(rows: Rows, columns: Float[Tensor, "c n k"], at: int, concept: int | None = None) -> Bool[Tensor, "1 m"]:
    """What a probe says of the scored rows."""
    x, y = columns[at], rows.labels[:, at if concept is None else concept]
    if not x.shape[1]:
        return torch.zeros(1, int((~rows.fit).sum()), dtype=torch.bool)
    scale = x[rows.fit].std(0).clamp(min=1e-12)
    standard = ((x - x[rows.fit].mean(0)) / scale).double().cpu().numpy()
    here = rows.fit.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = LogisticRegression(class_weight="balanced", max_iter=STEPS).fit(standard[here], y.cpu().numpy()[here])
    return torch.from_numpy(np.asarray(probe.predict(standard[~here]), dtype=bool))[None]


def _scored(basis: str, members: int, reads: list[Tensor | None], rows: Rows, generator: torch.Generator) -> Probe:
    """Several draws of one probe are scored together: their hits are averaged."""
    truth = rows.labels[~rows.fit].cpu()
    owner = rows.documents[~rows.fit].cpu().unique(return_inverse=True)[1]
    count = int(owner.max()) + 1
    sums = torch.full((count, 4, truth.shape[1]), math.nan, dtype=torch.float64)
    for c, read in enumerate(reads):
        if read is not None:
            yes = truth[:, c]
            right = torch.where(yes, read, ~read).double().mean(0)
            parts = [right * yes, yes.double(), right * ~yes, (~yes).double()]
            sums[:, :, c] = stats.document_sums(torch.stack(parts, 1), owner, count)
    known = torch.tensor([read is not None for read in reads])

    def of_mean(s: Tensor) -> Tensor:
        return balanced_accuracy_of(s[..., known]).mean(-1, keepdim=True).expand(*s.shape[:-2], s.shape[-1])

    low, high = stats.bootstrap_interval(sums, balanced_accuracy_of, generator)
    mean_low, mean_high = stats.bootstrap_interval(sums, of_mean, generator)
    whole = sums.sum(0)
    return Probe(
        basis, members, balanced_accuracy_of(whole), low, high,
        float(of_mean(whole)[0]), float(mean_low[0]), float(mean_high[0]),
    )  # fmt: skip
