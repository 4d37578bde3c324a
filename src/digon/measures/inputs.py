"""Do directions belong to features that inputs share, or to single inputs?

Distinct-input generalization. Learn a dictionary of directions on half of the distinct inputs and explain the other half.
Features generalize: held-out inputs are explained as well (G near 1), nearly every direction is met again on several of
them (u near 1), and more inputs add no directions (slope near 0). In a look-up code every input has a direction of its
own: G is large, u near 0 and the slope near 1. No bag of activations can say this: it takes the identity of the inputs.

Data points against features. The dimensionality of a direction, D = |w|^2 / sum_j (w . w_j / |w|)^2, is the part of a
dimension that it has for itself. A look-up code spends its dimensions on data points: the mean over inputs is that over
directions. Where inputs share features, an input has much less for itself than a feature has.

Sources: dimensionality of data points after Henighan et al. 2023, "Superposition, Memorization, and Double Descent"; the
generalization test is derived here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ConfigError
from .geometry import feature_dimensionality

Learner = Callable[[Float[Tensor, "n d"]], Float[Tensor, "k d"]]
"""From rows, relative to the origin, to unit directions."""

FEWEST_INPUTS = 12
ALONE = 0.985
"""Cosine from which one direction explains an input alone."""
ACTIVE = 3
"""Directions that may explain an input together."""
NEAR = 1e-3
"""Inputs so near the origin, relative to the farthest, show nothing."""
SAME = 1e-3
"""Grid, relative to the typical activation, on which equal activations coincide."""
FRACTIONS = (0.25, 0.5, 1.0)
LEAST_FVU = 1e-3
"""Residuals below this are noise when ratios are formed."""


@dataclass(frozen=True)
class InputGeneralization:
    """A dictionary on inputs that it has not seen."""

    seen_fvu: float
    """Unexplained share on the inputs that the dictionary was learned from, at most `ACTIVE` directions per input."""
    fresh_fvu: float
    """Unexplained share on the other half of the inputs."""
    reuse: float
    """u: share of directions that alone explain two or more fresh inputs."""
    slope: float
    """Of log number of directions against log number of inputs."""
    directions: int
    """Directions found on half of the inputs."""
    counts: tuple[tuple[int, int], ...]
    """Numbers of inputs and of directions behind the slope."""
    inputs: int
    """Distinct inputs away from the origin."""
    within: float
    """Share of the variance that the identity of the input does not explain; 0 if no input occurs twice."""

    @property
    def gap(self) -> float:
        """G: fresh over seen, both at least `LEAST_FVU`."""
        return max(self.fresh_fvu, LEAST_FVU) / max(self.seen_fvu, LEAST_FVU)


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

    Raises: ConfigError if the numbers of rows differ.
    """
    if len(values) != len(inputs):
        raise ConfigError(f"{len(values)} rows with {len(inputs)} inputs", expected="one input per row")
    names, owner, counts = inputs.unique(return_inverse=True, return_counts=True)
    wide = values.double()
    sums = wide.new_zeros(len(names), wide.shape[1]).index_add_(0, owner, wide)
    means = sums / counts[:, None]
    total = float((wide - wide.mean(0)).square().sum())
    within = float((wide - means[owner]).square().sum()) / total if total > 0 else 0.0
    return means.to(values.dtype), owner, within


def coincidence(means: Float[Tensor, "t d"]) -> float:
    """Share of the inputs away from the origin that could be dropped without losing an activation. Range: [0, 1).

    Inputs that share features of many sizes differ; classes of inputs, and tables with collisions, coincide.
    """
    length = means.norm(dim=1)
    away = means[length > NEAR * length.amax()]
    if not len(away):
        return 0.0
    grid = (away / (SAME * away.square().mean().sqrt())).round()
    return 1 - len(grid.unique(dim=0)) / len(away)


def generalization(
    values: Float[Tensor, "n d"], inputs: Int[Tensor, " n"], learn: Learner, generator: torch.Generator
) -> InputGeneralization:
    """Does a dictionary of half of the inputs explain the other half? Rows relative to where nothing is active.

    Cost: four dictionaries and one pursuit of every distinct input.

    Raises: ConfigError with fewer than 12 distinct inputs away from the origin.
    """
    means, owner, within = distinct(values, inputs)
    length = means.norm(dim=1)
    away = (length > NEAR * length.amax()).nonzero()[:, 0]
    if len(away) < FEWEST_INPUTS:
        raise ConfigError(f"{len(away)} distinct inputs", expected=f"at least {FEWEST_INPUTS} that activate something")
    order = away[torch.randperm(len(away), generator=generator).to(away.device)]
    half = len(order) // 2
    atoms = learn(_rows_of(values, owner, order[:half]))
    counts: list[tuple[int, int]] = []
    for share in FRACTIONS:
        some = order[: round(share * len(order))]
        found = atoms if len(some) == half else learn(_rows_of(values, owner, some))
        counts.append((len(some), len(found)))
    seen, fresh = unexplained(means[order[:half]], atoms), unexplained(means[order[half:]], atoms)
    return InputGeneralization(
        seen, fresh, _reuse(means[order[half:]], atoms), _slope(counts), len(atoms), tuple(counts), len(order), within
    )


def _rows_of(values: Float[Tensor, "n d"], owner: Int[Tensor, " n"], some: Int[Tensor, " t"]) -> Float[Tensor, "m d"]:
    return values[torch.isin(owner, some)]


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


def _reuse(x: Float[Tensor, "n d"], atoms: Float[Tensor, "k d"]) -> float:
    if not len(atoms):
        return math.nan
    cosine, at = (torch.nn.functional.normalize(x, dim=1) @ atoms.T).max(1)
    met = torch.bincount(at[cosine > ALONE], minlength=len(atoms))
    return float((met >= 2).double().mean())


def _slope(counts: list[tuple[int, int]]) -> float:
    """Least squares on logarithms; NaN if some dictionary is empty."""
    if any(found == 0 for _, found in counts):
        return math.nan
    x, y = (torch.tensor(column, dtype=torch.float64).log() for column in zip(*counts, strict=True))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


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
    return DataDimensionality(of_inputs, of_directions, unexplained(away, atoms), len(away), len(atoms))


def _dimensionality(unit: Float[Tensor, "t d"]) -> float:
    """Mean of 1 / u'Su with S = sum of u u': no t by t matrix is formed."""
    moment = unit.double().T @ unit.double()
    return float((1 / ((unit.double() @ moment) * unit.double()).sum(1)).mean())
