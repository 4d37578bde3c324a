"""Which sparse features does a toy world have? Laws of features, and samples from them.

A feature is zero with probability 1 − density, else its value is drawn from one law. By default features are
independent; a *set* of features may depend on each other in one of four ways. Density is always the share of rows on
which that very feature is active:

    correlated        all members are active together; they have one density
    anticorrelated    at most one member is active; densities add up to at most 1
    hierarchy         a child is active only where its parent is; children of one parent are independent of each other
    copula            member i is active where the i-th of several correlated normal variables is small

A sample is its own ground truth: x holds the value of every feature on every row. `sample_sparse` lists the active
features alone, in memory of their number.

Sources: Elhage et al. 2022, "Toy Models of Superposition" (independent, correlated, anticorrelated); Sharkey, Braun &
Millidge 2022 (Gaussian copula and geometric decay).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .memory import check_memory
from .sets import FeatureSet as FeatureSet
from .sets import masks, sparse_masks, together, wrong
from .sparse import Active as Active
from .sparse import independent

Values = Literal["uniform", "symmetric", "constant", "half-normal", "lognormal"]
VALUES: tuple[Values, ...] = ("uniform", "symmetric", "constant", "half-normal", "lognormal")
EXACT_KINDS = ("correlated", "anticorrelated")
"""Kinds of sets for which `worlds/population` knows the expected loss."""
BYTES_DENSE, BYTES_ACTIVE = 13, 64
"""Peak bytes of a sample per number, and of a sparse one per active feature."""


@dataclass(frozen=True)
class Features:
    """The law of n features, the same or another one in every instance.

    Raises: ConfigError for densities outside (0, 1], importances that are negative or not finite, sets that overlap or
    contradict their densities.
    """

    density: Float[Tensor, "*instances n"]
    """P(active) of every feature."""
    importance: Float[Tensor, "*other_instances n"]
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
        """Independent rows for every instance.

        Raises: ConfigError if that many numbers do not fit into memory, or for another number of instances than the law has.
        """
        shape = (instances, rows, self.n)
        check_memory(
            BYTES_DENSE * instances * rows * self.n,
            f"{instances} × {rows} rows of {self.n} features",
            "draw fewer rows at a time, or only the active features (sample_sparse)",
        )
        if self.density.ndim == 2 and len(self.density) not in (1, instances):
            raise ConfigError(
                f"a law of {len(self.density)} instances for {instances}", expected="one law, or one per instance"
            )
        density = self.density.to(torch.float32).expand(instances, self.n)
        draw = torch.rand(shape, generator=generator, device=generator.device)
        active = draw < density[:, None].to(draw.device)
        for group in self.sets:
            active[..., list(group.members)] = masks(group, density.to(draw.device), draw, generator)
        return active * draw_values(self.values, shape, generator)

    def sample_sparse(self, rows: int, generator: torch.Generator, instance: int = 0) -> Active:
        """The active features of independent rows: the law of `sample` in time and memory of the active ones.

        `instance` chooses a law if densities differ between instances. A copula takes time of all its members.

        Raises: ConfigError if the active features do not fit into memory.
        """
        density = self.density.double().reshape(-1, self.n)[instance].to(generator.device)
        expected = rows * float(density.sum())
        check_memory(
            int(BYTES_ACTIVE * expected), f"{expected:.3g} active features of {rows} rows", "draw fewer rows at a time"
        )
        alone = torch.ones(self.n, dtype=torch.bool, device=density.device)
        alone[[i for group in self.sets for i in group.members]] = False
        parts = list(independent(density, alone.nonzero()[:, 0], rows, generator))
        for group in self.sets:
            parts += sparse_masks(group, density, rows, generator)
        row, feature = (torch.cat(list(v)) for v in zip(*parts, strict=True))
        order = (row * self.n + feature).argsort()
        return Active(row[order], feature[order], draw_values(self.values, (len(row),), generator))


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
    if not isinstance(n, SupportsIndex) or index(n) < 1:
        raise ConfigError(f"{n} features", expected="at least one")
    wide: list[Tensor] = []
    for name, value in (("density", density), ("importance", importance)):
        try:
            v = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"setting {name!r}: {value!r}", expected="a number or several numbers") from None
        if v.ndim and v.shape[-1] not in (1, n):
            raise ConfigError(f"setting {name!r}: {v.shape[-1]} values for {n} features", expected=f"1 or {n} values")
        wide.append(v.expand(*v.shape[:-1], n))
    return Features(*wide, values=values, sets=sets)


def power_law(n: int, exponent: float, first: float = 1.0) -> Float[Tensor, " n"]:
    """Densities or importances that fall as a power of the rank: first · rank^−exponent, rank = 1 … n.

    >>> power_law(4, 1.0, 0.5).tolist()
    [0.5, 0.25, 0.16666666666666666, 0.125]
    """
    return first * torch.arange(1, n + 1, dtype=torch.float64) ** -exponent


def geometric(n: int, ratio: float, first: float = 1.0) -> Float[Tensor, " n"]:
    """Densities or importances that fall by a factor from feature to feature: first · ratioⁱ, i = 0 … n − 1.

    >>> geometric(3, 0.5).tolist()
    [1.0, 0.5, 0.25]
    """
    return first * ratio ** torch.arange(n, dtype=torch.float64)


def check_law(law: Features) -> None:
    """Raises: ConfigError if the law makes no sense."""
    shapes = [list(law.density.shape), list(law.importance.shape)]
    leading = {shape[0] for shape in shapes if len(shape) == 2} - {1}
    if any(len(shape) not in (1, 2) for shape in shapes) or shapes[0][-1] != shapes[1][-1] or len(leading) > 1:
        raise ConfigError(
            f"density {shapes[0]} and importance {shapes[1]}", expected="[n] or [instances, n], with the same n"
        )
    if not (law.density.isfinite() & (law.density > 0) & (law.density <= 1)).all():
        raise ConfigError("setting 'density': a value is not a probability above 0", expected="0 < density ≤ 1")
    if not (law.importance.isfinite() & (law.importance >= 0)).all():
        raise ConfigError("setting 'importance': a value is negative or not finite", expected="importance ≥ 0")
    if law.values not in VALUES:
        raise ConfigError(f"setting 'values': no law {law.values!r}", expected=" | ".join(VALUES))
    members = [i for group in law.sets for i in group.members]
    if len(set(members)) < len(members) or any(not 0 <= i < law.n for i in members):
        raise ConfigError(f"setting 'sets': members {members}", expected=f"different numbers from 0 to {law.n - 1}")
    for group in law.sets:
        problem = wrong(group, law.density.double().reshape(-1, law.n)[:, list(group.members)])
        if problem:
            raise ConfigError(f"setting 'sets': {group.kind} features {list(group.members)}", expected=problem)


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
    """E[x] and E[x xᵀ], float64; exact for every kind of set."""
    first, second = moments(law.values)
    mean = law.density.double() * first
    both = joint_density(law) * first**2
    both.diagonal(dim1=-2, dim2=-1).copy_(law.density.double() * second)
    return mean, both


def joint_density(law: Features) -> Float[Tensor, "*instances n n"]:
    """P(features i and j are both active), float64; the diagonal is the density."""
    p = law.density.double()
    both = p[..., :, None] * p[..., None, :]
    for group in law.sets:
        index = torch.tensor(group.members)
        both[..., index[:, None], index] = together(group, p[..., index])
    both.diagonal(dim1=-2, dim2=-1).copy_(p)
    return both
