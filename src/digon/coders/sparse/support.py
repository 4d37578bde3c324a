"""Products with sparse codes that never multiply by a zero, forward and backward.

A `Support` lists the pairs (row, latent) that may be active, once by row and once by latent. Every product is then a
weighted sum of table rows (torch calls that an embedding bag) or a dot product per pair:

    decode               x̂_b     = Σ_{j ∈ b} f_bj W_dec,j
    code gradient        ∂f_bj    = g_b · W_dec,j
    decoder gradient     ∂W_dec,j = Σ_{b ∈ j} f_bj g_b
    encoder gradient     ∂W_enc,j = Σ_{b ∈ j} δ_bj (x_b − b_dec)

Each sum runs over one bag in a fixed order, so results are bit-equal from run to run; scattered additions are not on a
GPU. On processors compiled loops do the same.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .engine import compiled
from .order import stable_order


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
        starts = torch.searchsorted(rows, torch.arange(n, device=rows.device))
        return cls(rows, latents, starts, *stable_order(latents, width))

    @cached_property
    def rows_by_latent(self) -> Int[Tensor, " nnz"]:
        """Rows of the pairs in the order of their latents."""
        return self.rows[self.by_latent]

    def sum_by_row(self, values: Float[Tensor, " nnz"], table: Float[Tensor, "k d"]) -> Float[Tensor, "n d"]:
        """Row b gets Σ_j values_bj · table_j. Differentiable in values on a GPU only; see `decode`."""
        return _bag_sums(values, self.latents, self.row_starts, table)

    def sum_by_latent(self, values: Float[Tensor, " nnz"], table: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
        """Latent j gets Σ_b values_bj · table_b."""
        return _bag_sums(values[self.by_latent], self.rows_by_latent, self.latent_starts, table)

    def total_by_latent(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " k"]:
        """Latent j gets Σ_b values_bj."""
        if compiled(values):
            return values.new_zeros(len(self.latent_starts)).index_add_(0, self.latents, values)
        return self.sum_by_latent(values, values.new_ones(len(self.row_starts), 1)).squeeze(1)

    def split(self, part: Int[Tensor, " k"], parts: int) -> "Support":
        """The same pairs with every row divided by the part that its latents belong to: row b, part p is b·parts + p.

        The pairs have to be sorted by part within every row.
        """
        rows = self.rows * parts + part[self.latents]
        starts = torch.arange(len(self.row_starts) * parts, device=rows.device)
        return replace(self, rows=rows, row_starts=torch.searchsorted(rows, starts))


def _bag_sums(values: Tensor, members: Tensor, starts: Tensor, table: Tensor) -> Tensor:
    """Weighted sums of table rows over bags of places; on processors without a gradient."""
    if not compiled(values, table):
        return F.embedding_bag(members, table, starts, mode="sum", per_sample_weights=values)
    from . import blocks

    out = table.new_empty(len(starts), table.shape[1])
    given = (values.detach().contiguous(), members, starts, table.detach().contiguous(), out)
    blocks.sums(*(t.numpy() for t in given))
    return out


def decode(values: Float[Tensor, " nnz"], atoms: Float[Tensor, "k d"], support: Support) -> Float[Tensor, "n d"]:
    """Σ_j f_j W_dec,j per row, differentiable in values and atoms."""
    if compiled(values, atoms):
        return _Decode.apply(values, atoms, support)  # type: ignore[no-any-return]
    mixed = support.sum_by_row(values, atoms.detach())
    return _AtomGradient.apply(mixed, values.detach(), atoms, support)  # type: ignore[no-any-return]


def rebuild(
    values: Float[Tensor, " nnz"],
    atoms: Float[Tensor, "k d"],
    base: Float[Tensor, " d"],
    x: Float[Tensor, "n d"],
    support: Support,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, ""]]:
    """Σ_j f_j W_dec,j + base per row, and its mean squared error; differentiable in values, atoms and base.

    Compiled, each row's atoms are read once for the row and for the gradient of its codes.
    """
    if compiled(values, atoms, base, x):
        return _Rebuild.apply(values, atoms, base, x, support)  # type: ignore[no-any-return]
    rows = decode(values, atoms, support) + base
    return rows, (rows - x).square().mean()


def encode(
    preactivations: Float[Tensor, " nnz"],
    centered: Float[Tensor, "n d"],
    weights: tuple[Float[Tensor, "k d"], Float[Tensor, " k"], Float[Tensor, " d"]],
    support: Support,
) -> Float[Tensor, " nnz"]:
    """Give known values of centered·W_enc,j + b_enc,j their gradient in W_enc, b_enc and b_dec (not in x).

    `centered` is x − b_dec.
    """
    return _EncoderGradient.apply(preactivations, centered, *weights, support)  # type: ignore[no-any-return]


def spread(per_latent: Float[Tensor, " k"], support: Support) -> Float[Tensor, " nnz"]:
    """Every pair gets the number of its latent, differentiably."""
    return _Spread.apply(per_latent, support)  # type: ignore[no-any-return]


def squared_distance(x: Float[Tensor, "n d"], center: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Σ (x − center)² over rows and units, without a gradient."""
    if compiled(x, center):
        from . import blocks

        return x.new_tensor(blocks.squares(x.contiguous().numpy(), center.numpy()))
    return F.mse_loss(x, center.expand_as(x), reduction="sum")


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: Tensor, support: Support) -> Tensor:
        ctx.support = support
        return per_latent[support.latents]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.support.total_by_latent(grad), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, atoms: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, atoms)
        ctx.support = support
        return support.sum_by_row(values, atoms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, atoms = ctx.saved_tensors
        support, wanted, grad = ctx.support, ctx.needs_input_grad, grad.contiguous()
        to_atoms = support.sum_by_latent(values, grad) if wanted[1] else None
        return (_dots(grad, atoms, support) if wanted[0] else None), to_atoms, None


class _Rebuild(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, atoms: Tensor, base: Tensor, x: Tensor, support: Support
    ) -> tuple[Tensor, Tensor]:
        from . import blocks

        rows, missing, squares = torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x))
        given = (values, support.latents, support.row_starts, atoms, base, x)
        v, latents, starts, table, added, wanted = (t.detach().contiguous().numpy() for t in given)
        out = (rows.numpy(), missing.numpy(), squares.numpy())
        products = torch.from_numpy(blocks.rebuild((v, latents, starts), table, added, wanted, out))
        ctx.save_for_backward(values, atoms, missing, products)
        ctx.support = support
        ctx.set_materialize_grads(False)
        return rows, squares.sum() / x.numel()

    @staticmethod
    def backward(ctx: Any, to_rows: Tensor | None, to_error: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, atoms, grad, products = ctx.saved_tensors
        factor = (torch.zeros(()) if to_error is None else to_error) * (2 / grad.numel())
        if to_rows is not None:
            grad, factor = to_rows + factor * grad, torch.ones(())
            products = _dots(grad.contiguous(), atoms, ctx.support)
        wanted = ctx.needs_input_grad
        to_atoms = ctx.support.sum_by_latent(values * factor, grad) if wanted[1] else None
        to_base = grad.sum(0) * factor if wanted[2] else None
        return products * factor, to_atoms, to_base, None, None


def _dots(by_row: Tensor, by_latent: Tensor, support: Support) -> Tensor:
    """Every pair gets by_row_b · by_latent_j; compiled."""
    from . import blocks

    given = (by_row, support.rows, by_latent.detach().contiguous(), support.latents)
    return torch.from_numpy(blocks.dots(*(t.numpy() for t in given)))


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
        ctx: Any, found: Tensor, centered: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, support: Support
    ) -> Tensor:
        ctx.save_for_backward(centered, w_enc)
        ctx.support = support
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        centered, w_enc = ctx.saved_tensors
        per_latent = ctx.support.total_by_latent(grad)
        return None, None, ctx.support.sum_by_latent(grad, centered), per_latent, -(per_latent @ w_enc), None
