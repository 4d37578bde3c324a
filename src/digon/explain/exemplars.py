"""Where does a unit fire? Excerpts of up to 64 tokens, and the strata they are shown in.

    top         largest activations, two excerpts of every split
    quantile    excerpts at lower quantiles of their maxima: a unit's weak activations often mean something else
    random      drawn uniformly
    near miss   excerpts with a token on which the unit fires elsewhere, while it stays quiet in all of the excerpt

Firing and quiet are shares of the way from the unit's mean to its peak, so no choice depends on its scale or offset.
An excerpt never crosses documents or gaps. Within a stratum every excerpt comes from another document.

Source: strata after Bills et al. 2023 (top and random) and percentile sampling of PRISM 2025.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import records
from .draws import first_of_documents, is_exact, systematic
from .splits import NAMES, split_of

LENGTH = 64
ORDERS = 3
"""Longest pattern of tokens that an explanation may use."""
QUANTILES = (0.99, 0.95, 0.9, 0.75)
TOP_PER_SPLIT, RANDOM, NEAR = 2, 4, 3
LOUD, QUIET = 0.5, 0.1
"""Where firing begins and quiet ends, between mean (0) and peak (1)."""


def begins(documents: Int[Tensor, " n"], positions: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Rows where a run of consecutive tokens begins: the document changes or a position is skipped.

    >>> begins(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 5, 6])).tolist()
    [True, False, True, True]
    """
    new = torch.ones_like(documents, dtype=torch.bool)
    new[1:] = (documents[1:] != documents[:-1]) | (positions[1:] != positions[:-1] + 1)
    return new


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
        new_run = begins(documents, positions)
        row = torch.arange(len(documents), device=documents.device)
        run_start = row[new_run][new_run.cumsum(0) - 1]
        starts = row[(row - run_start) % length == 0]
        lengths = torch.diff(starts, append=starts.new_tensor([len(documents)]))
        owners = documents[starts]
        split = starts.new_tensor([NAMES.index(split_of(name, seed)) for name in document_ids])
        return cls(starts, lengths, owners, split[owners], document_ids)

    def __len__(self) -> int:
        return len(self.starts)

    def maxima(self, values: Float[Tensor, "n units"]) -> Float[Tensor, "excerpts units"]:
        """Largest activation of every unit in every excerpt."""
        return torch.segment_reduce(values, "max", lengths=self.lengths, axis=0)

    def rows(self, excerpts: Int[Tensor, " m"]) -> Int[Tensor, " rows"]:
        """Rows of some excerpts, one after the other."""
        lengths = self.lengths[excerpts]
        before = lengths.cumsum(0) - lengths
        return torch.arange(int(lengths.sum()), device=lengths.device) + (
            self.starts[excerpts] - before
        ).repeat_interleave(lengths)

    @cached_property
    def seen(self) -> frozenset[str]:
        """Documents that must not be scored: all that do not belong to the test split."""
        return frozenset(self.document_ids[int(d)] for d in self.documents[~self.in_split("test")].unique().tolist())

    def in_split(self, name: str) -> Bool[Tensor, " excerpts"]:
        """Which excerpts belong to a split."""
        return self.splits == NAMES.index(name)

    def row_split(self, name: str) -> Bool[Tensor, " n"]:
        """The same for rows."""
        return self.in_split(name).repeat_interleave(self.lengths)

    def distinct(self, order: Int[Tensor, " candidates"], count: int) -> Int[Tensor, " m"]:
        """The first `count` of these excerpts that come from documents of their own."""
        if not len(order):
            return order
        found = first_of_documents(self.documents, order[None], count)[0]
        return found[found >= 0]


@dataclass(frozen=True)
class Stream:
    """The whole text that rows are taken from, in order: what contexts beyond three tokens look back into."""

    tokens: Int[Tensor, " n"]
    starts: Int[Tensor, " n"]
    """Row where the run of each row begins."""
    keys: tuple[Int[Tensor, " n"], ...] = ()
    """Of `Contexts`, for every row of the text."""

    @cached_property
    def numbered(self) -> tuple[tuple[Int[Tensor, " distinct"], Int[Tensor, " n"]], ...]:
        """The distinct keys of every length, sorted, and which one each row has."""
        return tuple(_numbered(key) for key in self.keys)

    @cached_property
    def ends(self) -> Int[Tensor, " n"]:
        """Row after the last one of the run."""
        first = self.starts == torch.arange(len(self.starts), device=self.starts.device)
        edges = first.nonzero().squeeze(1)
        return torch.cat([edges[1:], edges.new_tensor([len(first)])])[first.cumsum(0) - 1]

    @cached_property
    def again(self) -> Int[Tensor, " n"]:
        """Next row of the same run with the same token; where there is none, the end of the run."""
        order = self.tokens.argsort(stable=True)
        following = torch.cat([order[1:], order[:1]])
        same = (self.tokens[following] == self.tokens[order]) & (self.starts[following] == self.starts[order])
        same[-1:] = False
        return self.ends.clone().index_put_((order[same],), following[same])

    @cached_property
    def _by_token(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " edges"]]:
        counts = torch.bincount(self.tokens)
        return self.tokens.argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def places(self, token: int) -> Int[Tensor, " places"]:
        """Rows that have a token, in order.

        >>> Stream(torch.tensor([7, 8, 7, 9]), torch.zeros(4).long()).places(7).tolist()
        [0, 2]
        """
        order, edges = self._by_token
        return order[edges[token] : edges[token + 1]] if token < len(edges) - 1 else order[:0]

    def until(self, window: int) -> Int[Tensor, " n"]:
        """Row after the last of those that have this row's token among the `window` before them, and none nearer.

        Rows i + 1 … until[i] − 1 are those; over all rows with one token they do not overlap. 0: no limit but the run.

        >>> Stream(torch.tensor([7, 8, 7, 9]), torch.zeros(4).long()).until(2).tolist()
        [3, 4, 4, 4]
        """
        if window not in self._until:
            self._until[window] = self._reach(window)
        return self._until[window]

    @cached_property
    def _until(self) -> dict[int, Int[Tensor, " n"]]:
        return {}

    def _reach(self, window: int) -> Int[Tensor, " n"]:
        row = torch.arange(len(self.tokens), device=self.tokens.device)
        # a row that has the token itself still has the earlier one before it, so the next one's own row belongs here
        stop = torch.minimum(self.again + 1, self.ends)
        return torch.minimum(stop, row + window + 1) if window else stop


@dataclass(frozen=True)
class Contexts:
    """What every row ends with: keys of its last one, two and three tokens within its run, and all before them."""

    keys: tuple[Int[Tensor, " n"], ...]
    vocabulary: int
    stream: Stream | None = None
    rows: Int[Tensor, " n"] | None = None
    """Where these rows are in the stream."""

    @classmethod
    def of(
        cls, tokens: Int[Tensor, " n"], documents: Int[Tensor, " n"], positions: Int[Tensor, " n"], vocabulary: int
    ) -> "Contexts":
        """Keys of all rows; the start of a run counts as a token of its own.

        >>> Contexts.of(torch.tensor([3, 4]), torch.zeros(2).long(), torch.tensor([0, 1]), 10).keys[1].tolist()
        [3, 44]
        """
        assert vocabulary**ORDERS < 2**62, f"{vocabulary} tokens are too many for 64-bit keys"
        keys = [tokens]
        new_run = begins(documents, positions)
        row = torch.arange(len(tokens), device=tokens.device)
        linked = ~new_run
        reach, scale = linked, vocabulary
        for lag in range(1, ORDERS):
            previous = torch.zeros_like(tokens)
            previous[lag:] = tokens[:-lag] + 1
            keys.append(keys[-1] + scale * torch.where(reach, previous, 0))
            scale *= vocabulary + 1
            shifted = torch.zeros_like(linked)
            shifted[lag:] = linked[:-lag]
            reach = reach & shifted
        starts = row[new_run][new_run.cumsum(0) - 1]
        return cls(tuple(keys), vocabulary, Stream(tokens, starts, tuple(keys)), row)

    def take(self, rows: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Contexts":
        """Some rows, in any order; what came before each of them stays known."""
        kept = None if self.rows is None else self.rows[rows]
        return Contexts(tuple(key[rows] for key in self.keys), self.vocabulary, self.stream, kept)

    @property
    def text(self) -> tuple[Stream, Int[Tensor, " n"]]:
        """The stream and the place of every row in it."""
        assert self.stream is not None, "contexts made by Contexts.of know their stream"
        assert self.rows is not None, "contexts made by Contexts.of know their rows"
        return self.stream, self.rows

    def look_up(
        self, order: int, keys: Int[Tensor, " k"], values: Float[Tensor, " k"], fallback: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """The value of the key of `order` tokens that each row ends with; the fallback for rows without any of them."""
        if self.stream is None or self.rows is None:
            distinct, number = _numbered(self.keys[order - 1])
        else:
            distinct, everywhere = self.stream.numbered[order - 1]
            number = everywhere[self.rows]
        place = torch.searchsorted(distinct, keys).clamp_max(len(distinct) - 1)
        here = distinct[place] == keys
        table = values.new_full(distinct.shape, torch.nan)
        table[place[here]] = values[here]
        found = table[number]
        return torch.where(found.isnan(), fallback, found)

    def back(self, lag: int) -> Int[Tensor, " n"]:
        """Token so many rows before; −1 before the start of the run.

        >>> Contexts.of(torch.tensor([3, 4, 5]), torch.zeros(3).long(), torch.arange(3), 10).back(2).tolist()
        [-1, -1, 3]
        """
        stream, rows = self.text
        there = rows - lag
        return torch.where(there >= stream.starts[rows], stream.tokens[there.clamp_min(0)], -1)

    @property
    def depth(self) -> Int[Tensor, " n"]:
        """Tokens before each row in its run."""
        stream, rows = self.text
        return rows - stream.starts[rows]

    def tokens_of(self, key: int, order: int) -> list[int]:
        """Tokens behind a key of `order` tokens, first to last; −1 is the start of a run."""
        tokens = [key % self.vocabulary]
        key //= self.vocabulary
        for _ in range(order - 1):
            tokens.append(key % (self.vocabulary + 1) - 1)
            key //= self.vocabulary + 1
        return tokens[::-1]


def _numbered(keys: Int[Tensor, " n"]) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " n"]]:
    distinct, number = keys.unique(return_inverse=True)
    return distinct, number


def top(
    excerpts: Excerpts, maxima: Float[Tensor, " excerpts"], among: Bool[Tensor, " excerpts"], count: int
) -> Int[Tensor, " m"]:
    """Excerpts with the largest maxima."""
    candidates = among.nonzero().squeeze(1)
    return excerpts.distinct(candidates[maxima[candidates].argsort(descending=True, stable=True)], count)


def uniform(
    excerpts: Excerpts, among: Bool[Tensor, " excerpts"], count: int, generator: torch.Generator
) -> Int[Tensor, " m"]:
    """Excerpts drawn uniformly, by systematic sampling."""
    candidates = among.nonzero().squeeze(1)
    draw = torch.rand(1, len(candidates) + 1, generator=generator, device=generator.device, dtype=torch.float64)
    places = systematic(excerpts.documents[candidates], draw.to(candidates.device), count)[0]
    return candidates[places[places >= 0]]


def quantiles(excerpts: Excerpts, maxima: Float[Tensor, " excerpts"]) -> Int[Tensor, " m"]:
    """The excerpt at each quantile of the maxima, or the nearest below it from a document not yet shown."""
    order = maxima.argsort(stable=True)
    kept: list[Tensor] = []
    for q in QUANTILES:
        below = order[: min(int(q * len(order)), len(order) - 1) + 1]
        if kept:
            below = below[~torch.isin(excerpts.documents[below], excerpts.documents[torch.stack(kept)])]
        if len(below):
            kept.append(below[-1])
    return torch.stack(kept) if kept else order


def near_misses(
    excerpts: Excerpts,
    values: Float[Tensor, " n"],
    tokens: Int[Tensor, " n"],
    maxima: Float[Tensor, " excerpts"],
    count: int,
) -> Int[Tensor, " m"]:
    """Quiet excerpts with a token that fires the unit elsewhere; tokens that fire it most on average come first."""
    mean, peak = values.double().mean(), values.double().max()
    fires = values > mean + LOUD * (peak - mean)
    names, index = tokens.unique(return_inverse=True)
    average = values.new_zeros(len(names)).index_add_(0, index, values) / torch.bincount(index)
    loud = torch.zeros_like(average).index_add_(0, index, fires.to(values.dtype)) > 0
    promise = torch.where(loud, average, -torch.inf)[index]
    best = torch.segment_reduce(promise, "max", lengths=excerpts.lengths)
    candidates = (best.isfinite() & (maxima <= mean + QUIET * (peak - mean))).nonzero().squeeze(1)
    return excerpts.distinct(candidates[best[candidates].argsort(descending=True, stable=True)], count)


def strata(
    excerpts: Excerpts,
    values: Float[Tensor, " n"],
    tokens: Int[Tensor, " n"],
    maxima: Float[Tensor, " excerpts"],
    generator: torch.Generator,
) -> dict[records.Stratum, Int[Tensor, " m"]]:
    """Excerpts of one unit by stratum; the top ones are taken within every split, then sorted."""
    best = torch.cat([top(excerpts, maxima, excerpts.in_split(name), TOP_PER_SPLIT) for name in NAMES])
    return {
        "top": best[maxima[best].argsort(descending=True, stable=True)],
        "quantile": quantiles(excerpts, maxima),
        "random": uniform(excerpts, torch.ones_like(excerpts.splits, dtype=torch.bool), RANDOM, generator),
        "near miss": near_misses(excerpts, values, tokens, maxima, NEAR),
    }


def exemplars(
    excerpts: Excerpts,
    data: tuple[Float[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]],
    maxima: Float[Tensor, " excerpts"],
    token_text: Callable[[int], str],
    simulated: dict[str, Float[Tensor, " n"]],
    generator: torch.Generator,
) -> tuple[records.Excerpt, ...]:
    """All exemplars of one unit as records, stratum by stratum; `data` and `simulated` as for `record`."""
    found = strata(excerpts, data[0], data[1], maxima, generator)
    return tuple(
        record(excerpts, excerpt, stratum, data, token_text, simulated, place)
        for stratum, members in found.items()
        for place, excerpt in enumerate(members.tolist())
    )


def record(
    excerpts: Excerpts,
    excerpt: int,
    stratum: records.Stratum,
    data: tuple[Float[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]],
    token_text: Callable[[int], str],
    simulated: dict[str, Float[Tensor, " n"]],
    place: int | None = None,
) -> records.Excerpt:
    """One excerpt as a record; `data` is values, tokens, positions of all rows, `simulated` covers all rows too.

    `place` is its place in its stratum. What is chosen for what the unit does is chosen with certainty, so its weight is 1.
    """
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
        weight=_random_weight(excerpts) if stratum == "random" else 1.0,
        token_ids=tuple(tokens[rows].tolist()),
        level=place if stratum == "quantile" else None,
    )


def _random_weight(excerpts: Excerpts) -> float:
    return len(excerpts) / RANDOM if is_exact(excerpts.documents, RANDOM) else math.nan


def _rounded(values: Float[Tensor, " t"]) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in values.tolist())
