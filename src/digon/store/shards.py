"""Activations on disk: shards that are written once, checked always, and read in any order.

    store/
      manifest.json                       the plan, and per shard its rows, documents and checksums
      rows/00000.safetensors              tokens, documents, positions of the shard's rows
      sites/<site>/00000.safetensors      values [rows d], and their sum and square sum in float64

The manifest is the commit point: a shard exists once the manifest lists it. A harvest that is killed starts again at
`ShardWriter.cursor` and overwrites whatever the manifest does not list, so it ends in the same bytes as an undisturbed
one. Rows are read through memory maps where some are asked for, and streamed for training (see `stream`).
"""

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import config
from ..errors import ConfigError, CorruptError, PathError, SiteError, did_you_mean
from ..tensors import Activations
from . import files, stream, weights

FORMAT = 1
MOMENT_ROWS = 96
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class HarvestPlan:
    """What a store holds and where it came from; two stores with equal plans hold equal bytes."""

    sites: dict[str, int]
    """Site → number of units."""
    dtype: str
    """Type of the stored values: float32, float16 or bfloat16."""
    model: str
    """Fingerprint of the model."""
    data: str
    """Fingerprint of the text."""
    settings: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Everything else that the bytes depend on."""


@dataclass(frozen=True)
class _Shard:
    rows: int
    documents: list[str]
    """Identifiers of the documents that first appear in this shard."""
    files: dict[str, str]
    """File, relative to the store → SHA-256."""


@dataclass(frozen=True)
class _Manifest:
    plan: HarvestPlan
    shards: list[_Shard] = field(default_factory=list)
    cursor: int = 0
    done: bool = False
    format: int = FORMAT


def _read_manifest(root: Path) -> _Manifest:
    path = root / "manifest.json"
    if not path.is_file():
        raise PathError(f"no activation store at {root}", expected=f"a folder with {path.name}")
    try:
        return config.from_dict(_Manifest, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ConfigError) as error:
        raise CorruptError(f"{path} is damaged: {error}", hint=f"delete {root} and harvest again") from None


@dataclass(frozen=True)
class Rows:
    """What a shard holds: the same rows at every site."""

    values: dict[str, Float[Tensor, "n _"]]
    tokens: Int[Tensor, " n"]
    documents: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    moments: dict[str, Float[Tensor, "2 _"]] | None = None
    """What `add_moments` made of the values, where the caller has it."""


@dataclass(frozen=True)
class Staged:
    """A shard with its checksums, ready for the disk."""

    contents: dict[str, dict[str, Tensor]]
    shard: _Shard
    cursor: int


class ShardWriter:
    """Writes a store shard by shard; opening it on an unfinished store resumes it.

    Raises: ConfigError if `root` holds a store with another plan.
    """

    def __init__(self, root: Path, plan: HarvestPlan) -> None:
        if plan.dtype not in DTYPES:
            raise ConfigError(f"cannot store activations as {plan.dtype!r}", expected=" or ".join(DTYPES))
        self.root = root
        self._manifest = _Manifest(plan)
        if (root / "manifest.json").exists():
            self._manifest = _read_manifest(root)
            if self._manifest.plan != plan:
                raise ConfigError(
                    f"{root} holds activations of another harvest: {_difference(self._manifest.plan, plan)}",
                    expected="the same model, text, sites and settings",
                    hint="choose another --out, or delete the folder",
                )

    @property
    def cursor(self) -> int:
        """First batch of the harvest that no committed shard contains."""
        return self._manifest.cursor

    @property
    def done(self) -> bool:
        """True once `finish` was called."""
        return self._manifest.done

    def append(self, rows: "Rows", document_ids: list[str], cursor: int) -> None:
        """Commit one shard; `cursor` is the first batch that comes after it, `document_ids` are those it adds.

        Raises: StorageError if the disk refuses; the store then still ends at the previous shard.
        """
        self.commit(self.stage(rows, document_ids, cursor))

    def stage(self, rows: "Rows", document_ids: list[str], cursor: int) -> "Staged":
        """All of `append` that computes, on all cores: checksums of the shard's files."""
        plan = self._manifest.plan
        assert rows.values.keys() == plan.sites.keys(), f"values for {sorted(rows.values)}, plan {sorted(plan.sites)}"
        number = f"{len(self._manifest.shards):05d}.safetensors"
        labels = {"tokens": rows.tokens, "documents": rows.documents, "positions": rows.positions}
        contents = {f"rows/{number}": {name: t.to(torch.int32) for name, t in labels.items()}}
        for site, tensor in rows.values.items():
            assert tensor.shape == (len(rows.tokens), plan.sites[site]), f"{site}: {tuple(tensor.shape)}"
            stored = tensor.to(DTYPES[plan.dtype])
            total = rows.moments[site] if rows.moments else add_moments(no_moments(stored.shape[1]), stored)
            contents[f"sites/{site}/{number}"] = {"values": stored, "sum": total[0], "square_sum": total[1]}
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            sums = dict(zip(contents, pool.map(weights.checksum, contents.values()), strict=True))
        return Staged(contents, _Shard(len(rows.tokens), document_ids, sums), cursor)

    def commit(self, staged: "Staged") -> None:
        """All of `append` that waits for the disk. Raises: StorageError."""
        for name, tensors in staged.contents.items():
            # No flush, as checksums guard these files; past the page cache, as together they are larger than it.
            weights.write_tensors(self.root / name, tensors, flush=False, direct=True)
        self._commit(shards=[*self._manifest.shards, staged.shard], cursor=staged.cursor)

    def finish(self) -> "ActivationStore":
        """Mark the store complete and open it."""
        self._commit(done=True)
        return ActivationStore.open(self.root, verify=False)

    def _commit(self, **changes: object) -> None:
        self._manifest = dataclasses.replace(self._manifest, **changes)  # type: ignore[arg-type]
        files.write_text(self.root / "manifest.json", json.dumps(dataclasses.asdict(self._manifest), indent=1) + "\n")


def no_moments(width: int) -> Float[Tensor, "2 d"]:
    """Sum and square sum of no rows."""
    return torch.zeros(2, width, dtype=torch.float64)


def add_moments(total: Float[Tensor, "2 d"], values: Float[Tensor, "n d"]) -> Float[Tensor, "2 d"]:
    """Add rows to sum and square sum, in place.

    Blocks of rows are first added to each other in float32, cell by cell and in cache, which is twice as fast as summing
    every block, and rounds less; their sum is taken in float64.
    """
    partial = torch.zeros(2, min(MOMENT_ROWS, len(values)), values.shape[1])
    for block in values.split(MOMENT_ROWS):
        rows = block.float()
        partial[0, : len(rows)].add_(rows)
        partial[1, : len(rows)].addcmul_(rows, rows)
    total += partial.sum(1, dtype=torch.float64)
    return total


def _difference(old: HarvestPlan, new: HarvestPlan) -> str:
    names = [f.name for f in dataclasses.fields(HarvestPlan) if getattr(old, f.name) != getattr(new, f.name)]
    return "different " + ", ".join(names)


class ActivationStore:
    """A finished harvest: rows of several sites with token, document and position of every row."""

    def __init__(self, root: Path, manifest: _Manifest) -> None:
        self.root = root
        self.plan = manifest.plan
        self.sites = manifest.plan.sites
        self.document_ids = [name for shard in manifest.shards for name in shard.documents]
        self._shards = manifest.shards
        self._starts = torch.tensor([0, *(shard.rows for shard in manifest.shards)]).cumsum(0)
        self._maps: dict[str, list[Tensor]] = {}

    @classmethod
    def open(cls, root: Path, verify: bool = True) -> "ActivationStore":
        """Open a finished store; `verify` compares every file with its checksum.

        Raises: PathError if there is none; CorruptError that names the damaged shard.
        """
        manifest = _read_manifest(root)
        if not manifest.done or not manifest.shards:
            raise PathError(f"the harvest in {root} is not finished", hint="run the same command again: it resumes")
        for number, shard in enumerate(manifest.shards):
            for name, expected in shard.files.items():
                path = root / name
                if not path.is_file() or (verify and files.sha256(path) != expected):
                    raise CorruptError(
                        f"shard {number} of {root} is damaged: {name} "
                        + ("does not match its checksum" if path.is_file() else "is missing"),
                        expected=f"SHA-256 {expected[:16]}…",
                        hint=f"delete {root} and harvest again",
                    )
        return cls(root, manifest)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def tokens(self) -> Int[Tensor, " n"]:
        """Token id of every row."""
        return self._label("tokens")

    @cached_property
    def documents(self) -> Int[Tensor, " n"]:
        """Document of every row, as an index into `document_ids`."""
        return self._label("documents")

    @cached_property
    def positions(self) -> Int[Tensor, " n"]:
        """Position of every row in its document."""
        return self._label("positions")

    def _label(self, name: str) -> Int[Tensor, " n"]:
        files_of_rows = [self.root / f"rows/{i:05d}.safetensors" for i in range(len(self._shards))]
        return torch.cat([weights.read_tensors(file)[name] for file in files_of_rows]).long()

    @property
    def n_rows(self) -> int:
        """Number of rows, the same for every site."""
        return len(self)

    def values(self, site: str, rows: Tensor | slice | None = None) -> Float[Tensor, "n d"]:
        """Activations in float32, all rows or the selected ones in the order given."""
        maps = self._mapped(site)
        if rows is None:
            return torch.cat([shard.float() for shard in maps])
        index = torch.arange(len(self))[rows] if isinstance(rows, slice) else rows
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        out = torch.empty(len(index), self.sites[site])
        shard_of = torch.searchsorted(self._starts, index, right=True) - 1
        for shard in shard_of.unique().tolist():
            here = (shard_of == shard).nonzero().squeeze(1)
            out[here] = maps[shard][index[here] - self._starts[shard]].float()
        return out

    def columns(self, site: str, start: int, stop: int) -> Float[Tensor, "n units"]:
        """All rows of a range of units, in float32: a site of any size in bounded memory."""
        return torch.cat([shard[:, start:stop].float() for shard in self._mapped(site)])

    def activations(self, site: str, rows: Tensor | None = None) -> Activations:
        """The same with token, document and position of every row."""
        pick = slice(None) if rows is None else rows
        return Activations(self.values(site, rows), site, self.tokens[pick], self.documents[pick], self.positions[pick])

    def batches(self, site: str, size: int) -> Iterator[Float[Tensor, "b d"]]:
        """All rows in order, `size` at a time."""
        shards = self._streamed(site)
        for start in range(0, len(self), size):
            yield shards.read([(start, min(start + size, len(self)))]).float()

    def shuffled(self, site: str, size: int, seed: int, start: int = 0) -> Iterator[Float[Tensor, "b d"]]:
        """Endless batches, every epoch in a fresh random order of all rows (see `stream`); `start` skips batches at no cost.

        Rows left over at the end of an epoch are dropped. Raises: ConfigError for more rows than there are.
        """
        if size > len(self):
            raise ConfigError(
                f"batches of {size} rows asked of {len(self)} rows",
                expected=f"a batch of at most {len(self)}",
            )
        shards = self._streamed(site)
        yield from stream.shuffled(shards, stream.Order.of(len(self), size, shards.bytes_per_row, seed), start)

    def moments(self, site: str) -> tuple[int, Float[Tensor, " d"], Float[Tensor, " d"]]:
        """Row count, mean and mean square per unit in float64, from the sums kept with every shard."""
        self._check(site)
        total = torch.zeros(2, self.sites[site], dtype=torch.float64)
        for i in range(len(self._shards)):
            tensors = weights.read_tensors(self._path(site, i))
            total += torch.stack([tensors["sum"], tensors["square_sum"]])
        mean, second = total / len(self)
        return len(self), mean, second

    def _path(self, site: str, shard: int) -> Path:
        return self.root / f"sites/{site}/{shard:05d}.safetensors"

    def _streamed(self, site: str) -> stream.Shards:
        self._check(site)
        return stream.Shards([self._path(site, i) for i in range(len(self._shards))], self._starts.tolist(), "values")

    def _check(self, site: str) -> None:
        if site not in self.sites:
            raise SiteError(
                f"no activations of site {site!r} in {self.root}",
                expected=f"one of {', '.join(self.sites)}",
                hint=did_you_mean(site, self.sites),
            )

    def _mapped(self, site: str) -> list[Tensor]:
        self._check(site)
        if site not in self._maps:
            paths = [self._path(site, i) for i in range(len(self._shards))]
            self._maps[site] = [weights.read_tensors(path)["values"] for path in paths]
        return self._maps[site]
