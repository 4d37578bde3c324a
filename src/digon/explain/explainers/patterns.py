"""An explanation by patterns of tokens with a value: the longest that matches decides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..exemplars import Contexts
from .base import VALUE_BITS, integer_bits, pattern_bits

SHOWN = 8
"""Patterns that a rendered explanation spells out."""


@dataclass(frozen=True)
class Level:
    """Kept patterns of one length: their keys, sorted, and their values."""

    keys: Int[Tensor, " patterns"]
    values: Float[Tensor, " patterns"]

    def apply(self, found: Int[Tensor, " n"], fallback: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Value of the pattern that matches, else the fallback."""
        if len(self.keys) == 0:
            return fallback
        place = torch.searchsorted(self.keys, found).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == found, self.values[place], fallback)


@dataclass(frozen=True)
class Patterns:
    """An explanation by patterns; the longest that matches decides."""

    name: str
    rest: float
    """Value where nothing matches."""
    levels: tuple[Level, ...]
    vocabulary: int

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        first = contexts.keys[0]
        value = torch.full(first.shape, self.rest, dtype=torch.float32, device=first.device)
        for level, keys in zip(self.levels, contexts.keys, strict=False):
            value = level.apply(keys, value)
        return value

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        levels = enumerate(self.levels, 1)
        return float(VALUE_BITS) + sum(
            integer_bits(len(v.keys) + 1) + len(v.keys) * pattern_bits(order, self.vocabulary) for order, v in levels
        )

    def render(self, token_text: Callable[[int], str]) -> str:
        """The strongest patterns in words, line breaks and tabs made visible."""
        decode = Contexts((), self.vocabulary)
        found = [
            (value, decode.tokens_of(key, order))
            for order, level in enumerate(self.levels, 1)
            for key, value in zip(level.keys.tolist(), level.values.tolist(), strict=True)
        ]
        if not found:
            return f"always {self.rest:.3g}"
        found.sort(key=lambda pair: -abs(pair[0] - self.rest))
        parts = []
        for verb, sign in (("fires on", 1), ("low on", -1)):
            side = [(v, t) for v, t in found[:SHOWN] if sign * (v - self.rest) > 0]
            if side:
                parts.append(f"{verb}: " + ", ".join(f"“{spell(t, token_text)}” {v:.3g}" for v, t in side))
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{'; '.join(parts)}{more}; otherwise {self.rest:.3g}"


def spell(tokens: list[int], token_text: Callable[[int], str]) -> str:
    """Tokens as one text, line breaks and tabs made visible; −1 is the start of a run."""
    text = "".join("⟨start⟩" if t < 0 else token_text(t) for t in tokens)
    return text.replace("\n", "↵").replace("\r", "␍").replace("\t", "⇥")
