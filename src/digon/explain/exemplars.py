"""Where does a unit fire? Excerpts of up to 64 tokens, and the strata they are shown in.

    top         largest activations
    quantile    excerpts at lower quantiles of their maxima: a unit's weak activations often mean something else
    random      drawn uniformly
    near miss   excerpts with the token that fires the unit most, on which it stays quiet

An excerpt never crosses documents or gaps. Within a stratum every excerpt comes from another document.

Source: strata after Bills et al. 2023 (top and random) and percentile sampling of PRISM 2025.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import records
from .splits import NAMES, split_of

LENGTH = 64
QUANTILES = (0.99, 0.95, 0.9, 0.75)


@dataclass(frozen=True)
class Excerpts:
    """All excerpts of a corpus of rows, without overlap, in the order of the rows."""

    starts: Int[Tensor, " excerpts"]
    lengths: Int[Tensor, " excerpts"]
    documents: Int[Tensor, " excerpts"]
    splits: Int[Tensor, " excerpts"]
    """Index into `splits.NAMES`."""
    document_ids: Sequence[str]

    @classmethod
    def of(
        cls,
        documents: Int[Tensor, " n"],
        positions: Int[Tensor, " n"],
        document_ids: Sequence[str],
        seed: int = 0,
        length: int = LENGTH,
    ) -> "Excerpts":
        """Cut rows into excerpts wherever the document changes, a position is skipped, or `length` is reached."""
        new_run = torch.ones(len(documents), dtype=torch.bool)
        new_run[1:] = (documents[1:] != documents[:-1]) | (positions[1:] != positions[:-1] + 1)
        row = torch.arange(len(documents))
        run_start = row[new_run][new_run.cumsum(0) - 1]
        starts = row[(row - run_start) % length == 0]
        lengths = torch.diff(starts, append=torch.tensor([len(documents)]))
        owners = documents[starts]
        split = torch.tensor([NAMES.index(split_of(name, seed)) for name in document_ids], dtype=torch.long)
        return cls(starts, lengths, owners, split[owners], document_ids)

    def __len__(self) -> int:
        return len(self.starts)

    def maxima(self, values: Float[Tensor, "n units"]) -> Float[Tensor, "excerpts units"]:
        """Largest activation of every unit in every excerpt."""
        return torch.segment_reduce(values, "max", lengths=self.lengths, axis=0)

    def rows(self, excerpts: Int[Tensor, " m"]) -> Int[Tensor, " rows"]:
        """Rows of some excerpts, one after the other."""
        return torch.cat([torch.arange(s, s + n) for s, n in zip(*self._bounds(excerpts), strict=True)])

    def _bounds(self, excerpts: Int[Tensor, " m"]) -> tuple[list[int], list[int]]:
        return self.starts[excerpts].tolist(), self.lengths[excerpts].tolist()

    def in_split(self, name: str) -> Bool[Tensor, " excerpts"]:
        """Which excerpts belong to a split."""
        return self.splits == NAMES.index(name)

    def row_split(self, name: str) -> Bool[Tensor, " n"]:
        """The same for rows."""
        return self.in_split(name).repeat_interleave(self.lengths)

    def distinct(self, order: Int[Tensor, " candidates"], count: int) -> Int[Tensor, " m"]:
        """The first `count` of these excerpts that come from documents of their own."""
        seen: set[int] = set()
        kept: list[int] = []
        for excerpt, document in zip(order.tolist(), self.documents[order].tolist(), strict=True):
            if document not in seen:
                seen.add(document)
                kept.append(excerpt)
                if len(kept) == count:
                    break
        return torch.tensor(kept, dtype=torch.long)


def top(excerpts: Excerpts, maxima: Float[Tensor, " excerpts"], among: Bool[Tensor, " excerpts"], count: int) -> Tensor:
    """Excerpts with the largest maxima."""
    candidates = among.nonzero().squeeze(1)
    return excerpts.distinct(candidates[maxima[candidates].argsort(descending=True, stable=True)], count)


def uniform(excerpts: Excerpts, among: Bool[Tensor, " excerpts"], count: int, generator: torch.Generator) -> Tensor:
    """Excerpts drawn uniformly."""
    candidates = among.nonzero().squeeze(1)
    return excerpts.distinct(candidates[torch.randperm(len(candidates), generator=generator)], count)


def near_misses(
    excerpts: Excerpts,
    values: Float[Tensor, " n"],
    tokens: Int[Tensor, " n"],
    maxima: Float[Tensor, " excerpts"],
    count: int,
) -> Tensor:
    """Excerpts with the token that fires the unit most, whose maximum stays below a tenth of the unit's."""
    peak = values.argmax()
    holds = torch.segment_reduce((tokens == tokens[peak]).float(), "max", lengths=excerpts.lengths) > 0
    quiet = maxima < 0.1 * values[peak]
    candidates = (holds & quiet).nonzero().squeeze(1)
    return excerpts.distinct(candidates[maxima[candidates].argsort(stable=True)], count)


def strata(
    excerpts: Excerpts,
    values: Float[Tensor, " n"],
    tokens: Int[Tensor, " n"],
    maxima: Float[Tensor, " excerpts"],
    generator: torch.Generator,
) -> dict[records.Stratum, Int[Tensor, " m"]]:
    """Excerpts of one unit by stratum, from all splits."""
    everywhere = torch.ones(len(excerpts), dtype=torch.bool)
    order = maxima.argsort(stable=True)
    ranks = [min(int(q * len(order)), len(order) - 1) for q in QUANTILES]
    return {
        "top": top(excerpts, maxima, everywhere, 6),
        "quantile": order[torch.tensor(ranks)],
        "random": uniform(excerpts, everywhere, 4, generator),
        "near miss": near_misses(excerpts, values, tokens, maxima, 3),
    }


def record(
    excerpts: Excerpts,
    excerpt: int,
    stratum: records.Stratum,
    data: tuple[Float[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]],
    token_text: Callable[[int], str],
    simulated: dict[str, Float[Tensor, " n"]],
) -> records.Excerpt:
    """One excerpt as a record; `data` is values, tokens, positions of all rows, `simulated` covers all rows too."""
    values, tokens, positions = data
    start = int(excerpts.starts[excerpt])
    rows = slice(start, start + int(excerpts.lengths[excerpt]))
    return records.Excerpt(
        document=excerpts.document_ids[int(excerpts.documents[excerpt])],
        start=int(positions[start]),
        tokens=tuple(token_text(t) for t in tokens[rows].tolist()),
        activations=_rounded(values[rows]),
        stratum=stratum,
        split=NAMES[int(excerpts.splits[excerpt])],
        simulated={name: _rounded(column[rows]) for name, column in simulated.items()},
    )


def _rounded(values: Float[Tensor, " t"]) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in values.tolist())
