"""Do directions belong to features that inputs share, or to single inputs?

Distinct-input generalization. Look for sparse directions on half of the distinct inputs and measure them on the other
half. A direction that features share is sparse there too: its kurtosis stays above that of the elliptical law with the
same lengths, 3 E|z|^4 / r (r + 2) in r white dimensions, so that a scale that varies from row to row does not pass for
sparse features. In a look-up code every input has a direction of its own, and nothing that is learned on some inputs
says anything about the others.

Lengths. The length of a sum of few sparse features varies far more than that of a Gaussian with the same covariance: the
spread is 1 for the Gaussian, (kurtosis of a feature) / active times more for features. The codes of a table are about
equally long: the spread is near 0, and stays at or below 1 when units are rectified. No bag of activations can say
this of a look-up code: it takes the identity of the inputs to count every one once.

Data points against features. The dimensionality of a direction, D = |w|^2 / sum_j (w . w_j / |w|)^2, is the part of a
dimension that it has for itself. A look-up code spends its dimensions on data points: the mean over inputs is that over
directions. Where inputs share features, an input has much less for itself than a feature has.

Sources: dimensionality of data points after Henighan et al. 2023, "Superposition, Memorization, and Double Descent"; the
generalization test and the spread of lengths are derived here; the search for sparse directions is power iteration
on fourth moments (De Lathauwer et al. 2000), which never lowers them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigError
from .geometry import feature_dimensionality

FEWEST_INPUTS = 12
ACTIVE = 3
"""Directions that may explain an input together."""
NEAR = 1e-3
"""Inputs so near the origin, relative to the farthest, show nothing."""
SAME = 1e-3
"""Distance, relative to the typical activation, at which activations coincide."""
NOISES = 3.0
"""Distance, relative to what noise alone puts between two means, at which they coincide."""
MOST_INPUTS = 20_000
"""Distinct inputs that are looked at."""
WIDE, PER_UNIT = 512, 6
"""Units from which so many inputs per unit are enough."""
COMPARED = 1000
"""Inputs whose nearest other input is looked for."""
STARTS, STEPS = 48, 40
"""Directions that are searched for, and steps of the search."""
LONGEST = 2.0
"""Squared length, relative to the mean, to which longer rows are cut in the search."""
HALF_ROWS = 10_000
"""Inputs of a half at most."""
LOWEST = 0.02
"""Distance from the lowest value of a unit, relative to its range, within which values are at its floor."""
TINY = 1e-6
PIECE = 2**24


@dataclass(frozen=True)
class Sharing:
    """What distinct inputs have in common, each counted once."""

    inputs: int
    """Distinct inputs."""
    repeats: float
    """Rows per distinct input."""
    within: float
    """Share of the variance that the identity of the input does not explain; NaN if no input occurs twice."""
    codes: float
    """Inputs whose activations differ, counted up to noise."""
    coinciding: float
    """Share of the inputs that have the activations of another one, those where nothing is active left out."""
    rank: int
    """Dimensions that the inputs span above the noise."""
    spread: float
    """Variance of the squared length about the mean, over that of a Gaussian with the same covariance."""
    spread_error: float
    """Standard error of the spread."""
    white_spread: float
    """The same of whitened inputs: gains do not change it. Corrected for the dimensions that few inputs leave."""
    white_spread_error: float
    tails: float
    """Mean fourth power of the whitened length over that of a Gaussian, minus 1."""
    tails_error: float
    sparse: float
    """Kurtosis of sparse directions on inputs that they were not found on, above that of an elliptical law."""
    sparse_error: float
    permuted: float
    """The same when every unit's values are dealt to the inputs anew: what single units explain."""
    permuted_error: float
    floored: float
    """Share of the values at the floor of their unit: large behind a rectifier."""

    @property
    def beyond_units(self) -> float:
        """Held-out kurtosis above that of permuted units, in standard errors."""
        return (self.sparse - self.permuted) / math.hypot(self.sparse_error, self.permuted_error, 1e-12)


@dataclass(frozen=True)
class DataDimensionality:
    """Part of a dimension that inputs and directions have for themselves."""

    of_inputs: float
    """Mean over distinct inputs. Range: (0, 1]."""
    of_directions: float
    """Mean over directions. Range: (0, 1]."""
    unexplained: float
    """Share of the inputs' squared length that `ACTIVE` directions at a time do not explain."""
    inputs: int
    directions: int

    @property
    def ratio(self) -> float:
        """Directions over inputs: about 1 for a look-up code, large where inputs share features."""
        return self.of_directions / self.of_inputs


def distinct(
    values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "t d"], Int[Tensor, " n"], float]:
    """Mean of every distinct input, the number of each row's input, and the share of variance within inputs.

    The share is estimated from inputs that occur more than once, and is 0 if none does.

    Raises: ConfigError if the numbers of rows differ.
    """
    if len(values) != len(inputs):
        raise ConfigError(f"{len(values)} rows with {len(inputs)} inputs", expected="one input per row")
    names, owner = inputs.unique(return_inverse=True)
    if len(names) == len(values):
        return values[owner.argsort()], owner, 0.0
    wide = values.double()
    sums = wide.new_zeros(len(names), wide.shape[1]).index_add_(0, owner, wide)
    means = sums / torch.bincount(owner, minlength=len(names))[:, None]
    total = float((wide - wide.mean(0)).square().mean())
    apart = float((wide - means[owner]).square().sum()) / ((len(values) - len(names)) * values.shape[1])
    return means.to(values.dtype), owner, min(1.0, apart / total) if total > 0 else 0.0


def some_inputs(
    values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"], generator: torch.Generator, most: int = MOST_INPUTS
) -> tuple[Float[Tensor, "m d"], Int[Tensor, " m"]]:
    """All rows of at most `most` inputs, drawn at random; at most 16 rows per input on average."""
    names, owner = inputs.unique(return_inverse=True)
    if len(names) > most:
        chosen = torch.zeros(len(names), dtype=torch.bool, device=values.device)
        chosen[torch.randperm(len(names), generator=generator)[:most].to(values.device)] = True
        rows = chosen[owner].nonzero()[:, 0]
    else:
        rows = torch.arange(len(values), device=values.device)
    rows = rows[torch.randperm(len(rows), generator=generator)[: 16 * most].to(rows.device)]
    return values[rows], inputs[rows]


def sharing(values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"], generator: torch.Generator) -> Sharing:
    """Do sparse directions of half of the inputs return in the others? How much do lengths vary?

    Cost: three passes of `STARTS` directions over `HALF_ROWS` inputs, and one eigendecomposition: a second for d = 128.

    Raises: ConfigError with fewer than 12 distinct inputs that differ.
    """
    width = values.shape[1]
    most = MOST_INPUTS if width <= WIDE else min(MOST_INPUTS, PER_UNIT * width)
    some, names = some_inputs(values, inputs, generator, most)
    means, owner, within = distinct(some, names)
    t = len(means)
    centered = means.double() - means.double().mean(0)
    variance = float(centered.square().mean())
    if t < FEWEST_INPUTS or variance == 0:
        raise ConfigError(f"{t} distinct inputs", expected=f"at least {FEWEST_INPUTS} that differ")
    repeats = len(some) / t
    counts = torch.bincount(owner, minlength=t).double()
    total = float((some.double() - some.double().mean(0)).square().mean())
    noise = within * total * float((1 / counts).mean())
    covariance = centered.T @ centered / t
    length = centered.square().sum(1)
    squared = (length / length.mean() - 1).square() * float(covariance.trace() ** 2 / (2 * covariance.square().sum()))
    z = _white(centered, covariance, noise)
    r = z.shape[1]
    fourth = z.square().sum(1).square() / (r * (r + 2))
    white = (z.square().sum(1) / r - 1).square() * (r / 2) / max(1 - r / t, 1 / t)
    dealt = torch.stack([column[torch.randperm(t, generator=generator).to(column.device)] for column in centered.T], 1)
    sparse, sparse_error = held_out_kurtosis(z, generator)
    permuted, permuted_error = held_out_kurtosis(_white(dealt, dealt.T @ dealt / t, noise), generator)
    alike, rest = coincidence(means, noise, generator)
    low, high = means.amin(0), means.amax(0)
    floored = float(((means - low) <= LOWEST * (high - low))[:, high > low].double().mean())
    error = lambda x: float(x.std() / t**0.5)  # noqa: E731
    return Sharing(
        len(inputs.unique()), repeats, within if repeats > 1 else math.nan, t * (1 - alike), rest, r, float(squared.mean()),
        error(squared), float(white.mean()), error(white), float(fourth.mean()) - 1, error(fourth), sparse, sparse_error, permuted, permuted_error, floored,
    )  # fmt: skip


def _white(x: Float[Tensor, "t d"], covariance: Float[Tensor, "d d"], noise: float) -> Float[Tensor, "t r"]:
    """Coordinates of unit variance, of the dimensions that stand out of the noise."""
    spread, axes = torch.linalg.eigh(covariance)
    kept = spread > max(TINY * float(spread.amax()), NOISES * noise)
    kept[-1] = True
    return x @ axes[:, kept] / spread[kept].sqrt()


def held_out_kurtosis(z: Float[Tensor, "t r"], generator: torch.Generator) -> tuple[float, float]:
    """Kurtosis of sparse directions on rows that they were not found on, above that of an elliptical law, and its error.

    Rows are white. Of `STARTS` searches, the half that found the largest kurtosis count. Range: above −3.
    """
    t, r = z.shape
    if r < 2 or t < 4:
        return 0.0, math.inf
    order = torch.randperm(t, generator=generator).to(z.device)
    seen, fresh = (z[half[:HALF_ROWS]].float() for half in (order[: t // 2], order[t // 2 :]))
    away = seen[seen.norm(dim=1) > NEAR * seen.norm(dim=1).amax()]
    x = torch.nn.functional.normalize(
        away[torch.randint(len(away), (STARTS,), generator=generator).to(z.device)], dim=1
    )
    for _ in range(STEPS):
        x = torch.nn.functional.normalize(((x @ seen.T) ** 3) @ seen, dim=1)
    best = (x @ seen.T).pow(4).mean(1).topk(STARTS // 2).indices
    y = x[best] @ fresh.T
    y = y / y.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    above = y.pow(4).mean(0) - 3 * fresh.square().sum(1).square() / (r * (r + 2))
    return float(above.mean()), float(above.std() / len(above) ** 0.5)


def coincidence(means: Float[Tensor, "t d"], noise: float, generator: torch.Generator) -> tuple[float, float]:
    """Share of the inputs that could be dropped without losing an activation, of all and of those that are not the
    most frequent activation, where nothing may be active. Range: [0, 1).

    Two means coincide within `SAME` of the typical activation, or within the distance of `noise`, the variance per
    coordinate of a mean. Inputs that share features of many sizes differ; classes of inputs, and tables with
    collisions, coincide. Each input counts as 1 / (number of inputs that coincide with it), itself included.
    """
    x = (means.double() - means.double().mean(0)).float()
    close = max(SAME**2 * float(x.square().mean()), NOISES * 2 * noise) * x.shape[1]
    some = x[torch.randperm(len(x), generator=generator)[:COMPARED].to(x.device)]
    length, found = x.square().sum(1), []
    near = lambda part: (  # noqa: E731
        part.square().sum(1, keepdim=True) + length - 2 * part @ x.T <= close + 1e-5 * float(length.mean())
    )
    for part in some.split(max(1, PIECE // len(x))):
        found.append(near(part).sum(1))
    met = torch.cat(found).clamp(min=1)
    often = some[int(met.argmax())]
    rest = (some - often).square().sum(1) > close
    of_rest = 1 - float((1 / met[rest]).mean()) if bool(rest.any()) else 0.0
    return 1 - float((1 / met).mean()), of_rest


def unexplained(x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"], active: int = ACTIVE) -> float:
    """Share of the squared length that `active` unit directions with coefficients above 0 leave unexplained.

    Range: [0, 1]. Method: orthogonal matching pursuit, in which a coefficient that turns negative stays out.
    """
    total = float(x.square().sum())
    if not len(atoms) or total == 0:
        return 1.0
    left, chosen = x.double(), torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    wide = atoms.double()
    best = left.square().sum(1)
    for _ in range(min(active, len(atoms))):
        chosen = torch.cat([chosen, (left @ wide.T).argmax(1, keepdim=True)], 1)
        basis = wide[chosen]
        gram = basis @ basis.mT + 1e-9 * torch.eye(chosen.shape[1], dtype=wide.dtype, device=x.device)
        c = torch.linalg.solve(gram, (basis @ x.double()[:, :, None]))[..., 0].clamp(min=0)
        left = x.double() - (c[:, None] @ basis)[:, 0]
        best = torch.minimum(best, left.square().sum(1))
    return float(best.sum()) / total


def data_dimensionality(
    values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"], atoms: Float[Tensor, "k d"]
) -> DataDimensionality:
    """Part of a dimension that an input has for itself, and that a direction has. Inputs count by direction alone.

    Raises: ConfigError with fewer than 12 distinct inputs away from the origin, or without directions.
    """
    means, _, _ = distinct(values, inputs)
    length = means.norm(dim=1)
    away = means[length > NEAR * length.amax()]
    if len(away) < FEWEST_INPUTS or not len(atoms):
        raise ConfigError(
            f"{len(away)} distinct inputs and {len(atoms)} directions",
            expected=f"at least {FEWEST_INPUTS} inputs that activate something, and one direction",
        )
    unit = torch.nn.functional.normalize(away, dim=1)
    of_inputs = _dimensionality(unit)
    of_directions = float(feature_dimensionality(atoms).nanmean())
    return DataDimensionality(of_inputs, of_directions, unexplained(away[:COMPARED], atoms), len(away), len(atoms))


def _dimensionality(unit: Float[Tensor, "t d"]) -> float:
    """Mean of 1 / u'Su with S = sum of u u': no t by t matrix is formed."""
    moment = unit.double().T @ unit.double()
    return float((1 / ((unit.double() @ moment) * unit.double()).sum(1)).mean())
