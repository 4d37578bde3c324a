"""The three things that flow between the layers: activations, codes and the dictionary that decodes them.

Worlds and hosts hand over `Activations`; a coder turns them into `Codes` and back through its `Dictionary`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Activations:
    """Rows of activations at one site, with the identity of the input behind every row."""

    values: Float[Tensor, "n d"]
    site: str = ""
    tokens: Int[Tensor, " n"] | None = None
    """Token id of every row; the distinct input, for worlds without tokens."""
    documents: Int[Tensor, " n"] | None = None
    """Number of the document each row comes from: the unit of resampling."""
    positions: Int[Tensor, " n"] | None = None
    """Position of the row in its document."""

    def __post_init__(self) -> None:
        for name in ("tokens", "documents", "positions"):
            rows = getattr(self, name)
            assert rows is None or len(rows) == len(self.values), (
                f"{name} has {len(rows)} rows, values has {len(self.values)}"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def d(self) -> int:
        """Number of units."""
        return self.values.shape[1]

    def take(self, rows: Tensor) -> "Activations":
        """The rows selected by an index or a boolean mask."""
        pick = lambda t: None if t is None else t[rows]  # noqa: E731
        return Activations(self.values[rows], self.site, pick(self.tokens), pick(self.documents), pick(self.positions))


@dataclass(frozen=True)
class Codes:
    """Coefficients over `width` atoms: `s` of them per row at `indices`, or all of them when `indices` is None."""

    values: Float[Tensor, "n s"]
    indices: Int[Tensor, "n s"] | None
    width: int

    def __len__(self) -> int:
        return len(self.values)

    def dense(self) -> Float[Tensor, "n k"]:
        """All coefficients as one matrix.

        >>> Codes(torch.tensor([[2.0]]), torch.tensor([[1]]), width=3).dense()
        tensor([[0., 2., 0.]])
        """
        if self.indices is None:
            return self.values
        return self.values.new_zeros(len(self), self.width).scatter_add_(1, self.indices.long(), self.values)


@dataclass(frozen=True)
class Dictionary:
    """Atoms as rows and the offset they are added to: x̂ = codes @ atoms + bias."""

    atoms: Float[Tensor, "k d"]
    bias: Float[Tensor, " d"]

    def __len__(self) -> int:
        return len(self.atoms)

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Reconstruct rows, touching only the atoms that are used when the codes are sparse."""
        if codes.indices is None:
            return codes.values @ self.atoms + self.bias
        mixed = torch.nn.functional.embedding_bag(
            codes.indices.long(), self.atoms, per_sample_weights=codes.values.to(self.atoms.dtype), mode="sum"
        )
        return mixed + self.bias
