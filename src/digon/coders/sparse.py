"""Products with sparse codes that never multiply by a zero, forward and backward.

A `Support` lists the pairs (row, latent) that may be active, once by row and once by latent. Every product is then a
weighted sum of table rows, which torch calls an embedding bag:

    decode               x̂_b    = Σ_{j ∈ b} f_bj W_dec,j
    decoder gradient     ∂W_dec,j = Σ_{b ∈ j} f_bj g_b
    encoder gradient     ∂W_enc,j = Σ_{b ∈ j} δ_bj (x_b − b_dec)

Each sum runs over one bag in a fixed order, so results are bit-equal from run to run; scattered additions are not on a
GPU. A step costs the dense product that finds the support and little else.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Support:
    """Pairs (row, latent), sorted by row; `by_latent` sorts them by latent, and by row within one."""

    rows: Int[Tensor, " nnz"]
    latents: Int[Tensor, " nnz"]
    row_starts: Int[Tensor, " n"]
    by_latent: Int[Tensor, " nnz"]
    latent_starts: Int[Tensor, " k"]

    @classmethod
    def of(cls, rows: Int[Tensor, " nnz"], latents: Int[Tensor, " nnz"], n: int, width: int) -> "Support":
        """Index pairs that come sorted by row."""
        ordered, by_latent = torch.sort(latents, stable=True)
        count = lambda k: torch.arange(k, device=rows.device)  # noqa: E731
        starts = torch.searchsorted(rows, count(n))
        return cls(rows, latents, starts, by_latent, torch.searchsorted(ordered, count(width)))

    def sum_by_row(self, values: Float[Tensor, " nnz"], table: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
        """Row b gets Σ_j values_bj · table_j."""
        return F.embedding_bag(self.latents, table, self.row_starts, mode="sum", per_sample_weights=values)

    def sum_by_latent(self, values: Float[Tensor, " nnz"], table: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
        """Latent j gets Σ_b values_bj · table_b."""
        return F.embedding_bag(
            self.rows[self.by_latent],
            table,
            self.latent_starts,
            mode="sum",
            per_sample_weights=values[self.by_latent],
        )

    def total_by_latent(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " k"]:
        """Latent j gets Σ_b values_bj."""
        return self.sum_by_latent(values, values.new_ones(len(self.row_starts), 1)).squeeze(1)

    def split(self, part: Int[Tensor, " k"], parts: int) -> "Support":
        """The same pairs with every row divided by the part that its latents belong to: row b, part p is b·parts + p.

        The pairs have to be sorted by part within every row.
        """
        rows = self.rows * parts + part[self.latents]
        starts = torch.arange(len(self.row_starts) * parts, device=rows.device)
        return replace(self, rows=rows, row_starts=torch.searchsorted(rows, starts))


def decode(values: Float[Tensor, " nnz"], atoms: Float[Tensor, "k d"], support: Support) -> Float[Tensor, "n d"]:
    """Σ_j f_j W_dec,j per row, differentiable in values and atoms."""
    mixed = support.sum_by_row(values, atoms.detach())
    return _AtomGradient.apply(mixed, values.detach(), atoms, support)  # type: ignore[no-any-return]


def encode(
    preactivations: Float[Tensor, " nnz"],
    x: Float[Tensor, "n d"],
    weights: tuple[Float[Tensor, "k d"], Float[Tensor, " k"], Float[Tensor, " d"]],
    support: Support,
) -> Float[Tensor, " nnz"]:
    """Give known values of (x − b_dec)·W_enc,j + b_enc,j their gradient in W_enc, b_enc and b_dec (not in x)."""
    return _EncoderGradient.apply(preactivations, x, *weights, support)  # type: ignore[no-any-return]


def spread(per_latent: Float[Tensor, " k"], support: Support) -> Float[Tensor, " nnz"]:
    """Every pair gets the number of its latent, differentiably."""
    return _Spread.apply(per_latent, support)  # type: ignore[no-any-return]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: Tensor, support: Support) -> Tensor:
        ctx.support = support
        return per_latent[support.latents]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.support.total_by_latent(grad), None


class _AtomGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor, values: Tensor, atoms: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values)
        ctx.support = support
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (values,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2]
        return grad, None, ctx.support.sum_by_latent(values, grad.contiguous()) if wanted else None, None


class _EncoderGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, found: Tensor, x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, support: Support
    ) -> Tensor:
        ctx.save_for_backward(x, w_enc, b_dec)
        ctx.support = support
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w_enc, b_dec = ctx.saved_tensors
        per_latent = ctx.support.total_by_latent(grad)
        to_weights = ctx.support.sum_by_latent(grad, x) - torch.outer(per_latent, b_dec)
        return None, None, to_weights, per_latent, -(per_latent @ w_enc), None


def rowwise_top(z: Float[Tensor, "n k"], count: int) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
    """The `count` largest entries of every row, in any order: `topk`, several times faster.

    An entry among the largest lies in one of the `count` groups with the largest maxima, so only those are searched.
    """
    n, width = z.shape
    size = _group_size(width, count)
    if size == 1:
        return z.topk(count, dim=1, sorted=False)
    groups = width // size
    best = z.view(n, size, groups).amax(1).topk(count, dim=1, sorted=False).indices
    members = torch.arange(0, width, groups, device=z.device)
    candidates = (best[:, None, :] + members[None, :, None]).view(n, size * count)
    values, order = z.gather(1, candidates).topk(count, dim=1, sorted=False)
    return values, candidates.gather(1, order)


def overall_top(z: Float[Tensor, "n k"], count: int) -> Int[Tensor, " count"]:
    """Flat indices, ascending, of the `count` largest entries of the whole matrix."""
    flat = z.reshape(-1)
    size = _group_size(len(flat), count)
    if size == 1:
        return flat.topk(count, sorted=False).indices.sort().values
    groups = len(flat) // size
    table = flat.view(size, groups)
    best = table.amax(0).topk(count, sorted=False).indices
    order = table[:, best].reshape(-1).topk(count, sorted=False).indices
    return ((order // count) * groups + best[order % count]).sort().values


def _group_size(length: int, count: int) -> int:
    # Searching length/size maxima and then count·size candidates is cheapest at size = √(length/count).
    for size in (16, 8, 4, 2):
        if length % size == 0 and size * size <= 2 * length // count and length // size >= count:
            return size
    return 1
