"""Which pairs (row, latent) take part in a training step: a search over all pre-activations, in blocks of rows.

    z = x W_encᵀ + b_enc,  x centered

A rule says what is looked for: the largest of every row, the largest of the batch, or all above a level. With `eligible`
latents, every one of them takes part at least in the row where its z is largest, at the cost of the smallest others
where the number is fixed. The matrix of all z is never held.

This is the readable version, for every device; `blocks` is the same, faster, on processors.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from .order import largest, stable_order
from .top import overall_top, rowwise_top

Precision = Literal["float32", "bfloat16"]
"""Of the products that are compared."""
CERTAIN = 1e30
"""Priority of pairs that take part in any case, at least."""
BLOCK = 2**22
"""Entries of the matrix that are computed at once: about what the caches of a few cores hold."""


@dataclass(frozen=True)
class Found:
    """Pairs, sorted by row."""

    z: Float[Tensor, " nnz"]
    """Pre-activations."""
    rows: Int[Tensor, " nnz"]
    latents: Int[Tensor, " nnz"]
    marked: Bool[Tensor, " nnz"] | None = None
    """Pairs that take part because of `eligible`, whether or not they would by themselves."""

    @property
    def priority(self) -> Float[Tensor, " nnz"]:
        """Pre-activations; where they do not decide, numbers above all others, in the same order."""
        return self.z if self.marked is None else torch.where(self.marked, CERTAIN * (2 + F.softsign(self.z)), self.z)

    def take(self, chosen: Tensor | slice) -> "Found":
        """The pairs at some places, or where a mask is true."""
        marked = None if self.marked is None else self.marked[chosen]
        return Found(self.z[chosen], self.rows[chosen], self.latents[chosen], marked)

    @staticmethod
    def join(parts: "list[Found]") -> "Found":
        """The pairs of all parts, one after the other."""
        flags = [torch.zeros_like(p.rows, dtype=torch.bool) if p.marked is None else p.marked for p in parts]
        marked = None if all(p.marked is None for p in parts) else torch.cat(flags)
        z, rows, latents = (torch.cat([getattr(p, name) for p in parts]) for name in ("z", "rows", "latents"))
        return Found(z, rows, latents, marked)


@runtime_checkable
class Rule(Protocol):
    """What is looked for."""

    def block(self, z: Float[Tensor, "n k"], start: int) -> Found:
        """The pairs of a block of rows that may be wanted; `start` is the number of its first row."""
        ...

    def settle(self, found: Found, rows: int) -> Found:
        """Those of all blocks that are wanted, the marked ones among them."""
        ...


@dataclass(frozen=True)
class PerRow:
    """The largest of every row."""

    count: int

    def block(self, z: Float[Tensor, "n k"], start: int) -> Found:
        """The largest of every row."""
        values, latents = rowwise_top(z, self.count)
        rows = torch.arange(start, start + len(z), device=z.device).repeat_interleave(self.count)
        return Found(values.reshape(-1), rows, latents.reshape(-1))

    def settle(self, found: Found, rows: int) -> Found:
        """The first rows · count pairs are the largest of every row; marked ones that follow take the smallest's place."""
        own, extra = rows * self.count, len(found.rows) - rows * self.count
        if extra == 0:
            return found
        table = found.take(slice(0, own))
        places = table.priority.view(rows, self.count).argsort(dim=1)
        order = found.priority[own:].argsort(descending=True)
        order = own + order[stable_order(found.rows[own:][order], rows)[0]]
        rest = found.take(
            order
        )  # by row, the strongest first: the t-th takes the t-th smallest place if it is stronger
        turn = torch.arange(extra, device=order.device) - torch.searchsorted(rest.rows, rest.rows)
        place = rest.rows * self.count + places[rest.rows, turn.clamp_max(self.count - 1)]
        taken = (turn < self.count) & (rest.priority > table.priority[place])
        source = torch.arange(own, device=place.device)
        source[place[taken]] = order[taken]
        return found.take(source)


@dataclass(frozen=True)
class PerBatch:
    """The largest of the batch."""

    count: int

    def block(self, z: Float[Tensor, "n k"], start: int) -> Found:
        """As many as could all be among the largest of the batch."""
        flat = overall_top(z, min(self.count, z.numel()))
        return Found(z.reshape(-1)[flat], flat // z.shape[1] + start, flat % z.shape[1])

    def settle(self, found: Found, rows: int) -> Found:
        """The largest of all pairs."""
        if len(found.rows) > self.count:
            found = found.take(largest(found.priority, self.count))
        return _by_row(found, rows)


@dataclass(frozen=True)
class Above:
    """All above a level, one for all latents or one for each."""

    level: Float[Tensor, ""] | Float[Tensor, " k"]

    def block(self, z: Float[Tensor, "n k"], start: int) -> Found:
        """All above the level."""
        rows, latents = (z > self.level).nonzero(as_tuple=True)
        return Found(z[rows, latents], rows + start, latents)

    def settle(self, found: Found, rows: int) -> Found:
        """All of them."""
        return _by_row(found, rows)


@dataclass(frozen=True)
class Peaks:
    """Where every latent is largest."""

    z: Float[Tensor, " k"]
    rows: Int[Tensor, " k"]

    def raised(self, z: Float[Tensor, " k"], rows: Int[Tensor, " k"]) -> "Peaks":
        """The larger of these and others, which come later."""
        rises = z > self.z
        return Peaks(torch.where(rises, z, self.z), torch.where(rises, rows, self.rows))

    def add_to(self, found: Found, eligible: Bool[Tensor, " k"]) -> Found:
        """Mark the peaks of eligible latents, and append those that were not found."""
        marked = (self.rows[found.latents] == found.rows) & eligible[found.latents]
        missing = eligible.clone()
        missing[found.latents[marked]] = False
        latents = missing.nonzero().squeeze(1)
        extra = Found(self.z[latents], self.rows[latents], latents, torch.ones_like(latents, dtype=torch.bool))
        return Found.join([Found(found.z, found.rows, found.latents, marked), extra])


def scan(
    x: Float[Tensor, "n d"],
    weights: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"],
    rule: Rule,
    peaks: bool,
    precision: Precision = "float32",
) -> tuple[Found, Peaks | None]:
    """What the rule finds in every block, joined, and where every latent is largest if that is asked for."""
    parts, best, start = list[Found](), None, 0
    kind = torch.bfloat16 if precision == "bfloat16" else weights.dtype
    compared = weights.to(kind)
    for rows in x.split(max(BLOCK // len(weights), 256)):
        z = F.linear(rows.to(kind), compared).to(bias.dtype) + bias
        parts.append(rule.block(z, start))
        if peaks:
            value, row = z.max(0)
            best = Peaks(value, row + start) if best is None else best.raised(value, row + start)
        start += len(rows)
    found = Found.join(parts)
    if kind != weights.dtype:
        found = replace(found, z=_products(x, weights, bias, found.rows, found.latents))
        if best is not None:
            every = torch.arange(len(weights), device=x.device)
            best = replace(best, z=_products(x, weights, bias, best.rows, every))
    return found, best


def _products(x: Tensor, weights: Tensor, bias: Tensor, rows: Tensor, latents: Tensor) -> Tensor:
    """Pre-activations of pairs."""
    parts = [(x[r] * weights[j]).sum(1) for r, j in zip(rows.split(2**16), latents.split(2**16), strict=True)]
    return torch.cat(parts) + bias[latents]


def _by_row(found: Found, rows: int) -> Found:
    """Pairs of blocks come by row; only peaks that were added do not."""
    return found if found.marked is None else found.take(stable_order(found.rows, rows)[0])
