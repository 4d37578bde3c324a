"""What does a tiny toy network lose, exactly? Closed forms, no sampling, no truncation.

With x and every y_j uniform on [0, 1], the pre-activation of an output is g x + Σ c_j y_j + b. The squared error of one
feature, integrated over x, is a piecewise cubic polynomial of b. Integrating over one more y keeps it piecewise
polynomial, with known breaks, and Gauss–Legendre nodes between the breaks integrate polynomials without error. So the
loss of the ReLU-output model is exact to rounding, at a cost of about (2^n)^(n/2) nodes: meant for n ≤ 4, and as the
oracle for faster methods.

    own error        A(g, b)  = ∫ (x − ReLU(g x + b))² dx
    interference     C(c, b)  = ∫ ReLU(c x + b)² dx
    of n features    Σ_i I_i Σ_K P(K) E[(x_i − ReLU(z_i))² | the features in K are active]

Density p is P(a feature is active). All functions broadcast and are differentiable.

Source: the one-feature integrals of Elhage et al. 2022, "Toy Models of Superposition" (mathematical section); the
phases and the onset curve are derived here.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from .features import Features
from .population import expected_loss, has_numba

MOST_FEATURES = 5
"""Beyond this many features the number of pieces explodes."""


def variance(density: Tensor) -> Tensor:
    """Variance of one sparse uniform feature: what ignoring it costs with the best bias, density / 2.

    Range: (0, 1/9]. Unit: squared feature.

    >>> round(variance(torch.tensor(1.0)).item(), 6)  # the variance of U[0, 1]
    0.083333
    """
    return density / 3 - density.square() / 4


def own_error(g: Tensor, b: Tensor) -> Tensor:
    """A(g, b): squared error of a feature that is active alone, with squared norm g ≥ 0 and bias b.

    >>> own_error(torch.tensor(1.0), torch.tensor(0.0)).item()  # a feature of its own loses nothing
    0.0
    """
    g, b = torch.broadcast_tensors(g, b)
    start = _first_active(g, b)
    gap = 1 - g
    active = gap.square() * (1 - start**3) / 3 - gap * b * (1 - start.square()) + b.square() * (1 - start)
    return start**3 / 3 + active


def interference_error(c: Tensor, b: Tensor) -> Tensor:
    """C(c, b): squared output of a feature that is silent, when another one with inner product c is active.

    >>> interference_error(torch.tensor(-1.0), torch.tensor(0.0)).item()  # antipodal features do not disturb
    0.0
    """
    c, b = torch.broadcast_tensors(c, b)
    start = torch.where(c > 0, _first_active(c, b), torch.zeros_like(b))
    # A falling line is active from the left end to its zero.
    stop = torch.where(c < 0, 1 - _first_active(-c, b + c), torch.ones_like(b))
    active = c.square() * (stop**3 - start**3) / 3 + c * b * (stop.square() - start.square())
    return torch.where((stop > start) & ((b > 0) | (b + c > 0)), active + b.square() * (stop - start), 0.0)


def joint_error(g: Tensor, others: Sequence[Tensor], b: Tensor) -> Tensor:
    """E (x − ReLU(g x + Σ c_j y_j + b))² over x and all y_j: a feature active together with `others` (their c_j)."""
    return _average(own_error, g, others, b)


def joint_interference(others: Sequence[Tensor], b: Tensor) -> Tensor:
    """E ReLU(Σ c_j y_j + b)² over all y_j: the output of a silent feature."""
    if not others:
        return b.clamp(min=0).square()
    return _average(interference_error, others[0], others[1:], b)


def small_loss(
    W: Float[Tensor, "i n m"],
    b: Float[Tensor, "i n"],
    density: Float[Tensor, "*i n"],
    importance: Float[Tensor, "*j n"],
    *,
    engine: Literal["auto", "torch"] = "auto",
) -> Float[Tensor, " i"]:
    """Expected loss of x' = ReLU(x W Wᵀ + b), summed over features, for independent sparse uniform features.

    "auto" takes the compiled closed form of two or three features, hundreds of times faster, where it can; second
    derivatives need "torch".

    Range: ≥ 0. Raises: ConfigError for more than `MOST_FEATURES` features. Source: module docstring.
    """
    n = W.shape[1]
    if engine == "auto" and n in (2, 3) and _plain(W, b, density, importance):
        return expected_loss(W, b, Features(density, importance), engine="auto")
    if n > MOST_FEATURES:
        raise ConfigError(
            f"closed form of {n} features",
            expected=f"at most {MOST_FEATURES}",
            hint="use expected_loss of worlds/population",
        )
    gram, p, weight = W @ W.mT, density.expand(b.shape), importance.expand(b.shape)
    rows, g, own = torch.arange(n)[:, None], gram.diagonal(dim1=-2, dim2=-1), p[..., None]
    total = torch.zeros_like(b)
    for size in range(n):
        active, silent = _subsets(n, size)  # [n sets size], [n sets rest]
        share = p[:, active].prod(-1) * (1 - p[:, silent]).prod(-1)
        c = [gram[:, rows, active[..., k]] for k in range(size)]
        wide_g, wide_b = (v[..., None].expand(share.shape) for v in (g, b))
        error = own * joint_error(wide_g, c, wide_b) + (1 - own) * joint_interference(c, wide_b)
        total = total + (share * error).sum(-1)
    return (weight * total).sum(-1)


def _plain(W: Tensor, b: Tensor, density: Tensor, importance: Tensor) -> bool:
    """Whether the compiled engine can stand in: float64 on the CPU, and only the network varies."""
    fixed = not (density.requires_grad or importance.requires_grad)
    here = all(v.dtype == torch.float64 and v.device.type == "cpu" for v in (W, b))
    return (
        here and fixed and has_numba() and bool((density > 0).all()) and bool(W.isfinite().all() and b.isfinite().all())
    )


def digon_loss(density: Tensor, bias: Tensor) -> Tensor:
    """Loss per feature of a unit antipodal pair whose two biases are `bias` in [−1, 1].

    Best at about density² / (6 (1 − density)) > 0; a negative bias never helps. With bias 0: density² / 6.
    """
    p, b = density, bias
    up = p**2 / 6 - p**2 / 3 * b + (1 - p) * b**2 + (p / 3 + p**2 / 3) * b**3 - p**2 / 6 * b**4
    t = -b
    down = p**2 / 6 + p**2 / 3 * t + (p - p**2) * t**2 - (2 * p / 3 - p**2 / 3) * t**3 + p**2 / 6 * t**4
    return torch.where(b >= 0, up, down)


def triangle_loss(density: Tensor) -> Tensor:
    """Loss per feature of three unit vectors at 120 degrees without bias: density² / 8 + density³ / 24."""
    return density**2 / 8 + density**3 / 24


def linear_loss(density: Tensor, importance: Float[Tensor, " n"], m: int) -> Tensor:
    """Least loss of the linear model: the m most important features are kept, the others cost their variance."""
    return variance(density) * importance.sort(descending=True).values[m:].sum()


def digons_loss(density: float, importance: Float[Tensor, " n"], m: int) -> tuple[float, int, int]:
    """Best loss if features are dedicated, in unit antipodal pairs, or ignored; with the counts (represented, dedicated)."""
    ranked, p = importance.sort(descending=True).values.double(), torch.tensor(density, dtype=torch.float64)
    options: list[tuple[float, int, int]] = []
    for dedicated in range(max(0, 2 * m - len(ranked)), m + 1):
        represented = 2 * m - dedicated
        paired, ignored = ranked[dedicated:represented].sum(), ranked[represented:].sum()
        options.append((float(paired * p**2 / 6 + ignored * variance(p)), represented, dedicated))
    return min(options)


def onset_importance(density: Tensor) -> Tensor:
    """Relative importance at which an ignored second feature (n = 2, m = 1) first appears, continuously, as it grows.

    Weak antipodal: w = (1, −ε). Below this importance the ignored state is stable. For importance under about 0.57 a
    first-order jump to a strong antipodal pair comes first. Range: (0, 1). Source: second variation of the exact loss
    around w = (1, 0), b = (0, p/2), with the first feature's bias following as β ε.
    """
    p = density
    square, line = p * (1 - p), p / 2 + 2 * (1 - p) ** 2
    # The stable form of the positive root: at density 1 the equation is linear.
    beta = 2 * (p.square() / 4) / (line + (line.square() + 4 * square * p.square() / 4).sqrt())
    shifted = p * (variance(p) + (beta - p / 2).square() / 4) + (1 - p) * (p * beta**3 / 3 + (1 - p) * beta.square())
    return shifted / variance(p)


def _first_active(slope: Tensor, b: Tensor) -> Tensor:
    """Where slope x + b becomes positive on [0, 1], for slope ≥ 0. Detached: the integrands agree on both sides of it."""
    slope, b = slope.detach(), b.detach()
    safe = torch.where(slope > 0, slope, torch.ones_like(slope))
    return torch.where(slope > 0, (-b / safe).clamp(0, 1), (b <= 0).to(b))


def _average(base: Callable[[Tensor, Tensor], Tensor], g: Tensor, others: Sequence[Tensor], b: Tensor) -> Tensor:
    """Integral of base(g, b + Σ c_j y_j) over all y_j in [0, 1]."""
    if not others:
        return base(g, b)
    *inner, c = others
    sums = torch.stack(torch.broadcast_tensors(torch.zeros_like(g), g), -1).detach()
    for other in inner:
        sums = torch.cat([sums, sums + other.detach()[..., None]], -1)
    # The pieces have degree 3 (one feature) plus one per integration: so many nodes integrate them without error.
    nodes, weights = _legendre((3 + len(inner)) // 2 + 1, b)
    y, weight = _pieces(b, c, sums, nodes, weights)
    lift = (slice(None),) * b.ndim + (None,)
    values = _average(base, g[lift], [o[lift] for o in inner], b[lift] + c[lift] * y)
    return (values * weight).sum(-1)


def _pieces(b: Tensor, c: Tensor, sums: Tensor, nodes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], between the points where b + c y + a partial sum is zero."""
    b, c = b.detach(), c.detach()
    safe = torch.where(c.abs() > 1e-300, c, torch.ones_like(c))
    breaks = (-(b[..., None] + sums) / safe[..., None]).clamp(0, 1).sort(-1).values
    ends = torch.cat([torch.zeros_like(breaks[..., :1]), breaks, torch.ones_like(breaks[..., :1])], -1)
    low, width = ends[..., :-1, None], ends.diff(dim=-1)[..., None]
    return (low + width * nodes).flatten(-2), (width * weights).flatten(-2)


def _legendre(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre nodes and weights on [0, 1]."""
    nodes, weights = _rule(count)
    return like.new_tensor((nodes + 1) / 2), like.new_tensor(weights / 2)


@cache
def _rule(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(count)


@cache
def _subsets(n: int, size: int) -> tuple[Tensor, Tensor]:
    """For every feature, all sets of `size` others, and what is left of the others."""
    active, silent = [], []
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        active.append([list(some) for some in combinations(rest, size)])
        silent.append([[j for j in rest if j not in some] for some in active[-1]])
    sets = len(active[0])
    whole = torch.int64
    return (
        torch.tensor(active, dtype=whole).reshape(n, sets, size),
        torch.tensor(silent, dtype=whole).reshape(n, sets, n - 1 - size),
    )
