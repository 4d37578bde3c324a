"""The search of `rules` on processors: blocks of products that stay in a core's cache, read by compiled loops.

Products in bfloat16 are several times faster than in float32 where the processor has them. They are used to find the
pairs that may be wanted, with a bound on their error (Cauchy-Schwarz):

    |x·w − x̃·w̃| ≤ ‖x − x̃‖‖w‖ + ‖x̃‖‖w − w̃‖,   plus what summing and rounding the result may add

The pre-activations of those are computed again in float32 and decide. So the result is that of float32 products, up
to the order of their sums. With precision "bfloat16" the bound is taken to be zero: what is found may then be another
one of two latents that are nearly equal, but its pre-activation is a float32 product all the same.
"""

from dataclasses import dataclass
from itertools import pairwise
from threading import Lock, local

import numpy as np
import torch
from torch import Tensor

from ...threads import count, share, spans
from . import kernel, sum_kernel
from .engine import has_bfloat16
from .rules import Above, Found, Peaks, PerBatch, PerRow, Precision, Rule

CACHE = 2**23
"""Bytes of products that a thread computes at once."""
FEWEST = 256
"""Rows of such a block, at least."""
ROUNDING = 1.001 * 2.0**-8
"""Relative error of rounding to bfloat16, at most."""
_scratch = local()


class Encoder:
    """Centered rows and weights, as the search needs them."""

    def __init__(self, x: Tensor, weights: Tensor, bias: Tensor, rule: Rule, precision: Precision) -> None:
        self.x, self.weights = x.contiguous(), weights.detach().contiguous()
        self.fine = kernel.Fine(self.x.numpy(), self.weights.numpy(), bias.detach().contiguous().numpy())
        self.groups, self.width = _layout(len(weights), rule.count if isinstance(rule, PerRow) else 1)
        self.half = has_bfloat16()
        self.exact = not self.half
        offset = np.full(self.width, -np.inf, np.float32)
        offset[: len(weights)] = self.fine.bias
        self.offset, self.norm = offset, np.zeros(self.width, np.float32)
        self.beta, self.slack = np.zeros(len(x), np.float32), np.float32(0)
        if self.half:
            self._round(precision == "float32")
        else:
            self.right = torch.nn.functional.pad(self.weights, (0, 0, 0, self.width - len(weights)))
            self.left = self.x
        row = self.width * (2 if self.half else 4)
        # A product of few rows spends its time on laying out the weights.
        self.rows = min(max(CACHE // row // 16 * 16, FEWEST), len(x))

    @np.errstate(over="ignore", invalid="ignore")
    def _round(self, bounded: bool) -> None:
        k, d = self.weights.shape
        order = np.full(self.width, -1)
        order[:k] = np.arange(k)
        # Two bfloat16 numbers make a word, and a vector of words is taken apart into its lower and its upper halves.
        order = np.ascontiguousarray(order.reshape(-1, 2, 16).swapaxes(1, 2)).reshape(-1)
        error = np.zeros(k, np.float32)
        self.right = _rounded(self.fine.weights, order, self.norm, error)
        size, lost = np.empty(len(self.x), np.float32), np.empty(len(self.x), np.float32)
        self.left = _rounded(self.fine.x, np.arange(len(self.x)), size, lost)
        if bounded:
            norm = self.norm[:k]
            ratio = np.max(np.divide(error, norm, out=np.zeros_like(error), where=norm > 0), initial=0)
            # ‖w‖ ≤ (1 + ratio)‖w̃‖; sums of d products in float32 are off by at most d·2⁻²³ of ‖x̃‖‖w̃‖.
            self.beta[:] = 1.001 * ((1 + ratio) * lost + (ratio + d * 2.0**-23) * size)
            self.slack = np.float32(ROUNDING)

    def blocks(self) -> list[int]:
        """First rows of the blocks."""
        return list(range(0, len(self.x), self.rows))

    def products(self, start: int) -> tuple[kernel.Coarse, int]:
        """Products of the block that starts at a row, in a buffer of this thread, and the row that it ends before."""
        stop = min(start + self.rows, len(self.x))
        into = _buffer(self.rows * self.width, self.left.dtype)[: (stop - start) * self.width]
        torch.mm(self.left[start:stop], self.right.T, out=into.view(stop - start, self.width))
        flat = into.view(torch.int16).numpy().view(np.uint32) if self.half else into.numpy()
        return kernel.Coarse(flat, self.beta[start:stop], self.slack, self.norm, self.offset, self.exact), stop

    @np.errstate(over="ignore", invalid="ignore")
    def exactly(self, rows: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Pre-activations of pairs, in float32."""
        z = dots(self.fine.x, rows, self.fine.weights, latents)
        z += self.fine.bias[latents]
        return z


@dataclass
class _Pairs:
    """Pairs that may be wanted, and bounds on their pre-activations."""

    rows: np.ndarray
    latents: np.ndarray
    bounds: np.ndarray

    def reaching(self, level: np.ndarray) -> "_Pairs":
        """Those whose upper bound is not below the level of their latent."""
        keep = ~(self.bounds[1] < level[self.latents])
        return _Pairs(self.rows[keep], self.latents[keep], self.bounds[:, keep])

    @staticmethod
    def join(parts: "list[_Pairs]") -> "_Pairs":
        """All of them."""
        bounds = np.concatenate([p.bounds for p in parts], axis=1)
        return _Pairs(np.concatenate([p.rows for p in parts]), np.concatenate([p.latents for p in parts]), bounds)

    def found(self, encoder: Encoder) -> Found:
        """The pairs with their pre-activations."""
        z = self.bounds[0] if encoder.exact else encoder.exactly(self.rows, self.latents)
        return Found(torch.from_numpy(z), torch.from_numpy(self.rows), torch.from_numpy(self.latents))


class _Level:
    """What a pair has to reach; it rises while blocks are searched, by several threads."""

    def __init__(self, encoder: Encoder, level: Tensor | None) -> None:
        k = len(encoder.weights)
        self.values = np.full(encoder.width, np.inf, np.float32)
        self.values[:k] = -np.inf if level is None else level.detach().numpy()
        self.lock = Lock()

    def look(self, block: kernel.Coarse, start: int, stop: int) -> None:
        """Rise to what is known from the products of a block."""

    def note(self, found: _Pairs) -> None:
        """Rise to what is known from the pairs of a block."""


class _Contest(_Level):
    """The level that as many pairs reach as have a place in the batch."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        super().__init__(encoder, None)
        self.count, self.k = count, len(encoder.weights)
        self.histogram = np.zeros(2**16, np.int64)

    def look(self, block: kernel.Coarse, start: int, stop: int) -> None:
        if self.values[0] == -np.inf:  # nothing is known yet, and without a level all pairs would be kept
            histogram = np.zeros(2**16, np.int64)
            kernel.survey(block, stop - start, self.k, histogram)
            with self.lock:
                self._rise(kernel.tallied(histogram, self.count))

    def note(self, found: _Pairs) -> None:
        with self.lock:
            kernel.tally(found.bounds[0], len(found.rows), self.histogram)
            self._rise(kernel.tallied(self.histogram, self.count))

    def _rise(self, level: float) -> None:
        if level > self.values[0]:
            self.values[: self.k] = level


class _Summit(_Level):
    """The level of the largest pre-activation of every eligible latent."""

    def __init__(self, encoder: Encoder, eligible: Tensor) -> None:
        super().__init__(encoder, None)
        self.values[: len(eligible)][~eligible.numpy()] = np.inf

    def look(self, block: kernel.Coarse, start: int, stop: int) -> None:
        best = np.full_like(self.values, -np.inf)
        kernel.crest(block, stop - start, best)
        with self.lock:
            np.maximum(self.values, best, out=self.values)


def scan(encoder: Encoder, rule: Rule, eligible: Tensor | None) -> tuple[Found, Peaks | None]:
    """What the rule finds, and where every eligible latent is largest."""
    level = None if isinstance(rule, PerRow) else _level(encoder, rule)
    summit = None if eligible is None else _Summit(encoder, eligible)
    places = rule.count if isinstance(rule, PerRow) else 0
    values, latents = np.empty((len(encoder.x), places), np.float32), np.empty((len(encoder.x), places), np.int64)
    top = (values, latents) if level is None else None
    parts = share(lambda start: _search(encoder, start, top, (level, summit)), encoder.blocks())
    wanted, tops = ([part[i] for part in parts] for i in (0, 1))
    if level is None:
        rows = torch.arange(len(values)).repeat_interleave(places)
        found = Found(torch.from_numpy(values).view(-1), rows, torch.from_numpy(latents).view(-1))
    else:
        found = _settled(encoder, rule, level, wanted)
    return found, None if summit is None else _peaks(encoder, summit, tops)


def _search(
    encoder: Encoder, start: int, top: tuple[np.ndarray, np.ndarray] | None, levels: tuple[_Level | None, ...]
) -> list[_Pairs | None]:
    """Fill the part of a block of rows in `top`, and collect its pairs that may reach the levels."""
    block, stop = encoder.products(start)
    if top is not None:
        fine = encoder.fine._replace(x=encoder.fine.x[start:stop])
        kernel.largest_of_rows(block, fine, encoder.groups, top[0][start:stop], top[1][start:stop])
    return [None if each is None else _collect(each, block, start, stop) for each in levels]


def _level(encoder: Encoder, rule: Rule) -> _Level:
    if isinstance(rule, PerBatch):
        return _Contest(encoder, rule.count)
    assert isinstance(rule, Above), rule
    return _Level(encoder, rule.level)


def _collect(level: _Level, block: kernel.Coarse, start: int, stop: int) -> _Pairs:
    """Pairs of a block that may reach the level."""
    level.look(block, start, stop)
    room = 2**14
    while True:
        rows, latents, bounds = np.empty(room, np.int64), np.empty(room, np.int64), np.empty((2, room), np.float32)
        some = kernel.reachers(block, stop - start, level.values, start, rows, latents, bounds)
        if some <= room:
            break
        room = some
    pairs = _Pairs(rows[:some].copy(), latents[:some].copy(), bounds[:, :some].copy())
    level.note(pairs)
    return pairs


def _settled(encoder: Encoder, rule: Rule, level: _Level, parts: list) -> Found:
    found = _Pairs.join(parts).reaching(level.values).found(encoder)
    if isinstance(rule, Above):
        return found.take(found.z > torch.from_numpy(level.values)[found.latents])
    return found


def _peaks(encoder: Encoder, summit: _Summit, parts: list) -> Peaks:
    found = _Pairs.join(parts).reaching(summit.values).found(encoder)
    best, rows = torch.empty(len(encoder.weights)), torch.empty(len(encoder.weights), dtype=torch.int64)
    sum_kernel.strongest(*(t.numpy() for t in (found.latents, found.rows, found.z, best, rows)))
    return Peaks(best, rows)


def dots(a: np.ndarray, rows: np.ndarray, table: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """a_row · table_latent of every pair."""
    out = np.empty(len(rows), np.float32)
    share(lambda span: sum_kernel.dots(a, rows, table, latents, span, out), _parts(len(rows)))
    return out


def sums(values: np.ndarray, members: np.ndarray, starts: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Weighted sums of table rows over bags."""
    share(lambda span: sum_kernel.sums(values, members, starts, table, span, out), _even(starts, len(members)))


def rebuild(
    pairs: tuple[np.ndarray, ...], atoms: np.ndarray, base: np.ndarray, x: np.ndarray, out: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Fill rows and what they miss (see `sum_kernel.rebuild`); returns the products with atoms."""
    products = np.empty(len(pairs[0]), np.float32)
    share(lambda span: sum_kernel.rebuild(pairs, atoms, base, x, span, out, products), _even(pairs[2], len(pairs[0])))
    return products


def squares(x: np.ndarray, center: np.ndarray) -> float:
    """Σ (x − center)²."""
    out = np.empty(len(x), np.float64)
    share(lambda span: sum_kernel.distances(x, center, span, out), spans(len(x), 4 * count()))
    return float(out.sum())


def _even(starts: np.ndarray, pairs: int) -> list[tuple[int, int]]:
    """Spans of bags that hold about equally many pairs."""
    ends = [int(np.searchsorted(starts, last)) for _, last in _parts(pairs)[:-1]]
    return list(pairwise([0, *ends, len(starts)]))


def _parts(length: int) -> list[tuple[int, int]]:
    threads = count()
    return spans(length, 1 if threads == 1 or length < 2**12 else 4 * threads)


def _rounded(table: np.ndarray, order: np.ndarray, norm: np.ndarray, error: np.ndarray) -> Tensor:
    out = torch.zeros(len(order), table.shape[1], dtype=torch.bfloat16)
    bits = out.view(torch.int16).numpy().view(np.uint16)
    share(lambda span: kernel.coarsen(table, order, span, bits, norm, error), _parts(len(order)))
    return out


def _layout(k: int, count: int) -> tuple[int, int]:
    """Groups of columns whose maxima bound the count-th largest from below, and the width that they divide.

    With four times as many groups as wanted columns about a seventh more than those reach the bound.
    """
    groups = max(-(-4 * count // 32) * 32, 32)
    groups = next((g for g in range(groups, 2 * groups, 32) if k % g == 0), groups)
    if groups >= k:
        groups = 32
    return groups, -(-k // groups) * groups


def _buffer(length: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread that is used again and again."""
    held = getattr(_scratch, "held", None)
    if held is None or held.dtype != dtype or len(held) < length:
        held = _scratch.held = torch.empty(length, dtype=dtype)
    return held
