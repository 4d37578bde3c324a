"""Train toy networks on the expected loss itself: no samples, no learning rate, to the bottom of a basin.

Linear hidden layer, linear or ReLU output, tied or untied. Every instance is one start: give a law and as many instances
as you can afford, or density [pixels · starts, n] for many laws at once, and keep the best (`best_of` in `worlds/fit`).

The first steps are Adam: a quasi-Newton method alone ends in the nearest basin, which on average is a worse one than
the basin that training finds. No randomness is involved, and a run takes seconds, so that there is nothing to resume.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError, NonFiniteError
from .descent import minimize
from .features import Features
from .memory import check_memory
from .population import check_exact, expected_loss, has_numba
from .toys import Toy

WARM, RATE = 300, 0.02
"""Adam: steps, and size of a step."""
MOST = 128
"""Nodes per row while the loss is minimized."""
TOLERANCE = 1e-8
"""Relative decrease of the loss in three steps in a row that ends a descent."""
JUDGE = 1e-8
"""Relative error of the final loss."""
MEMORY = 60
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


@dataclass(frozen=True)
class Settled:
    """Networks at local minima of the expected loss, float64."""

    W: Float[Tensor, "i n m"]
    V: Float[Tensor, "i n m"]
    """The same tensor as W when tied."""
    b: Float[Tensor, "i n"]
    loss: Float[Tensor, " i"]


def descend(
    toy: Toy, law: Features, *, steps: int, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, " i"]:
    """Minimize the expected loss of every instance in place; returns the loss.

    `steps` bounds the iterations of a descent. Equal starts give equal bits, however many threads there are.

    Raises: ConfigError as `check_fit`; NonFiniteError if a loss is not finite.
    """
    check_fit(toy, law)
    found = settle(
        toy.W.detach(), toy.b.detach(), law, V=None if toy.tied else toy.V.detach(), output=toy.output,
        biased=toy.b.requires_grad, warm=WARM, steps=steps, progress=progress,
    )  # fmt: skip
    with torch.no_grad():
        for part, values in ((toy.W, found.W), (toy.V, found.V), (toy.b, found.b)):
            part.copy_(values)
    return found.loss


def settle(
    W: Float[Tensor, "i n m"],
    b: Float[Tensor, "i n"],
    law: Features,
    *,
    V: Float[Tensor, "i n m"] | None = None,
    output: str = "relu",
    biased: bool = True,
    warm: int = 0,
    steps: int = 10_000,
    progress: Callable[[int, int], None] | None = None,
) -> Settled:
    """Descend from given weights and biases to the nearest minimum, after `warm` steps of Adam; the inputs stay.

    With `biased` off, the biases stay too.

    Raises: ConfigError if the law has no exact loss or does not fit; NonFiniteError if a loss is not finite.
    """
    check_exact(W, b, law, output, V=V, compiled=has_numba())
    task = Shape(output, biased, V is None, tuple(W.shape))
    parts = [W, b] if V is None else [W, V, b]
    parameters, threads = sum(part[0].numel() for part in parts), torch.get_num_threads()
    needed = 8 * parameters * (4 * len(W) + threads * (2 * MEMORY + 5))
    check_memory(needed, f"minimizing {len(W)} networks of {parameters} parameters", "fewer instances or features")
    start = torch.cat([part.double().cpu().flatten(1) for part in parts], 1)
    run = _compiled if has_numba() else _by_torch
    theta, loss = run(task, law, start, warm, steps, progress)
    if not loss.isfinite().all():
        raise NonFiniteError(f"the loss of {int((~loss.isfinite()).sum())} instances is not finite")
    split = theta.split([part[0].numel() for part in parts], 1)
    found = [values.reshape(part.shape) for values, part in zip(split, parts, strict=True)]
    return Settled(found[0], found[-2], found[-1], loss)


class Shape(NamedTuple):
    """What is minimized."""

    output: str
    biased: bool
    tied: bool
    size: tuple[int, ...]
    """Instances, n, m."""


Progress = Callable[[int, int], None] | None


def _compiled(
    shape: Shape, law: Features, start: Tensor, warm: int, steps: int, progress: Progress
) -> tuple[Tensor, Tensor]:
    from .descent_kernel import Plan
    from .exact_engine import COARSE, solve, task_of

    linear = shape.output == "linear"
    task = task_of(law, shape.size[2], tied=shape.tied, biased=shape.biased, linear=linear)
    memory = min(MEMORY, 2 * start.shape[1])
    plan = Plan(0 if task.few or linear else warm, RATE, COARSE, MOST, steps, TOLERANCE, memory, JUDGE)
    theta = start.clone().numpy()
    loss, _ = solve(theta, task, law, plan, progress=progress)
    return torch.from_numpy(theta), torch.from_numpy(loss)


def _by_torch(
    shape: Shape, law: Features, start: Tensor, warm: int, steps: int, progress: Progress
) -> tuple[Tensor, Tensor]:
    """The reference: no warm steps, one descent on the torch engine."""
    count, n, m = shape.size
    biases = start[:, -n:].clone()

    def of(v: Tensor, which: Tensor) -> Tensor:
        return v[which] if v.ndim == 2 and len(v) == count else v

    def objective(rows: Tensor, which: Tensor, nodes: int | None = MOST) -> Tensor:
        W = rows[:, : n * m].reshape(-1, n, m)
        V = None if shape.tied else rows[:, n * m : 2 * n * m].reshape(-1, n, m)
        b = rows[:, -n:] if shape.biased else biases[which]
        part = Features(of(law.density, which), of(law.importance, which), law.values, law.sets)
        output = "linear" if shape.output == "linear" else "relu"
        return expected_loss(W, b, part, V=V, output=output, nodes=nodes, engine="torch")

    theta, _ = minimize(objective, start, iterations=min(steps, 500), tolerance=TOLERANCE)
    with torch.no_grad():
        loss = objective(theta, torch.arange(count), None)
    if progress is not None:
        progress(count, count)
    return theta, loss
