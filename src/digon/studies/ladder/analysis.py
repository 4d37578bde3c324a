"""From readings to slopes and taxes, with intervals over documents, units and seeds.

A number comes with `DRAWS` draws of it. Draw b takes the same documents for every network, and of every three seeds the same
two with replacement: n − 1 of n, as the mean of n − 1 resampled values varies as the mean of n does. So differences between
networks are paired. An interval is the middle 95 % of the draws.

    slope                 ordinary least squares of the means of rungs against log10(parameters), or blocks, or layers
    loss per doubling     slope of the loss against log2(parameters), of the sizes
    tax of sparsity       2^(Δloss / loss per doubling) − 1: how many more parameters would make up for the loss

Source: slopes and tax after Bills et al. 2023; m-out-of-n resampling after Bickel, Götze & van Zwet 1997.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import rng
from ...records import Measurement
from ..jobs import Record
from .scores import DRAWS

SOURCE = "after Bills et al. 2023"
METHOD = "draws of documents, units and seeds, middle 95 %"


@dataclass(frozen=True, eq=False)
class Stat:
    """A number and its draws."""

    value: float
    draws: np.ndarray

    def __sub__(self, other: "Stat") -> "Stat":
        return Stat(self.value - other.value, self.draws - other.draws)

    def map(self, f: Callable[[Any], Any]) -> "Stat":
        """The same of a function of the number."""
        return Stat(float(f(self.value)), np.asarray(f(self.draws), dtype=float))

    def measured(self, name: str, n: int, unit: str = "") -> Measurement:
        """The record; without an interval where fewer than nine tenths of the draws have the number."""
        low, high = self.interval
        return Measurement(name, self.value, low, high, n, unit, METHOD, source=SOURCE)

    @property
    def interval(self) -> tuple[float, float]:
        """Middle 95 % of the draws; NaN unless nine tenths of them are known."""
        known = self.draws[np.isfinite(self.draws)]
        if len(known) < 0.9 * len(self.draws) or not math.isfinite(self.value):
            return math.nan, math.nan
        return float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))


@dataclass(frozen=True, eq=False)
class Net:
    """One network, read one way."""

    name: str
    parts: tuple[str, ...]
    base: str
    trained: float
    read: float
    """Densities."""
    width: int
    neurons: int
    """Per block."""
    seed: int
    parameters: int
    loss: Stat
    """Held-out loss in nats per token."""
    layers: tuple[Record, ...]

    @classmethod
    def of(cls, record: Record) -> "Net":
        """From the line of a reading."""
        same = {k: record[k] for k in ("name", "base", "trained", "read", "width", "seed", "parameters")}
        return cls(
            parts=tuple(record["parts"]), neurons=record["mlp_width"], loss=_stat(record["loss"]),
            layers=tuple(record["layers"]), **same,
        )  # fmt: skip

    @property
    def kind(self) -> tuple[Any, ...]:
        """All but the first weights."""
        return self.width, len(self.layers), self.neurons, self.base, self.trained, self.read

    def layer(self, index: int, score: str) -> Stat:
        """One number of one layer, counted from 0; NaN where it was not read."""
        layer = self.layers[index]
        if score in layer["means"]:
            return _stat(layer["means"][score])
        value = layer.get(score)
        value = math.nan if value is None else float(value)
        return Stat(value, np.full(DRAWS, value))

    def stat(self, score: str) -> Stat:
        """The loss, or a number as its mean over the layers that have it."""
        if score == "loss":
            return self.loss
        return mean(self.layer(i, score) for i in range(len(self.layers)))


def mean(stats: Iterable[Stat]) -> Stat:
    """Mean of those that have the number."""
    known = [s for s in stats if math.isfinite(s.value)]
    if not known:
        return Stat(math.nan, np.full(DRAWS, math.nan))
    return Stat(float(np.mean([s.value for s in known])), np.mean([s.draws for s in known], axis=0))


def over_seeds(stats: Sequence[Stat]) -> Stat:
    """Mean over seeds; every draw takes n − 1 of n, the same ones wherever there are n."""
    n = len(stats)
    if n < 2:
        return mean(stats)
    picks = rng.numpy_stream(0, "ladder seeds", n).integers(n, size=(DRAWS, n - 1))
    table = np.stack([s.draws for s in stats])
    return Stat(float(np.mean([s.value for s in stats])), table[picks, np.arange(DRAWS)[:, None]].mean(1))


def slope(x: Sequence[float] | Sequence[int], y: Sequence[Stat]) -> Stat:
    """Ordinary least squares, in every draw; points without the number are left out.

    >>> flat = np.zeros(DRAWS)
    >>> slope([0.0, 1.0, 2.0], [Stat(v, flat + v) for v in (1.0, 3.0, 5.0)]).value
    2.0
    """
    known = [i for i, s in enumerate(y) if math.isfinite(s.value)]
    at = np.array([x[i] for i in known], dtype=float)
    if len(set(at.tolist())) < 2:
        return Stat(math.nan, np.full(DRAWS, math.nan))
    leverage = (at - at.mean()) / np.square(at - at.mean()).sum()
    table = np.stack([y[i].draws for i in known])
    return Stat(float(leverage @ np.array([y[i].value for i in known])), leverage @ table)


@dataclass(frozen=True, eq=False)
class Rung:
    """Networks that differ in nothing but their first weights, read alike."""

    nets: tuple[Net, ...]

    @property
    def first(self) -> Net:
        """The one with the lowest seed; all but weights and numbers is the same in the others."""
        return self.nets[0]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.first.layers)

    def stat(self, score: str) -> Stat:
        """A number as its mean over layers, then seeds."""
        return over_seeds([net.stat(score) for net in self.nets])

    def layer(self, index: int, score: str) -> Stat:
        """A number of one layer as its mean over seeds."""
        return over_seeds([net.layer(index, score) for net in self.nets])

    def along(self, score: str) -> Stat:
        """Its slope per layer."""
        layers = range(self.blocks)
        return over_seeds([slope(list(layers), [net.layer(i, score) for i in layers]) for net in self.nets])


@dataclass(frozen=True, eq=False)
class Ladder:
    """All rungs, by what they are rungs of."""

    sizes: tuple[Rung, ...]
    depths: tuple[Rung, ...]
    grid: tuple[Rung, ...]
    """Activations and densities, as they were trained."""
    controls: tuple[Rung, ...]
    """The same networks, read with another density."""

    def cell(self, base: str, trained: float, read: float | None = None) -> Rung | None:
        """The rung of an activation, trained with one density and read with another (None: the same one)."""
        read = trained if read is None else read
        among = self.grid if read == trained else self.controls
        return next((r for r in among if (r.first.base, r.first.trained, r.first.read) == (base, trained, read)), None)

    def per_decade(self, score: str) -> Stat:
        """Slope over sizes, per decade of parameters."""
        return slope([math.log10(r.first.parameters) for r in self.sizes], [r.stat(score) for r in self.sizes])

    def per_block(self, score: str) -> Stat:
        """Slope over depths, per block, of the mean over layers."""
        return slope([r.blocks for r in self.depths], [r.stat(score) for r in self.depths])

    def per_layer(self, score: str) -> Stat:
        """Slope from layer to layer inside networks, mean over those with more than one."""
        deep = {id(r): r for r in (*self.sizes, *self.depths) if r.blocks > 1}
        return mean(r.along(score) for r in deep.values())

    @property
    def per_doubling(self) -> Stat:
        """Loss that a doubling of the parameters takes away, in nats per token."""
        return self.per_decade("loss").map(lambda v: -v * math.log10(2))

    def tax(self, bases: Sequence[str], density: float) -> Stat:
        """Share of extra parameters that would make up for the loss of sparsity, of all activations given together."""
        cells = [(self.cell(base, density), self.cell(base, 1.0)) for base in bases]
        worse = mean(a.stat("loss") - b.stat("loss") for a, b in cells if a is not None and b is not None)
        gain = self.per_doubling
        return Stat(_tax(worse.value, gain.value), np.array([*map(_tax, worse.draws, gain.draws)]))

    def gained(self, base: str, density: float, score: str) -> tuple[Stat, Stat] | None:
        """Rise of a score by sparsity: trained with it, and applied afterwards to the dense network."""
        cells = self.cell(base, 1.0), self.cell(base, density), self.cell(base, 1.0, density)
        if any(cell is None for cell in cells):
            return None
        dense, sparse, after = (cell.stat(score) for cell in cells if cell is not None)
        return sparse - dense, after - dense


def ladder(records: Sequence[Record]) -> Ladder:
    """Rungs from the lines of readings; lines that failed are left out."""
    groups: dict[tuple[Any, ...], list[Net]] = {}
    for record in records:
        if "error" not in record:
            net = Net.of(record)
            groups.setdefault(net.kind, []).append(net)
    rungs = [Rung(tuple(sorted(nets, key=lambda net: net.seed))) for nets in groups.values()]
    own = [r for r in rungs if r.first.trained == r.first.read]
    sparse = lambda r: (r.first.base, -r.first.trained, -r.first.read)  # noqa: E731
    return Ladder(
        tuple(sorted((r for r in own if "sizes" in r.first.parts), key=lambda r: r.first.parameters)),
        tuple(sorted((r for r in own if "depths" in r.first.parts), key=lambda r: r.blocks)),
        tuple(sorted((r for r in own if "sparsity" in r.first.parts), key=sparse)),
        tuple(sorted((r for r in rungs if r.first.trained != r.first.read), key=sparse)),
    )


def _tax(worse: float, gain: float) -> float:
    """A loss that size does not improve has no price in parameters."""
    exponent = worse / gain if gain > 0 else math.nan
    return 2.0**exponent - 1 if abs(exponent) < 64 else math.nan


def _stat(plain: Record) -> Stat:
    number = lambda v: math.nan if v is None else float(v)  # noqa: E731
    return Stat(number(plain["value"]), np.array([number(v) for v in plain["draws"]]))
