"""Features that are directions: one per unit, rotated against the units, or more than there are dimensions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from ..features import Features, FeatureSet, Values, features, power_law
from .base import Truth, World, check_size, world
from .dictionaries import dictionary as arranged

MOST_DENSE = 0.9
BRANCHES = 3
"""Children of every parent in a hierarchy; a child is active on a third of its parent's rows."""


@dataclass(frozen=True)
class Law:
    """How the features of a world behave."""

    density: float = 0.05
    """P(active), the mean over features."""
    active: float | None = None
    """Mean number of active features per row; given, it replaces `density`."""
    values: Values = "uniform"
    zipf: float = 0.0
    """Exponent with which densities fall over the features."""
    dependence: str = "none"
    """pairs: two and two are active together; copula: all are correlated; hierarchy: parents with children."""
    correlation: float = 0.3
    """Correlation of the copula."""

    def of(self, n: int) -> Features:
        """The law of n features.

        Raises: ConfigError if it contradicts itself.
        """
        mean = self.density if self.active is None else self.active / n
        if not 0 < mean <= 1:
            raise ConfigError(f"a mean density of {mean:g}", expected="above 0 and at most 1")
        shape = power_law(n, self.zipf)
        density = (shape * mean * n / shape.sum()).clamp(max=MOST_DENSE if n > 1 else 1.0)
        density, sets = _dependent(self, density)
        return features(n, density, values=self.values, sets=sets)

    def sample(self, n_rows: int, n: int, seed: int) -> Float[Tensor, "rows n"]:
        """Values of n features."""
        return self.of(n).sample(n_rows, rng.stream(seed, "features"))[0]


def monosemantic(n_rows: int, d: int, seed: int, *, copies: int = 0, **law: object) -> World:
    """One sparse feature per unit; the last `copies` units repeat the first ones, at another size.

    Raises: ConfigError if there are not more units than copies.
    """
    check_size(n_rows, d)
    if not 0 <= copies < d:
        raise ConfigError(f"{copies} copies among {d} units", expected=f"0 to {d - 1}")
    n = d - copies
    f = Law(**law).sample(n_rows, n, seed)  # type: ignore[arg-type]
    atoms = torch.eye(n, d)
    for i in range(copies):
        atoms[i % n, n + i] = 0.5 + i / (2 * copies)
    return world(
        f @ atoms, Truth("monosemantic", n, n, torch.nn.functional.normalize(atoms, dim=1), f * atoms.norm(dim=1))
    )


def rotated(
    n_rows: int,
    d: int,
    seed: int,
    *,
    basis: str = "haar",
    n: int | None = None,
    block: int = 4,
    angle: float = 0.4,
    condition: float = 10.0,
    **law: object,
) -> World:
    """At most as many features as units, mixed linearly: every unit polysemantic, no superposition.

    haar: a random orthogonal basis. block: random rotations of `block` units each. partial: neighboring units turned by
    `angle` radians. oblique: independent directions that are not orthogonal, with that condition number.

    Raises: ConfigError for an unknown basis or more features than units.
    """
    check_size(n_rows, d)
    count = d if n is None else n
    if not 1 <= count <= d:
        raise ConfigError(f"{count} features in {d} units", expected=f"1 to {d}; more would be superposition")
    atoms = _basis(basis, d, rng.stream(seed, "basis"), block, angle, condition)[:count]
    f = Law(**law).sample(n_rows, count, seed)  # type: ignore[arg-type]
    return world(f @ atoms, Truth("rotated", count, count, atoms, f))


def superposition(
    n_rows: int, d: int, seed: int, load: float = 2.0, *, dictionary: str = "random", **law: object
) -> World:
    """`load` times as many features as units; a dictionary of polytopes fixes the load by itself.

    With correlated features and `dictionary="shaped"`, features that are active together lie near each other.

    Raises: ConfigError if there are not more features than dimensions.
    """
    check_size(n_rows, d)
    n, g = round(load * d), rng.stream(seed, "directions")
    if dictionary == "shaped":
        atoms, sets = _shaped(n, d, g)
        rules = Law(**law)  # type: ignore[arg-type]
        density = rules.density if rules.active is None else rules.active / n
        f = features(n, density, values=rules.values, sets=sets).sample(n_rows, rng.stream(seed, "features"))[0]
    else:
        atoms = arranged(dictionary, n, d, g)
        f = Law(**law).sample(n_rows, len(atoms), seed)  # type: ignore[arg-type]
    n, rank = len(atoms), min(len(atoms), d)
    if n <= rank:
        raise ConfigError(f"{n} features in {rank} dimensions", expected="more features than dimensions")
    return world(f @ atoms, Truth("superposition", n, rank, atoms, f, frozenset({"superposition", "lookup"})))


def _basis(kind: str, d: int, g: torch.Generator, block: int, angle: float, condition: float) -> Float[Tensor, "d d"]:
    if kind == "haar":
        return haar(d, g)
    if kind == "block":
        sizes = [block] * (d // block) + [d % block] * bool(d % block)
        return torch.block_diag(*(haar(size, g) for size in sizes))
    if kind == "partial":
        c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
        return torch.block_diag(*[turn] * (d // 2), *[torch.ones(1, 1)] * (d % 2))
    if kind == "oblique":
        stretch = torch.logspace(0, torch.tensor(condition).log10().item(), d)
        return torch.nn.functional.normalize(haar(d, g) * stretch @ haar(d, g), dim=1)
    raise ConfigError(f"no basis {kind!r}", expected="haar | block | partial | oblique")


def _dependent(law: Law, density: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], tuple[FeatureSet, ...]]:
    n = len(density)
    if law.dependence == "none" or n < 2:
        return density, ()
    if law.dependence == "copula":
        return density, (FeatureSet(tuple(range(n)), "copula", correlation=law.correlation),)
    if law.dependence == "pairs":
        even = density.clone()
        even[1::2] = density[: n - n % 2 : 2]
        return even, tuple(FeatureSet((i, i + 1), "correlated") for i in range(0, n - 1, 2))
    if law.dependence == "hierarchy":
        return _families(density)
    raise ConfigError(f"no dependence {law.dependence!r}", expected="none | pairs | copula | hierarchy")


def _families(density: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], tuple[FeatureSet, ...]]:
    """One parent and its children, again and again; every family keeps the sum of its densities."""
    n, density, sets = len(density), density.clone(), []
    for first in range(0, n, BRANCHES + 1):
        members = tuple(range(first, min(n, first + BRANCHES + 1)))
        share = torch.tensor([1.0] + [1 / BRANCHES] * (len(members) - 1), dtype=density.dtype)
        density[list(members)] = (density[list(members)].sum() * share / share.sum()).clamp(max=MOST_DENSE)
        sets.append(FeatureSet(members, "hierarchy", parents=(-1, *[first] * (len(members) - 1))))
    return density, tuple(sets)


def _shaped(n: int, d: int, g: torch.Generator) -> tuple[Float[Tensor, "n d"], tuple[FeatureSet, ...]]:
    """Directions whose cosines follow the correlations of the features: a circle of topics in every row."""
    place = 2 * torch.pi * torch.arange(n) / n
    ring = torch.stack([place.cos(), place.sin()], 1)
    near = torch.nn.functional.normalize(torch.cat([ring, torch.randn(n, d, generator=g) / d**0.5], 1), dim=1)
    atoms = torch.nn.functional.normalize(near @ torch.randn(d + 2, d, generator=g), dim=1)
    near_by = torch.cos(place.double()[:, None] - place.double())
    correlations = (0.5 * near_by + 0.5 * torch.eye(n, dtype=torch.float64)).tolist()
    return atoms, (FeatureSet(tuple(range(n)), "copula", correlation=tuple(map(tuple, correlations))),)
