"""Where batches come from, and what the first of them say about the data.

Batches can start at any step, so a run that was stopped goes on with the batches that it had not seen yet. Rows of
several sites (what a transcoder reads and writes, what a crosscoder reads) lie side by side in one batch.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError, NonFiniteError
from ...store.shards import ActivationStore
from ..parallel import Group
from ..sae.folding import per_unit
from .config import TrainConfig

Batches = Callable[[int], Iterator[Tensor]]
"""From a step to the endless batches that start there; equal steps must give equal batches."""
CALIBRATION = 8
"""Batches that give mean and scale."""


def from_store(store: ActivationStore, site: str | Sequence[str], config: TrainConfig) -> Batches:
    """Batches from a store, in an order that depends on the seed alone; of several sites the same rows side by side."""
    names = (site,) if isinstance(site, str) else site
    return beside([lambda start, name=name: store.shuffled(name, config.batch, config.seed, start) for name in names])


def from_stores(parts: Sequence[tuple[ActivationStore, str]], config: TrainConfig) -> Batches:
    """Batches of sites of several stores, of several models say, that hold the same rows.

    Raises: ConfigError if their rows differ in number, token, document or position.
    """
    first = parts[0][0]
    for store, _ in parts[1:]:
        for name in ("tokens", "documents", "positions"):
            if not torch.equal(getattr(first, name), getattr(store, name)):
                raise ConfigError(
                    f"{first.root} with {len(first)} rows and {store.root} with {len(store)} differ in {name}",
                    expected="stores of the same rows",
                    hint="harvest both from the same text, with the same settings",
                )
    return beside([from_store(store, site, config) for store, site in parts])


def beside(parts: Sequence[Batches]) -> Batches:
    """Batches whose rows lie side by side. Raises: ConfigError, when read, if their numbers of rows differ."""
    if len(parts) == 1:
        return parts[0]

    def batches(start: int) -> Iterator[Tensor]:
        for step, pieces in enumerate(zip(*(part(start) for part in parts), strict=False), start):
            rows = [len(piece) for piece in pieces]
            if len(set(rows)) > 1:
                raise ConfigError(
                    f"batch {step} holds {' and '.join(map(str, rows))} rows of the sites side by side",
                    expected="the same rows of every site",
                )
            yield torch.cat(pieces, 1)

    return batches


def from_rows(rows: Float[Tensor, "n d"], config: TrainConfig) -> Batches:
    """Batches of rows in memory, drawn with replacement; the seed alone decides which."""

    def batches(start: int) -> Iterator[Tensor]:
        for step in itertools.count(start):
            chosen = torch.randint(len(rows), (config.batch,), generator=rng.stream(config.seed, "rows", step))
            yield rows.index_select(0, chosen.to(rows.device))

    return batches


def from_iterable(make: Callable[[], Iterable[Tensor]]) -> Batches:
    """Batches of anything that can be started again and then gives the same; to go on, it is read from its start.

    If it gives something else, training does not go on: every checkpoint knows the batch before it.
    """
    return lambda start: itertools.islice(make(), start, None)


def following(stream: Iterator[Tensor], parts: tuple[int, ...], step: int) -> Float[Tensor, "n d"]:
    """The next batch. Raises: ConfigError if there is none, or if it does not fit the SAE."""
    x = next(stream, None)
    if x is None:
        raise ConfigError(f"the batches ended before step {step}", expected="endless batches", hint="fewer steps")
    if x.ndim != 2 or x.shape[1] != sum(parts):
        units = " + ".join(map(str, parts))
        raise ConfigError(
            f"a batch of shape {tuple(x.shape)} for an SAE on {units} units", expected=f"(rows, {sum(parts)})"
        )
    return x


def fingerprint(x: Float[Tensor, "n d"]) -> str:
    """Hash of a batch: of the bytes, as a mean may differ in its last bit with another number of threads."""
    return hashlib.blake2b(x.float().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()


def not_finite(batches: Iterable[Float[Tensor, "n d"]], start: int) -> NonFiniteError | None:
    """What to say about the first of some batches that holds NaN or infinity, if one does; `start` is its number."""
    for step, x in enumerate(batches, start):
        bad = ~x.isfinite()
        if bad.any():
            row, unit = bad.nonzero()[0].tolist()
            return NonFiniteError(
                f"batch {step} holds NaN or infinity in {int(bad.any(1).sum())} of {len(x)} rows, "
                f"first in row {row} at unit {unit}",
                expected="finite activations",
                hint="look for NaN weights in the model, or harvest in a wider dtype",
            )
    return None


@dataclass(frozen=True)
class Calibration:
    """What the first batches say about the data."""

    center: Float[Tensor, " d"]
    """Mean, in units of the scales."""
    scales: tuple[float, ...]
    """Root mean square distance from the mean per unit, of every site that lies in a row."""
    fingerprint: str
    """Hash of the first batch."""
    sample: Float[Tensor, "n d"]
    """The first rows, in units of the scales."""


def calibrate(batches: Batches, parts: tuple[int, ...], config: TrainConfig, group: Group | None = None) -> Calibration:
    """Mean, scales and fingerprint of the data. `parts` are the units of every site that lies in a row.

    Raises: NonFiniteError if the data of a site are constant or not finite; ConfigError if other processes were given
    others.
    """
    stream = batches(0)
    drawn = [following(stream, parts, step) for step in range(min(CALIBRATION, config.steps))]
    exact = torch.cat(drawn).double()
    mean = exact.mean(0)
    scales = torch.stack([site.square().mean().sqrt() for site in (exact - mean).split(parts, dim=1)])
    for number, scale in enumerate(scales.tolist(), 1):
        if not (math.isfinite(scale) and scale > 0):
            where = f" of site {number}" if len(parts) > 1 else ""
            problem = "are constant" if scale == 0 else "are too large to be squared"
            raise not_finite(drawn, 0) or NonFiniteError(
                f"the first activations{where} {problem}", expected="finite activations that vary"
            )
    known = fingerprint(drawn[0])
    if group is not None and group.size > 1:
        hint = "equal steps have to give equal batches, in every process"
        group.agree("batches", known, hint)
        numbers = torch.cat([mean, scales.to(mean)]).to(config.device or mean.device)
        mean, scales = group.stack(numbers)[0].split([len(mean), len(scales)])
    units = per_unit(scales.tolist(), parts)
    center = (mean / units.to(mean)).float().to(config.device or mean.device)
    sample = torch.cat(drawn).to(center) / units.to(center)
    return Calibration(center, tuple(scales.tolist()), known, sample)
