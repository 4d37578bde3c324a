"""Are these activations fit for a diagnosis at all? What is wrong with them is named, repaired or refused.

1. Rows with NaN or infinity: left out and named; more than 1 % of them: refused.
2. Units that never vary, and rounding that passes for variance: left out and named.
3. A handful of rows that carry most of the variance (massive activations): set aside and named.
4. Too few rows: below max(100, 4 d) no verdict, below 20 d a caution. Rows that repeat others are counted.
5. Units that repeat another unit up to its scale, and linear dependence: named, nothing is left out.
6. Offsets and scales far apart: such units are centered or scaled in float64 before anybody rounds them; the others
   stay what they are.
7. Tails: Hill's index of the length of whitened rows; and whether rows differ in length only (an elliptical cloud).
8. Dimensions above the noise floor, counted against the largest eigenvalue that noise of one size would have. Nothing
   is truncated there: cutting dimensions off would manufacture superposition.

All of it reads the rows in pieces, and thins them where second moments suffice.

Sources: `measures.cloud` for 7 and 8; massive activations after Sun et al. 2024.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import rng
from ..measures import cloud
from ..records import Measurement
from ..tensors import Activations

MOST_BROKEN = 0.01
"""Share of rows with NaN or infinity up to which they are left out."""
FEWEST_ROWS, REFUSED_BELOW, WARNED_BELOW = 100, 4, 20
"""Rows in all, and rows per unit."""
PIECE = 1 << 18
"""Values that are looked at together: what fits in a core's cache."""
THINNED = 16_384
"""Rows that covariance and tails are taken from, spread evenly."""
MASSIVE, FEW, HANDFUL = 100.0, 0.01, 0.001
"""Energy over the median row's; share of rows that point one way, and of rows that point anywhere, to be called massive."""
ALIKE = 0.9999
"""Correlation of a unit and its copy."""
OUTLIER, OFFSET, ROUNDED = 10.0, 10.0, 0.01
"""Scatter over the median unit's; mean over scatter; resolution over scatter."""
LISTED = 8
"""Units or rows that a note names."""


@dataclass(frozen=True)
class Preflight:
    """Activations that the checks may look at, and what was done to make them so."""

    activations: Activations
    """Rows and units that are kept, in float32."""
    kept_units: Int[Tensor, " kept"]
    """Their numbers in the activations that were given."""
    kept_rows: Bool[Tensor, " n"]
    notes: tuple[str, ...] = ()
    """What was found and what was done about it, one sentence each."""
    refused: str = ""
    """Why no verdict may be given; empty if one may."""
    cautions: tuple[str, ...] = ()
    """Those of the notes that speak against a confident verdict."""
    distinct_rows: int = 0
    """Rows that differ from each other."""
    measurements: tuple[Measurement, ...] = ()
    shift: Float[Tensor, " d"] | None = None
    """What was subtracted from every unit that was given; of units that never vary, all that they are."""
    size: Float[Tensor, " d"] | None = None
    """What they were divided by."""

    def restore(self, values: Float[Tensor, "n kept"]) -> Float[Tensor, "n d"]:
        """Values of the kept units as values of all units that were given, for a network that reads those."""
        if self.shift is None or self.size is None:
            return values
        kept, shift = self.kept_units, self.shift.to(values)
        return shift.expand(len(values), -1).index_add(1, kept, values * self.size[kept].to(values))


@dataclass(frozen=True)
class _Moments:
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    low: Float[Tensor, " d"]
    high: Float[Tensor, " d"]


def preflight(activations: Activations) -> Preflight:
    """Look at activations before any check does.

    Memory: a copy of the activations where something has to be left out or rescaled, else a few pieces.
    """
    values = activations.values
    n, d = values.shape
    everything = torch.arange(d, device=values.device)
    finite = _by_row(values, lambda part: part.isfinite().all(1)) if n else values.new_zeros(0, dtype=torch.bool)
    nothing = Preflight(activations, everything, finite)
    broken = n - int(finite.sum())
    if not n or not d:
        return replace(nothing, refused=f"There is nothing to look at: {n} rows of {d} units.")
    notes: list[str] = []
    if broken:
        found = f"{_many(broken, 'row')} of {n} with NaN or infinity ({_listed((~finite).nonzero()[:, 0])})"
        if broken > MOST_BROKEN * n:
            where = _broken_units(values)
            return replace(nothing, refused=f"{found}, in {where}: more than {100 * MOST_BROKEN:.0f} % of the rows.")
        notes.append(f"{found} left out.")
        values = values[finite]
    if (reason := _too_few(len(values), d)) is not None:
        return replace(nothing, notes=tuple(notes), refused=reason)
    moments = _moments(values)
    massive = _massive(values, moments)
    kept = finite.clone()
    if massive is not None:
        rows, said = massive
        kept[finite.nonzero()[rows, 0]] = False
        values = values[torch.isin(torch.arange(len(values), device=values.device), rows, invert=True)]
        notes.append(said)
        moments = _moments(values)
    varying = _varying(moments, values.dtype)
    if not bool(varying.all()):
        constant = (~varying).nonzero()[:, 0]
        notes.append(f"{_many(len(constant), 'unit')} that never vary left out ({_listed(constant)}).")
    units = everything[varying]
    partly = Preflight(activations, units, kept, tuple(notes))
    if len(units) < 2:
        return replace(
            partly,
            refused=f"{_many(len(units), 'unit')} that varies: why units mix features is a question about two or more.",
        )
    chosen = _chosen(activations, values, moments, varying, kept)
    return _described(replace(chosen, notes=(*notes, *chosen.notes)))


def _described(found: Preflight) -> Preflight:
    """Notes and numbers about activations that are clean already."""
    values = found.activations.values
    n, d = values.shape
    notes, cautions = list(found.notes), []
    counts = _by_row(values, _fingerprint).unique(return_counts=True)[1]
    distinct = len(counts)
    if n < WARNED_BELOW * d:
        cautions.append(f"{n} rows of {d} units are few: with at least {WARNED_BELOW * d} the checks would be surer.")
    if distinct < n:
        text = f"{distinct} of {n} rows are distinct; one row alone occurs {int(counts.max())} times."
        few = max(FEWEST_ROWS, REFUSED_BELOW * d)
        if distinct < few:
            text += (
                f" A look-up code of so few inputs and a copied sample look the same (at least {few} would be needed)."
            )
        (cautions if distinct < few else notes).append(text)
    notes += _copies(values, found.kept_units)
    sample = values[torch.linspace(0, n - 1, min(n, THINNED), dtype=torch.float64).long().to(values.device)]
    more, measured = _spectrum(sample)
    measurements = (Measurement("distinct_rows", distinct, n=n, method="exact comparison"), *measured)
    notes += [*_one_length(sample), *more, *cautions]
    return replace(
        found, notes=tuple(notes), cautions=tuple(cautions), distinct_rows=distinct, measurements=measurements
    )


def _pieces(values: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "m d"]]:
    yield from values.split(max(1, PIECE // max(1, values.shape[1])))


def _by_row(values: Float[Tensor, "n d"], of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([of(part) for part in _pieces(values)])


def _many(count: int, name: str) -> str:
    return f"{count} {name}" + ("s" if count != 1 else "")


def _listed(numbers: Int[Tensor, " k"]) -> str:
    first = ", ".join(str(int(i)) for i in numbers[:LISTED])
    return first + (f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else "")


def _too_few(rows: int, d: int) -> str | None:
    needed = max(FEWEST_ROWS, REFUSED_BELOW * d)
    if rows >= needed:
        return None
    fewer = "fewer rows than units, " if rows < d else ""
    return f"{rows} rows of {d} units: {fewer}too few for any claim about why; at least {needed} rows are needed."


def _broken_units(values: Float[Tensor, "n d"]) -> str:
    counts = torch.stack([(~part.isfinite()).sum(0) for part in _pieces(values)]).sum(0)
    worst = counts.nonzero()[:, 0]
    return f"{_many(len(worst), 'unit')} ({_listed(worst[counts[worst].argsort(descending=True)])})"


def _moments(values: Float[Tensor, "n d"]) -> _Moments:
    """Mean and scatter in float64, two passes, so that an offset costs no digits."""
    total = sum((part.sum(0, dtype=torch.float64) for part in _pieces(values)), torch.zeros((), dtype=torch.float64))
    mean = total / len(values)
    square = torch.zeros_like(mean)
    low, high = values[0].clone(), values[0].clone()
    for part in _pieces(values):
        square += (part.double() - mean).square().sum(0)
        low, high = torch.minimum(low, part.amin(0)), torch.maximum(high, part.amax(0))
    return _Moments(mean, (square / len(values)).sqrt(), low, high)


def _varying(moments: _Moments, dtype: torch.dtype) -> Bool[Tensor, " d"]:
    """Units whose values differ by more than the arithmetic that produced them rounds."""
    rounding = torch.finfo(dtype).eps * torch.maximum(moments.low.abs(), moments.high.abs()).double()
    return (moments.high > moments.low) & (moments.deviation > rounding)


def _massive(values: Float[Tensor, "n d"], moments: _Moments) -> tuple[Int[Tensor, " k"], str] | None:
    """Rows to set aside: far larger than the others, carrying most of the variance, and few."""
    weight = torch.where(moments.deviation > 0, 1 / moments.deviation, 0.0).to(values)
    middle = moments.mean.to(values)
    standard = lambda part: (part - middle) * weight  # noqa: E731
    energy = _by_row(values, lambda part: standard(part).square().sum(1)).double()
    order = energy.argsort(descending=True)
    half = int((energy[order].cumsum(0) < 0.5 * energy.sum()).sum()) + 1
    moving = energy[energy > 0]
    huge = order[energy[order] > MASSIVE * moving.median()]
    n = len(values)
    if half > max(1, FEW * n) or len(huge) < half or len(huge) > max(1, FEW * n):
        return None
    rows = standard(values[huge])
    one_way = float(rows.mean(0).square().sum() / rows.square().sum(1).mean()) > 0.9
    if len(huge) > max(1, HANDFUL * n) and not one_way:
        return None
    share = float(energy[huge].sum() / energy.sum())
    which = huge.sort().values
    text = (
        f"{_many(len(huge), 'row')} ({_listed(which)}) with {100 * share:.0f} % of the variance set aside: massive "
        f"activations, over {MASSIVE:.0f} times the median row's energy"
        + (", all in one direction." if one_way else ".")
    )
    return which, text


def _chosen(
    activations: Activations, values: Float[Tensor, "n d"], m: _Moments, varying: Bool[Tensor, " d"], kept: Tensor
) -> Preflight:
    """The kept units; those whose numbers lie too far from the others' are centered or scaled."""
    scatter, mean = m.deviation[varying], m.mean[varying]
    numbers = varying.nonzero()[:, 0]
    notes: list[str] = []
    large = scatter > OUTLIER * scatter.median()
    if bool(large.any()):
        which = numbers[large][scatter[large].argsort(descending=True)]
        notes.append(
            f"{_many(len(which), 'unit')} with over {OUTLIER:.0f} times the median unit's scatter ({_listed(which)})."
        )
    resolution = torch.finfo(values.dtype).eps * torch.maximum(m.low.abs(), m.high.abs())[varying].double() / scatter
    coarse = numbers[resolution > ROUNDED]
    if len(coarse):
        notes.append(
            f"{_many(len(coarse), 'unit')} ({_listed(coarse)}) vary by less than a hundred steps of {_name(values.dtype)}: an "
            "offset has eaten their digits; store them without it."
        )
    far, middle = mean.abs() > OFFSET * scatter, float(scatter.median())
    odd = not 1e-3 < middle < 1e3
    shift = torch.where(far, mean, 0.0)
    size = torch.where(large, scatter / middle, 1.0) * (middle if odd else 1.0)
    done = [
        text
        for text, so in (
            (f"{_many(int(far.sum()), 'unit')} with large offsets centered", bool(far.any())),
            ("outlying units scaled to the size of the others", bool(large.any())),
            (f"all units divided by {middle:.1e}", odd),
        )
        if so
    ]
    if done:
        text = ", ".join(done)
        notes.append(f"{text[0].upper()}{text[1:]}.")
        out = torch.empty(len(values), len(numbers), dtype=torch.float32, device=values.device)
        start = 0
        for part in _pieces(values):
            out[start : start + len(part)] = ((part[:, varying].double() - shift) / size).float()
            start += len(part)
    else:
        out = (values if bool(varying.all()) else values[:, varying]).float()
    pick = lambda rows: None if rows is None else rows if bool(kept.all()) else rows[kept]  # noqa: E731
    clean = Activations(
        out, activations.site, pick(activations.tokens), pick(activations.documents), pick(activations.positions)
    )
    shifts, sizes = m.mean.clone(), torch.ones_like(m.mean)
    shifts[varying], sizes[varying] = shift, size
    return Preflight(clean, numbers, kept, tuple(notes), shift=shifts, size=sizes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fingerprint(part: Float[Tensor, "m d"]) -> Int[Tensor, " m"]:
    """A number per row that equal rows, and in practice only they, share: exact integer arithmetic modulo 2⁶⁴."""
    even = torch.nn.functional.pad(part, (0, part.shape[1] % 2))
    bits = (even + 0.0).view(torch.int64)  # adding zero makes −0 and 0 one number
    draw = rng.stream(0, "preflight", "rows")
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=draw) | 1
    return (bits * factors.to(bits.device)).sum(1)


def _copies(values: Float[Tensor, "n d"], units: Int[Tensor, " d"]) -> list[str]:
    """Units that equal an earlier one up to offset, scale and sign."""
    n, d = values.shape
    draw = rng.stream(0, "preflight", "units")
    mean = sum((part.sum(0, dtype=torch.float64) for part in _pieces(values)), torch.zeros((), dtype=torch.float64)) / n
    sketch = torch.zeros(d, 24, dtype=torch.float64, device=values.device)
    for part in _pieces(values):
        sketch += ((part - mean.float()).T @ torch.randn(len(part), 24, generator=draw).to(part.device)).double()
    unit = torch.nn.functional.normalize(sketch, dim=1)
    near = torch.triu((unit @ unit.T).abs() > 0.999, diagonal=1)
    second = near.any(0).nonzero()[:, 0]
    if not len(second):
        return []
    first = near[:, second].long().argmax(0)
    a, b, ab = (torch.zeros(len(second), dtype=torch.float64, device=values.device) for _ in range(3))
    for part in _pieces(values):
        x, y = (part[:, which].double() - mean[which] for which in (first, second))
        a, b, ab = a + x.square().sum(0), b + y.square().sum(0), ab + (x * y).sum(0)
    same = (ab.abs() / (a * b).sqrt().clamp(min=1e-300)) > ALIKE
    if not bool(same.any()):
        return []
    pairs = [f"{int(units[j])} of {int(units[i])}" for i, j in zip(first[same], second[same], strict=True)]
    rest = f" and {len(pairs) - LISTED} more" if len(pairs) > LISTED else ""
    return [
        f"{_many(len(pairs), 'unit')} {'repeats' if len(pairs) == 1 else 'repeat'} another one up to scale: {', '.join(pairs[:LISTED])}{rest}; all kept."
    ]


def _one_length(sample: Float[Tensor, "n d"]) -> list[str]:
    length = sample.double().norm(dim=1)
    length = length[length > 0.01 * length.amax()]  # rows at rest have none
    middle = length.median()
    if float(((length / middle - 1).abs() < 1e-3).double().mean()) > 0.99:
        return [
            "All rows that are not at rest have one length, as after a normalization: that couples all features a little."
        ]
    return []


def _spectrum(sample: Float[Tensor, "n d"]) -> tuple[list[str], tuple[Measurement, ...]]:
    """Rank, dimensions above noise, and the tails of whitened rows."""
    n, d = sample.shape
    x = sample - sample.double().mean(0).float()
    above = cloud.noise_rank(x)
    x = x / x.double().square().mean(0).sqrt().float().clamp(min=1e-30)
    white = cloud.whiten(x)
    rank = white.shape[1]
    notes: list[str] = []
    if rank < d:
        text = "1 of them is a linear combination" if d - rank == 1 else f"{d - rank} of them are linear combinations"
        notes.append(f"The {d} units span {rank} dimensions: {text} of the others.")
    measured = [
        Measurement("numeric_rank", rank, n=n, unit="dimensions", method="eigenvalues of the correlations", null=d),
        Measurement(
            "noise_rank", min(rank, above), n=n, unit="dimensions", method="eigenvalues of the covariance above noise of "
            "one size, if what lies below is Gaussian", source="after Marchenko & Pastur 1967",
        ),
    ]  # fmt: skip
    if n >= 10 * rank:
        more, tails = _tails(white)
        notes, measured = [*notes, *more], [*measured, *tails]
    return notes, tuple(measured)


def _tails(white: Float[Tensor, "n r"]) -> tuple[list[str], list[Measurement]]:
    """How heavy the tails are; and a note if rows differ in length only."""
    n, r = white.shape
    length = white.double().square().sum(1)
    index, low, high, used = cloud.tail_index(length.sqrt())
    heavier = float(length.square().mean() / (r * (r + 2)))
    method = "largest hundredth of the lengths of whitened rows"
    found = [
        Measurement("tail_index", index, low, high, used, method=method, source="Hill 1975"),
        Measurement("length_kurtosis", heavier, n=n, method="E‖z‖⁴ / r(r + 2) of whitened rows", null=1.0, source="Mardia 1970"),
    ]  # fmt: skip
    notes: list[str] = []
    if high < 4:
        notes.append(
            f"Rows have very heavy tails (index {index:.1f}): fourth moments hardly exist, so checks that rest on them are weak."
        )
    if heavier > 1 + 6 * math.sqrt(8 / (r * n)) and cloud.elliptical(white):
        notes.append(
            "Once whitened, rows differ in length only and their directions are uniform: an elliptical cloud, in which fourth "
            "moments see no features."
        )
    return notes, found
