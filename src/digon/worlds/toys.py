"""The toy networks, one definition each.

    linear          x' = x W Wᵀ + b
    ReLU output     x' = ReLU(x W Wᵀ + b)
    ReLU hidden     x' = ReLU(ReLU(x W) Wᵀ + b)          the hidden units are privileged
    absolute value  y' = ReLU(ReLU(x V) Wᵀ + b)          V is trained too; the target is |x|
    logic           the same, of pairs of neighbors on a ring: y_i = x_i AND x_{i+1}, or OR, or their product

Rows of W [instances, n, m] are the directions of the features. Instances are independent networks that train side by
side. Weights are tied by using one tensor twice. The loss is summed over features and averaged over rows.

With m ≥ n nothing forces features to share dimensions. That is allowed, because hidden neurons that compute something
need it; studies of superposition choose m < n.

Sources: Elhage et al. 2022, "Toy Models of Superposition"; AND, OR, products, squares: Nanda 2022, "200 Concrete Open
Problems in Mechanistic Interpretability", as a task for these networks.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import rng
from ..errors import ConfigError
from .memory import check_memory

Activation = Literal["linear", "relu", "gelu", "leaky", "softplus", "square", "solu"]
Target = Literal["identity", "absolute", "and", "or", "product", "square"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "leaky": lambda z: nn.functional.leaky_relu(z, 0.1),
    "softplus": lambda z: nn.functional.softplus(z, beta=5.0),
    "square": torch.square,
    "solu": lambda z: z * z.softmax(-1),
}
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "absolute": torch.abs,
    "and": lambda x: torch.minimum(x, _next(x)),
    "or": lambda x: torch.maximum(x, _next(x)),
    "product": lambda x: x * _next(x),
    "square": torch.square,
}
"""What output i should be; AND, OR and products are of feature i and the next one, the last one with the first."""


class Toy(nn.Module):
    """`instances` autoencoders of n features in m dimensions.

    Raises: ConfigError if a size is not positive, a name is unknown, or training would not fit into memory.
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
        for name, given, known in (
            ("hidden", hidden, ACTIVATIONS),
            ("output", output, ACTIVATIONS),
            ("target", target, TARGETS),
        ):
            if given not in known:
                raise ConfigError(f"setting {name!r}: {given!r}", expected=" | ".join(known))
        check_memory(
            16 * instances * n * (m * (1 if tied else 2) + 1),  # float32 weights, gradients and two moments of Adam
            f"training {instances} networks of {n} features in {m} dimensions",
            "make them smaller, or train fewer instances at a time",
        )
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
        return TARGETS[self.target_name](x)


def loss(
    output: Float[Tensor, "i b n"], target: Float[Tensor, "i b n"], importance: Float[Tensor, "*i n"]
) -> Float[Tensor, " i"]:
    """Importance-weighted squared error, summed over features, averaged over rows."""
    weight = importance.to(output)
    weight = weight if weight.ndim == 1 else weight[:, None]
    return (weight * (output - target).square()).sum(-1).mean(-1)


def _next(x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    return x.roll(-1, -1)
