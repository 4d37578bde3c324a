"""Activations of latents as delphi caches them, and what it says of them (`delphi_texts`).

A cache is a folder per hook point with shards `<first>_<last>.safetensors`:

    locations     [m 3]  context, position, latent − first        uint16 or uint32
    activations   [m]    what the latent does there               float16
    tokens        [contexts t]                                    the same in every shard, or only in some

What is not listed is zero. A context is all that is known of a document, so the hash of its tokens stands for the document,
and equal contexts fall on the same side of every split.

Source: EleutherAI/delphi.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError, CorruptError, PathError
from ...records import Histogram, Measurement, UnitCard
from ...store import weights
from .. import exemplars
from ..exemplars import LENGTH, Excerpts
from .reading import read_json

TOGETHER = 32
"""Latents whose activations are held at once, with all zeros."""
BINS = 40
METHOD = "delphi"

NAME = re.compile(r"(\d+)_(\d+)\.safetensors")
"""What a shard is called."""


@dataclass(frozen=True)
class LatentCache:
    """The shards of one hook point; latents are read when they are asked for."""

    shards: tuple[tuple[int, int, Path], ...]
    """First latent, last latent, file."""
    tokens: Int[Tensor, "contexts t"]
    model: str
    """Name of the network, empty if the folder does not tell."""

    @classmethod
    def open(cls, folder: Path) -> "LatentCache":
        """The cache of one hook point.

        Raises: PathError if there are no shards; CorruptError if they overlap, leave latents out, or hold no tokens.
        """
        names = sorted(path for path in folder.glob("*.safetensors") if NAME.fullmatch(path.name))
        if not names:
            raise PathError(f"no shards in {folder}", expected="<first>_<last>.safetensors, as delphi writes them")
        shards = sorted((int(found[1]), int(found[2]), path) for path in names if (found := NAME.fullmatch(path.name)))
        for (_, last, path), (first, _, other) in itertools.pairwise(shards):
            if first != last + 1:
                raise CorruptError(
                    f"{path.name} and {other.name} in {folder} do not join", expected=f"a shard from {last + 1}"
                )
        tokens = next((t for _, _, path in shards if (t := weights.read_tensors(path).get("tokens")) is not None), None)
        if tokens is None or tokens.ndim != 2 or tokens.is_floating_point():
            raise CorruptError(f"{folder} holds no tokens", expected="shards that were saved with their tokens")
        config = folder / "config.json"
        name = read_json(config).text("model_name", "") if config.is_file() else ""
        return cls(tuple(shards), tokens.long(), name)

    @property
    def latents(self) -> range:
        """The latents of all shards."""
        return range(self.shards[0][0], self.shards[-1][1] + 1)

    @property
    def documents(self) -> Int[Tensor, " n"]:
        """Context of every row."""
        return torch.arange(len(self.tokens)).repeat_interleave(self.tokens.shape[1])

    @property
    def positions(self) -> Int[Tensor, " n"]:
        """Position of every row in its context."""
        return torch.arange(self.tokens.shape[1]).repeat(len(self.tokens))

    @cached_property
    def document_ids(self) -> tuple[str, ...]:
        """Hash of the tokens of every context."""
        return tuple(hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in self.tokens.numpy())

    def excerpts(self, seed: int = 0, length: int = LENGTH) -> Excerpts:
        """All contexts, cut into excerpts, with their splits."""
        return Excerpts.of(self.documents, self.positions, self.document_ids, seed, length)

    def values(self, first: int, stop: int) -> Float[Tensor, "n latents"]:
        """Activations of latents `first` ≤ i < `stop` on every row.

        Raises: ConfigError if there are no such latents; CorruptError if a location lies outside, or an activation is not finite.
        """
        if not self.latents.start <= first < stop <= self.latents.stop:
            raise ConfigError(
                f"no latents {first} to {stop - 1}", expected=f"some of {self.latents.start} to {self.latents[-1]}"
            )
        dense = torch.zeros(self.tokens.numel(), stop - first)
        for low, high, path in self.shards:
            if low < stop and high >= first:
                places, values = self._read(low, high, path)
                here = (places[:, 2] >= first) & (places[:, 2] < stop)
                row = places[here, 0] * self.tokens.shape[1] + places[here, 1]
                dense[row, places[here, 2] - first] = values[here]
        return dense

    def cards(
        self, latents: Sequence[int], site: str, model: str, token_text: Callable[[int], str], seed: int = 0
    ) -> Iterator[UnitCard]:
        """Cards of some latents: how often and how much they are active, and exemplars.

        Raises: ConfigError if there is no such latent; CorruptError for damaged shards.
        """
        cut, tokens = self.excerpts(seed), self.tokens.reshape(-1)
        for run in _runs(latents):
            values = self.values(run.start, run.stop)
            maxima = cut.maxima(values)
            for place, latent in enumerate(run):
                own, draw = values[:, place].clone(), rng.stream(seed, "delphi card", site, latent)
                shown = exemplars.exemplars(cut, (own, tokens, self.positions), maxima[:, place], token_text, {}, draw)
                yield UnitCard(
                    f"{model}/{site}#{latent}", site, latent, "latent", _measured(own), _histogram(own), shown
                )

    def _read(self, low: int, high: int, path: Path) -> tuple[Int[Tensor, "m 3"], Float[Tensor, " m"]]:
        found = weights.read_tensors(path)
        for name in ("locations", "activations"):
            if name not in found:
                raise CorruptError(f"{path} lacks {name!r}", expected="locations and activations")
        places, values = found["locations"], found["activations"]
        if places.is_floating_point() or places.ndim != 2 or places.shape[1] != 3 or values.shape != places.shape[:1]:
            raise CorruptError(
                f"{path}: locations {tuple(places.shape)} beside activations {tuple(values.shape)}",
                expected="[m 3] whole numbers beside [m] numbers",
            )
        places, values = places.long(), values.float()
        places[:, 2] += low
        limits = torch.tensor([*self.tokens.shape, high + 1])
        if len(places) and not bool(((places >= 0) & (places < limits)).all()):
            raise CorruptError(
                f"{path} holds a location outside of {tuple(self.tokens.shape)} tokens or latents {low} to {high}"
            )
        if not bool(values.isfinite().all()):
            raise CorruptError(f"{path} holds activations that are not finite", expected="numbers")
        return places, values


def _runs(latents: Sequence[int]) -> list[range]:
    """Consecutive latents together, `TOGETHER` at most."""
    runs: list[range] = []
    for latent in latents:
        if runs and latent == runs[-1].stop and len(runs[-1]) < TOGETHER:
            runs[-1] = range(runs[-1].start, latent + 1)
        else:
            runs.append(range(latent, latent + 1))
    return runs


def _measured(values: Float[Tensor, " n"]) -> tuple[Measurement, ...]:
    density = float((values > 0).double().mean()) if len(values) else math.nan
    largest = float(values.max()) if len(values) else math.nan
    return (
        Measurement("density", density, n=len(values), method=f"share of tokens above 0 in the cache of {METHOD}"),
        Measurement("max", largest, n=len(values), method=f"largest in the cache of {METHOD}"),
    )


def _histogram(values: Float[Tensor, " n"]) -> Histogram:
    counts, edges = np.histogram(values.numpy(), bins=BINS)
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))
