"""Steers the weight of a sparsity penalty until the mean number of active latents is the target.

With g the running mean of ln(l0 / target), limited to ±1, the weight is λ = exp(s + P·g), where s collects I·g in every
step: a proportional-integral controller in the logarithm, so the scale of the loss does not matter. Everything stays on
the device. Source: Åström & Hägglund 1995 (PID controllers).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

START = 0.1
"""Weight before the first step; penalties are about 1 at the target."""
MEMORY = 0.9
"""Share of the old value in the running mean of the gap."""
PROPORTIONAL = 2.0
TRAVERSAL = 0.05
"""Share of the run in which the weight grows e-fold while l0 is far too large."""
FEWEST = 25
"""Steps that this takes at least, however short the run."""
LIMIT = 10.0
"""The weight stays within e^±LIMIT."""


class Controller:
    """The weight of a penalty, steered step by step."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.rate = 1 / max(TRAVERSAL * steps, FEWEST)
        self.state = torch.tensor([math.log(START), 0.0], device=device)
        """The collected part s, and the running mean of the gap g."""

    @property
    def weight(self) -> Float[Tensor, ""]:
        """λ."""
        return (self.state[0] + PROPORTIONAL * self.state[1].clamp(-1, 1)).exp()

    @torch.no_grad()
    def observe(self, l0: Float[Tensor, ""], target: float) -> None:
        """Take in the mean l0 of a batch."""
        self.state[1].lerp_((l0.clamp_min(1e-3) / target).log(), 1 - MEMORY)
        self.state[0].add_(self.rate * self.state[1].clamp(-1, 1)).clamp_(-LIMIT, LIMIT)
