"""The best linear unmixing of some activations into independent parts, and what independence itself would look like.

Independent component analysis by symmetric FastICA: in whitened coordinates z, repeat

    W ← E[g(W z) zᵀ] − diag(E[g′(W z)]) W,   W ← (W Wᵀ)^-½ W

with g = tanh (log cosh, robust) or g = u³ (kurtosis, finds the neighborhood of a solution from further away). The second
start runs u³ first and tanh after it; the start whose parts are least Gaussian is kept. Much of the way is gone on few
rows, and only the end of it on all of them.

Rows are thinned evenly; whole documents belong to one half, on which the unmixing is fit, or to the other, which it has
not seen. What a perfect unmixing would look like at this number of rows says an independent model: the parts, each
shifted by itself along the rows, and unmixed again. Signal is never truncated: the rank of the data is kept.

Sums in another order differ in their last bits, and a search may then end elsewhere. So up to 160 dimensions all is
calculated on one thread, whose results are the same however many there are; and of two starts that found the same
parts, in another order, the earlier one is kept.

Source: Hyvärinen & Oja 2000, "Independent component analysis: algorithms and applications".
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ConfigError
from ..threads import alone

RANK_TOLERANCE = 1e-10
"""Variances of standardized data below this share of the largest are rounding, not signal."""
ROWS_PER_UNIT = 50
"""Rows for every unit that varies from which an unmixing says something."""
MOST_ROWS = 120_000
FEWEST_DOCUMENTS = 20
"""With fewer documents, contiguous groups of rows take their place."""
GROUPS = 64
NARROW, WIDE = 32, 160
"""Dimensions up to which there are five starts, and from which there is one, on all threads: more would take minutes."""
STEPS, WIDE_STEPS, MODEL_STEPS = 200, 25, 6
"""Steps at most; of wide data; and of a wide model, which starts at its solution."""
TOLERANCE = 1e-4
"""Largest 1 − |cos| between a part's direction before and after a step that ends the search."""
TIED = 1e-4
"""Relative difference of contrasts up to which two starts found the same parts, in another order."""
STALLED = 1e-3
"""Relative gain of the contrast in `LOOK` steps below which Gaussian parts, which never settle, are let be."""
LOOK = 10
PIECE = 2**22
"""Numbers that are handled at a time."""
GAUSSIAN_LOG_COSH = 0.3745672
"""Mean of log cosh over a standard Gaussian."""
Contrast = Literal["logcosh", "cube"]


@dataclass(frozen=True)
class Unmixing:
    """A linear map into parts that are as independent as it gets."""

    components: Float[Tensor, "r d"]
    """Filters: parts = (x − mean) @ components.T, of unit variance on the rows of the fit."""
    mixing: Float[Tensor, "r d"]
    """Directions: x ≈ parts @ mixing + mean."""
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    """Standard deviations of the units on the rows of the fit."""
    converged: bool
    steps: int
    fit: Bool[Tensor, " n"]
    """Rows that the unmixing was fit on."""
    rest: Bool[Tensor, " n"]
    """Rows of other documents, to test it on."""
    by_document: bool = True
    """False if contiguous rows took the place of documents."""

    def __len__(self) -> int:
        return len(self.components)

    def transform(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
        """The parts of rows."""
        return (values.to(self.mean) - self.mean) @ self.components.T

    @property
    def alignment(self) -> float:
        """Mean over parts of the largest share that one standardized unit has in a part's direction. Range: (0, 1]."""
        seen = self.deviation > 0
        return aligned(self.mixing[:, seen] / self.deviation[seen])


@dataclass(frozen=True)
class Parts:
    """Parts on rows that the unmixing has not seen, and those of independent models in the same place."""

    values: Float[Tensor, "n r"]
    models: tuple[Float[Tensor, "n r"], ...]


def aligned(directions: Float[Tensor, "k d"]) -> float:
    """Mean of the largest |cosine| between a direction and an axis."""
    return float((directions.abs().amax(1) / directions.norm(dim=1).clamp(min=1e-30)).mean())


def same_on_any_threads(dimensions: int) -> AbstractContextManager[None]:
    """Calculate on one thread where more of them would gain little, so that their number decides nothing."""
    return alone() if dimensions <= WIDE else nullcontext()


def unfit_to_unmix(values: Float[Tensor, "n d"]) -> str | None:
    """Why an unmixing of these rows would say nothing, in a sentence; None if it would say something."""
    n, d = values.shape
    if not n or not bool(values.sum(dtype=torch.float64).isfinite()):
        return "The activations hold NaN or infinity." if n else "There are no rows."
    varying = int((values.amax(0) > values.amin(0)).sum())
    if varying < 2:
        return f"{varying} of {d} units vary: there is nothing to unmix."
    if n < ROWS_PER_UNIT * varying:
        least = ROWS_PER_UNIT * varying
        return f"{n} rows are too few to unmix {varying} units: at least {least} are needed; harvest more tokens."
    return None


def unmix(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"] | None,
    generator: torch.Generator,
    *,
    max_rows: int | None = None,
    restarts: int | None = None,
) -> Unmixing:
    """Independent parts of activations, fit on half of the documents. Cost: 4 r² multiplications per row and step.

    `max_rows`: rows of both halves together (default: 320 per unit, at least 20,000, at most 120,000). `restarts`: as
    in `fast_ica`. Without (20) documents, 64 contiguous groups of rows are split instead.

    Raises: ConfigError with no unit that varies, or fewer than two rows per dimension to fit on.
    """
    n, d = values.shape
    if max_rows is None:
        max_rows = min(MOST_ROWS, max(20_000, 320 * d))
    fit, rest, by_document = _halves(n, documents, max_rows, generator)
    fit, rest = fit.to(values.device), rest.to(values.device)
    x = values[fit].float()
    if not len(x) or not bool((x.amax(0) > x.amin(0)).any()):
        raise ConfigError(f"{len(x)} rows without a unit that varies", expected="at least one unit that varies")
    with same_on_any_threads(d):
        mean, deviation, into, back = whitening(x)
        r = into.shape[1]
        if len(x) < 2 * r:
            raise ConfigError(f"{len(x)} rows of {r} dimensions to fit on", expected=f"at least {2 * r} rows")
        z = (x - mean) @ into
        del x
        turn, converged, steps = fast_ica(z, generator, restarts=restarts)
        components, mixing = turn @ into.T, turn @ back
    return Unmixing(components, mixing, mean, deviation, converged, steps, fit, rest, by_document)


def held_out(
    values: Float[Tensor, "n d"], unmixing: Unmixing, generator: torch.Generator, models: int | None = None
) -> Parts:
    """Parts on unseen rows, and those of `models` independent models (default: 3, and 1 beyond 160 parts).

    A model is the same parts, each shifted along the rows by itself: every part keeps its distribution, and no two
    belong together. It is unmixed again on the rows of the fit, from its solution: what it then reads is the cross-talk
    of the sample, and never that of a search gone wrong.
    """
    count = (1 if len(unmixing) > WIDE else 3) if models is None else models
    with same_on_any_threads(values.shape[1]):
        fitted, rest = unmixing.transform(values[unmixing.fit]), unmixing.transform(values[unmixing.rest])
        rest = rest[:: -(-len(rest) // max(10_000, 20 * len(unmixing)))]
        return Parts(rest, tuple(_independent_model(fitted, rest, generator) for _ in range(count)))


def _independent_model(
    fitted: Float[Tensor, "n r"], rest: Float[Tensor, "m r"], generator: torch.Generator
) -> Float[Tensor, "m p"]:
    """Shifted parts, unmixed again."""
    model, test = shifted(fitted, generator), shifted(rest, generator)
    mean, _, into, _ = whitening(model)
    model.sub_(mean)
    z = model @ into
    del model
    # parts that hardly ever move lose a dimension by the shift: then there is no rotation to start from
    start = _nearest_rotation(into) if into.shape[0] == into.shape[1] else None
    turn = fast_ica(z, generator, start=start)[0]
    return (test - mean) @ (into @ turn.T)


def shifted(parts: Float[Tensor, "*g n r"], generator: torch.Generator) -> Float[Tensor, "*g n r"]:
    """Every column shifted along the rows, no two nearly alike: nothing in a row belongs together any more.

    Unlike a permutation this keeps the likeness of neighboring rows within each part.
    """
    n, r = parts.shape[-2:]
    places = torch.randperm(r, generator=generator) + torch.rand(r, generator=generator, dtype=torch.float64) / 2
    by = (places * n / r).long().to(parts.device)
    found, row = torch.empty_like(parts), torch.arange(n, device=parts.device)[:, None]
    for at in range(0, r, size := max(1, PIECE // max(1, n))):
        some = parts[..., at : at + size]
        found[..., at : at + size] = some.gather(-2, ((row + by[at : at + size]) % n).expand(some.shape))
    return found


def whitening(
    x: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"], Float[Tensor, "d r"], Float[Tensor, "r d"]]:
    """Mean, standard deviations, the map of centered rows into white coordinates within the rank, and the way back."""
    mean = x.mean(0, dtype=torch.float64)
    size = max(1, PIECE // max(1, x.shape[1]))
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(size):
        centered = part.double() - mean
        total += centered.T @ centered
    covariance = total / len(x)
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    # Rounding leaves constant units a variance.
    varies = deviation > 1e-6 * mean.abs()
    deviation = torch.where(varies, deviation, 0.0)
    scale = torch.where(varies, 1 / deviation.clamp(min=1e-300), 0.0)
    spread, axes = torch.linalg.eigh(covariance * scale * scale[:, None])
    kept = spread > RANK_TOLERANCE * spread[-1].clamp(min=1e-300)
    spread, axes = spread[kept].sqrt(), axes[:, kept]
    into, back = scale[:, None] * axes / spread, (axes * spread).T * deviation
    return mean.to(x), deviation.to(x), into.to(x), back.to(x)


def fast_ica(
    z: Float[Tensor, "n r"],
    generator: torch.Generator,
    *,
    start: Float[Tensor, "r r"] | None = None,
    restarts: int | None = None,
) -> tuple[Float[Tensor, "r r"], bool, int]:
    """The rotation of white rows whose coordinates are least Gaussian, whether it settled, and its number of steps.

    From `start`, or from `restarts` random rotations (default: 5 up to 32 dimensions, 2 up to 160, else 1).
    """
    n, r = z.shape
    if r == 1:
        return torch.ones(1, 1).to(z), True, 0
    limit = WIDE_STEPS if r > WIDE else STEPS
    count = 1 if start is not None else restarts or (5 if r <= NARROW else 2 if r <= WIDE else 1)
    few = z[:: max(1, n // max(4096, 16 * r))]
    best: tuple[float, Tensor, bool, int] | None = None
    for attempt in range(count):
        turn, before = start, 0
        if turn is None:
            turn = _nearest_rotation(torch.randn(r, r, generator=generator).to(z))
            if attempt % 2:
                turn, _, before = _climb(few, turn, limit // 4, "cube")
            turn, _, more = _climb(few, turn, limit // 2, "logcosh", 10 * TOLERANCE)
            before += more
        rest = MODEL_STEPS if start is not None and r > WIDE else max(5, limit - before)
        turn, settled, steps = _climb(z, turn, rest, "logcosh")
        contrast = _contrast(z, turn)
        if best is None or contrast > (1 + TIED) * best[0]:
            best = contrast, turn, settled, before + steps
    assert best is not None, f"{count} starts"
    return best[1:]


def _climb(
    z: Float[Tensor, "n r"],
    turn: Float[Tensor, "r r"],
    steps: int,
    contrast: Contrast,
    tolerance: float = TOLERANCE,
) -> tuple[Float[Tensor, "r r"], bool, int]:
    """Fixed-point steps until no part moves, or until the parts that move gain nothing by it."""
    reached = -math.inf
    for step in range(1, steps + 1):
        new = _nearest_rotation(_step(z, turn, contrast))
        moved = 1 - (new * turn).sum(1).abs().amin()
        turn = new
        if float(moved) < tolerance:
            return turn, True, step
        if step % LOOK == 0:
            now = _contrast(z, turn)
            if now - reached < STALLED * abs(now):
                return turn, False, step
            reached = now
    return turn, False, steps


def _step(z: Float[Tensor, "n r"], turn: Float[Tensor, "r r"], contrast: Contrast) -> Float[Tensor, "r r"]:
    """E[g(W z) zᵀ] − diag(E[g′(W z)]) W, in pieces that fit the cache."""
    n, r = z.shape
    pull, bend = torch.zeros_like(turn), torch.zeros_like(turn[0])
    for part in z.split(max(64, PIECE // (4 * r))):
        s = part @ turn.T
        if contrast == "logcosh":
            g = s.tanh_()
            bend += len(part) - torch.linalg.vecdot(g, g, dim=0)
        else:
            bend += 3 * torch.linalg.vecdot(s, s, dim=0)
            g = s.pow_(3)
        pull.addmm_(g.T, part)
    return (pull - bend[:, None] * turn) / n


def _contrast(z: Float[Tensor, "n r"], turn: Float[Tensor, "r r"]) -> float:
    """How far the parts are from Gaussian: Σ (E[log cosh s] − that of a Gaussian)²."""
    total = torch.zeros(len(turn), device=z.device)
    rows = z[:: max(1, len(z) // 20_000)]
    for part in rows.split(max(64, PIECE // (4 * z.shape[1]))):
        s = (part @ turn.T).abs_()
        total += (s + torch.log1p(torch.exp(-2 * s)) - math.log(2)).sum(0)
    return float((total / len(rows) - GAUSSIAN_LOG_COSH).square().sum())


def _nearest_rotation(W: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """(W Wᵀ)^-½ W."""
    wide = W if len(W) > WIDE else W.double()
    spread, axes = torch.linalg.eigh(wide @ wide.T)
    return ((axes / spread.clamp(min=1e-7 * float(spread[-1].clamp(min=1e-30))).sqrt()) @ axes.T @ wide).to(W)


def _halves(
    n: int, documents: Int[Tensor, " n"] | None, most: int, generator: torch.Generator
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"], bool]:
    """Thinned rows of half of the documents, and those of the others; whether they are documents."""
    owner = torch.arange(n) * GROUPS // max(1, n)
    by_document = documents is not None and len(documents.unique()) >= FEWEST_DOCUMENTS
    if by_document:
        assert documents is not None, "checked above"
        owner = documents.cpu().unique(return_inverse=True)[1]
    count = int(owner.max()) + 1 if n else 0
    first = torch.zeros(count, dtype=torch.bool)
    first[torch.randperm(count, generator=generator)[: count // 2]] = True
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.linspace(0, max(0, n - 1), min(n, most)).long()] = True
    mine = first[owner]
    return chosen & mine, chosen & ~mine, by_document
