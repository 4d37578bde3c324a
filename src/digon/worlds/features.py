"""Which sparse features does a toy world have? Laws of features, and samples from them.

A feature is zero with probability 1 − density, else its value is drawn from one law. By default features are
independent; a *set* of features may share one mask (correlated) or be at most one at a time (anticorrelated).

Source: Elhage et al. 2022, "Toy Models of Superposition" (independent, correlated and anticorrelated uniform features).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError

Values = Literal["uniform", "symmetric", "constant", "half-normal", "lognormal"]
VALUES: tuple[Values, ...] = ("uniform", "symmetric", "constant", "half-normal", "lognormal")


@dataclass(frozen=True)
class FeatureSet:
    """Features that are active together (correlated) or never together (anticorrelated)."""

    members: tuple[int, ...]
    kind: Literal["correlated", "anticorrelated"]


@dataclass(frozen=True)
class Features:
    """The law of n features, the same or another one in every instance.

    Raises: ConfigError for densities outside (0, 1], importances that are negative or not finite, overlapping sets.
    """

    density: Float[Tensor, "*instances n"]
    """P(active) of every feature."""
    importance: Float[Tensor, "*instances n"]
    """Weight of every feature's squared error."""
    values: Values = "uniform"
    """Law of an active feature's value: U[0,1], U[−1,1], 1, |N(0,1)|, exp(N(0,1))."""
    sets: tuple[FeatureSet, ...] = ()

    def __post_init__(self) -> None:
        check_law(self)

    @property
    def n(self) -> int:
        """Number of features."""
        return self.density.shape[-1]

    def sample(self, rows: int, generator: torch.Generator, instances: int = 1) -> Float[Tensor, "i rows n"]:
        """Independent rows for every instance."""
        density = self.density.to(torch.float32).expand(instances, self.n)
        shape = (instances, rows, self.n)
        draw = torch.rand(shape, generator=generator, device=generator.device)
        active = draw < density[:, None].to(draw.device)
        for group in self.sets:
            active[..., list(group.members)] = _members(group, density.to(draw.device), draw, generator)
        return active * draw_values(self.values, shape, generator)


def features(
    n: int,
    density: float | Sequence[float] | Tensor,
    importance: float | Sequence[float] | Tensor = 1.0,
    *,
    values: Values = "uniform",
    sets: tuple[FeatureSet, ...] = (),
) -> Features:
    """Law of n features; `density` and `importance` may be one number, n numbers, or [instances, n].

    Raises: ConfigError as `Features`.
    """
    if n < 1:
        raise ConfigError(f"{n} features", expected="at least one")
    wide = [torch.as_tensor(v, dtype=torch.float64) for v in (density, importance)]
    for name, v in zip(("density", "importance"), wide, strict=True):
        if v.ndim and v.shape[-1] not in (1, n):
            raise ConfigError(f"setting {name!r}: {v.shape[-1]} values for {n} features", expected=f"1 or {n} values")
    return Features(*(v.expand(*v.shape[:-1], n) for v in wide), values=values, sets=sets)


def check_law(law: Features) -> None:
    """Raises: ConfigError if the law makes no sense."""
    if not (law.density.isfinite() & (law.density > 0) & (law.density <= 1)).all():
        raise ConfigError("setting 'density': a value is not a probability above 0", expected="0 < density ≤ 1")
    if not (law.importance.isfinite() & (law.importance >= 0)).all():
        raise ConfigError("setting 'importance': a value is negative or not finite", expected="importance ≥ 0")
    if law.values not in VALUES:
        raise ConfigError(f"setting 'values': no law {law.values!r}", expected=" | ".join(VALUES))
    members = [i for group in law.sets for i in group.members]
    if len(set(members)) < len(members) or any(not 0 <= i < law.n for i in members):
        raise ConfigError(f"setting 'sets': members {members}", expected=f"different numbers from 0 to {law.n - 1}")


def draw_values(law: Values, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values of active features."""
    device = generator.device
    if law == "uniform":
        return torch.rand(shape, generator=generator, device=device)
    if law == "symmetric":
        return 2 * torch.rand(shape, generator=generator, device=device) - 1
    if law == "constant":
        return torch.ones(shape, device=device)
    normal = torch.randn(shape, generator=generator, device=device)
    return normal.abs() if law == "half-normal" else normal.exp()


def second_moment(law: Values) -> float:
    """E[value²] of an active feature."""
    return {"uniform": 1 / 3, "symmetric": 1 / 3, "constant": 1.0, "half-normal": 1.0, "lognormal": math.e**2}[law]


def moments(law: Values) -> tuple[float, float]:
    """E[value] and E[value²] of an active feature."""
    first = {
        "uniform": 0.5,
        "symmetric": 0.0,
        "constant": 1.0,
        "half-normal": (2 / math.pi) ** 0.5,
        "lognormal": math.e**0.5,
    }
    return first[law], second_moment(law)


def second_moments(law: Features) -> tuple[Float[Tensor, "*instances n"], Float[Tensor, "*instances n n"]]:
    """E[x] and E[x xᵀ], float64."""
    first, second = moments(law.values)
    density = law.density.double()
    mean = density * first
    both = mean[..., :, None] * mean[..., None, :]
    for group in law.sets:
        for i in group.members:
            for j in group.members:
                both[..., i, j] = density[..., i] * first**2 if group.kind == "correlated" else 0.0
    both.diagonal(dim1=-2, dim2=-1).copy_(density * second)
    return mean, both


def _members(group: FeatureSet, density: Tensor, draw: Tensor, generator: torch.Generator) -> Tensor:
    members = list(group.members)
    first = draw[..., members[:1]]
    if group.kind == "correlated":
        return first < density[:, None, members]
    # The whole set is active with the sum of its members' densities, and then exactly one member, in proportion.
    edges = density[:, None, members].cumsum(-1)
    return (first < edges) & (first >= edges - density[:, None, members])
