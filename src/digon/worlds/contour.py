"""The exact loss of `worlds/population`, readable and differentiable: the reference of the compiled engine, and the GPU path.

The names are those of the formula there. Every output of every network is one row; rows are independent.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .features import Features, moments, second_moments

LINE = 3.0
"""c T: how far right of zero the line of integration runs."""
TAIL = 30.0
"""|z| may exceed the period with probability e^{−TAIL}."""
FEWEST, MOST = 256, 16384
"""Nodes that the automatic choice starts with and ends at."""
TOLERANCE = 1e-9
"""Change of an output's loss under doubled nodes, relative to the loss of its instance, that counts as none."""
FLOOR = 1e-3
"""Part of E[x²] that is added to a loss before something is called small against it: losses can be 0."""
PIECE = 2_000_000
"""Complex numbers in one tensor at a time."""


def linear_loss(W: Tensor, V: Tensor, b: Float[Tensor, "i n"], law: Features) -> Float[Tensor, " i"]:
    """Loss of linear outputs, from moments."""
    rows = _rows(W, V, b, law)
    each = rows.target - 2 * rows.with_own() + rows.square()
    return _summed(each, law, b)


def contour_loss(W: Tensor, V: Tensor, b: Tensor, law: Features, nodes: int | None) -> Float[Tensor, " i"]:
    """Loss of ReLU outputs, with so many nodes per row, or as many as it takes."""
    rows = _rows(W, V, b, law)
    if nodes is not None:
        return _summed(_clipped(rows, nodes), law, b)
    with torch.no_grad():
        needed = _nodes_needed(rows, law, b)
    each = torch.zeros_like(rows.b)
    for count in needed.unique().tolist():
        chosen = (needed == count).nonzero()[:, 0]
        each = each.index_put((chosen,), _clipped(rows.take(chosen), int(count)))
    return _summed(each, law, b)


def _nodes_needed(rows: "_Rows", law: Features, b: Tensor) -> Int[Tensor, " r"]:
    importance = law.importance.to(b).expand(b.shape)
    needed = torch.full_like(rows.own, 2 * FEWEST)
    coarse, open_ = _clipped(rows, FEWEST), torch.arange(len(rows.own), device=b.device)
    count, loss = FEWEST, None
    while count < MOST and len(open_):
        count *= 2
        fine = _clipped(rows.take(open_), count)
        needed[open_] = count
        change = (fine - coarse).abs() * importance.flatten()[open_]
        if loss is None:
            total = (importance * (fine.view(b.shape) + FLOOR * rows.target.view(b.shape))).sum(-1, keepdim=True)
            loss = total.expand(b.shape).flatten()
        still = change > TOLERANCE * loss[open_] / b.shape[1] ** 0.5
        open_, coarse = open_[still], fine[still]
    return needed


def _summed(each: Float[Tensor, " r"], law: Features, b: Float[Tensor, "i n"]) -> Float[Tensor, " i"]:
    return (law.importance.to(b) * each.view(b.shape)).sum(-1)


@dataclass(frozen=True)
class _Rows:
    """One row per output of every instance: z = b + a·x, which should equal feature `own`."""

    a: Float[Tensor, "r n"]
    b: Float[Tensor, " r"]
    own: Int[Tensor, " r"]
    density: Float[Tensor, "r n"]
    mean: Float[Tensor, "r n"]
    """E[x]."""
    spread: Float[Tensor, " r"]
    """E[(a·x)²]."""
    pull: Float[Tensor, " r"]
    """E[x_own a·x]."""
    target: Float[Tensor, " r"]
    """E[x_own²]."""
    law: Features

    def take(self, chosen: Int[Tensor, " s"]) -> "_Rows":
        """Some rows."""
        parts = (self.a, self.b, self.own, self.density, self.mean, self.spread, self.pull, self.target)
        return _Rows(*(part[chosen] for part in parts), law=self.law)

    def at_own(self, x: Tensor) -> Tensor:
        """The entry of feature `own`, [r n ...] -> [r ...]."""
        return x[torch.arange(len(self.own), device=x.device), self.own]

    def level(self) -> Float[Tensor, " r"]:
        """E[z]."""
        return self.b + (self.a * self.mean).sum(-1)

    def square(self) -> Float[Tensor, " r"]:
        """E[z²]."""
        return self.b.square() + 2 * self.b * (self.a * self.mean).sum(-1) + self.spread

    def with_own(self) -> Float[Tensor, " r"]:
        """E[x_own z]."""
        return self.b * self.at_own(self.mean) + self.pull


def _rows(W: Float[Tensor, "i n m"], V: Float[Tensor, "i n m"], b: Float[Tensor, "i n"], law: Features) -> _Rows:
    count, n = b.shape
    gram = W @ V.mT
    mean, second = (v.to(W) for v in second_moments(law))
    pulls = gram @ second  # symmetric second moments: row j holds E[x (a·x)]
    wide = mean.expand(count, n)[:, None].expand(count, n, n).reshape(-1, n)
    density = law.density.to(W).expand(count, n)[:, None].expand(count, n, n).reshape(-1, n)
    return _Rows(
        a=gram.reshape(-1, n),
        b=b.reshape(-1),
        own=torch.arange(n, device=W.device).repeat(count),
        density=density,
        mean=wide,
        spread=(pulls * gram).sum(-1).reshape(-1),
        pull=pulls.diagonal(dim1=-2, dim2=-1).reshape(-1),
        target=second.diagonal(dim1=-2, dim2=-1).expand(count, n).reshape(-1),
        law=law,
    )


def _groups(law: Features) -> list[tuple[str, list[int]]]:
    """Independent parts of the law: all single features together, then every set."""
    grouped = {i for group in law.sets for i in group.members}
    single = [i for i in range(law.n) if i not in grouped]
    parts: list[tuple[str, list[int]]] = [("single", single)] if single else []
    return parts + [(group.kind, list(group.members)) for group in law.sets]


def _clipped(rows: _Rows, nodes: int) -> Float[Tensor, " r"]:
    """E[(x_own − ReLU(z))²] of every row, in pieces that fit into memory."""
    size = max(1, PIECE // (rows.a.shape[1] * (nodes + 1)))
    pieces = torch.arange(len(rows.own), device=rows.b.device).split(size)
    grad = torch.is_grad_enabled() and (rows.a.requires_grad or rows.b.requires_grad)
    out = []
    for piece in pieces:
        part = rows if len(pieces) == 1 else rows.take(piece)
        out.append(
            checkpoint(_piece, part, nodes, use_reentrant=False) if grad and len(pieces) > 1 else _piece(part, nodes)
        )
    return torch.cat(out)


def _piece(rows: _Rows, nodes: int) -> Float[Tensor, " r"]:
    high, low = _range(rows)
    none, one, any_one = _rare(rows)
    few = none * rows.b.relu().square() + (one * _one_active(rows)).sum(-1)
    first, second = moments(rows.law.values)
    own_one = rows.at_own(one)
    # what is left once the two events are taken out
    share = 1 - none - any_one
    level = rows.level() - none * rows.b - (one * (rows.b[:, None] + rows.a * first)).sum(-1)
    b = rows.b[:, None]
    square = rows.square() - none * rows.b.square()
    square = square - (one * (b.square() + 2 * b * rows.a * first + rows.a.square() * second)).sum(-1)
    own_mean = rows.at_own(rows.mean) - own_one * first
    with_own = rows.with_own() - own_one * (rows.b * first + rows.at_own(rows.a) * second)
    period = _period(rows)
    relu2, own_relu = _integrals(rows, none, one, period, nodes)
    q = math.exp(-LINE)
    s0, s1, s2 = q / (1 - q), q / (1 - q) ** 2, q * (1 + q) / (1 - q) ** 3
    relu2 = relu2 - s0 * square - 2 * s1 * period * level - s2 * period.square() * share
    own_relu = own_relu - s0 * with_own - s1 * period * own_mean
    partly = few + (rows.target - own_one * second) - 2 * own_relu + relu2
    whole = rows.target - 2 * rows.with_own() + rows.square()
    return torch.where(high <= 0, rows.target, torch.where(low >= 0, whole, partly))


def _integrals(rows: _Rows, none: Tensor, one: Tensor, period: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Trapezoidal sums for E[ReLU(z)²] and E[x_own ReLU(z)] without the events done in closed form."""
    k = torch.arange(nodes + 1, dtype=rows.b.dtype, device=rows.b.device)
    s = torch.complex((LINE / period)[:, None].expand(-1, nodes + 1), 2 * math.pi * k / period[:, None])
    w = rows.a[..., None] * s[:, None]
    d = transform(w, rows.law.values)
    own_slope = transform_slope(rows.at_own(w), rows.law.values)
    density, own = rows.density.to(s), rows.own[:, None]
    everything, others, mine = torch.ones_like(s), torch.ones_like(s), torch.zeros_like(s)
    for kind, members in _groups(rows.law):
        p, dm = density[:, members, None], d[:, members]
        at = own == torch.tensor(members, device=own.device)  # [r members]
        inside = at.any(-1)[:, None]
        if kind == "single":
            factors = 1 - p + p * dm
            rest = torch.where(at[..., None], 1.0, factors).prod(1)
            hit = (at[..., None] * factors).sum(1)
            everything = everything * rest * torch.where(inside, hit, 1.0)
            others = others * rest
            mine = mine + (at[..., None] * p).sum(1) * own_slope
            continue
        if kind == "correlated":
            factor = 1 - p[:, 0] + p[:, 0] * dm.prod(1)
            weighted = p[:, 0] * torch.where(at[..., None], 1.0, dm).prod(1) * own_slope
        else:
            factor = 1 - p.sum(1) + (p * dm).sum(1)
            weighted = (at[..., None] * p).sum(1) * own_slope
        everything = everything * factor
        others = others * torch.where(inside, 1.0, factor)
        mine = mine + torch.where(inside, weighted, 0.0)
    shift = (rows.b[:, None] * s).exp()
    left = everything - none[:, None] - (one[..., None] * d).sum(1)
    left_own = others * mine - rows.at_own(one)[:, None] * own_slope
    weight = torch.where(k == 0, 1.0, 2.0) / period[:, None]
    relu2 = (weight * (shift * left * 2 / s**3).real).sum(-1)
    return relu2, (weight * (shift * left_own / s**2).real).sum(-1)


def transform(w: Complex[Tensor, "..."], values: str) -> Complex[Tensor, "..."]:
    """E[e^{wx}] of an active feature: (eʷ − 1)/w for U[0,1], sinh(w)/w for U[−1,1]."""
    near = w.abs() < 0.5
    safe, small = torch.where(near, 1.0, w), torch.where(near, w, 0.0)
    if values == "uniform":
        return torch.where(
            near, _series(small, [1 / math.factorial(k + 1) for k in range(15)]), (safe.exp() - 1) / safe
        )
    even = [1 / math.factorial(2 * k + 1) for k in range(9)]
    return torch.where(near, _series(small.square(), even), safe.sinh() / safe)


def transform_slope(w: Complex[Tensor, "..."], values: str) -> Complex[Tensor, "..."]:
    """E[x e^{wx}] of an active feature: the derivative of `transform`."""
    near = w.abs() < 0.5
    safe, small = torch.where(near, 1.0, w), torch.where(near, w, 0.0)
    if values == "uniform":
        series = _series(small, [(k + 1) / math.factorial(k + 2) for k in range(15)])
        return torch.where(near, series, (safe.exp() * (safe - 1) + 1) / safe**2)
    odd = [2 * (k + 1) / math.factorial(2 * k + 3) for k in range(9)]
    return torch.where(near, small * _series(small.square(), odd), (safe * safe.cosh() - safe.sinh()) / safe**2)


def _series(w: Tensor, coefficients: list[float]) -> Tensor:
    total = torch.full_like(w, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * w + c
    return total


def one_active(h: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """∫₀¹ (h x − ReLU(g x + b))² dx, elementwise.

    The ends of the interval where the ReLU is open are constants for the gradient: the integrand is continuous there.
    """
    with torch.no_grad():
        edge = torch.where(g == 0, 0.0, -b / torch.where(g == 0, 1.0, g)).clamp(0, 1)
        left = torch.where(g > 0, edge, 0.0)
        right = torch.where(g < 0, edge, 1.0)
        right = torch.where((g == 0) & (b <= 0), 0.0, right)
    cube, square, length = right**3 - left**3, right**2 - left**2, right - left
    return h**2 / 3 + (g**2 - 2 * h * g) * cube / 3 - (h - g) * b * square + b**2 * length


def _one_active(rows: _Rows) -> Float[Tensor, "r n"]:
    """Loss of the row if only feature i is active."""
    h = (torch.arange(rows.a.shape[1], device=rows.own.device) == rows.own[:, None]).to(rows.a)
    b = rows.b[:, None]
    plus = one_active(h, rows.a, b)
    return plus if rows.law.values == "uniform" else (plus + one_active(-h, -rows.a, b)) / 2


def _rare(rows: _Rows) -> tuple[Float[Tensor, " r"], Float[Tensor, "r n"], Float[Tensor, " r"]]:
    """P(nothing active), P(only feature i active) where that event is done in closed form, and its sum over i."""
    p = rows.density
    idle, owner = [], torch.zeros(p.shape[1], dtype=torch.long, device=p.device)
    slow = torch.ones(p.shape[1], dtype=p.dtype, device=p.device)
    for kind, members in _groups(rows.law):
        if kind == "single":
            owner[members] = torch.arange(len(members), device=p.device)
            idle += [1 - p[:, i] for i in members]
            continue
        owner[members] = len(idle)
        slow[members] = float(kind == "anticorrelated")
        idle.append(1 - (p[:, members[0]] if kind == "correlated" else p[:, members].sum(1)))
    idle = torch.stack(idle, 1).clamp_min(0)
    before = torch.cat([torch.ones_like(idle[:, :1]), idle.cumprod(1)[:, :-1]], 1)
    after = torch.cat([idle.flip(1).cumprod(1).flip(1)[:, 1:], torch.ones_like(idle[:, :1])], 1)
    one = slow * p * (before * after)[:, owner]
    return idle.prod(1), one, one.sum(1)


def _parts(rows: _Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Greatest, least, mean and variance [r groups] of every independent part of a·x."""
    a, columns = rows.a.detach(), []
    first, second = moments(rows.law.values)
    for kind, members in _groups(rows.law):
        am, p = a[:, members], rows.density[:, members]
        up, down = (am.clamp_min(0), am.clamp_max(0)) if rows.law.values == "uniform" else (am.abs(), -am.abs())
        mean, square = am * p * first, am.square() * p * second
        if kind == "single":
            columns.append((up, down, mean, square - mean.square()))
            continue
        if kind == "correlated":
            up, down = up.sum(1), down.sum(1)
            total = (am * first).sum(1)
            square = p[:, 0] * (total.square() + (am.square() * (second - first**2)).sum(1))
        else:
            up, down, square = up.amax(1), down.amin(1), square.sum(1)
        mean = mean.sum(1)
        columns.append(tuple(v[:, None] for v in (up, down, mean, square - mean.square())))
    up, down, mean, variance = (torch.cat(v, 1) for v in zip(*columns, strict=True))
    return up, down, mean, variance


def _range(rows: _Rows) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Greatest and least possible z."""
    up, down, _, _ = _parts(rows)
    b = rows.b.detach()
    return b + up.sum(1), b + down.sum(1)


def _period(rows: _Rows, tail: float = TAIL) -> Float[Tensor, " r"]:
    """T with |z| ≤ T except with probability e^{−tail}: the large parts at their worst, the small ones by Bernstein."""
    up, down, mean, variance = _parts(rows)
    size = torch.maximum(up, -down)
    order = size.argsort(1, descending=True)
    up, down, mean, variance, size = (v.gather(1, order) for v in (up, down, mean, variance, size))
    none = torch.zeros_like(size[:, :1])

    def before(v: Tensor) -> Tensor:
        return torch.cat([none, v.cumsum(1)], 1)

    def after(v: Tensor) -> Tensor:
        return torch.cat([v.flip(1).cumsum(1).flip(1), none], 1)

    third = torch.cat([size, none], 1) * tail / 3
    slack = third + (third.square() + 2 * tail * after(variance).clamp_min(0)).sqrt()
    high = rows.b.detach()[:, None] + before(up) + after(mean) + slack
    low = rows.b.detach()[:, None] + before(down) + after(mean) - slack
    return torch.maximum(high, -low).amin(1).clamp_min(1e-9)
