"""Directions of features from rows on which one feature is active alone: the rays of the data.

Where a single sparse feature is active, activations lie on a ray from the point where nothing is active. Such rows pile
up in one direction; rows with two active features spread over the arc between two rays, and noise over everything.

1. Origin: the densest point of the data, if many rows nearly coincide there (nothing active); else zero.
2. Directions of the rows, in coordinates in which the data is white: a linear map moves rays, and never bends them.
3. Caps around rows, the fullest first; a cap counts if it holds twice as many rows as any cap of a Gaussian.
4. Tightness: the share of a cap's rows within half of its radius. Rows that spread over m directions read (1/4)^(m/2):
   about 1 for a ray, 1/2 for an arc or a circle, 1/4 for a patch. Caps that are tighter than an arc beyond chance are
   rays, unless they are few rows between two fuller rays.
5. Explaining away: rows in the cone of two rays are two features at work; they are taken out, and the search goes on.
   Full caps that are still there and not tight are loose: curves, not features.

Limits: noise of a fifth of the signal opens the rays; with five features active at a time no row shows one alone.

Sources: sparse component analysis (Georgiev, Theis & Cichocki 2005); tightness is derived here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.stats import binom
from torch import Tensor

from ..errors import ConfigError

CAP = 0.985
"""Cosine from the axis of a cap to its edge."""
TIGHT = 0.7
CERTAIN = 1e-3
"""Chance with which an arc would look so tight."""
BETWEEN = 0.5
"""A cap between two rays must hold this share of the rows of the smaller one."""
EXCESS = 2.0
"""A cap counts if it is so many times fuller than the fullest cap of a Gaussian with as many rows."""
FEWEST = 6
"""Rows that a cap must hold at least."""
MOST_ROWS = 200_000
CENTERS = 10_000
"""Rows around which caps are tried."""
CONE = 0.03
"""Distance from the cone of two rays, relative to the row, at which a row lies in it."""
PARTNERS = 4
"""Nearest rays that are tried as the first of two."""
ROUNDS = 3
NEIGHBORS = 40
"""Neighbors by which the density of a point is judged."""
SHORTEST = 0.3
"""Length of a row, relative to the typical one, from which its direction is looked at: noise turns the shorter ones."""
MOST_LOOSE = 200
"""Loose caps that end a search: the data is a continuum."""
COINCIDENT = 0.05
"""Distance of those neighbors, relative to the typical one, at which rows coincide."""
PIECE = 2**24


@dataclass(frozen=True)
class Rays:
    """Directions that rows pile up in."""

    directions: Float[Tensor, "k d"]
    """Unit directions in the units' coordinates, away from the origin."""
    counts: Float[Tensor, " k"]
    """Rows in the cap of every ray."""
    tightness: Float[Tensor, " k"]
    """Range: (0.7, 1]."""
    loose: Float[Tensor, "l d"]
    """Directions of caps that are full but not tight."""
    loose_tightness: Float[Tensor, " l"]
    origin: Float[Tensor, " d"]
    """Where nothing is active."""
    floor: float
    """Rows that a cap must hold."""
    rows: int
    """Rows whose directions were compared."""
    covered: float
    """Share of them that lie in the cap of a ray."""


def rays(values: Float[Tensor, "n d"], generator: torch.Generator) -> Rays:
    """The rays of some activations. Cost: 20,000 d products for each of at most 200,000 rows: 10 s for d = 128.

    Raises: ConfigError for fewer than 100 rows or less than 2 dimensions.
    """
    if len(values) < 100 or values.shape[1] < 2:
        raise ConfigError(f"{len(values)} rows of {values.shape[1]} units", expected="at least 100 rows and 2 units")
    origin = densest(values, generator)
    z, back = _white(values - origin)
    u = _directions(z, generator)
    floor = max(float(FEWEST), EXCESS * _gaussian_cap(u, generator))
    found, left = _Caps(u.shape[1]), torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(ROUNDS):
        fresh = _search(u[left], floor, generator)
        before = len(found.axes)
        found = found.with_tight(fresh)
        if len(found.axes) == before:
            break
        left = ~(_inside(u, found.axes) | _in_cones(u, found.axes))
        if int(left.sum()) < FEWEST:
            break
    rest = _search(u[left], floor, generator) if int(left.sum()) >= FEWEST else _Caps(u.shape[1])
    loose = rest.tight < TIGHT
    outward = lambda axes: torch.nn.functional.normalize(axes.to(back) @ back, dim=1).to(values)  # noqa: E731
    return Rays(
        outward(found.axes), found.counts, found.tight, outward(rest.axes[loose]), rest.tight[loose], origin, floor,
        len(u), float(_inside(u, found.axes).double().mean()),
    )  # fmt: skip


def densest(values: Float[Tensor, "n d"], generator: torch.Generator) -> Float[Tensor, " d"]:
    """The point where many rows nearly coincide, or zero if there is none."""
    some = values[torch.randint(len(values), (min(len(values), 2000),), generator=generator).to(values.device)].float()
    apart = torch.cdist(some, some)
    distance = apart.kthvalue(min(NEIGHBORS, len(some) - 1), dim=1).values
    best = int(distance.argmin())
    close = COINCIDENT * float(distance.median())
    held = (apart <= max(close, float(distance[best]))).sum(1)
    far = apart[best] > 10 * close
    # Several points alike are the codes of a look-up table: none of them is where nothing is active.
    alone = not bool(far.any()) or int(held[far].max()) < BETWEEN * int(held[best])
    if float(distance[best]) > close or not alone:
        return torch.zeros_like(values[0])
    return some[apart[best] <= distance[best]].mean(0).to(values)


def _white(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n r"], Float[Tensor, "r d"]]:
    """Coordinates with the identity as second moment about the origin, and the way back."""
    wide = x.double()
    spread, axes = torch.linalg.eigh(wide.T @ wide / len(x))
    kept = spread > 1e-9 * spread.amax().clamp(min=1e-300)
    scale = spread[kept].sqrt()
    return (wide @ axes[:, kept] / scale).float(), (axes[:, kept] * scale).T.float()


def _directions(z: Float[Tensor, "n r"], generator: torch.Generator) -> Float[Tensor, "m r"]:
    """Directions of the rows that are not near the origin."""
    length = z.norm(dim=1)
    away = length > 1e-3 * length.amax()
    longer = (length >= SHORTEST * length[away].median()).nonzero()[:, 0]
    pick = torch.randperm(len(longer), generator=generator)[:MOST_ROWS].to(z.device)
    return torch.nn.functional.normalize(z[longer[pick]], dim=1)


def _gaussian_cap(u: Float[Tensor, "m r"], generator: torch.Generator) -> float:
    """Rows in the fullest cap of as many directions without structure."""
    g = torch.randn(u.shape, generator=generator).to(u)
    g = torch.nn.functional.normalize(g, dim=1)
    return float(_count(g[:1000], g).max())


def _count(centers: Float[Tensor, "c r"], u: Float[Tensor, "m r"]) -> Float[Tensor, " c"]:
    """Rows in the cap of every center."""
    pieces = centers.split(max(1, PIECE // max(1, len(u))))
    return torch.cat([(piece @ u.T > CAP).sum(1) for piece in pieces]).float()


@dataclass(frozen=True)
class _Caps:
    """Caps with their numbers of rows and their tightness."""

    r: int
    axes: Tensor = None  # type: ignore[assignment]
    counts: Tensor = None  # type: ignore[assignment]
    tight: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.axes is None:
            object.__setattr__(self, "axes", torch.zeros(0, self.r))
            object.__setattr__(self, "counts", torch.zeros(0))
            object.__setattr__(self, "tight", torch.zeros(0))

    def with_tight(self, others: "_Caps") -> "_Caps":
        """Also the rays among others, the fullest first."""
        axes, counts, tight = self.axes.to(others.axes), self.counts.to(others.axes), self.tight.to(others.axes)
        for i in others.counts.argsort(descending=True).tolist():
            axis, size, share = others.axes[i], float(others.counts[i]), float(others.tight[i])
            chance = float(binom.sf(round(share * size) - 1, round(size), 0.5))
            if share < TIGHT or chance > CERTAIN or (len(axes) and float((axes @ axis).amax()) > CAP):
                continue
            if size < BETWEEN * _pair_between(axis, axes, counts):
                continue
            axes, counts, tight = (
                torch.cat([old, new])
                for old, new in ((axes, axis[None]), (counts, others.counts[i, None]), (tight, others.tight[i, None]))
            )
        return _Caps(self.r, axes, counts, tight)


def _pair_between(axis: Float[Tensor, " r"], axes: Float[Tensor, "k r"], counts: Float[Tensor, " k"]) -> float:
    """Rows of the smaller of two rays that an axis lies between, the emptiest such pair; 0 if there is none."""
    if len(axes) < 2:
        return 0.0
    cosines, gram = axes @ axis, axes @ axes.T
    free = (1 - gram.square()).clamp(min=1e-6)
    first, second = (cosines[:, None] - gram * cosines) / free, (cosines - gram * cosines[:, None]) / free
    explained = first * cosines[:, None] + second * cosines
    between = (first > 0) & (second > 0) & (gram < CAP) & (explained > 1 - CONE**2)
    smaller = torch.minimum(counts[:, None], counts)
    return float(smaller[between].amin()) if bool(between.any()) else 0.0


def _search(u: Float[Tensor, "m r"], floor: float, generator: torch.Generator) -> _Caps:
    """Full caps, the fullest first; every row belongs to the first cap that holds it."""
    pick = torch.randperm(len(u), generator=generator)[:CENTERS].to(u.device)
    centers, free = u[pick], torch.ones(len(u), dtype=torch.bool, device=u.device)
    counts = _count(centers, u)
    axes, sizes, tights = [], [], []
    while len(counts) and float(counts.max()) >= floor and sum(t < TIGHT for t in tights) < MOST_LOOSE:
        axis = centers[int(counts.argmax())]
        for _ in range(3):
            axis = torch.nn.functional.normalize(u[(u @ axis > CAP) & free].mean(0), dim=0)
        members = (u @ axis > CAP) & free
        size = int(members.sum())
        if size < floor:  # the mean moved away from its cap: never try this center again
            counts[int(counts.argmax())] = 0
            continue
        # Of all rows in the cap, those of earlier caps too: what those left of an arc is no ray.
        height = 1 - u @ axis
        axes.append(axis)
        sizes.append(float(size))
        tights.append(float((height < (1 - CAP) / 4).sum() / (height < 1 - CAP).sum()))
        free &= ~members
        counts -= _count(centers, u[members])
    if not axes:
        return _Caps(u.shape[1])
    return _Caps(u.shape[1], torch.stack(axes), torch.tensor(sizes).to(u), torch.tensor(tights).to(u))


def _inside(u: Float[Tensor, "m r"], axes: Float[Tensor, "k r"]) -> Bool[Tensor, " m"]:
    if not len(axes):
        return torch.zeros(len(u), dtype=torch.bool, device=u.device)
    return torch.cat([(part @ axes.T).amax(1) > CAP for part in u.split(max(1, PIECE // len(axes)))])


def _in_cones(u: Float[Tensor, "m r"], axes: Float[Tensor, "k r"]) -> Bool[Tensor, " m"]:
    """Rows that are non-negative combinations of two rays."""
    if len(axes) < 2:
        return torch.zeros(len(u), dtype=torch.bool, device=u.device)
    return torch.cat([_in_cone(part, axes) for part in u.split(max(1, PIECE // (8 * len(axes))))])


def _in_cone(u: Float[Tensor, "m r"], axes: Float[Tensor, "k r"]) -> Bool[Tensor, " m"]:
    cosines, gram = u @ axes.T, axes @ axes.T
    inside = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    for first in cosines.topk(min(PARTNERS, len(axes)), dim=1).indices.T:
        a, g = cosines.gather(1, first[:, None]), gram[first]
        # least squares on the pairs (first, every other): coefficients and what they explain
        free = (1 - g.square()).clamp(min=1e-6)
        on_other, on_first = (cosines - g * a) / free, (a - g * cosines) / free
        explained = on_first * a + on_other * cosines
        explained = torch.where((on_other > 0) & (on_first > 0) & (g < CAP), explained, 0.0)
        inside |= explained.amax(1) > 1 - CONE**2
    return inside
