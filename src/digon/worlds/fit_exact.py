"""Train toy networks on the expected loss itself: no samples, no learning rate, to the bottom of a basin.

Linear hidden layer, linear or ReLU output, tied or untied. Every instance is one start: give a law and as many instances
as you can afford, or density [pixels · starts, n] for many laws at once, and keep the best (`best_of` in `worlds/fit`).

The first steps are Adam: a quasi-Newton method alone ends in the nearest basin, which on average is a worse one than
the basin that training finds. No randomness is involved, and a run takes seconds, so that there is nothing to resume.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, NonFiniteError
from .descent import minimize
from .features import Features
from .population import check_exact, expected_loss, has_numba
from .toys import Toy

WARM, RATE = 300, 0.02
"""Adam: steps, and size of a step."""
MOST = 512
"""Nodes per row while the loss is minimized."""
TOLERANCE = 1e-9
MEMORY = 20
"""Steps that L-BFGS remembers."""


def check_fit(toy: Toy, law: Features) -> None:
    """Raises: ConfigError if the expected loss of the network on this law is not known, or memory would not hold it."""
    if type(toy) is not Toy or toy.hidden != "linear" or toy.target_name != "identity":
        raise ConfigError(
            f"no exact loss of {type(toy).__name__}(hidden={toy.hidden!r}, target={toy.target_name!r})",
            expected="Toy(hidden='linear', target='identity')",
            hint="train with engine='sampled'",
        )
    V = None if toy.tied else toy.V
    check_exact(toy.W, toy.b, law, toy.output, V=V, compiled=has_numba())


def descend(
    toy: Toy, law: Features, *, steps: int, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, " i"]:
    """Minimize the expected loss of every instance in place; returns the loss.

    `steps` bounds the iterations of a descent. Equal starts give equal bits, however many threads there are.

    Raises: ConfigError as `check_fit`; NonFiniteError if a loss is not finite.
    """
    check_fit(toy, law)
    parts = [toy.W, toy.b] if toy.tied else [toy.W, toy.V, toy.b]
    start = torch.cat([part.detach().double().cpu().flatten(1) for part in parts], 1)
    if has_numba():
        theta, loss = _compiled(toy, law, start.numpy(), steps, progress)
    else:
        theta, loss = _by_torch(toy, law, start, steps)
    if not loss.isfinite().all():
        raise NonFiniteError(f"the loss of {int((~loss.isfinite()).sum())} instances is not finite")
    with torch.no_grad():
        for part, values in zip(parts, theta.split([part[0].numel() for part in parts], 1), strict=True):
            part.copy_(values.view(part.shape))
    return loss


def _compiled(
    toy: Toy, law: Features, theta: np.ndarray, steps: int, progress: Callable[[int, int], None] | None
) -> tuple[Tensor, Tensor]:
    from .descent_kernel import Plan
    from .exact_engine import COARSE, JUDGE, solve, task_of

    task = task_of(law, toy.W.shape[2], tied=toy.tied, biased=toy.b.requires_grad, linear=toy.output == "linear")
    warm = 0 if task.few or task.linear else WARM
    memory = min(MEMORY, 2 * theta.shape[1])
    plan = Plan(warm, RATE, COARSE, MOST, steps, TOLERANCE, memory, JUDGE)
    loss, _ = solve(theta, task, law, plan, progress=progress)
    return torch.from_numpy(theta), torch.from_numpy(loss)


def _by_torch(toy: Toy, law: Features, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The reference: no warm steps, one descent on the torch engine."""
    count, n, m = toy.W.shape
    biases = start[:, -n:].clone()

    def of(v: Tensor, which: Tensor) -> Tensor:
        return v[which] if v.ndim == 2 and len(v) == count else v

    def objective(rows: Tensor, which: Tensor) -> Tensor:
        W = rows[:, : n * m].reshape(-1, n, m)
        V = None if toy.tied else rows[:, n * m : 2 * n * m].reshape(-1, n, m)
        b = rows[:, -n:] if toy.b.requires_grad else biases[which]
        part = Features(of(law.density, which), of(law.importance, which), law.values, law.sets)
        return expected_loss(W, b, part, V=V, output=toy.output, nodes=nodes, engine="torch")  # type: ignore[arg-type]

    nodes: int | None = MOST
    theta, _ = minimize(objective, start, iterations=min(steps, 500), tolerance=TOLERANCE)
    nodes = None
    with torch.no_grad():
        return theta, objective(theta, torch.arange(count))
