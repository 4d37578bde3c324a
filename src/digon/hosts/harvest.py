"""What does a network hold at these sites on this text? Streams activations into a store, and resumes when killed.

    contexts -> batches -> forward pass with hooks -> rows without padding and frame -> shards

The batches are fixed before the first forward pass, and a shard is a fixed range of batches; so a harvest that goes on
after a kill writes the same bytes as an undisturbed one. At most two shards are in memory: one that fills and one that
is written by a second thread meanwhile; that thread only waits for the disk, for two computing threads would fight over
the same cores. In a network that comes to every site once, a pass ends at the last site.
"""

import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from ..errors import ConfigError, ModelError, NonFiniteError
from ..store.shards import DTYPES, ActivationStore, HarvestPlan, Rows, ShardWriter, add_moments, no_moments
from .contexts import Contexts, cut
from .corpus import Corpus
from .load import Host
from .sites import Site
from .taps import Enough, watched
from .tokens import Tokenizer

Report = Callable[[int, int], None]
"""Called after every batch with tokens done and tokens in total."""


@dataclass(frozen=True)
class HarvestConfig:
    """How much is read, in which pieces, and what is kept."""

    context: int = 128
    """Most tokens read at once, the model's own frame included; fewer where the model reads fewer."""
    batch: int = 32
    """Contexts per forward pass."""
    max_tokens: int | None = None
    """Rows to harvest, drawn from all of the text; None: all of it."""
    store_dtype: str = "bfloat16"
    """Type of the stored values: float32, float16 or bfloat16."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass. float32 gives the network as it is; bfloat16 is faster where the machine has it
    and rounds activations by more than storing them in bfloat16 does."""
    shard_batches: int = 2
    """Batches per shard: what is lost by a kill, and half of what is held in memory."""
    skip_special: bool = True
    """Whether rows of the frame ([CLS], [SEP], beginning of text) are left out; kept ones have position −1."""
    seed: int = 0
    """Seed of the choice and order of contexts."""

    def __post_init__(self) -> None:
        for name in ("context", "batch", "shard_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"setting {name!r}: {getattr(self, name)} is too small", expected="at least 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"setting 'max_tokens': {self.max_tokens} is too small", expected="at least 1, or none")
        if self.store_dtype not in DTYPES:
            raise ConfigError(f"cannot store activations as {self.store_dtype!r}", expected=" or ".join(DTYPES))


@dataclass(frozen=True)
class _Batch:
    """One forward pass: what goes in, and which of its tokens are kept as rows."""

    token_ids: Tensor
    mask: Tensor | None
    """None where no token is padding: the faster path of most attention kernels."""
    keep: Tensor
    documents: Tensor
    positions: Tensor
    columns: slice | None
    """The kept columns, where every row keeps the same ones: a slice is cheaper than a gather."""

    @property
    def rows(self) -> int:
        """Tokens that are kept."""
        return len(self.documents)


def harvest(
    host: Host,
    corpus: Corpus,
    sites: Sequence[Site],
    out: Path,
    config: HarvestConfig | None = None,
    progress: Report | None = None,
) -> ActivationStore:
    """Write the activations at `sites` on a corpus into the store `out`, or finish the one that is there.

    Raises: ConfigError if `out` holds another harvest; NonFiniteError that names the site; StorageError.
    """
    config = config or HarvestConfig()
    if host.tokenizer is None:
        raise ModelError(f"{host.name} has no tokenizer", expected="a model that reads text")
    context = min(config.context, host.max_context)
    room = context - len(host.tokenizer.prefix) - len(host.tokenizer.suffix)
    if room < 1:
        raise ConfigError(f"a context of {context} leaves no room for text", expected="a larger context")
    writer = ShardWriter(out, _plan(host, corpus, sites, config, context))
    if writer.done:
        return ActivationStore.open(out)
    contexts = cut(corpus, host.tokenizer, room, config.batch, config.max_tokens, config.seed)
    with _progress(progress, contexts.n_tokens) as report, ThreadPoolExecutor(1) as background:
        _run(_Job(host, list(sites), config, contexts, host.tokenizer), writer, background, report)
    return writer.finish()


@dataclass(frozen=True)
class _Job:
    host: Host
    sites: list[Site]
    config: HarvestConfig
    contexts: Contexts
    tokenizer: Tokenizer


def _run(job: _Job, writer: ShardWriter, background: ThreadPoolExecutor, report: Report) -> None:
    batches = job.contexts.batches
    done = sum(int(job.contexts.lengths[batch].sum()) for batch in batches[: writer.cursor])
    pending: Future[None] | None = None
    pool, reader = _Buffers(job), _Reader(job)
    try:
        with watched(job.host.model, {site: reader.watcher(site) for site in job.sites}):
            for first in range(writer.cursor, len(batches), job.config.shard_batches):
                stop = min(first + job.config.shard_batches, len(batches))
                shard = _Shard(job, first, stop, pool)
                for i in range(first, stop):
                    reader.read(i, shard)
                    done += int(job.contexts.lengths[batches[i]].sum())
                    report(done, job.contexts.n_tokens)
                if pending is not None:
                    pending.result()
                staged = writer.stage(shard.rows(), job.contexts.new_documents(first, stop), stop)
                pending = background.submit(writer.commit, staged)
    finally:
        if pending is not None:
            pending.result()  # what was read before an interruption is not lost


class _Reader:
    """Runs batches through the network: the first one whole, the others as far as the last site."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._came: Counter[str] = Counter()
        self._ends_early = False
        self._target: tuple[_Shard, _Batch] | None = None

    def read(self, number: int, shard: "_Shard") -> None:
        """Fill the rows of one batch into the shard. Raises: NonFiniteError that names the site."""
        job, batch = self._job, _batch(self._job, number)
        self._came.clear()
        self._target = shard, batch
        low = job.config.compute == "bfloat16"
        with suppress(Enough), torch.autocast(job.host.device.type, torch.bfloat16) if low else nullcontext():
            job.host.body(batch.token_ids, batch.mask)
        assert self._came.keys() == shard.sites, f"the network never came to {shard.sites - self._came.keys()}"
        self._ends_early = self._came.total() == len(job.sites)
        shard.next(batch)

    def watcher(self, site: Site) -> Callable[[Tensor], None]:
        """What sees the activations at a site; where a network comes more than once, the last time counts."""

        def watch(values: Tensor) -> None:
            assert self._target is not None
            shard, batch = self._target
            assert values.shape[:2] == batch.token_ids.shape, f"{site.name}: {tuple(values.shape)}"
            shard.fill(site.name, values.detach(), batch)
            self._came[site.name] += 1
            if self._ends_early and len(self._came) == len(self._job.sites):
                raise Enough

        return watch


def _batch(job: _Job, number: int) -> _Batch:
    contexts, tokenizer = job.contexts, job.tokenizer
    members = contexts.batches[number]
    before, frame = len(tokenizer.prefix), len(tokenizer.prefix) + len(tokenizer.suffix)
    width = int(contexts.lengths[members].max()) + frame
    shape = (len(members), width)
    ids = np.full(shape, job.host.pad_id, dtype=np.int64)
    real, keep = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    positions = np.full(shape, -1, dtype=np.int64)
    for row, context in enumerate(members):
        n = int(contexts.lengths[context])
        ids[row, : n + frame] = [*tokenizer.prefix, *contexts.ids(context), *tokenizer.suffix]
        real[row, : n + frame] = True
        keep[row, before : before + n] = True
        positions[row, before : before + n] = contexts.positions[context] + np.arange(n)
    keep = keep if job.config.skip_special else real
    documents = np.broadcast_to(contexts.documents[members][:, None], shape)
    device = job.host.device
    return _Batch(
        torch.from_numpy(ids).to(device),
        None if real.all() else torch.from_numpy(real).to(device),
        torch.from_numpy(keep),
        torch.from_numpy(documents[keep]),
        torch.from_numpy(positions[keep]),
        _columns(keep),
    )


def _columns(keep: np.ndarray) -> slice | None:
    first = keep[0].nonzero()[0]
    same = bool((keep == keep[0]).all()) and len(first) == first[-1] - first[0] + 1
    return slice(int(first[0]), int(first[-1]) + 1) if same else None


def _rows(job: _Job, first: int, stop: int) -> int:
    """Rows of a shard."""
    frame = 0 if job.config.skip_special else len(job.tokenizer.prefix) + len(job.tokenizer.suffix)
    members = np.concatenate(job.contexts.batches[first:stop])
    return int(job.contexts.lengths[members].sum()) + frame * len(members)


class _Buffers:
    """Memory of two shards, used in turn: fresh memory for every shard costs more than filling it."""

    def __init__(self, job: _Job) -> None:
        step, n = job.config.shard_batches, len(job.contexts.batches)
        rows = max(_rows(job, first, min(first + step, n)) for first in range(0, n, step))
        kind = DTYPES[job.config.store_dtype]
        self._sets = [{s.name: _pages(rows, s.width or 0, kind) for s in job.sites} for _ in range(2)]
        self._turn = 0

    def take(self, rows: int) -> dict[str, Tensor]:
        """The buffers of the shard before last."""
        self._turn ^= 1
        return {site: buffer[:rows] for site, buffer in self._sets[self._turn].items()}


def _pages(rows: int, width: int, kind: torch.dtype) -> Tensor:
    """Memory that begins on a page, so that the disk can be written straight from it."""
    return torch.frombuffer(mmap.mmap(-1, rows * width * kind.itemsize), dtype=kind).view(rows, width)


class _Shard:
    """Rows on their way to the disk, in the type they are stored in."""

    def __init__(self, job: _Job, first: int, stop: int, pool: _Buffers) -> None:
        self._rows = _rows(job, first, stop)
        self._values = pool.take(self._rows)
        self._moments = {site.name: no_moments(site.width or 0) for site in job.sites}
        self._fresh: dict[str, Tensor] = {}
        self._labels: list[tuple[Tensor, Tensor, Tensor]] = []
        self._filled = 0

    @property
    def sites(self) -> Set[str]:
        """Names of the sites."""
        return self._values.keys()

    def fill(self, site: str, values: Tensor, batch: _Batch) -> None:
        """Take over the rows of one batch at one site. Raises: NonFiniteError that names the site."""
        target = self._values[site][self._filled : self._filled + batch.rows]
        if batch.columns is not None:
            rows = values[:, batch.columns]
            target.view(rows.shape).copy_(rows)
        else:
            target.copy_(values[batch.keep.to(values.device)])
        moments = add_moments(no_moments(target.shape[1]), target)
        if not moments.isfinite().all():
            raise _not_finite(site, target, values)
        self._fresh[site] = moments

    def next(self, batch: _Batch) -> None:
        """All sites of a batch are filled."""
        for site, moments in self._fresh.items():
            self._moments[site] += moments
        self._labels.append((batch.token_ids.cpu()[batch.keep], batch.documents, batch.positions))
        self._filled += batch.rows

    def rows(self) -> Rows:
        """The full shard."""
        assert self._filled == self._rows, f"{self._filled} of {self._rows} rows"
        tokens, documents, positions = (torch.cat(column) for column in zip(*self._labels, strict=True))
        return Rows(self._values, tokens, documents, positions, self._moments)


def _not_finite(site: str, stored: Tensor, computed: Tensor) -> NonFiniteError:
    if computed.isfinite().all():
        return NonFiniteError(
            f"activations of {site} exceed the range of {stored.dtype}",
            expected="values that fit the stored type",
            hint="store bfloat16 or float32",
        )
    return NonFiniteError(f"activations of {site} hold NaN or infinity", expected="finite activations")


def _plan(host: Host, corpus: Corpus, sites: Sequence[Site], config: HarvestConfig, context: int) -> HarvestPlan:
    assert sites, "no sites"
    assert all(site.width for site in sites), f"sites without width: {[str(s) for s in sites]}"
    settings: dict[str, int | float | str | bool] = {
        "context": context,
        "batch": config.batch,
        "shard_batches": config.shard_batches,
        "compute": config.compute,
        "weights": str(host.dtype).removeprefix("torch."),
        "skip_special": config.skip_special,
        "seed": config.seed,
    }
    if config.max_tokens is not None:
        settings["max_tokens"] = config.max_tokens
    widths = {site.name: site.width or 0 for site in sites}
    return HarvestPlan(widths, config.store_dtype, host.fingerprint, corpus.fingerprint, settings)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Tokens per second so far."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} tokens/s")


@contextmanager
def _progress(progress: Report | None, total: int) -> Iterator[Report]:
    """The caller's callback, or a bar where someone is watching."""
    console = Console(stderr=True)
    if progress is not None or not console.is_terminal:
        yield progress or (lambda done, total: None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("harvest", total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
