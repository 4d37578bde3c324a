"""Directions of features: how n unit vectors lie in d dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import ConfigError
from ...measures.basis import haar
from ...measures.polytopes import Shape, antiprism, polygon, simplex
from ..loops import minimize

SHAPES: dict[str, Shape] = {
    "digon": simplex(2),
    "triangle": simplex(3),
    "tetrahedron": simplex(4),
    "pentagon": polygon(5),
    "square antiprism": antiprism(4),
}
"""Arrangements that repeat one polytope in orthogonal subspaces; they fix the load."""
DESCENT_STEPS = 300


def dictionary(kind: str, n: int, d: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """n unit vectors in d dimensions; a repeated polytope has as many as fill the dimensions, whatever n says.

    Raises: ConfigError for an unknown kind, or if no polytope of the kind fits.
    """
    if kind == "random":
        return random(n, d, generator)
    if kind == "optimal":
        return optimal(n, d, generator)
    if kind not in SHAPES:
        raise ConfigError(f"no arrangement {kind!r}", expected=" | ".join(["random", "optimal", *SHAPES]))
    return tegum(SHAPES[kind], d, generator)


def random(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Uniform on the sphere."""
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def optimal(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Nearly as far apart as possible: descent on Σ cos⁸ between lines, from random directions."""
    w = random(n, d, generator)

    def loss(_: int) -> Tensor:
        unit = torch.nn.functional.normalize(w, dim=1)
        return (unit @ unit.T - torch.eye(n)).pow(8).sum().log()

    minimize([w], loss, steps=DESCENT_STEPS, peak=0.02, schedule="constant")
    return torch.nn.functional.normalize(w, dim=1)


def tegum(shape: Shape, d: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    """As many copies of a polytope as fit into orthogonal subspaces, turned together; what is left over gets an axis each.

    Raises: ConfigError if not even one fits.
    """
    r = shape.vertices.shape[1]
    if r > d:
        raise ConfigError(f"a {shape.name} spans {r} dimensions, there are {d}", expected=f"at least {r} units")
    copies = d // r
    blocks = [torch.from_numpy(shape.vertices.copy()).float()] * copies + [torch.ones(1, 1)] * (d - copies * r)
    return torch.block_diag(*blocks) @ haar(d, generator)
