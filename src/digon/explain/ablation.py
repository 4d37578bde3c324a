"""How much of what the network does with a unit survives if an explanation's values stand in for it?

    1 − Σ D(network | unit := simulated) / Σ D(network | unit := its mean)        1 as itself, 0 as its mean, below 0 worse

D compares what the network says at every token of unseen documents with what it says as it is: Jensen–Shannon divergence of
the next token for a network that predicts tokens, 1 − cosine of its last hidden states for one that does not; the method says
which. Simulated values are calibrated before. Sums run over tokens, so that long contexts weigh more than short ones.

A unit is read and written, and a change of its value by Δ adds Δ · write to the row:

    neuron      its own index                                         the same index
    direction   w·x                                                   what is given, with w·write = 1; else w / ‖w‖², the least change
    latent      its code, as the encoder gives it                     its atom: the other codes and the error of the row stay

So a direction whose `write` is its row of the dual basis scores as the neuron of the network that is turned into that basis.
Where nothing is simulated nothing is replaced, neither by the simulated value nor by the mean.

Source: Bills et al. 2023 ("ablation scoring"), for neurons.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..coders.base import Coder
from ..errors import ConfigError
from ..hosts.load import Host
from ..hosts.sites import Site
from ..hosts.taps import edited, replace, watched
from ..measures import patching, stats
from ..records import Measurement

BATCH = 16
"""Contexts per forward pass."""
ROUNDING = 1e-13
"""Divergence of one token up to which it is rounding."""
FLAT = 1e-6
"""Cosine of what a direction reads and writes up to which it is rounding."""
SOURCE = "Bills et al. 2023"


@dataclass(frozen=True)
class Handle:
    """How a unit is read from the rows of a site, and which way it is written back."""

    read: Callable[[Tensor], Tensor]
    """[… d] → […]"""
    write: Float[Tensor, " d"]
    """What a change of the unit by 1 adds to a row."""
    way: str = ""
    """What `write` is, where there is a choice; the method of a score says it."""

    @classmethod
    def neuron(cls, index: int, width: int) -> "Handle":
        """A basis-aligned unit."""
        return cls(lambda x: x[..., index], torch.eye(width)[index])

    @classmethod
    def along(cls, direction: Float[Tensor, " d"], write: Float[Tensor, " d"] | None = None) -> "Handle":
        """The unit x·direction, written as is said, else by the smallest change of the row: along the direction itself.

        `write` counts up to its length, as what is read has to change by 1. Raises: ConfigError if it changes nothing that is read.
        """
        way = "written along itself" if write is None else "written as given with it"
        write = direction if write is None else write
        step, size = (
            float(direction.double() @ write.double()),
            float(direction.double().norm() * write.double().norm()),
        )
        if abs(step) <= FLAT * size and size > 0:
            raise ConfigError("what a direction writes leaves what it reads as it is", expected="write · direction ≠ 0")
        return cls(lambda x: x @ direction.to(x), write / step if step else torch.zeros_like(write), way)

    @classmethod
    def latent(cls, coder: Coder, index: int) -> "Handle":
        """A latent of a coder: what its encoder says, written by its atom."""
        atoms = coder.dictionary.atoms

        def read(x: Float[Tensor, "*rows d"]) -> Float[Tensor, " *rows"]:
            codes = coder.encode(x.reshape(-1, x.shape[-1]).to(atoms))
            here = (
                codes.values[:, index]
                if codes.indices is None
                else codes.values.where(codes.indices == index, 0).sum(1)
            )
            return here.view(x.shape[:-1]).to(x)

        return cls(read, atoms[index], "written by its atom")

    def put(
        self, x: Float[Tensor, "*rows d"], values: Float[Tensor, "*rows"], now: Float[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows d"]:
        """Rows in which the unit has these values instead of those that it has now; NaN leaves a row as it is."""
        change = torch.where(values.isfinite(), values.to(x) - now.to(x), 0.0)
        return x + change[..., None] * self.write.to(x)


@dataclass(frozen=True)
class Reading:
    """Whole contexts, as the network read them, that hold some rows of a corpus."""

    ids: list[list[int]]
    """Token ids of every context with its frame."""
    rows: list[Int[Tensor, " _"]]
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


@torch.inference_mode()
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
        one = _Batch.of(host, site, handle, ids, mask, rows)
        tokens, kind, known = tokens + int(one.here.sum()), one.kind, dict[bytes, Tensor]()
        for place, name in enumerate(names):
            values = torch.where(rows >= 0, simulated[name][rows.clamp_min(0)].double(), math.nan)
            there = values.isfinite()
            key = there.numpy().tobytes()  # most simulations say something of the same tokens
            if key not in known:
                known[key] = one.moved(torch.where(there, mean, math.nan))
            for row, cost in enumerate((one.moved(values), known[key])):
                sums[:, row, place].index_add_(0, owner[batch], cost)
    kind = f"{kind}; {handle.way}" if handle.way else kind
    return _measurements(names, sums, tokens, kind, reading.left, generator)


@dataclass(frozen=True)
class _Batch:
    """Some contexts as the network reads them, and what it says of them."""

    host: Host
    site: Site
    handle: Handle
    ids: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"] | None
    here: Bool[Tensor, "b t"]
    """Tokens of text, not of the frame."""
    clean: Float[Tensor, "b t o"]
    now: Float[Tensor, "b t"]
    """The unit."""

    @classmethod
    def of(
        cls, host: Host, site: Site, handle: Handle, ids: Tensor, mask: Tensor | None, rows: Int[Tensor, "b t"]
    ) -> "_Batch":
        """Read once; whatever is put in the unit's place, what comes before it is the same."""
        seen: list[Tensor] = []
        with watched(host.model, {site: lambda x: seen.append(handle.read(x))}):
            clean = host.forward(ids, mask)
        return cls(host, site, handle, ids, mask, (rows >= 0).to(ids.device), clean, seen[-1].view(ids.shape))

    @property
    def kind(self) -> str:
        """Of the distance."""
        if _predicts(self.host, self.clean):
            return "Jensen–Shannon divergence of the next token"
        return "1 − cosine of the last hidden states"

    def moved(self, values: Float[Tensor, "b t"]) -> Float[Tensor, " b"]:
        """How far what the network says is moved, summed over the tokens of every context, if the unit has these values."""
        put = lambda x: self.handle.put(x, values.to(x).view(x.shape[:-1]), self.now.view(x.shape[:-1]))  # noqa: E731
        with edited(self.host.model, {self.site: replace(put)}):
            changed = self.host.forward(self.ids, self.mask)
        own, other = self.clean[self.here].float(), changed[self.here].float()
        if _predicts(self.host, self.clean):
            distance = patching.jensen_shannon(own, other)
        else:
            own, other = (torch.nn.functional.normalize(v.double(), dim=-1) for v in (own, other))
            distance = (own - other).square().sum(-1) / 2  # 1 − cosine, without cancellation
        distance = torch.where(distance > ROUNDING, distance, 0.0).cpu()
        found = torch.zeros(len(self.ids), dtype=torch.float64)
        return found.index_add_(0, self.here.nonzero()[:, 0].cpu(), distance)


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
