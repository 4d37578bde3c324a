"""What the units of a site share while they are explained: rows, their split, tables of patterns and of concepts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts
from .base import finite_mean
from .scene import Scene
from .trie import Trie


@dataclass(frozen=True)
class Shared:
    """Rows of a corpus and the splits that explanations may look at; tables are made when first asked for."""

    contexts: Contexts
    fit: Bool[Tensor, " n"]
    select: Bool[Tensor, " n"]

    @cached_property
    def trie(self) -> Trie:
        """All patterns of up to three tokens of the fit rows."""
        return Trie.of(self.contexts.take(self.fit))

    @cached_property
    def scene(self) -> Scene:
        """All concepts on the fit rows."""
        return Scene.of(self.contexts, self.fit)

    @cached_property
    def held(self) -> Scene:
        """The same concepts on the select rows."""
        return Scene.of(self.contexts, self.select, self.scene)

    def prepare(self) -> None:
        """Make all tables, before several threads ask for them."""
        for scene in (self.scene, self.held):
            scene.prepare()
        assert self.trie.vocabulary == self.contexts.vocabulary

    def columns(self, values: Float[Tensor, "n units"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values [units, rows] on both splits in the order of their scenes.

        Raises: NonFiniteError if a unit is not finite on the fit rows.
        """
        finite_mean(values[self.fit].double())
        fit, select = (
            values[split].double()[scene.order].T.contiguous().numpy()
            for split, scene in ((self.fit, self.scene), (self.select, self.held))
        )
        return fit, select
