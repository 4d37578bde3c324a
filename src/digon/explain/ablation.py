"""How much of what the network does with a unit survives if an explanation's values stand in for it?

    1 − Σ D(network | unit := simulated) / Σ D(network | unit := its mean)        1 as itself, 0 as its mean, below 0 worse

D compares what the network says at every token of unseen documents with what it says as it is: Jensen–Shannon divergence of
the next token for a network that predicts tokens, 1 − cosine of its last hidden states for one that does not; the method says
which. Simulated values are calibrated before. Sums run over tokens, so that long contexts weigh more than short ones.

A unit is read and written: a neuron at its own index, a direction by its component, a latent by its encoder and its atom.
Where nothing is simulated nothing is replaced, neither by the simulated value nor by the mean.

Source: Bills et al. 2023 ("ablation scoring").
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..hosts.load import Host
from ..hosts.sites import Site
from ..hosts.taps import edited, replace
from ..measures import patching, stats
from ..records import Measurement

BATCH = 16
"""Contexts per forward pass."""
ROUNDING = 1e-13
"""Divergence of one token up to which it is rounding."""
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class Handle:
    """How a unit is read from the rows of a site, and which way it is written back."""

    read: Callable[[Tensor], Tensor]
    """[… d] → […]"""
    write: Float[Tensor, " d"]
    """What a change of the unit by 1 adds to a row."""

    @classmethod
    def neuron(cls, index: int, width: int) -> "Handle":
        """A basis-aligned unit."""
        return cls(lambda x: x[..., index], torch.eye(width)[index])

    @classmethod
    def along(cls, direction: Float[Tensor, " d"]) -> "Handle":
        """The unit x·direction, written by the smallest change of the row: along the direction itself."""
        size = float(direction.double() @ direction.double())
        return cls(lambda x: x @ direction.to(x), direction / size)

    @classmethod
    def latent(cls, read: Callable[[Tensor], Tensor], atom: Float[Tensor, " d"]) -> "Handle":
        """A latent of a coder: what its encoder reads, written by its atom."""
        return cls(read, atom)

    def put(self, x: Float[Tensor, "*rows d"], values: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows d"]:
        """Rows in which the unit has these values; NaN leaves a row as it is."""
        change = torch.where(values.isfinite(), values.to(x) - self.read(x), 0.0)
        return x + change[..., None] * self.write.to(x)


@dataclass(frozen=True)
class Reading:
    """Whole contexts, as the network read them, that hold some rows of a corpus."""

    ids: list[list[int]]
    """Token ids of every context with its frame."""
    rows: list[Int[Tensor, " t"]]
    """The row of the corpus behind every token; −1 for the frame."""
    documents: Int[Tensor, " contexts"]
    left: int = 0
    """Contexts that were left out, as the corpus does not hold all of their tokens."""

    @classmethod
    def of(
        cls,
        host: Host,
        tokens: Int[Tensor, " n"],
        documents: Int[Tensor, " n"],
        positions: Int[Tensor, " n"],
        wanted: Int[Tensor, " m"],
        room: int,
    ) -> "Reading":
        """The contexts around the wanted rows of a corpus that was read in contexts of `room` tokens."""
        assert host.tokenizer is not None, "rows of text come from a host with a tokenizer"
        before, behind = list(host.tokenizer.prefix), list(host.tokenizer.suffix)
        key = documents * 2**32 + positions // room
        members = torch.isin(key, key[wanted].unique()).nonzero().squeeze(1)
        members = members[positions[members].argsort(stable=True)]
        members = members[key[members].argsort(stable=True)]
        ids, rows, owners, left = [], [], [], 0
        for part in members.split(torch.unique_consecutive(key[members], return_counts=True)[1].tolist()):
            if not torch.equal(positions[part] % room, torch.arange(len(part), device=part.device)):
                left += 1
                continue
            frame = [part.new_full((len(some),), -1) for some in (before, behind)]
            ids.append([*before, *tokens[part].tolist(), *behind])
            rows.append(torch.cat([frame[0], part, frame[1]]))
            owners.append(int(documents[part[0]]))
        return cls(ids, rows, torch.tensor(owners, dtype=torch.long), left)


def ablation(
    host: Host,
    site: Site,
    handle: Handle,
    reading: Reading,
    simulated: Mapping[str, Float[Tensor, " n"]],
    mean: float,
    generator: torch.Generator,
) -> dict[str, Measurement]:
    """The score of every simulation (name → calibrated values of all rows, NaN where there are none) of one unit.

    Range: up to 1; NaN where putting the mean in the unit's place changes nothing, as for a unit that nothing reads.
    """
    names = list(simulated)
    owner = reading.documents.unique(return_inverse=True)[1]
    docs = int(owner.max()) + 1 if len(owner) else 0
    sums, tokens, kind = torch.zeros(docs, 2, len(names), dtype=torch.float64), 0, ""
    for batch, ids, mask, rows in _batches(host, reading):
        clean = host.forward(ids, mask)
        kind = (
            "Jensen–Shannon divergence of the next token"
            if _predicts(host, clean)
            else "1 − cosine of the last hidden states"
        )
        here = (rows >= 0).to(ids.device)
        tokens += int(here.sum())
        for place, name in enumerate(names):
            values = torch.where(rows >= 0, simulated[name][rows.clamp_min(0)].double(), math.nan)
            middle = torch.where(values.isfinite(), mean, math.nan)
            for row, wanted in enumerate((values, middle)):
                distance = _distance(host, site, handle, (ids, mask, clean, here), wanted)
                distance = torch.where(distance > ROUNDING, distance, 0.0)
                by_context = torch.zeros(len(ids), dtype=torch.float64)
                by_context.index_add_(0, here.nonzero()[:, 0].cpu(), distance.cpu())
                sums[:, row, place].index_add_(0, owner[batch], by_context)
    return _measurements(names, sums, tokens, kind, reading.left, generator)


@torch.inference_mode()
def _distance(
    host: Host,
    site: Site,
    handle: Handle,
    read: tuple[Tensor, Tensor | None, Tensor, Tensor],
    values: Float[Tensor, "b t"],
) -> Float[Tensor, " tokens"]:
    """What changes at every token of text if the unit has these values."""
    ids, mask, clean, here = read
    with edited(host.model, {site: replace(lambda x: handle.put(x, values.to(x)))}):
        changed = host.forward(ids, mask)
    own, other = clean[here].float(), changed[here].float()
    if _predicts(host, clean):
        return patching.jensen_shannon(own, other)
    own, other = (torch.nn.functional.normalize(v.double(), dim=-1) for v in (own, other))
    return (own - other).square().sum(-1) / 2  # 1 − cosine, without cancellation


def _predicts(host: Host, output: Tensor) -> bool:
    return host.tokenizer is not None and output.shape[-1] >= len(host.tokenizer)


def _batches(host: Host, reading: Reading) -> Iterator[tuple[list[int], Tensor, Bool[Tensor, "b t"] | None, Tensor]]:
    """Contexts of about equal length together: their numbers, token ids, mask and rows."""
    order = sorted(range(len(reading.ids)), key=lambda i: len(reading.ids[i]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        width = max(len(reading.ids[i]) for i in batch)
        ids = torch.full((len(batch), width), host.pad_id, dtype=torch.long)
        rows = torch.full((len(batch), width), -1, dtype=torch.long)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        for line, i in enumerate(batch):
            length = len(reading.ids[i])
            ids[line, :length], rows[line, :length] = torch.tensor(reading.ids[i]), reading.rows[i]
            real[line, :length] = True
        yield batch, ids.to(host.device), None if bool(real.all()) else real.to(host.device), rows


def _measurements(
    names: Sequence[str], sums: Float[Tensor, "docs 2 s"], tokens: int, kind: str, left: int, generator: torch.Generator
) -> dict[str, Measurement]:
    docs = len(sums)
    method = f"1 − {kind} against the same with the mean, {docs} documents, bootstrap over documents"
    if left:
        method += f"; {left} contexts left out, as the corpus holds them in part"
    if docs < 2:
        return {name: Measurement("ablation_score", math.nan, n=tokens, method=method, source=SOURCE) for name in names}
    value = patching.kl_recovered_of(sums.sum(0))
    low, high = stats.bootstrap_interval(sums, patching.kl_recovered_of, generator)
    return {
        name: stats.to_measurement(
            "ablation_score", value[i], (low[i], high[i]), tokens, method=method, source=SOURCE, null=0.0
        )
        for i, name in enumerate(names)
    }
