"""Minimize many small smooth problems at once, to rounding.

Quasi-Newton (BFGS) with a dense inverse Hessian per problem and a backtracking line search; problems that have
converged leave the batch. Meant for up to about 50 parameters and many thousands of problems.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Objective = Callable[[Float[Tensor, "a d"], Int[Tensor, " a"]], Float[Tensor, " a"]]
"""Loss of every problem from its parameters; the second argument names the problems."""

SUFFICIENT = 1e-4
"""Share of the predicted decrease that a step must reach."""
SHORTEN, TRIALS = 0.3, 12
"""Line search: factor between the lengths that are tried, and how many are."""


def minimize(
    objective: Objective, start: Float[Tensor, "i d"], *, iterations: int = 200, tolerance: float = 1e-12
) -> tuple[Float[Tensor, "i d"], Float[Tensor, " i"]]:
    """Parameters and losses of local minima, one per row of `start`.

    A problem stops when its gradient is below `tolerance`^½ / 100, or when its loss decreases by less than `tolerance`,
    relatively, twice in a row, the second time down the gradient.
    """
    count, width = start.shape
    x, alive = start.detach().clone(), torch.arange(count, device=start.device)
    value, slope = _gradient(objective, x, alive)
    inverse = torch.eye(width, dtype=x.dtype, device=x.device).repeat(count, 1, 1)
    idle = torch.zeros(count, dtype=torch.int64, device=x.device)
    for turn in range(iterations):
        here, g, h = x[alive], slope[alive], inverse[alive]
        step = -(h @ g[..., None])[..., 0]
        uphill = (step * g).sum(-1) >= 0
        step, h = torch.where(uphill[:, None], -g, step), torch.where(uphill[:, None, None], _like_eye(h), h)
        if turn == 0:
            step = step / step.norm(dim=-1, keepdim=True).clamp(min=1.0)
        before = value[alive]
        length = _search(objective, here, step, before, (step * g).sum(-1), alive)
        x[alive] = here + length[:, None] * step
        value[alive], slope[alive] = _gradient(objective, x[alive], alive)
        inverse[alive] = _update(h, length[:, None] * step, slope[alive] - g)
        still = before - value[alive] <= tolerance * before.abs()
        idle[alive] = torch.where(still, idle[alive] + 1, 0)
        inverse[alive[still]] = torch.eye(width, dtype=x.dtype, device=x.device)
        flat = slope[alive].abs().amax(-1) < tolerance**0.5 * 0.01
        alive = alive[(idle[alive] < 2) & ~flat]
        if not len(alive):
            break
    return x, value


def _gradient(objective: Objective, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = objective(x, which)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@torch.no_grad()
def _search(
    objective: Objective, x: Tensor, step: Tensor, value: Tensor, slope: Tensor, which: Tensor
) -> Float[Tensor, " a"]:
    """Step lengths that decrease the loss enough; 0 where none does."""
    length, left = torch.zeros_like(value), torch.arange(len(value), device=value.device)
    trial = 1.0
    for _ in range(TRIALS):
        found = objective(x[left] + trial * step[left], which[left])
        good = found <= value[left] + SUFFICIENT * trial * slope[left]
        length[left[good]] = trial
        left, trial = left[~good], trial * SHORTEN
        if not len(left):
            break
    return length


def _update(inverse: Tensor, moved: Tensor, turned: Tensor) -> Float[Tensor, "a d d"]:
    """BFGS update of the inverse Hessian; unchanged where the curvature along the step is not positive."""
    curvature = (moved * turned).sum(-1)
    sound = curvature > 1e-12 * moved.norm(dim=-1) * turned.norm(dim=-1)
    rho = torch.where(sound, 1 / torch.where(sound, curvature, 1.0), 0.0)[:, None, None]
    s, y = moved[..., None], turned[..., None]
    left = _like_eye(inverse) - rho * s @ y.mT
    updated = left @ inverse @ left.mT + rho * s @ s.mT
    return torch.where(sound[:, None, None], updated, inverse)


def _like_eye(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
