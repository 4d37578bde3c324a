"""From gradients to the next parameters: projection, clipping, Adam, unit norm of the atoms.

    1. g_j ← g_j − (g_j · d_j) d_j for every atom d_j: only what turns it is left
    2. g ← g · min(1, clip / ‖all g‖)
    3. Adam: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − rate · m̂ / (√v̂ + ε)
    4. d_j ← d_j / ‖d_j‖

In torch these are a dozen passes over the parameters; compiled, two: 1 with the norm for 2, then 2 to 4.
Source of Adam: Kingma & Ba 2015.
"""

import numpy as np
import torch
from torch import Tensor

from ...threads import count, share, spans
from ..sae import SAE
from ..sparse.engine import compiled


def update(sae: SAE, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """One step of Adam on clipped gradients that leaves atoms at unit norm; the same in torch and compiled."""
    if compiled(*sae.parameters()) and sae.group.latents.alone:
        _compiled(sae, optimizer, clip)
    else:
        sae.free_gradient()
        sae.group.clip_gradients(sae, clip)
        optimizer.step()
        sae.constrain()


# What is not finite is noticed at the next line of metrics.
@np.errstate(over="ignore", invalid="ignore")
@torch.no_grad()
def _compiled(sae: SAE, optimizer: torch.optim.Optimizer, clip: float) -> None:
    from . import step_kernel

    tables = [_Table(group, optimizer, sae) for group in optimizer.param_groups]
    tables = [table for table in tables if table.gradient is not None]
    squares = np.concatenate([table.squares() for table in tables])
    # A fixed order of the sum, whatever the threads.
    factor = min(1.0, clip / (float(np.sqrt(squares.sum())) + 1e-6))
    for table in tables:
        table.advance(factor, step_kernel)
    if "threshold" in sae.activation.learned:
        sae.threshold.clamp_min_(0)


class _Table:
    """A parameter, its gradient and its moments, as rows."""

    def __init__(self, group: dict, optimizer: torch.optim.Optimizer, sae: SAE) -> None:
        (parameter,) = group["params"]
        self.group, self.state = group, optimizer.state[parameter]
        if not self.state:
            self.state |= {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.atoms = parameter is sae.W_dec
        self.parameter = _rows(parameter)
        self.gradient = None if parameter.grad is None else _rows(parameter.grad)
        self.parts = spans(len(self.parameter), 4 * count() if parameter.ndim > 1 else 1)

    def squares(self) -> np.ndarray:
        """Squared norm of every row of the gradient, projected if they belong to atoms."""
        from . import step_kernel

        out = np.empty(len(self.parameter), np.float64)
        share(lambda span: step_kernel.project(self.parameter, self.gradient, self.atoms, span, out), self.parts)
        return out

    def advance(self, factor: float, kernel) -> None:
        """The step of Adam."""
        self.state["step"] += 1
        steps, (first, second) = int(self.state["step"]), self.group["betas"]
        rate, room = self.group["lr"] / (1 - first**steps), (1 - second**steps) ** 0.5
        settings = np.array([factor, first, second, rate, room, self.group["eps"]], np.float32)
        moments = _rows(self.state["exp_avg"]), _rows(self.state["exp_avg_sq"])
        share(
            lambda span: kernel.adam((self.parameter, self.gradient, *moments), settings, self.atoms, span), self.parts
        )


def _rows(tensor: Tensor) -> np.ndarray:
    """A table as it is, a list of numbers as one row."""
    return tensor.detach().contiguous().view(-1, tensor.shape[-1]).numpy()
