"""The toy networks, one definition each.

    linear          x' = x W Wᵀ + b
    ReLU output     x' = ReLU(x W Wᵀ + b)
    ReLU hidden     x' = ReLU(ReLU(x W) Wᵀ + b)          the hidden units are privileged
    untied          x' = act(hidden(x V) Wᵀ + b)         V is trained too

Rows of W [instances, n, m] are the directions of the features. Instances are independent networks that train side by
side. Weights are tied by using one tensor twice. The loss is summed over features and averaged over rows.

Source: Elhage et al. 2022, "Toy Models of Superposition".
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import rng
from ..errors import ConfigError

Activation = Literal["linear", "relu", "gelu", "leaky", "softplus", "square"]
Target = Literal["identity", "absolute"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "leaky": lambda z: nn.functional.leaky_relu(z, 0.1),
    "softplus": lambda z: nn.functional.softplus(z, beta=5.0),
    "square": torch.square,
}


class Toy(nn.Module):
    """`instances` autoencoders of n features in m dimensions.

    Raises: ConfigError if a size is not positive.
    """

    def __init__(
        self,
        n: int,
        m: int,
        instances: int = 1,
        *,
        hidden: Activation = "linear",
        output: Activation = "relu",
        tied: bool = True,
        target: Target = "identity",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n, m, instances) < 1:
            raise ConfigError(f"{instances} networks of {n} features in {m} dimensions", expected="at least 1 of each")
        g = rng.stream(seed, "toy")
        std = (2 / (n + m)) ** 0.5
        self.hidden, self.output, self.target_name = hidden, output, target
        self.W = nn.Parameter(std * torch.randn(instances, n, m, generator=g))
        """Feature directions, as rows: what the output reads."""
        self.V = self.W if tied else nn.Parameter(std * torch.randn(instances, n, m, generator=g))
        """What the hidden layer reads; the same tensor as W when tied."""
        self.b = nn.Parameter(torch.zeros(instances, n))

    @property
    def tied(self) -> bool:
        """Whether one tensor embeds and reads."""
        return self.V is self.W

    def embed(self, x: Float[Tensor, "i b n"]) -> Float[Tensor, "i b m"]:
        """Hidden activations."""
        return ACTIVATIONS[self.hidden](x @ self.V)

    def read(self, h: Float[Tensor, "i b m"]) -> Float[Tensor, "i b n"]:
        """Outputs from hidden activations."""
        return ACTIVATIONS[self.output](h @ self.W.mT + self.b[:, None])

    def forward(self, x: Float[Tensor, "i b n"]) -> Float[Tensor, "i b n"]:
        """Outputs."""
        return self.read(self.embed(x))

    def target(self, x: Float[Tensor, "i b n"]) -> Float[Tensor, "i b n"]:
        """What the output should be."""
        return x if self.target_name == "identity" else x.abs()


def loss(
    output: Float[Tensor, "i b n"], target: Float[Tensor, "i b n"], importance: Float[Tensor, "*i n"]
) -> Float[Tensor, " i"]:
    """Importance-weighted squared error, summed over features, averaged over rows."""
    weight = importance.to(output)
    weight = weight if weight.ndim == 1 else weight[:, None]
    return (weight * (output - target).square()).sum(-1).mean(-1)
