"""An explanation, taken apart into explanations of one kind of context each.

Whatever an explainer simulates is cut by the token of the row, and tokens in one kind of context stay together (`kinds`): a list
of a hundred look-up entries becomes as many pieces as it has kinds of context. Two more pieces do not come from the explainer, as
cutting by the token would shatter what they say: the token before, grouped in the same way, and the place in the document.
Which of these pieces are needed is decided by `coverage`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .explainers.base import SHRINK
from .explainers.patterns import spell
from .kinds import ALIKE, Surroundings, group_tokens

MOST = 256
"""Tokens that are grouped, those first on which the explanation moves most; the rest is in no piece."""
SMALL = 2e-4
"""Share of the unit's variance below which a piece is left out."""
SHOWN = 6
"""Tokens that a piece in words spells out."""
PLACES = 64
"""Places in a document that are told apart."""


@dataclass(frozen=True)
class Piece:
    """One explanation of one kind of context."""

    anchor: str
    """What it looks at: token, token before, place."""
    tokens: tuple[int, ...]
    """Its tokens, the weightiest first; none for a place. −1 is the start of a run."""
    values: Float[Tensor, " n"]
    """What it adds to the resting activation on every row."""


def describe(piece: Piece, token_text: Callable[[int], str]) -> str:
    """A piece in words.

    >>> describe(Piece("token before", (3, -1), torch.zeros(1)), lambda t: f"w{t}")
    'after “w3”, “⟨start⟩”'
    """
    if piece.anchor == "place":
        return "depends on the place in the document"
    shown = ", ".join(f"“{spell([t], token_text)}”" for t in piece.tokens[:SHOWN])
    more = f" and {len(piece.tokens) - SHOWN} more of their kind" if len(piece.tokens) > SHOWN else ""
    low = "low on " if bool((piece.values <= 0).all()) and bool((piece.values < 0).any()) else ""
    return f"{low}{'after ' if piece.anchor == 'token before' else ''}{shown}{more}"


def take_apart(
    values: Float[Tensor, " n"],
    simulated: Float[Tensor, " n"],
    site: Surroundings,
    seen: Bool[Tensor, " n"],
    alike: float = ALIKE,
) -> list[Piece]:
    """All candidate pieces of a unit; `seen` are the rows that explanations may learn from.

    Nothing is learned from the activations on other rows: there, only what is simulated and what the text says is used.
    """
    rise = simulated - simulated[seen].median()
    shift = values - values[seen].mean()
    floor = SMALL * float(shift[seen].square().sum())
    before, place = site.before(), site.positions.clamp_max(PLACES)
    after = _table(shift, before, seen)[before]
    start = _table(shift, place, seen)[place]
    return [
        *(Piece("token", tokens, v) for tokens, v in _by_token(rise, site.tokens, site, seen, alike, floor)),
        *(
            Piece("token before", tuple(t - 1 for t in tokens), v)
            for tokens, v in _by_token(after, before, site, seen, alike, floor)
        ),
        *([Piece("place", (), start)] if float(start[seen].square().sum()) > floor else []),
    ]


def _table(shift: Float[Tensor, " n"], keys: Int[Tensor, " n"], seen: Bool[Tensor, " n"]) -> Float[Tensor, " keys"]:
    """Shrunk mean of every key."""
    size = int(keys.max()) + 1
    sums = torch.zeros(size).index_add_(0, keys[seen], shift[seen])
    return sums / (torch.bincount(keys[seen], minlength=size) + SHRINK)


def _by_token(
    rise: Float[Tensor, " n"],
    anchors: Int[Tensor, " n"],
    site: Surroundings,
    seen: Bool[Tensor, " n"],
    alike: float,
    floor: float,
) -> Iterator[tuple[tuple[int, ...], Float[Tensor, " n"]]]:
    """Groups of tokens and what is simulated on them, unless it is too little."""
    known = torch.where(seen, rise, 0.0)
    size = int(anchors.max()) + 1
    weight = torch.zeros(size).index_add_(0, anchors, known.square())
    order = weight.argsort(descending=True, stable=True)
    for group in group_tokens(known, anchors, site, order[weight[order] > 0][:MOST], alike):
        members = torch.zeros(size, dtype=torch.bool)
        members[group] = True
        if float(weight[group].sum()) > floor:
            yield tuple(group), rise * members[anchors]
