"""What a dictionary reads and what it writes: the same site, another one, or several at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...coders.sae import SAE
from ...coders.sae.sites import ALONE, sharing
from ...measures import sparsity, stats
from ...records import Measurement
from ...store.shards import ActivationStore
from ..report import share

PIECE = 8192
"""Rows that are coded at once."""


@dataclass(frozen=True)
class Sides:
    """Sites in the order of the units of a row: those that are read, those that are written."""

    read: tuple[str, ...]
    written: tuple[str, ...]

    @property
    def mode(self) -> str:
        """What such a coder is called."""
        if self.read != self.written:
            return "transcoder"
        return "autoencoder" if len(self.read) == 1 else "crosscoder"

    @property
    def name(self) -> str:
        """All sites in a few words.

        >>> Sides(("a",), ("b",)).name, Sides(("a", "b"), ("a", "b")).name
        ('a → b', 'a + b')
        """
        return " → ".join(" + ".join(part) for part in dict.fromkeys((self.read, self.written)))

    def rows(self, store: ActivationStore) -> Iterator[tuple[Tensor, Tensor]]:
        """What is read and what should be written, piece by piece."""
        sites = tuple(dict.fromkeys(self.read + self.written))
        for pieces in zip(*(store.batches(site, PIECE) for site in sites), strict=True):
            named = dict(zip(sites, pieces, strict=True))
            yield tuple(torch.cat([named[site] for site in part], 1) for part in (self.read, self.written))  # type: ignore[misc]


@torch.inference_mode()
def reconstruction(sae: SAE, store: ActivationStore, sides: Sides, draw: torch.Generator) -> list[Measurement]:
    """fvu of every site that is written and l0, by the deployed encoder on all harvested rows, which it was trained on.

    Of several sites `fvu` is the mean, so that none counts for its size.
    """
    means = [store.moments(site)[1] for site in sides.written]
    units, docs, start = [len(mean) for mean in means], len(store.document_ids), 0
    sums = torch.zeros(docs, 2 * len(units) + 2, 1, dtype=torch.float64)
    for x, y in sides.rows(store):
        owner = store.documents[start : start + len(x)]
        x = x.to(sae.W_dec.device)
        codes = sae.encode(x)
        parts = zip(y.double().split(units, 1), sae.write(x, codes).cpu().double().split(units, 1), means, strict=True)
        for i, (wanted, made, mean) in enumerate(parts):
            sums[:, 2 * i : 2 * i + 2] += sparsity.fvu_sums(wanted, made, mean, owner, docs)
        counts = torch.stack([sparsity.l0(codes).cpu(), torch.ones(len(x))], 1)
        sums[:, -2:] += stats.document_sums(counts, owner, docs)[:, :, None]
        start += len(x)
    return _measurements(sums, sides, start, draw)


def _measurements(sums: Tensor, sides: Sides, rows: int, draw: torch.Generator) -> list[Measurement]:
    method = "deployed encoder on all harvested rows, which it was trained on; bootstrap over documents"
    several = len(sides.written) > 1
    found: list[Measurement] = []

    def add(name: str, part: Tensor, statistic: stats.Statistic, null: float, how: str = method) -> None:
        ends = stats.bootstrap_interval(part, statistic, draw)
        found.append(stats.to_measurement(name, statistic(part.sum(0)), ends, rows, method=how, null=null))

    mean_fvu = lambda s: sparsity.fvu_of(s.unflatten(-2, (-1, 2))).mean(-2)  # noqa: E731
    about = f"mean over {len(sides.written)} sites; {method}" if several else method
    add("fvu", sums[:, :-2], mean_fvu, 1.0, about)
    for i, site in enumerate(sides.written if several else ()):
        add(f"fvu_of {site}", sums[:, 2 * i : 2 * i + 2], sparsity.fvu_of, 1.0)
    add("l0", sums[:, -2:], lambda s: s[..., 0, :] / s[..., 1, :], float("nan"))
    return found


def shared(sae: SAE, sides: Sides) -> list[Measurement]:
    """How many latents of a crosscoder belong to each site alone, and how many to none alone."""
    shares = sharing(sae).share.cpu()
    k, alone = len(shares), shares >= ALONE
    method = f"latents with {ALONE} or more of their squared norm in one site, in units of its scale; Wilson interval over latents"
    found = [share(f"alone_in {site}", int(alone[:, i].sum()), k, method) for i, site in enumerate(sides.read)]
    return [*found, share("shared", int((~alone.any(1)).sum()), k, f"none of the {method}")]


def atoms_of(sae: SAE) -> Tensor:
    """Atoms as the coder weighs them: those of a crosscoder in units of each site's scale."""
    atoms = sae.W_dec.detach().float().cpu()
    if not sae.config.sites:
        return atoms
    scale = sae.site_scale.detach().float().cpu().repeat_interleave(torch.tensor(sae.config.sites))
    return atoms / scale
