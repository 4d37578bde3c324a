"""What an explainer of this package is: one fit of all units of a site, on tables that they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from ..exemplars import Contexts
from .base import Fitted
from .shared import Shared

F_co = TypeVar("F_co", bound=Fitted, covariant=True)


class Rung(ABC, Generic[F_co]):
    """A way to explain units from the rows of two splits; it does not look at the others."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of what it fits."""

    @abstractmethod
    def fit_shared(self, shared: Shared, values: Float[Tensor, "n units"]) -> Sequence[F_co]:
        """One explanation per unit.

        Raises: NonFiniteError if a unit is not finite on the fit rows.
        """

    def fit_many(
        self, contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Sequence[F_co]:
        """The same without tables at hand."""
        return self.fit_shared(Shared(contexts, fit, select), values)

    def fit(
        self, contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> F_co:
        """The explanation of one unit."""
        return self.fit_many(contexts, values[:, None], fit, select)[0]
