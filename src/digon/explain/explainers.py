"""Explanations that need no language model: patterns of tokens with a value, simulated exactly.

    look-up     value of the token itself                        the context-free explanation; its ceiling is η²
    n-grams     value of the longest known pattern of up to 3 tokens that ends here, backing off to shorter ones

Means are shrunk toward the shorter pattern, (n·mean + κ·shorter)/(n + κ). A pattern is kept if it pays for itself: the
bits it saves in coding the activations, n·Δ²/(2σ² ln 2), exceed the bits that it costs. The look-up keeps the k most
useful tokens; k is chosen on the select split.

Bits: a pattern costs log2(vocabulary) per token and 8 for its value; the explanation another 8 for its resting value.

Sources: look-up and its ceiling after Bills et al. 2023; back-off shrinkage after Jelinek & Mercer 1980; n-gram graphs
after Foote et al. 2023 (N2G); two-part code after Rissanen 1978.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import NonFiniteError

SHRINK = 3.0
VALUE_BITS = 8
ORDERS = 3


class Explainer(Protocol):
    """An explanation of one unit that can be simulated."""

    name: str

    def simulate(self, contexts: "Contexts") -> Float[Tensor, " n"]:
        """Activation that the explanation predicts on every row."""
        ...

    def render(self, token_text: Callable[[int], str]) -> str:
        """The explanation in words, as plain text."""
        ...

    @property
    def bits(self) -> float:
        """Description length."""
        ...


@dataclass(frozen=True)
class Contexts:
    """What every row ends with: keys of its last one, two and three tokens within its run."""

    keys: tuple[Int[Tensor, " n"], ...]
    vocabulary: int

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
        previous = torch.zeros_like(tokens)
        linked = torch.zeros(len(tokens), dtype=torch.bool)
        linked[1:] = (documents[1:] == documents[:-1]) & (positions[1:] == positions[:-1] + 1)
        reach = linked
        scale = vocabulary
        for lag in range(1, ORDERS):
            previous = torch.zeros_like(tokens)
            previous[lag:] = tokens[:-lag] + 1
            keys.append(keys[-1] + scale * torch.where(reach, previous, 0))
            scale *= vocabulary + 1
            shifted = torch.zeros_like(linked)
            shifted[lag:] = linked[:-lag]
            reach = reach & shifted
        return cls(tuple(keys), vocabulary)

    def take(self, rows: Tensor) -> "Contexts":
        """Keys of some rows."""
        return Contexts(tuple(key[rows] for key in self.keys), self.vocabulary)

    def tokens_of(self, key: int, order: int) -> list[int]:
        """Tokens behind a key of `order` tokens, first to last; −1 is the start of a run."""
        tokens = [key % self.vocabulary]
        key //= self.vocabulary
        for _ in range(order - 1):
            tokens.append(key % (self.vocabulary + 1) - 1)
            key //= self.vocabulary + 1
        return tokens[::-1]


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
        value = torch.full(contexts.keys[0].shape, self.rest)
        for level, keys in zip(self.levels, contexts.keys, strict=False):
            value = level.apply(keys, value)
        return value

    @property
    def bits(self) -> float:
        """Description length under the code of the module."""
        patterns = sum(
            len(v.keys) * (VALUE_BITS + n * math.log2(self.vocabulary)) for n, v in enumerate(self.levels, 1)
        )
        return VALUE_BITS + patterns

    def render(self, token_text: Callable[[int], str]) -> str:
        """The strongest patterns in words."""
        decode = Contexts((), self.vocabulary)
        found = [
            (value, decode.tokens_of(key, order))
            for order, level in enumerate(self.levels, 1)
            for key, value in zip(level.keys.tolist(), level.values.tolist(), strict=True)
        ]
        found.sort(key=lambda pair: -abs(pair[0] - self.rest))
        if not found:
            return f"always {self.rest:.3g}"
        words = ["".join("⟨start⟩" if t < 0 else token_text(t) for t in tokens) for _, tokens in found[:8]]
        shown = ", ".join(f"“{word}” {value:.3g}" for word, (value, _) in zip(words, found, strict=False))
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return f"after {shown}{more}; otherwise {self.rest:.3g}"


class LookUp:
    """Fits the look-up of single tokens."""

    name = "token look-up"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Shrunk mean of every token on the fit rows; as many tokens as predict the select rows best."""
        rest = _finite_mean(values[fit])
        keys, means, counts = _means(contexts.keys[0][fit], values[fit], torch.full((int(fit.sum()),), rest))
        order = (counts * (means - rest).square()).argsort(descending=True, stable=True)
        full = Patterns(LookUp.name, rest, (Level(keys, means),), contexts.vocabulary)
        best, best_score = full, -math.inf
        held_out, truth = contexts.take(select), values[select]
        size = 1
        while True:
            kept = order[:size].sort().values
            candidate = Patterns(LookUp.name, rest, (Level(keys[kept], means[kept]),), contexts.vocabulary)
            score = correlation(candidate.simulate(held_out), truth)
            if score > best_score + 1e-3:
                best, best_score = candidate, score
            if size >= len(order):
                return best
            size *= 2


class NGrams:
    """Fits patterns of up to three tokens."""

    name = "n-grams"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Back-off means on the rows of fit and select, each pattern kept if it pays for its bits."""
        seen = fit | select
        known, truth = contexts.take(seen), values[seen]
        rest = _finite_mean(truth)
        # differences below 1/32 of the range are not worth telling apart, however certain
        resolution = (float(truth.max() - truth.min()) / 32) ** 2 + 1e-12
        current = torch.full_like(truth, rest)
        levels: list[Level] = []
        for order, keys in enumerate(known.keys, 1):
            patterns, means, counts = _means(keys, truth, current)
            shorter = torch.zeros_like(means).scatter_(0, torch.searchsorted(patterns, keys), current)
            noise = max(float((truth - current).square().mean()), resolution)
            saved = counts * (means - shorter).square() / (2 * noise * math.log(2))
            pays = saved > VALUE_BITS + order * math.log2(contexts.vocabulary)
            level = Level(patterns[pays], means[pays])
            levels.append(level)
            current = level.apply(keys, current)
        return Patterns(NGrams.name, rest, tuple(levels), contexts.vocabulary)


def correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Pearson correlation; NaN where either side is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if scale > 1e-12 else math.nan


def _means(
    keys: Int[Tensor, " n"], values: Float[Tensor, " n"], shorter: Float[Tensor, " n"]
) -> tuple[Int[Tensor, " patterns"], Float[Tensor, " patterns"], Float[Tensor, " patterns"]]:
    """Every pattern, its mean shrunk toward what the shorter pattern predicts, and its count."""
    patterns, index, counts = keys.unique(return_inverse=True, return_counts=True)
    sums = torch.bincount(index, weights=values.double(), minlength=len(patterns))
    prior = torch.bincount(index, weights=shorter.double(), minlength=len(patterns)) / counts
    means = (sums + SHRINK * prior) / (counts + SHRINK)
    return patterns, means.float(), counts.float()


def _finite_mean(values: Float[Tensor, " n"]) -> float:
    mean = float(values.double().mean()) if len(values) else math.nan
    if not math.isfinite(mean):
        raise NonFiniteError(f"cannot explain a unit from {len(values)} rows with mean {mean}", expected="finite rows")
    return mean
