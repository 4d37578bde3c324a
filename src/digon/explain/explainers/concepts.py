"""What an explanation can ask of a row: is it this token, did that one come before, how far into the text is it?

    here t         the row's token is t
    before t, w    t is among the w tokens before it, in its run; w = 0: anywhere before
    beyond d       at least d tokens come before it

A concept holds on disjoint intervals of consecutive rows. `Scene` holds those of all concepts of some rows, in the order
of the text; all units of a site share it.
Bits: log2 of the number of kinds and windows, and log2(vocabulary) for the token or log2(number of depths).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ..exemplars import Contexts, Stream
from .patterns import spell

WINDOWS = (1, 2, 4, 8, 16, 32, 0)
"""Reaches of "before"; 0 is all of the run."""
DEPTHS = (*range(1, 65), *(int(2 ** (k / 4)) for k in range(25, 57)))
"""Depths that can be asked for: every one up to 64, then four per doubling, up to 13,777."""
HERE, BEYOND = -1, -2
"""In the place of a window: the row's own token; depth, in the place of the token."""
KINDS = len(WINDOWS) + 2
"""Kinds of questions."""
LEAST = 4
"""Rows on which a concept holds before it is considered."""


@dataclass(frozen=True)
class Concept:
    """One yes-or-no question to a row."""

    window: int
    """Of "before"; or `HERE`, or `BEYOND`."""
    token: int
    """Or the depth, for `BEYOND`."""
    also: tuple[int, ...] = ()
    """More tokens, any of which will do."""

    def bits(self, vocabulary: int) -> float:
        """What it costs to name it.

        >>> Concept(HERE, 3).bits(2**10)
        13.169925001442312
        """
        if self.window == BEYOND:
            return math.log2(KINDS) + math.log2(len(DEPTHS))
        return math.log2(KINDS) + (1 + len(self.also)) * math.log2(vocabulary)

    def holds(self, contexts: Contexts) -> Bool[Tensor, " n"]:
        """Rows on which it is true."""
        stream, rows = contexts.text
        if self.window == BEYOND:
            return contexts.depth >= self.token
        wanted = stream.tokens.new_tensor((self.token, *self.also))
        if self.window == HERE:
            return torch.isin(contexts.keys[0], wanted)
        at = torch.isin(stream.tokens, wanted).nonzero().squeeze(1)
        return steps(len(stream.tokens), at + 1, stream.until(self.window)[at], torch.ones(len(at)))[rows] > 0.5

    def render(self, token_text: Callable[[int], str]) -> str:
        """The question in words."""
        if self.window == BEYOND:
            return f"after {self.token} tokens or more"
        text = "/".join(f"“{spell([t], token_text)}”" for t in (self.token, *self.also))
        if self.window == HERE:
            return text
        if self.window == 1:
            return f"{text} just before"
        return f"{text} anywhere before" if self.window == 0 else f"{text} in the {self.window} before"


def steps(length: int, starts: Tensor, stops: Tensor, heights: Float[Tensor, " intervals"]) -> Float[Tensor, " length"]:
    """Sum of intervals of rows with their heights.

    >>> steps(4, torch.tensor([0, 1]), torch.tensor([3, 2]), torch.tensor([1.0, 0.5])).tolist()
    [1.0, 1.5, 1.0, 0.0]
    """
    edges = torch.zeros(length + 1, dtype=torch.float64, device=starts.device)
    edges.index_add_(0, starts, heights.double()).index_add_(0, stops, -heights.double())
    return edges.cumsum(0)[:-1].to(heights.dtype)


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
    text: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
    """Numbers of the tokens of the text; place of every row and of the start of its run in it; [1 + windows, tokens]:
    numbers of the concepts, −1 for those that are not here."""

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
        text = _text(stream, places[order], windows, tokens)
        return cls(order, windows, tokens, bits, offsets, starts, stops, lengths, text)

    @cached_property
    def _by_token(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        own = self.text[0][self.text[1]]
        return np.argsort(own, kind="stable"), np.append(
            0, np.cumsum(np.bincount(own, minlength=self.text[3].shape[1]))
        )

    def prepare(self) -> None:
        """Make what is made when first asked for."""
        assert len(self._by_token[0]) == len(self.steps_back)
        assert self.depths.shape == (2, len(DEPTHS))

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """Rows whose own token has this number."""
        order, edges = self._by_token
        return order[edges[number] : edges[number + 1]]

    @cached_property
    def steps_back(self) -> NDArray[np.int64]:
        """Rows before each in its run."""
        return self.text[1] - self.text[2]

    @cached_property
    def depths(self) -> NDArray[np.int64]:
        """[2, depths]: those that can be asked for, and their concepts."""
        place = {int(self.tokens[c]): int(c) for c in np.flatnonzero(self.windows == BEYOND)}
        return np.array([DEPTHS, [place.get(depth, -1) for depth in DEPTHS]])

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

        if self.steps_back[mask].sum() < len(self.starts):
            tokens, places, begins, index = self.text
            return walked(values, mask, tokens, places, begins, index, _bands(), self.depths)
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


def _text(
    stream: Stream, rows: Tensor, windows: NDArray[np.int64], tokens: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """`Scene.text` for rows in the order of the text."""
    names, numbers = np.unique(stream.tokens.numpy(), return_inverse=True)
    index = np.full((len(WINDOWS) + 1, len(names)), -1, dtype=np.int32)
    for k, window in enumerate((HERE, *WINDOWS)):
        mine = np.flatnonzero((windows == window) & np.isin(tokens, names))
        index[k, np.searchsorted(names, tokens[mine])] = mine
    return numbers.astype(np.int32), rows.numpy(), stream.starts[rows].numpy(), index


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
