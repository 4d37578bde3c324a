"""Explanations that need no language model: patterns of tokens with a value, simulated exactly.

    look-up     value of the token itself                        the context-free explanation; its ceiling is η²
    n-grams     value of the longest known pattern of up to 3 tokens that ends here, backing off to shorter ones

1. Values are means over the rows that a pattern decides, shrunk toward the shorter pattern: (n·mean + κ·shorter)/(n + κ).
2. Look-up: tokens ranked by n·(mean − rest)²; the first k are kept, k with the best correlation on the select split.
3. N-grams: a pattern is kept if it pays for itself, that is if the bits it saves in coding the activations,
   n·Δ²/(2σ² ln 2), exceed the bits that it costs, and do so even without its most extreme row: one large activation
   is no pattern. Δ is taken first from the median of the siblings, so that a rule is found rather than all its
   exceptions. What is kept changes Δ and σ² of the others, so this is repeated; the round with the fewest bits in all
   wins. σ² is never finer than the precision of a coded value.

Bits: a pattern costs 8 for its value, log2(vocabulary) for its last token and log2(vocabulary + 1) for each before it (it
may be the start); their number on each level costs Rissanen's log*; the resting value costs another 8.

Sources: look-up and its ceiling after Bills et al. 2023; back-off shrinkage after Jelinek & Mercer 1980; n-gram graphs
after Foote et al. 2023 (N2G); two-part code and log* after Rissanen 1978, 1983.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import NonFiniteError
from .exemplars import Contexts

SHRINK = 3.0
VALUE_BITS = 8
ROUNDS = 8
"""Rounds of pruning; a handful suffices on networks and worlds alike."""
SHOWN = 8
"""Patterns that a rendered explanation spells out."""


@runtime_checkable
class Fitted(Protocol):
    """An explanation of one unit: a description of so many bits that can be simulated and put in words."""

    @property
    def name(self) -> str:
        """Name of the explainer."""
        ...

    @property
    def bits(self) -> float:
        """Description length."""
        ...

    def simulate(self, contexts: Contexts) -> Float[Tensor, " n"]:
        """Predicted activation on every row."""
        ...

    def render(self, token_text: Callable[[int], str]) -> str:
        """The explanation as plain text."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A way to explain units from the rows of two splits; it does not look at the others."""

    name: str

    def fit(
        self, contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Fitted:
        """Explain one unit."""
        ...


@dataclass(frozen=True)
class Trie:
    """Every pattern that occurs more than once, by length, the empty one first; all units of a site share it."""

    keys: tuple[Int[Tensor, " _"], ...]
    parents: tuple[Int[Tensor, " _"], ...]
    """The shorter pattern inside each pattern."""
    found: Int[Tensor, " n"]
    """The longest pattern of every row, numbered over all lengths."""
    counts: tuple[Float[Tensor, " _"], ...]
    """Rows of which each pattern is the longest."""
    vocabulary: int

    @classmethod
    def of(cls, contexts: Contexts) -> "Trie":
        """Tables of all patterns in these rows."""
        found = shorter = torch.zeros_like(contexts.keys[0])
        keys, parents, start = [found.new_zeros(1)], [found.new_zeros(1)], 1
        for column in contexts.keys:
            patterns, index, count = column.unique(return_inverse=True, return_counts=True)
            number, rows = (count > 1).cumsum(0) - 1, count[index] > 1
            keys.append(patterns[count > 1])
            place = number[index]
            parents.append(torch.empty_like(keys[-1]).scatter_(0, place[rows], shorter[rows]))
            found = torch.where(rows, place + start, found)
            shorter, start = place, start + len(keys[-1])
        sizes = [len(k) for k in keys]
        counts = torch.bincount(found, minlength=start).double().split(sizes)
        return cls(tuple(keys), tuple(parents), found, tuple(counts), contexts.vocabulary)

    def sums(self, values: Float[Tensor, " n"]) -> tuple[Float[Tensor, " _"], ...]:
        """Sum of the activations over the rows of which each pattern is the longest."""
        sizes = [len(k) for k in self.keys]
        return torch.bincount(self.found, weights=values, minlength=sum(sizes)).split(sizes)

    def extremes(self, values: Float[Tensor, " n"]) -> list[tuple[Float[Tensor, " _"], ...]]:
        """Smallest and largest activation on these rows."""
        sizes = [len(k) for k in self.keys]
        blank = values.new_zeros(sum(sizes))
        return [
            (blank + worst).scatter_reduce(0, self.found, values, how).split(sizes)
            for worst, how in ((math.inf, "amin"), (-math.inf, "amax"))
        ]

    def decided(self, sums: Sequence[Tensor], kept: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Number and sum of the rows that every pattern decides, or would if it were kept."""
        n, s = list(self.counts), list(sums)
        for order in range(len(self.keys) - 1, 0, -1):
            up, passed = self.parents[order], ~kept[order]
            n[order - 1] = n[order - 1].index_add(0, up, n[order] * passed)
            s[order - 1] = s[order - 1].index_add(0, up, s[order] * passed)
        return n, s

    def values(self, sums: Sequence[Tensor], kept: list[Tensor], shrink: float) -> list[Tensor]:
        """What is predicted at every pattern: its own value if it is kept, else that of the longest kept one inside."""
        n, s = self.decided(sums, kept)
        # where longer patterns decide all rows nothing is left to average; 0 is the mean of the centered activations
        out = [s[0] / n[0].clamp_min(1)]
        for order in range(1, len(self.keys)):
            shorter = out[-1][self.parents[order]]
            weight = n[order] + shrink
            own = torch.where(weight > 0, (s[order] + shrink * shorter) / weight.clamp_min(1e-9), shorter)
            out.append(torch.where(kept[order], own, shorter))
        return out

    def medians(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Median, over the rows of every pattern, of the mean of the next longer one; the mean where there is none."""
        counts, totals = self.decided(sums, self.nothing())
        out = [s / n for s, n in zip(totals, counts, strict=True)]
        for order in range(len(self.keys) - 1, 0, -1):
            up, n, means = self.parents[order], counts[order], totals[order] / counts[order]
            by_mean = means.argsort(stable=True)
            sort = by_mean[up[by_mean].argsort(stable=True)]
            owner = up[sort]
            total = torch.zeros_like(out[order - 1]).index_add_(0, up, n)
            half = (total.cumsum(0) - total / 2)[owner]
            place = torch.arange(len(sort), device=sort.device).where(n[sort].cumsum(0) >= half, len(sort))
            first = torch.full_like(self.keys[order - 1], len(sort)).scatter_reduce(0, owner, place, "amin")
            has = total > 0
            out[order - 1][has] = means[sort[first[has]]]
        return out

    def nothing(self) -> list[Bool[Tensor, " _"]]:
        """No pattern kept."""
        return [torch.zeros_like(k, dtype=torch.bool) for k in self.keys]


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
        return VALUE_BITS + sum(
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
                parts.append(f"{verb}: " + ", ".join(f"“{_text(t, token_text)}” {v:.3g}" for v, t in side))
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{'; '.join(parts)}{more}; otherwise {self.rest:.3g}"


class LookUp:
    """Fits the look-up of single tokens."""

    name = "token look-up"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Shrunk mean of every token on the fit rows; as many tokens as predict the select rows best."""
        return LookUp.fit_many(contexts, values[:, None], fit, select)[0]

    @staticmethod
    def fit_many(
        contexts: Contexts, values: Float[Tensor, "n units"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> list[Patterns]:
        """The same for many units at once."""
        tokens = contexts.keys[0]
        known, truth = values[fit].double(), values[select].double()
        rest = _finite_mean(known)
        seen, index, counts = tokens[fit].unique(return_inverse=True, return_counts=True)
        sums = known.new_zeros(len(seen), values.shape[1]).index_add_(0, index, known)
        means = (sums + SHRINK * rest) / (counts[:, None] + SHRINK)
        order = (counts[:, None] * (means - rest).square()).argsort(dim=0, descending=True, stable=True)
        sizes = _best_sizes(means - rest, order, seen, tokens[select], truth)
        found = []
        for unit, size in enumerate(sizes.tolist()):
            kept = order[:size, unit].sort().values
            level = Level(seen[kept], means[kept, unit].float())
            found.append(Patterns(LookUp.name, float(rest[unit]), (level,), contexts.vocabulary))
        return found


def _best_sizes(
    rise: Float[Tensor, "seen units"],
    order: Int[Tensor, "seen units"],
    seen: Int[Tensor, " seen"],
    tokens: Int[Tensor, " m"],
    truth: Float[Tensor, "m units"],
) -> Int[Tensor, " units"]:
    """How many tokens of `order` correlate best with the truth on held-out rows; every number is tried."""
    place = torch.searchsorted(seen, tokens).clamp_max(len(seen) - 1)
    hit = seen[place] == tokens
    centered = (truth - truth.mean(0))[hit]
    n = torch.bincount(place[hit], minlength=len(seen)).double()
    s = torch.zeros_like(rise).index_add_(0, place[hit], centered)
    rise, s, n = rise.gather(0, order), s.gather(0, order), n[order]
    covariance = (rise * s).cumsum(0)
    variance = (rise.square() * n).cumsum(0) - (rise * n).cumsum(0).square() / max(len(tokens), 1)
    # the variance of the truth is the same for every size and left out
    score = torch.where(variance > 1e-12 * variance.amax(0), covariance / variance.clamp_min(1e-300).sqrt(), -math.inf)
    score = torch.where(score.isfinite(), score, -math.inf)
    first = (score >= score.amax(0)).to(torch.uint8).argmax(0) + 1
    return torch.where(score.amax(0).isfinite(), first, len(seen))


class NGrams:
    """Fits patterns of up to three tokens."""

    name = "n-grams"

    @staticmethod
    def fit(
        contexts: Contexts, values: Float[Tensor, " n"], fit: Bool[Tensor, " n"], select: Bool[Tensor, " n"]
    ) -> Patterns:
        """Patterns on the rows of fit and select, each kept if it pays for its bits."""
        seen = fit | select
        return NGrams.prune(Trie.of(contexts.take(seen)), values[seen])

    @staticmethod
    def prune(trie: Trie, values: Float[Tensor, " n"]) -> Patterns:
        """The same on the rows of a trie, which all units of a site may share."""
        truth = values.double()
        mean = float(_finite_mean(truth[:, None]))
        shift = truth - mean
        sums, extremes, power = trie.sums(shift), trie.extremes(shift), float(shift @ shift)
        step = float(shift.max() - shift.min()) / 2**VALUE_BITS
        kept, predicted = trie.nothing(), trie.medians(sums)
        best, fewest = kept, math.inf
        for _ in range(ROUNDS):
            fitted = trie.values(sums, kept, 0.0)
            parts = zip(fitted, trie.counts, sums, strict=True)
            error = power + sum(float((v * (v * n - 2 * s)).sum()) for v, n, s in parts)
            noise = max(error, 0.0) / len(shift) + step**2 / 12
            if noise == 0:
                break
            bits = _kept_bits(kept, trie.vocabulary) + 0.5 * len(shift) * math.log2(noise)
            if bits < fewest:
                best, fewest = kept, bits
            chosen = _paying(trie, sums, extremes, fitted if any(k.any() for k in kept) else predicted, noise)
            if all(torch.equal(a, b) for a, b in zip(chosen, kept, strict=True)):
                break
            kept = chosen
        shrunk = trie.values(sums, best, SHRINK)
        tables = zip(trie.keys[1:], best[1:], shrunk[1:], strict=True)
        levels = tuple(Level(keys[b], (value[b] + mean).float()) for keys, b, value in tables)
        return Patterns(NGrams.name, float(shrunk[0]) + mean, levels, trie.vocabulary)


def _paying(
    trie: Trie,
    sums: Sequence[Tensor],
    extremes: Sequence[Sequence[Tensor]],
    predicted: list[Tensor],
    noise: float,
) -> list[Tensor]:
    """Patterns that save more than they cost, longest first, against what is predicted without them."""
    kept, counts, totals = trie.nothing(), list(trie.counts), list(sums)
    lows, highs = (list(side) for side in extremes)
    for order in range(len(trie.keys) - 1, 0, -1):
        up, n, s = trie.parents[order], counts[order], totals[order]
        without = predicted[order - 1][up]
        rest = (n - 1) * without
        excess = torch.where(s > n * without, s - highs[order] - rest, rest - s + lows[order])
        saved = excess.clamp_min(0).square() / (n - 1).clamp_min(1) / (2 * noise * math.log(2))
        kept[order] = (n > 1) & (saved > pattern_bits(order, trie.vocabulary))
        passed = (~kept[order]).nonzero().squeeze(1)
        up, below = up[passed], order - 1
        counts[below] = counts[below].index_add(0, up, n[passed])
        totals[below] = totals[below].index_add(0, up, s[passed])
        lows[below] = lows[below].scatter_reduce(0, up, lows[order][passed], "amin")
        highs[below] = highs[below].scatter_reduce(0, up, highs[order][passed], "amax")
    return kept


def pattern_bits(order: int, vocabulary: int) -> float:
    """Bits of one pattern and its value.

    >>> pattern_bits(2, 255) - math.log2(255)
    16.0
    """
    return VALUE_BITS + math.log2(vocabulary) + (order - 1) * math.log2(vocabulary + 1)


def integer_bits(number: int) -> float:
    """Rissanen's universal code of an integer from 1: log2 2.865 + log2 n + log2 log2 n + …, positive terms only.

    >>> round(integer_bits(1), 3), round(integer_bits(16) - integer_bits(1), 3)
    (1.519, 7.0)
    """
    bits, term = math.log2(2.865064), float(number)
    while (term := math.log2(term)) > 0:
        bits += term
    return bits


def _kept_bits(kept: list[Tensor], vocabulary: int) -> float:
    numbers = [(order, int(k.sum())) for order, k in enumerate(kept)][1:]
    return sum(integer_bits(count + 1) + count * pattern_bits(order, vocabulary) for order, count in numbers)


def _text(tokens: list[int], token_text: Callable[[int], str]) -> str:
    text = "".join("⟨start⟩" if t < 0 else token_text(t) for t in tokens)
    return text.replace("\n", "↵").replace("\r", "␍").replace("\t", "⇥")


def _finite_mean(values: Float[Tensor, "n units"]) -> Float[Tensor, " units"]:
    """Means; sums of rows find NaN and infinity wherever they are."""
    mean = values.mean(0)
    wrong = int((~mean.isfinite()).sum())
    if wrong:
        raise NonFiniteError(
            f"cannot explain {wrong} of {len(mean)} units from {len(values)} rows: their mean is not finite",
            expected="finite rows in the fit split",
            hint="harvest more documents, or look for NaN in the model",
        )
    return mean
