"""An explanation by patterns of tokens with a value: the longest that matches decides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..exemplars import Contexts
from .base import VALUE_BITS, integer_bits, pattern_bits, smallest

SHOWN = 8
"""Patterns that a rendered explanation spells out."""


@dataclass(frozen=True)
class Level:
    """Kept patterns of one length: their keys, sorted, and their values."""

    keys: Int[Tensor, " patterns"]
    values: Float[Tensor, " patterns"]


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
        for order, level in enumerate(self.levels, 1):
            if len(level.keys):
                value = contexts.look_up(order, level.keys, level.values, value)
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
        strongest = self._strongest(SHOWN)
        if not strongest:
            return f"always {self.rest:.3g}"
        parts = []
        for verb, sign in (("fires on", 1), ("low on", -1)):
            side = [(v, t) for v, t in strongest if sign * (v - self.rest) > 0]
            if side:
                parts.append(f"{verb}: " + ", ".join(f"“{spell(t, token_text)}” {v:.3g}" for v, t in side))
        count = sum(len(level.keys) for level in self.levels)
        more = f" and {count - SHOWN} more" if count > SHOWN else ""
        return f"{'; '.join(parts)}{more}; otherwise {self.rest:.3g}"

    def _strongest(self, count: int) -> list[tuple[float, list[int]]]:
        """Values and tokens of the patterns that differ most from rest."""
        decode, found = Contexts((), self.vocabulary), []
        for order, level in enumerate(self.levels, 1):
            far = -(level.values - self.rest).abs().double().numpy(force=True)
            for place in smallest(far, count).tolist():
                found.append((float(level.values[place]), decode.tokens_of(int(level.keys[place]), order)))
        return sorted(found, key=lambda pair: -abs(pair[0] - self.rest))[:count]


def spell(tokens: list[int], token_text: Callable[[int], str]) -> str:
    """Tokens as one text, line breaks and tabs made visible; −1 is the start of a run."""
    text = "".join("⟨start⟩" if t < 0 else token_text(t) for t in tokens)
    return text.replace("\n", "↵").replace("\r", "␍").replace("\t", "⇥")
