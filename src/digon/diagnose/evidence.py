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

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import rng
from ..coders.atoms_quartic import QuarticAtoms, quartic_atoms
from ..coders.atoms_rays import Rays, rays
from ..coders.atoms_sparse import SparseAtoms, sparse_atoms
from ..errors import ConfigError
from ..measures import leverage
from ..measures.basis import ResidualDependence, dependence_of
from ..measures.blocks import Blocks, DependenceNumbers, blocks_of, numbers_of
from ..measures.leverage import AtomBlock
from ..measures.unmix import Parts, Unmixing, held_out, unfit_to_unmix, unmix
from ..records import Check, Measurement
from ..tensors import Activations

LOOK = 20_000
"""Rows that the cheapest questions look at."""
ONE_SIZE = 0.1
"""Coefficient of variation below which coefficients are of one size."""
TWICE = 256
"""Widest site whose dictionary is made a second time."""
CODED = 10_000
"""Rows that are coded to see which atoms are active together."""
CUT_OFF = 1.2
"""Standard deviations between the mean and the minimum of a unit that a non-linearity cuts off."""

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
    def dimensions(self) -> int:
        """Dimensions that the rows span; the one that centering every row takes away counts."""
        x = thin(self.activations.values, LOOK).double()
        x = x - x.mean(0)
        spread = torch.linalg.eigvalsh(x.T @ x)
        rank = int((spread > 1e-9 * spread[-1]).sum())
        centered = bool(x.sum(1).std() < 1e-3 * x.square().sum(1).mean().sqrt())
        return rank + int(centered and rank < x.shape[1])

    @cached_property
    def rectified(self) -> bool:
        """Whether units are cut off near their mean, as by ReLU or GELU: the sum of two features is then not a sum."""
        x = thin(self.activations.values, LOOK).float()
        spread = x.std(0)
        alive = spread > 0
        return bool(alive.any()) and float(((x.mean(0) - x.amin(0)) / spread)[alive].median()) < CUT_OFF

    @cached_property
    def rays(self) -> Rays | None:
        """Single-source rays; none for fewer than 100 rows or 2 units."""
        values = self.activations.values
        if len(values) < 100 or values.shape[1] < 2:
            return None
        return rays(values.float(), rng.stream(self.seed, "rays"))

    @cached_property
    def sparse(self) -> SparseAtoms | None:
        """The shortest dictionary; none for fewer than 100 rows or 2 units."""
        values = self.activations.values
        if len(values) < 100 or values.shape[1] < 2:
            return None
        start = self.rays.directions if self.rays is not None else None
        return sparse_atoms(values.float(), rng.stream(self.seed, "sparse"), start=start)

    @cached_property
    def codes(self) -> Float[Tensor, "m n"] | None:
        """Coefficients of the shortest dictionary on some rows; none without atoms."""
        if self.sparse is None or not len(self.sparse):
            return None
        return self.sparse.encode(self.coded_rows)

    @cached_property
    def one_size(self) -> bool:
        """Whether coefficients hardly vary: sums of features of one size then look like features themselves."""
        codes = self.codes
        if codes is None:
            return False
        count, size = (codes != 0).sum(0), codes.abs()
        mean = size.sum(0) / count.clamp(min=1)
        spread = (size.square().sum(0) / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
        return (
            float((spread / mean.clamp(min=1e-12))[count > 1].nanmedian()) < ONE_SIZE
            if bool((count > 1).any())
            else False
        )

    @cached_property
    def coded_rows(self) -> Float[Tensor, "m d"]:
        """The rows that `codes` are of."""
        return thin(self.activations.values, CODED).float()

    @cached_property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Covariance of the units on some rows."""
        return torch.cov(thin(self.activations.values, LOOK).double().T)

    @cached_property
    def sparse_again(self) -> SparseAtoms | None:
        """The shortest dictionary of other rows, with a seed of its own; none for wide sites, where it takes minutes."""
        rows = self.activations.values[1::2]
        if len(rows) < 100 or not 2 <= rows.shape[1] <= TWICE:
            return None
        return sparse_atoms(rows.float(), rng.stream(self.seed, "sparse again"), patience=1)

    @cached_property
    def atom_blocks(self) -> tuple[AtomBlock, ...]:
        """The direct sum that the atoms of the shortest dictionary fall apart into."""
        if self.sparse is None or not len(self.sparse):
            return ()
        return leverage.blocks_of(leverage.whitened(self.sparse.directions.double(), self.covariance))

    @cached_property
    def unmixing(self) -> Unmixing | None:
        """Parts as independent as it gets, fit on half of the documents; none where `unfit_to_unmix` says why."""
        values = self.activations.values
        if unfit_to_unmix(values) is not None:
            return None
        return unmix(values, self.activations.documents, rng.stream(self.seed, "unmixing"))

    @cached_property
    def parts(self) -> Parts | None:
        """Those parts on the other half of the documents, and those of independent models; none for one dimension."""
        if self.unmixing is None or len(self.unmixing) < 2:
            return None
        return held_out(self.activations.values, self.unmixing, rng.stream(self.seed, "parts"))

    @cached_property
    def independence(self) -> ResidualDependence | None:
        """How dependent the parts are."""
        if self.unmixing is None or self.parts is None:
            return None
        return dependence_of(self.unmixing, self.parts, rng.stream(self.seed, "independence"))

    @cached_property
    def blocks(self) -> Blocks | None:
        """Which parts hang together."""
        return None if self.parts is None else blocks_of(self.parts, rng.stream(self.seed, "blocks"))

    @cached_property
    def dependence(self) -> DependenceNumbers | None:
        """Both in numbers."""
        if self.independence is None or self.blocks is None:
            return None
        return numbers_of(self.independence, self.blocks)

    @cached_property
    def quartic(self) -> QuarticAtoms | None:
        """Atoms from fourth moments; none for too few rows or dimensions, or values that are not finite."""
        try:
            return quartic_atoms(self.activations.values, rng.stream(self.seed, "quartic"))
        except ConfigError:
            return None


def thin(x: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly."""
    return x[torch.linspace(0, len(x) - 1, min(len(x), most)).long().to(x.device)]


def not_applicable(id: str, title: str, claim: str, reason: str) -> Check:
    """A check that cannot answer here, and why."""
    return Check(id, title, claim, "not applicable", reason)
