"""What the checks are given about one site, and what several of them need, computed once.

Access grows with what is given, and the same call uses it all:

    A    activations
    A+   and which input every row is (`inputs`)
    B    and labels of the inputs (`labels`)
    C    and what the network makes of the activations (`network`)
    D    and training: a second site, trained on shuffled labels (`control`)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from .. import rng
from ..coders.atoms_rays import Rays, rays
from ..errors import ConfigError
from ..records import Check, Measurement
from ..tensors import Activations

Network = Callable[[Tensor], Tensor]
"""From activations at the site [n, d] to what the network makes of them [n, o]."""


@dataclass(frozen=True)
class Evidence:
    """What the checks are given about one site.

    Raises: ConfigError if inputs or labels are not one per row.
    """

    activations: Activations
    seed: int = 0
    polysemantic: Measurement | None = None
    """Share of units flagged by `measures.clusters`, with its interval; `null` is the level of false calls."""
    inputs: Int[Tensor, " n"] | None = None
    """A number per row: rows with the same number are the same input."""
    labels: Int[Tensor, "n v"] | None = None
    """Values of v variables of the inputs, as whole numbers."""
    network: Network | None = None
    control: Activations | None = None
    """The same site of the same network, trained on shuffled labels."""

    def __post_init__(self) -> None:
        for name in ("inputs", "labels"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.activations):
                raise ConfigError(
                    f"{len(given)} {name} for {len(self.activations)} rows", expected="one per row, in the same order"
                )

    @property
    def access(self) -> str:
        """The level of access that the parts given make up."""
        if self.control is not None:
            return "D"
        if self.network is not None:
            return "C"
        if self.labels is not None:
            return "B"
        return "A" if self.inputs is None else "A+"

    @cached_property
    def rays(self) -> Rays | None:
        """Single-source rays; none for fewer than 100 rows or 2 units."""
        values = self.activations.values
        if len(values) < 100 or values.shape[1] < 2:
            return None
        return rays(values.float(), rng.stream(self.seed, "rays"))


def not_applicable(id: str, title: str, claim: str, reason: str) -> Check:
    """A check that cannot answer here, and why."""
    return Check(id, title, claim, "not applicable", reason)
