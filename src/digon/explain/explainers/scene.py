"""On which rows every concept holds, and sums of activations over them.

A concept (`concepts`) holds on disjoint intervals of consecutive rows, in the order of the text. All units of a site share
them. Over many rows, a pass over all intervals sums for all concepts at once; over few, looking back from each is faster.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts, Stream
from .concepts import BEYOND, DEPTHS, HERE, WINDOWS, Concept

LEAST = 4
"""Rows on which a concept holds before it is considered."""


@dataclass(frozen=True)
class Text:
    """The text that rows are taken from, its tokens numbered from 0, and where the rows are in it."""

    tokens: NDArray[np.int32]
    again: NDArray[np.int32]
    """Where the same token comes again in its run; where it does not, the end of the run."""
    places: NDArray[np.int64]
    """Of every row."""
    begins: NDArray[np.int64]
    """Of the run of every row."""


@dataclass(frozen=True)
class Scene:
    """The intervals of all concepts on some rows, sorted as the text is."""

    order: torch.Tensor
    """Which of the rows come first, second … in the text: values[order] is what the methods take."""
    windows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    """The concepts: their windows and tokens."""
    bits: NDArray[np.float64]
    """Price of each."""
    offsets: NDArray[np.int64]
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]
    counts: NDArray[np.float64]
    """Rows on which each holds."""
    text: Text
    index: NDArray[np.int32]
    """[1 + windows, tokens]: numbers of the concepts "here" and "before", −1 for those that are not in the scene."""

    @classmethod
    def of(cls, contexts: Contexts, among: Bool[Tensor, " n"], like: "Scene | None" = None) -> "Scene":
        """Concepts that hold on `LEAST` or more of these rows, and not on all but so many; or those of another scene."""
        stream, rows = contexts.text
        places = rows[among]
        order = places.argsort(stable=True)
        rank = torch.searchsorted(places[order].contiguous(), torch.arange(len(stream.tokens) + 1))
        concepts, starts, stops = _intervals(stream, rank, contexts.vocabulary)
        number = len(concepts) and int(concepts.max()) + 1
        counts = np.bincount(concepts, weights=stops - starts, minlength=number)
        if like is None:
            live = np.flatnonzero((counts >= LEAST) & (counts <= len(places) - LEAST))
            windows, tokens = _names(live, contexts.vocabulary)
            bits = np.array(
                [Concept(int(w), int(t)).bits(contexts.vocabulary) for w, t in zip(windows, tokens, strict=True)]
            )
        else:
            windows, tokens, bits = like.windows, like.tokens, like.bits
            live = _numbers(windows, tokens, contexts.vocabulary)
        place = np.full(max(number, int(live.max(initial=-1)) + 1), -1)
        place[live] = np.arange(len(live))
        kept = place[concepts] >= 0
        own = place[concepts[kept]]
        sort = np.argsort(own, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=len(live)))])
        starts, stops = (side[kept][sort].astype(np.int32) for side in (starts, stops))
        lengths = np.bincount(own[sort], weights=stops - starts, minlength=len(live)).astype(np.float64)
        names, numbers = np.unique(stream.tokens.numpy(), return_inverse=True)
        rows = places[order]
        again = stream.again.numpy().astype(np.int32)
        text = Text(numbers.astype(np.int32), again, rows.numpy(), stream.starts[rows].numpy())
        return cls(order, windows, tokens, bits, offsets, starts, stops, lengths, text, _index(names, windows, tokens))

    @cached_property
    def _by_token(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the text sorted by token, and where each token's begin."""
        counts = np.bincount(self.text.tokens, minlength=self.index.shape[1])
        return np.argsort(self.text.tokens, kind="stable"), np.append(0, counts.cumsum())

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """Row at every place of the text, −1 for none."""
        found = np.full(len(self.text.tokens), -1)
        found[self.text.places] = np.arange(len(self.text.places))
        return found

    def prepare(self) -> None:
        """Make what is made when first asked for."""
        assert len(self._by_token[0]) == len(self._rows)
        assert len(self.steps_back) == len(self.order)
        assert self.depths.shape == (2, len(DEPTHS))
        assert set(self.spans) <= {HERE, BEYOND, *WINDOWS}

    def places_of(self, number: int) -> int:
        """How often the token of this number is in the text."""
        edges = self._by_token[1]
        return int(edges[number + 1] - edges[number])

    def rows_behind(self, number: int, lag: int) -> NDArray[np.int64]:
        """Rows that have the token of this number so many tokens before them, in the same run; lag 0: their own."""
        order, edges = self._by_token
        at = order[edges[number] : edges[number + 1]]
        at = at[at < len(order) - lag]
        rows = self._rows[at + lag]
        return rows[(rows >= 0) & (self.text.begins[rows] <= at)]

    @cached_property
    def steps_back(self) -> NDArray[np.int64]:
        """Rows before each in its run."""
        return self.text.places - self.text.begins

    @cached_property
    def depths(self) -> NDArray[np.int64]:
        """[2, depths]: those that can be asked for, and their concepts."""
        place = {int(self.tokens[c]): int(c) for c in np.flatnonzero(self.windows == BEYOND)}
        return np.array([DEPTHS, [place.get(depth, -1) for depth in DEPTHS]])

    @cached_property
    def spans(self) -> dict[int, tuple[int, int]]:
        """Concepts are sorted by window: the first one of each, and the one after the last."""
        windows, first, count = np.unique(self.windows, return_index=True, return_counts=True)
        return {int(w): (int(a), int(a + n)) for w, a, n in zip(windows, first, count, strict=True)}

    def concept(self, number: int) -> Concept:
        """One of the concepts."""
        return Concept(int(self.windows[number]), int(self.tokens[number]))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the values over the rows of every concept."""
        from .scene_kernel import sums

        return sums(values, self.offsets, self.starts, self.stops)[:-1]

    def masked(self, values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[2, concepts + 1]: the same on rows that a mask keeps, and their number; those of all such rows come last."""
        from .scene_kernel import masked, walked

        rows = np.flatnonzero(mask)
        if self.steps_back[rows].sum() < len(self.starts):
            text = (self.text.tokens, self.text.again, self.text.places, self.text.begins)
            return walked(values, rows, text, self.index, _bands(), self.depths, len(self.bits))
        return masked(values, mask, self.offsets, self.starts, self.stops)

    def mark(self, concept: int) -> NDArray[np.bool_]:
        """Rows on which one concept holds."""
        from .scene_kernel import mark

        return mark(len(self.order), self.offsets, self.starts, self.stops, concept)

    def add(self, values: NDArray[np.float64], concept: int, amount: float) -> float:
        """Add a number to the values where a concept holds, in place; the sum of the values there before."""
        from .scene_kernel import add

        return float(add(values, self.offsets, self.starts, self.stops, concept, amount))

    def gains(self, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much the best weight of each concept alone takes from the sum of squares of a residual of mean 0."""
        return self.sums(residual) ** 2 / (self.counts * (1 - self.counts / len(residual)))


@cache
def _bands() -> NDArray[np.int64]:
    """Number of the narrowest window that reaches each lag."""
    limited = [w for w in WINDOWS if w]
    return np.array([0, *(sum(w < lag for w in limited) for lag in range(1, max(limited) + 1))])


def _index(names: NDArray[np.int64], windows: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int32]:
    """`Scene.index` for tokens that are numbered by their place among the names."""
    index = np.full((len(WINDOWS) + 1, len(names)), -1, dtype=np.int32)
    for k, window in enumerate((HERE, *WINDOWS)):
        mine = np.flatnonzero((windows == window) & np.isin(tokens, names))
        index[k, np.searchsorted(names, tokens[mine])] = mine
    return index


def _intervals(
    stream: Stream, rank: Tensor, vocabulary: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number of the concept, first row and row after the last, of every interval that is not empty."""
    row = torch.arange(len(stream.tokens))
    parts = [(stream.tokens, row, row + 1)]
    parts += [((k + 1) * vocabulary + stream.tokens, row + 1, stream.until(w)) for k, w in enumerate(WINDOWS)]
    begin = (stream.starts == row).nonzero().squeeze(1)
    end = stream.ends[begin]
    base = (len(WINDOWS) + 1) * vocabulary
    for k, depth in enumerate(DEPTHS):
        parts.append((torch.full_like(begin, base + k), torch.minimum(begin + depth, end), end))
    concepts, starts, stops = (torch.cat(side) for side in zip(*parts, strict=True))
    starts, stops = rank[starts], rank[stops]
    some = starts < stops
    return concepts[some].numpy(), starts[some].numpy(), stops[some].numpy()


def _names(numbers: NDArray[np.int64], vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Windows and tokens of concepts by their numbers."""
    family, token = numbers // vocabulary, numbers % vocabulary
    deep = numbers >= (len(WINDOWS) + 1) * vocabulary
    depth = np.array(DEPTHS)[np.where(deep, numbers - (len(WINDOWS) + 1) * vocabulary, 0)]
    window = np.array([HERE, *WINDOWS])[np.where(deep, 0, family)]
    return np.where(deep, BEYOND, window), np.where(deep, depth, token)


def _numbers(windows: NDArray[np.int64], tokens: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """The numbers again."""
    kinds = [HERE, *WINDOWS]
    found = [
        len(kinds) * vocabulary + DEPTHS.index(t) if w == BEYOND else kinds.index(w) * vocabulary + t
        for w, t in zip(windows.tolist(), tokens.tolist(), strict=True)
    ]
    return np.array(found, dtype=np.int64)
