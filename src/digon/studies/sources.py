"""Units from three origins behind one face: neurons of a harvested site, latents of a coder trained on it, directions.

Whatever is measured, drawn or explained about a unit sees only a `Source`, so neurons, latents and directions are
compared on equal terms. How a unit is read from new rows, and how it is written, is in its `Handle`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..coders.base import Coder, Transcoder
from ..errors import ConfigError, NonFiniteError, PathError
from ..explain.ablation import Handle
from ..store import weights
from ..store.shards import ActivationStore


@runtime_checkable
class Source(Protocol):
    """Units of one site over all harvested rows."""

    @property
    def site(self) -> str:
        """Where the units live."""
        ...

    @property
    def place(self) -> str | None:
        """The harvested site whose rows the units read and write; None where it is not one, or not known."""
        ...

    @property
    def kind(self) -> Literal["neuron", "latent", "direction"]:
        """What they are."""
        ...

    @property
    def width(self) -> int:
        """How many there are."""
        ...

    def columns(self, start: int, stop: int) -> Float[Tensor, "n units"]:
        """Activations of a range of units on all rows."""
        ...

    def handle(self, unit: int) -> Handle | None:
        """How a unit is read and written at its place; None where that is not known."""
        ...


def columns(source: Source, units: Sequence[int]) -> Float[Tensor, "n units"]:
    """Activations of any units on all rows, in the order given; consecutive ones are read together."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][1]:
            runs[-1][1] = unit + 1
        else:
            runs.append([unit, unit + 1])
    return torch.cat([source.columns(start, stop) for start, stop in runs or [[0, 0]]], 1)


@dataclass(frozen=True)
class Neurons:
    """The coordinates of a harvested site."""

    store: ActivationStore
    site: str
    kind: Literal["neuron", "latent", "direction"] = "neuron"

    @property
    def place(self) -> str:
        """The site itself."""
        return self.site

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.store.sites[self.site]

    def columns(self, start: int, stop: int) -> Float[Tensor, "n units"]:
        """Activations of a range of neurons on all rows."""
        return self.store.columns(self.site, start, stop)

    def handle(self, unit: int) -> Handle:
        """One coordinate."""
        return Handle.neuron(unit, self.width)


@dataclass(frozen=True)
class Latents:
    """The dimensions of a coder, kept column by column and without zeros: as large as the codes that are active."""

    site: str
    rows: Int[Tensor, " nnz"]
    """Row of every active code, latent after latent."""
    values: Float[Tensor, " nnz"]
    starts: Int[Tensor, " bounds"]
    """Where each latent begins in `rows` and `values`; one more at the end."""
    n_rows: int
    atoms: Float[Tensor, "k d"]
    kind: Literal["neuron", "latent", "direction"] = "latent"
    place: str | None = None
    """The one harvested site that they read and write."""
    coder: Coder | None = None
    """What reads them from new rows."""

    @property
    def width(self) -> int:
        """Number of latents."""
        return len(self.starts) - 1

    def columns(self, start: int, stop: int) -> Float[Tensor, "n units"]:
        """Codes of a range of latents on all rows."""
        first, last = int(self.starts[start]), int(self.starts[stop])
        counts = self.starts[start + 1 : stop + 1] - self.starts[start:stop]
        column = torch.arange(stop - start).repeat_interleave(counts)
        out = torch.zeros(self.n_rows, stop - start)
        out[self.rows[first:last].long(), column] = self.values[first:last]
        return out

    def handle(self, unit: int) -> Handle | None:
        """What the encoder says of the latent, and its atom; None without the coder."""
        return None if self.coder is None else Handle.latent(self.coder, unit)

    @classmethod
    def encode(
        cls, coder: Coder | Transcoder, store: ActivationStore, site: str | Sequence[str], device: str, size: int = 8192
    ) -> "Latents":
        """Run a coder over all rows of a site, or of several sites side by side."""
        names = [site] if isinstance(site, str) else list(site)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        width, done = len(coder.dictionary), 0
        for pieces in zip(*(store.batches(name, size) for name in names), strict=True):
            batch = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
            codes = coder.encode(batch.to(device))
            row, slot = (codes.values != 0).nonzero(as_tuple=True)
            latent = slot if codes.indices is None else codes.indices[row, slot].long()
            parts.append((latent.cpu(), (row + done).cpu(), codes.values[row, slot].cpu()))
            done += len(batch)
        latent, rows, values = (torch.cat(column) for column in zip(*parts, strict=True))
        order = torch.argsort(latent, stable=True)
        starts = torch.cat([latent.new_zeros(1), torch.bincount(latent, minlength=width).cumsum(0)])
        atoms = coder.dictionary.atoms.cpu()
        return cls(f"{'+'.join(names)}.sae", rows[order].int(), values[order], starts, done, atoms)

    def save(self, path: Path) -> None:
        """Keep the codes for the stages that come later."""
        tensors = {"rows": self.rows, "values": self.values, "starts": self.starts, "atoms": self.atoms}
        weights.write_tensors(path, tensors, {"site": self.site})

    @classmethod
    def load(cls, path: Path, site: str, n_rows: int) -> "Latents":
        """Read what `save` wrote. Raises: CorruptError if the file is damaged."""
        tensors = weights.read_tensors(path)
        return cls(site, tensors["rows"], tensors["values"], tensors["starts"], n_rows, tensors["atoms"])


@dataclass(frozen=True)
class Directions:
    """Any directions in the space of a harvested site: a unit's activation is the scalar product with the row."""

    store: ActivationStore
    place: str
    """The harvested site."""
    site: str
    vectors: Float[Tensor, "k d"]
    kind: Literal["neuron", "latent", "direction"] = "direction"
    writes: Float[Tensor, "k d"] | None = None
    """What a step of 1 along every direction adds to a row; None: the least that changes what is read by 1."""

    @property
    def width(self) -> int:
        """Number of directions."""
        return len(self.vectors)

    def columns(self, start: int, stop: int) -> Float[Tensor, "n units"]:
        """Activations of a range of directions on all rows."""
        some = self.vectors[start:stop].T
        return torch.cat([rows @ some for rows in self.store.batches(self.place, 8192)])

    def handle(self, unit: int) -> Handle:
        """The scalar product, and what the direction writes."""
        return Handle.along(self.vectors[unit], None if self.writes is None else self.writes[unit])

    @classmethod
    def read(cls, path: Path, store: ActivationStore, site: str) -> "Directions":
        """Directions of a .safetensors file, or of `directions.safetensors` in a folder, with their `writes` where it has some.

        Raises: PathError if there is none; ConfigError if it holds no matrix that fits the site, or writes that do not fit it; NonFiniteError.
        """
        file = path / "directions.safetensors" if path.is_dir() else path
        if not file.is_file():
            raise PathError(f"no directions at {path}", expected="directions.safetensors with a matrix [k, d]")
        matrices = {name: t for name, t in weights.read_tensors(file).items() if t.ndim == 2}
        found = matrices.get("directions", next(iter(matrices.values()), None) if len(matrices) == 1 else None)
        width = store.sites[site]
        if found is None or found.shape[1] != width:
            shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in matrices.items()) or "no matrix"
            raise ConfigError(f"{file} holds {shapes}", expected=f"directions [k, {width}] for {site}")
        writes = matrices.get("writes")
        if writes is not None and writes.shape != found.shape:
            raise ConfigError(
                f"{file} holds writes {list(writes.shape)}", expected=f"{list(found.shape)}, as directions"
            )
        if not all(t.isfinite().all() for t in (found, writes) if t is not None):
            raise NonFiniteError(f"{file} holds NaN or infinity", expected="finite directions")
        name = f"{site}.{path.resolve().stem}"
        source = cls(store, site, name, found.float(), writes=None if writes is None else writes.float())
        for unit in range(len(found)):
            source.handle(unit)  # refused now, not after hours
        return source
