"""Which polytope do features form? Names for groups of features that share dimensions.

1. Live features (longer than `least`) whose cosines exceed a threshold in size are connected; every connected component
   is one candidate.
2. A component is compared with the library: vertex-transitive polytopes with as many vertices and unit directions. The
   comparison needs no matching of vertices: the eigenvalues of the Gram matrix of cosines (is it the same number of
   dimensions, equally filled?) and every row of cosines in order of size (does every vertex see the others alike?).
   The residual is the larger of the two distances, relative to the Frobenius norm of the library's Gram matrix.
3. A component may be a tegum product: polytopes in orthogonal subspaces that a cosine of noise joins. Higher thresholds
   split it; the residual of a product counts what is left between its factors.
4. A residual above `tolerance` leaves it irregular; the nearest name is kept.

A simplex with k vertices has cosines −1/(k − 1): above six vertices, connect with a threshold below 0.2.

Sources: polytopes of Elhage et al. 2022, "Toy Models of Superposition"; the comparison is ours.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from . import geometry

Matrix = np.ndarray
"""Float64 matrix; shapes are in the docstrings."""

GONS = {5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon"}
SIMPLICES = {1: "single", 2: "digon", 3: "triangle", 4: "tetrahedron"}
SPLITS = tuple(np.arange(0.05, 0.9, 0.05))
"""Thresholds at which a component is tried as a product."""
HEIGHTS = np.linspace(0.3, 0.9, 301)
"""Heights of antiprisms on the unit sphere that are tried: the energy of a toy fixes it, symmetry does not."""


@dataclass(frozen=True)
class Polytope:
    """A group of features and the polytope that it is nearest to."""

    name: str
    """Such as `pentagon` or `digon × triangle`; `irregular` if nothing is near enough."""
    nearest: str
    """The nearest polytope, however far; empty if no polytope has as many vertices."""
    residual: float
    """Distance of the Gram matrix of directions from the nearest polytope's, relative; 0 = equal."""
    members: tuple[int, ...]
    """Rows of W."""
    dimensions: int
    """Dimensions that the polytope spans; of an irregular group, its participation ratio, rounded up."""
    fraction: float
    """Exact feature dimensionality, averaged over the vertices; NaN for an irregular group."""
    tight: bool
    """Whether the polytope fills its dimensions equally, so that the dimensionalities add up to them."""
    measured: float
    """Mean feature dimensionality of the members within W."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A polytope of the library: unit vectors [k, d] from its center to its vertices."""

    name: str
    vertices: Matrix

    @property
    def gram(self) -> Matrix:
        """Cosines [k, k]."""
        return self.vertices @ self.vertices.T

    @property
    def fraction(self) -> float:
        """Feature dimensionality, averaged over the vertices."""
        return float((1 / (self.gram**2).sum(1)).mean())

    @property
    def dimensions(self) -> int:
        """Dimensions spanned."""
        return int(np.linalg.matrix_rank(self.vertices, tol=1e-6))

    @property
    def tight(self) -> bool:
        """Whether the vertices are a tight frame."""
        return abs(self.fraction * len(self.vertices) - self.dimensions) < 1e-6


def simplex(k: int) -> Shape:
    """k vertices in k − 1 dimensions, all cosines −1/(k − 1)."""
    if k == 1:
        return Shape("single", np.ones((1, 1)))
    centered = np.eye(k) - 1 / k
    values, axes = np.linalg.eigh(centered)
    vertices = axes[:, values > 0.5]
    return Shape(SIMPLICES.get(k, f"{k - 1}-simplex"), _unit(vertices))


def polygon(k: int) -> Shape:
    """Regular k-gon."""
    angle = 2 * np.pi * np.arange(k) / k
    return Shape(GONS.get(k, SIMPLICES.get(k, f"{k}-gon")), np.stack([np.cos(angle), np.sin(angle)], 1))


def antiprism(k: int, height: float = 3**-0.5) -> Shape:
    """Two k-gons at ±height on the unit sphere, turned against each other; tight at height 1/√3."""
    angle = np.pi * np.arange(2 * k) / k
    radius = math.sqrt(1 - height**2)
    up = height * (-1.0) ** np.arange(2 * k)
    name = {3: "triangular", 4: "square", 5: "pentagonal"}.get(k, f"{k}-gonal") + " antiprism"
    return Shape(name, np.stack([radius * np.cos(angle), radius * np.sin(angle), up], 1))


@cache
def library(k: int) -> tuple[Shape, ...]:
    """Polytopes with k vertices that are not products; antiprisms at many heights."""
    golden = (1 + math.sqrt(5)) / 2
    shapes = [simplex(k)] if k <= 21 else []
    if 5 <= k <= 12:
        shapes.append(polygon(k))
    if k == 12:
        shapes.append(Shape("icosahedron", _unit(_turned(1.0, golden))))
    if k == 20:
        corners = np.array(list(product((1.0, -1.0), repeat=3)))
        shapes.append(Shape("dodecahedron", _unit(np.concatenate([corners, _turned(1 / golden, golden)]))))
    if k in (8, 10):
        shapes += [antiprism(k // 2), *(antiprism(k // 2, h) for h in HEIGHTS)]
    return tuple(shapes)


def polytopes(
    W: Float[Tensor, "n m"], *, threshold: float = 0.2, least: float = 0.5, tolerance: float = 0.05
) -> list[Polytope]:
    """Connected components of live features and their names, the largest first.

    Cost: n² cosines. Raises: nothing; a NaN in W makes its feature dead.
    """
    live = geometry.represented(W, least).nonzero().flatten()
    if not len(live):
        return []
    alive = W.detach()[live].double()
    cosines = geometry.cosines(alive).cpu().numpy()
    measured = geometry.capacity(W.detach().double()).cpu().numpy()
    rows = live.cpu().numpy()
    found = []
    for part in _components(cosines, threshold):
        members = rows[part]
        found.append(_named(cosines[np.ix_(part, part)], members, float(measured[members].mean()), tolerance))
    return sorted(found, key=lambda p: (-len(p.members), p.members))


def identify(W: Float[Tensor, "n m"], *, tolerance: float = 0.05) -> Polytope:
    """The polytope that all rows of W form together: an octahedron is named as one, not as three digons."""
    directions = W.detach().double()
    measured = float(geometry.capacity(directions).mean())
    return _named(geometry.cosines(directions).cpu().numpy(), np.arange(len(W)), measured, tolerance)


def product_name(names: list[str]) -> str:
    """Name of a tegum product from the names of its factors.

    >>> product_name(["digon", "triangle"]), product_name(["digon"] * 3), product_name(["triangle", "tetrahedron"])
    ('triangular bipyramid', 'octahedron', 'tetrahedron × triangle')
    """
    count = Counter(names)
    if len(names) == 1:
        return names[0]
    if set(count) == {"digon"}:
        return {2: "square", 3: "octahedron"}.get(len(names), f"{len(names)}-orthoplex")
    rest = [name for name in names if name != "digon"]
    if len(names) == 2 and count["digon"] == 1 and rest[0] in ADJECTIVES:
        return ADJECTIVES[rest[0]] + " bipyramid"
    return " × ".join(f"{c} {name}s" if c > 1 else name for name, c in sorted(count.items()))


ADJECTIVES = {
    "triangle": "triangular",
    "pentagon": "pentagonal",
    "hexagon": "hexagonal",
    "heptagon": "heptagonal",
    "octagon": "octagonal",
}


def residual(cosines: Matrix, shape: Shape) -> float:
    """How far directions with these cosines [k, k] are from a polytope with k vertices. Range: [0, ∞)."""
    return float(_residuals(cosines, *_invariants((shape,)))[0])


def _residuals(cosines: Matrix, spectra: Matrix, profiles: Matrix) -> Matrix:
    """Residuals [shapes] of one group against the invariants of shapes with as many vertices."""
    size = np.sqrt((profiles**2).sum((1, 2)))
    spectrum = np.linalg.eigvalsh(cosines)
    profile = np.sort(cosines, axis=1)
    apart = np.sqrt(((spectra - spectrum) ** 2).sum(1))
    # every library shape looks the same from each of its vertices, so rows need no order
    rows = np.sqrt(((profiles - profile) ** 2).sum((1, 2)))
    return np.maximum(apart, rows) / size


def _invariants(shapes: tuple[Shape, ...]) -> tuple[Matrix, Matrix]:
    """Eigenvalues [shapes, k] and sorted rows of cosines [shapes, k, k]."""
    grams = np.stack([shape.gram for shape in shapes])
    return np.linalg.eigvalsh(grams), np.sort(grams, axis=2)


@cache
def _library_invariants(k: int) -> tuple[Matrix, Matrix]:
    return _invariants(library(k))


def _nearest(cosines: Matrix) -> tuple[Shape | None, float]:
    shapes = library(len(cosines))
    if not shapes:
        return None, math.inf
    distances = _residuals(cosines, *_library_invariants(len(cosines)))
    best = int(distances.argmin())
    return shapes[best], float(distances[best])


def _split(cosines: Matrix) -> tuple[list[Shape], float]:
    """The best product of at least two library shapes, and its residual."""
    best: tuple[list[Shape], float] = ([], math.inf)
    tried = 1
    for threshold in SPLITS:
        parts = _components(cosines, threshold)
        if len(parts) <= tried:
            continue
        tried = len(parts)
        pairs = [_nearest(cosines[np.ix_(part, part)]) for part in parts]
        shapes = [shape for shape, _ in pairs if shape is not None]
        if len(shapes) < len(parts):
            continue
        inside = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
        order = np.concatenate(parts)
        between = cosines[np.ix_(order, order)][inside[:, None] != inside]
        sizes = [(shape.gram**2).sum() for shape in shapes]
        left = sum(r**2 * s for (_, r), s in zip(pairs, sizes, strict=True)) + (between**2).sum()
        distance = math.sqrt(left / sum(sizes))
        if distance < best[1]:
            best = shapes, distance
    return best


def _named(cosines: Matrix, members: Matrix, measured: float, tolerance: float) -> Polytope:
    whole, distance = _nearest(cosines)
    shapes = [] if whole is None else [whole]
    if distance > tolerance:
        factors, apart = _split(cosines)
        if apart < distance:
            shapes, distance = factors, apart
    nearest = product_name(sorted(shape.name for shape in shapes)) if shapes else ""
    if distance > tolerance:
        spread = float(np.trace(cosines) ** 2 / (cosines**2).sum())
        name, dimensions, fraction, tight = "irregular", math.ceil(spread - 1e-6), math.nan, False
    else:
        name, dimensions = nearest, sum(shape.dimensions for shape in shapes)
        fraction = sum(shape.fraction * len(shape.vertices) for shape in shapes) / len(members)
        tight = all(shape.tight for shape in shapes)
    return Polytope(name, nearest, distance, tuple(int(i) for i in members), dimensions, fraction, tight, measured)


def _components(cosines: Matrix, threshold: float) -> list[Matrix]:
    """Groups of rows that are connected by cosines above the threshold in size."""
    _, label = connected_components(np.abs(cosines) > threshold, directed=False)
    return [np.flatnonzero(label == k) for k in range(label.max() + 1)]


def _unit(points: Matrix) -> Matrix:
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _turned(y: float, z: float) -> Matrix:
    """The points (0, ±y, ±z) and their cyclic permutations of coordinates."""
    points = np.array([(0.0, s * y, t * z) for s, t in product((1, -1), repeat=2)])
    return np.concatenate([np.roll(points, shift, axis=1) for shift in range(3)])
