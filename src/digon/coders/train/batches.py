"""Where batches come from, and what the first of them say about the data.

Batches can start at any step, so a run that was stopped goes on with the batches that it had not seen yet.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError, NonFiniteError
from ...store.shards import ActivationStore
from ..parallel import Group
from .config import TrainConfig

Batches = Callable[[int], Iterator[Tensor]]
"""From a step to the endless batches that start there; equal steps must give equal batches."""
CALIBRATION = 8
"""Batches that give mean and scale."""


def from_store(store: ActivationStore, site: str, config: TrainConfig) -> Batches:
    """Batches from a store, in an order that depends on the seed alone."""
    return lambda start: store.shuffled(site, config.batch, config.seed, start)


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


def following(stream: Iterator[Tensor], d_in: int, step: int) -> Float[Tensor, "n d"]:
    """The next batch. Raises: ConfigError if there is none, or if it does not fit the SAE."""
    x = next(stream, None)
    if x is None:
        raise ConfigError(f"the batches ended before step {step}", expected="endless batches", hint="fewer steps")
    if x.ndim != 2 or x.shape[1] != d_in:
        raise ConfigError(f"a batch of shape {tuple(x.shape)} for an SAE on {d_in} units", expected=f"(rows, {d_in})")
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
    """Mean, in units of the scale."""
    scale: float
    """Root mean square distance from the mean per unit."""
    fingerprint: str
    """Hash of the first batch."""
    sample: Float[Tensor, "n d"]
    """The first rows, in units of the scale."""


def calibrate(batches: Batches, d_in: int, config: TrainConfig, group: Group | None = None) -> Calibration:
    """Mean, scale and fingerprint of the data.

    Raises: NonFiniteError if the data are constant or not finite; ConfigError if other processes were given others.
    """
    stream = batches(0)
    drawn = [following(stream, d_in, step) for step in range(min(CALIBRATION, config.steps))]
    exact = torch.cat(drawn).double()
    mean = exact.mean(0)
    scale = float((exact - mean).square().mean().sqrt())
    if not (math.isfinite(scale) and scale > 0):
        problem = "are constant" if scale == 0 else "are too large to be squared"
        raise not_finite(drawn, 0) or NonFiniteError(
            f"the first activations {problem}", expected="finite activations that vary"
        )
    known = fingerprint(drawn[0])
    if group is not None and group.size > 1:
        hint = "equal steps have to give equal batches, in every process"
        group.agree("batches", known, hint)
        numbers = torch.cat([mean, mean.new_tensor([scale])]).to(config.device or mean.device)
        mean, scale = (numbers := group.stack(numbers)[0])[:-1], float(numbers[-1])
    center = (mean / scale).float().to(config.device or mean.device)
    sample = torch.cat(drawn).to(center) / scale
    return Calibration(center, scale, known, sample)
