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
from jaxtyping import Bool, Float, Int
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
MOST_ROWS, MOST_NUMBERS = 200_000, 10**8
"""Rows, and rows times units, that are looked at: 65,000 rows of 1,536 units."""
CENTERS = 10_000
"""Rows around which caps are tried at most."""
WORK = 7e9
"""Products that a search may cost, over √r: 8·10¹⁰ for 128 dimensions."""
BATCH = 256
"""Caps that are moved together: they do not touch each other."""
APART = 2 * CAP**2 - 1
"""Cosine of two caps that do not touch."""
CONE = 0.03
"""Distance from the cone of two rays, relative to the row, at which a row lies in it."""
PARTNERS = 4
"""Nearest rays that are tried as the first of two."""
ROUNDS = 4
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
    """The rays of some activations. Cost: 8·10¹⁰ products for 128 dimensions, a few times over.

    Rows beyond 200,000, and beyond 10⁸ numbers, are thinned evenly.

    Raises: ConfigError for fewer than 100 rows, less than 2 units that vary, or values that are not finite.
    """
    n, d = values.shape
    rows = min(n, MOST_ROWS, max(1, MOST_NUMBERS // max(1, d)))
    x = values[torch.linspace(0, max(0, n - 1), rows).long().to(values.device)].float()
    if rows and not bool(x.sum(dtype=torch.float64).isfinite()):
        raise ConfigError("NaN or infinity", expected="rows of finite numbers")
    varying = int((x.amax(0) > x.amin(0)).sum()) if rows else 0
    if rows < 100 or varying < 2:
        raise ConfigError(
            f"{rows} rows of {varying} units that vary", expected="at least 100 rows and 2 units that vary"
        )
    origin = densest(x, generator)
    z, back = _white(x - origin)
    u = _directions(z, generator)
    floor = max(float(FEWEST), EXCESS * _gaussian_cap(u, generator))
    found, rest, left = _Caps.none(u), None, torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(ROUNDS):
        rest = _search(u[left], floor, generator)
        before = len(found.axes)
        found = found.with_tight(rest)
        if len(found.axes) == before:
            break
        rest = None
        left = ~(_inside(u, found.axes) | _in_cones(u, found.axes))
        if int(left.sum()) < FEWEST:
            break
    if rest is None:
        rest = _search(u[left], floor, generator) if int(left.sum()) >= FEWEST else _Caps.none(u)
    loose = rest.tight < TIGHT
    outward = lambda axes: torch.nn.functional.normalize(axes @ back, dim=1).to(values)  # noqa: E731
    return Rays(
        outward(found.axes), found.counts, found.tight, outward(rest.axes[loose]), rest.tight[loose], origin.to(values),
        floor, len(u), float(_inside(u, found.axes).double().mean()),
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
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(max(1, PIECE // (4 * x.shape[1]))):
        wide = part.double()
        total += wide.T @ wide
    spread, axes = torch.linalg.eigh(total / len(x))
    kept = spread > 1e-9 * spread.amax().clamp(min=1e-300)
    scale, axes = spread[kept].sqrt(), axes[:, kept]
    return x @ (axes / scale).to(x), (axes * scale).T.to(x)


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
    """Rows in the cap of every center. Sums of ones by a product: several times faster than counting booleans."""
    counts = torch.zeros(len(centers), device=u.device)
    some = max(1, min(len(centers), 2048))
    for at, rows in ((a, part) for a in range(0, len(centers), some) for part in u.split(max(64, 2**22 // some))):
        cosines = rows @ centers[at : at + some].T
        counts[at : at + some] += torch.ones(len(rows), device=u.device) @ torch.gt(cosines, CAP, out=cosines)
    return counts


@dataclass(frozen=True)
class _Caps:
    """Caps with their numbers of rows and their tightness."""

    axes: Float[Tensor, "k r"]
    counts: Float[Tensor, " k"]
    tight: Float[Tensor, " k"]

    @staticmethod
    def none(like: Float[Tensor, "m r"]) -> "_Caps":
        return _Caps(like[:0], like.new_zeros(0), like.new_zeros(0))

    def with_tight(self, others: "_Caps") -> "_Caps":
        """Also the rays among others, the fullest first."""
        axes, counts, tight = self.axes, self.counts, self.tight
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
        return _Caps(axes, counts, tight)


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
    most = min(CENTERS, max(1000, int(WORK / (len(u) * u.shape[1] ** 0.5))))
    pick = torch.randperm(len(u), generator=generator)[:most].to(u.device)
    centers, free = u[pick], torch.ones(len(u), dtype=torch.bool, device=u.device)
    counts, found = _count(centers, u), _Caps.none(u)
    while len(centers) and int((found.tight < TIGHT).sum()) < MOST_LOOSE:
        tried = _fullest(centers, counts, floor)
        if not len(tried):
            break
        batch, members = _settled(u, centers[tried], free, floor)
        found = _Caps(*(torch.cat([a, b]) for a, b in zip(_parts(found), _parts(batch), strict=True)))
        # A center whose cap moved away from it is never tried again.
        kept = torch.ones(len(centers), dtype=torch.bool, device=u.device)
        kept[tried] = False
        centers, counts = centers[kept], counts[kept]
        if bool(members.any()) and len(centers):
            free &= ~members
            counts = counts - _count(centers, u[members])
            centers, counts = centers[counts >= floor], counts[counts >= floor]
    return found


def _parts(caps: _Caps) -> tuple[Tensor, Tensor, Tensor]:
    return caps.axes, caps.counts, caps.tight


def _fullest(centers: Float[Tensor, "c r"], counts: Float[Tensor, " c"], floor: float) -> Int[Tensor, " b"]:
    """The fullest caps that do not touch each other."""
    open, chosen = torch.where(counts >= floor, counts, 0.0), []
    while len(chosen) < BATCH and float(open.max()) > 0:
        chosen.append(int(open.argmax()))
        open = torch.where(centers @ centers[chosen[-1]] < APART, open, 0.0)
    return torch.tensor(chosen, dtype=torch.long, device=centers.device)


def _settled(
    u: Float[Tensor, "m r"], axes: Float[Tensor, "b r"], free: Bool[Tensor, " m"], floor: float
) -> tuple[_Caps, Bool[Tensor, " m"]]:
    """Caps moved to the mean of their free rows, those that are still full, and the rows they hold."""
    pieces = max(64, PIECE // (4 * len(axes)))
    for _ in range(3):
        total = torch.zeros_like(axes)
        for part, open in zip(u.split(pieces), free.split(pieces), strict=True):
            cosines = part @ axes.T
            total += (torch.gt(cosines, CAP, out=cosines) * open[:, None]).T @ part
        moved = total.norm(dim=1, keepdim=True) > 0
        axes = torch.where(moved, torch.nn.functional.normalize(total, dim=1), axes)
    sizes, near, held = (axes.new_zeros(len(axes)) for _ in range(3))
    owner = torch.full((len(u),), -1, device=u.device)
    for at, part in zip(range(0, len(u), pieces), u.split(pieces), strict=True):
        cosines = part @ axes.T
        inside = cosines > CAP
        # Of all rows in the cap, those of earlier caps too: what those left of an arc is no ray.
        near += (cosines > 1 - (1 - CAP) / 4).sum(0)
        held += inside.sum(0)
        own = torch.where(inside.any(1) & free[at : at + len(part)], inside.int().argmax(1), -1)
        owner[at : at + len(part)] = own
        sizes += torch.bincount(own[own >= 0], minlength=len(axes))
    full = sizes >= floor
    members = (owner >= 0) & full[owner.clamp(min=0)]
    return _Caps(axes[full], sizes[full], near[full] / held[full].clamp(min=1)), members


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
