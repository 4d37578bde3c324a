"""What an explanation can ask of a row: is it this token, did that one come before, how far into the text is it?

    here t         the row's token is t
    before t, w    t is among the w tokens before it, in its run; w = 0: anywhere before
    beyond d       at least d tokens come before it

Bits: log2 of the number of kinds and windows, and log2(vocabulary) for the token or log2(number of depths).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..exemplars import Contexts
from .patterns import spell

WINDOWS = (1, 2, 4, 8, 16, 32, 0)
"""Reaches of "before"; 0 is all of the run."""
DEPTHS = (*range(1, 65), *(int(2 ** (k / 4)) for k in range(25, 57)))
"""Depths that can be asked for: every one up to 64, then four per doubling, up to 13,777."""
HERE, BEYOND = -1, -2
"""In the place of a window: the row's own token; depth, in the place of the token."""
KINDS = len(WINDOWS) + 2
"""Kinds of questions."""


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
        at = torch.cat([stream.places(token) for token in (self.token, *self.also)])
        if self.window == HERE:
            return torch.zeros_like(stream.tokens, dtype=torch.bool).index_fill_(0, at, True)[rows]
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
