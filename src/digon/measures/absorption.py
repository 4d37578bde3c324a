"""Does a latent keep silent where its direction is there? Two signs of absorption that need no truth.

A general feature comes with each of its special ones. To save an active latent, a special latent takes over the general
direction, and the general latent keeps silent on its rows: it is absorbed. What can be seen of that:

    one-sided silence   atom j has atom i's direction in it: their cosine is above what the nearest of as many random directions
                        of equal second moment reaches in nineteen of twenty cases, and below that of copies; i is the nearest such atom whose latent is
                        active at least as often as j. A hedge would fire both. Yet i is silent on more than half of the rows of j
    encoder mismatch    1 − cos(encoder row, atom): an encoder that listens for something else than its atom writes, as it has to
                        where it must keep silent on purpose

These are suspicions. A feature split into parts that exclude each other is silent in the same way. Encoders differ from atoms
wherever atoms overlap, absorbed or not, and tied ones never do: the mismatch says nothing of them. Copies are no suspects, as
they are too close: count them apart, as twins. Thresholds were chosen on one tree world. On five others (256 latents on 256 or
512 features in 64 dimensions, 3,000 steps; benchmarks/absorption.py) 119 of 160 suspects were absorbed by the truth, where
chance gives 37, and 119 of 290 absorbed latents were found: 69 to 84 % right and half found with as many latents as features,
8 of 14 right and 8 of 81 found with half as many, p = .04. Those that escape overlap no more than by chance. Trained for 400
steps, when most latents stand for nothing yet, 1 of 10 suspects was absorbed.

Source: feature absorption, Chanin et al. 2024. The two signs and their thresholds are ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from .neighbors import nearest_latents, shaped
from .recovery.matching import CLOSE

NEAR = 8
"""Nearest atoms among which the absorbed one is looked for."""
CHANCE = 0.95
"""Share of random dictionaries' nearest cosines that the cosine of a pair has to exceed."""
AWAKE = 0.5
"""Share of the child's rows on which a parent has to be active not to be suspected."""
FEWEST = 10
"""Rows that the child needs."""


@dataclass(frozen=True)
class Firings:
    """Which latent is active on which row: pairs in the order of latents, and of rows within a latent."""

    latent: Int[Tensor, " a"]
    row: Int[Tensor, " a"]
    latents: int
    rows: int

    @classmethod
    def of(cls, latent: Int[Tensor, " a"], row: Int[Tensor, " a"], latents: int, rows: int) -> "Firings":
        """From pairs in any order, each at most once."""
        order = (latent.long() * rows + row.long()).argsort()
        return cls(latent.long()[order], row.long()[order], latents, rows)

    def counts(self, groups: Int[Tensor, " rows"], count: int) -> Int[Tensor, "g k"]:
        """Rows of every group on which each latent is active."""
        place = groups[self.row] * self.latents + self.latent
        return torch.bincount(place, minlength=count * self.latents).view(count, self.latents)

    def together(
        self, first: Int[Tensor, " p"], second: Int[Tensor, " p"], groups: Int[Tensor, " rows"], count: int
    ) -> Int[Tensor, "g p"]:
        """Rows of every group on which both latents of a pair are active."""
        keys = self.latent * self.rows + self.row
        starts = torch.searchsorted(self.latent, torch.arange(self.latents + 1, device=keys.device))
        length = starts[first + 1] - starts[first]
        pair = torch.arange(len(first), device=keys.device).repeat_interleave(length)
        own = (
            torch.arange(int(length.sum()), device=keys.device)
            - (length.cumsum(0) - length)[pair]
            + starts[first][pair]
        )
        wanted = second[pair] * self.rows + self.row[own]
        place = torch.searchsorted(keys, wanted).clamp_(max=max(len(keys) - 1, 0))
        hit = keys[place] == wanted if len(keys) else wanted == -1
        found = groups[self.row[own]][hit] * len(first) + pair[hit]
        return torch.bincount(found, minlength=count * len(first)).view(count, len(first))


@dataclass(frozen=True)
class Silence:
    """Pairs whose atoms overlap, and what their rows say. `child` carries the direction of `parent`."""

    child: Int[Tensor, " p"]
    parent: Int[Tensor, " p"]
    cosine: Float[Tensor, " p"]
    awake: Float[Tensor, " p"]
    """Share of the child's rows on which the parent is active. Range: [0, 1]; NaN for a child that never fires."""
    silent: Bool[Tensor, " p"]
    """Whether the parent is suspiciously silent on the child's rows."""
    share: float
    """Share of the latents that ever fire with a suspect parent. Range: [0, 1]; random directions read at most .05."""
    left_out: Float[Tensor, " g"]
    """The share without one group of rows: for the jackknife."""


def encoder_mismatch(encoder: Float[Tensor, "k d"], atoms: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """1 − cosine of encoder row and atom. Range: [0, 2]; 0 listens for what it writes, 1 unrelated.

    >>> encoder_mismatch(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    return 1 - F.cosine_similarity(encoder, atoms, dim=1)


def one_sided_silence(
    firings: Firings,
    atoms: Float[Tensor, "k d"],
    groups: Int[Tensor, " rows"],
    count: int,
    generator: torch.Generator,
) -> Silence:
    """Suspects among pairs of overlapping atoms; `groups` are those of the rows, 0 to `count` − 1, for the jackknife.

    The generator draws the directions that say how far atoms overlap by chance.

    Cost: one look at every row of every latent that has a partner.
    """
    cosines, others = nearest_latents(atoms, NEAR)
    fires = firings.counts(groups, count)
    total = fires.sum(0)
    by_chance = nearest_latents(shaped(atoms, generator), 1)[0].double()
    beyond = float(by_chance.quantile(CHANCE)) if by_chance.numel() else CLOSE
    fair = (cosines > beyond) & (cosines < CLOSE)
    fair &= (total[others] >= total[:, None]) & (total[:, None] > 0)
    # Only the nearest of them: siblings that carry one parent exclude each other, too, but the parent is nearer to each.
    fair &= fair.cumsum(1) == 1
    child, column = fair.nonzero(as_tuple=True)
    parent, cosine = others[child, column], cosines[child, column]
    common = firings.together(child, parent, groups, count)

    def share(keep: Tensor) -> tuple[Tensor, Tensor, float]:
        n, both = fires[keep].sum(0), common[keep].sum(0)
        awake = both.double() / n[child]
        silent = (awake < AWAKE) & (n[child] >= FEWEST)
        return awake, silent, int(silent.sum()) / max(int((n > 0).sum()), 1)

    every = torch.ones(count, dtype=torch.bool, device=groups.device)
    awake, silent, found = share(every)
    left: list[float] = []
    for group in range(count):
        rest = every.clone()
        rest[group] = False
        left.append(share(rest)[2])
    return Silence(child, parent, cosine, awake, silent, found, torch.tensor(left, dtype=torch.float64))
