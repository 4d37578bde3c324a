"""Nested reconstructions: prefixes of the latents that have to do without the rest (Matryoshka).

With prefixes m₁ < … < m_L = k the error is the mean over l of mean (x̂_l − x)², x̂_l made of the first m_l latents, in the
order of their index or of how often they fire. General features then settle in small prefixes, and a special latent no
longer swallows the general one that comes with it. All prefixes cost one decoding: every row is decoded in L parts, and
sums over the parts are the prefixes.
Sources: Bussmann et al. 2025; Nabeshima 2024 (sampled prefixes, order by frequency).
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from .. import sparse
from .config import Nested, SAEConfig


@dataclass(frozen=True)
class Prefixes:
    """The part, one of `parts`, that every latent belongs to: prefix p is made of parts 0 to p."""

    part: Int[Tensor, " k"]
    parts: int
    detached: bool = False

    @classmethod
    def of(cls, config: SAEConfig, step: int, frequency: Float[Tensor, " k"]) -> "Prefixes | None":
        """The prefixes of a training step, from how often each latent fired lately."""
        nested = config.nested
        if nested is None:
            return None
        width, device = config.width, frequency.device
        sizes = nested.sizes or _drawn(nested, config, step)
        place = torch.arange(width, device=device)
        if nested.by_frequency:
            place = place.scatter(0, frequency_order(frequency), place)
        ends = torch.tensor(sizes, device=device)
        return cls(torch.bucketize(place, ends, right=True), len(sizes) + 1, nested.detached)

    def order(self, rows: Int[Tensor, " nnz"], latents: Int[Tensor, " nnz"]) -> Int[Tensor, " nnz"]:
        """The order of pairs, sorted by row, that sorts them by part within every row."""
        return torch.argsort(rows * self.parts + self.part[latents], stable=True)

    def decode(
        self, values: Float[Tensor, " nnz"], atoms: Float[Tensor, "k d"], support: sparse.Support
    ) -> Float[Tensor, "n p d"]:
        """Σ_j f_j W_dec,j over every prefix; `detached`, every part learns only from the prefix that ends with it."""
        n = len(support.row_starts)
        parts = sparse.decode(values, atoms, support.split(self.part, self.parts)).view(n, self.parts, -1)
        # Part by part: a cumulative sum along a middle dimension is several times slower, forward and backward.
        sums = torch.stack(list(itertools.accumulate(parts.unbind(1))), 1)
        return parts + (sums - parts).detach() if self.detached else sums


def frequency_order(frequency: Float[Tensor, " k"]) -> Int[Tensor, " k"]:
    """Latents from the most to the least frequent; equal ones by index."""
    return torch.argsort(frequency, descending=True, stable=True)


def _drawn(nested: Nested, config: SAEConfig, step: int) -> list[int]:
    draws = torch.rand(nested.sampled, generator=rng.stream(config.seed, "prefixes", step))
    sizes = (draws * math.log(config.width)).exp().floor()
    return sorted(sizes.clamp(1, config.width - 1).long().tolist())
