"""What does a network hold at these sites on this text? Streams activations into a store, and resumes when killed.

    contexts -> batches -> forward pass with hooks -> rows without padding and frame -> shards

The batches are fixed before the first forward pass, and a shard is a fixed range of batches; so a harvest that goes on
after a kill writes the same bytes as an undisturbed one. At most two shards are in memory: one that fills and one that
is written by a second thread meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
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
from ..store.shards import DTYPES, ActivationStore, HarvestPlan, ShardWriter
from .contexts import Contexts, cut
from .corpus import Corpus
from .load import Host
from .sites import Site
from .taps import capture
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
    try:
        with capture(job.host.model, job.sites) as seen:
            for first in range(writer.cursor, len(batches), job.config.shard_batches):
                stop = min(first + job.config.shard_batches, len(batches))
                shard = _Shard(job, first, stop)
                for i in range(first, stop):
                    shard.fill(_read(job, i, seen), seen)
                    seen.clear()
                    done += int(job.contexts.lengths[batches[i]].sum())
                    report(done, job.contexts.n_tokens)
                if pending is not None:
                    pending.result()
                pending = background.submit(shard.commit, writer, job.contexts.new_documents(first, stop), stop)
    finally:
        if pending is not None:
            pending.result()  # what was read before an interruption is not lost


def _read(job: _Job, number: int, seen: dict[str, Tensor]) -> _Batch:
    """Run one batch through the network."""
    batch = _batch(job, number)
    host, low = job.host, job.config.compute == "bfloat16"
    with torch.autocast(host.device.type, torch.bfloat16) if low else nullcontext():
        host.body(batch.token_ids, batch.mask)
    for site in job.sites:
        assert site.name in seen, f"the network never came to {site.name}"
        assert seen[site.name].shape[:2] == batch.token_ids.shape, f"{site.name}: {tuple(seen[site.name].shape)}"
    return batch


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
    )


class _Shard:
    """Rows on their way to the disk, in the type they are stored in."""

    def __init__(self, job: _Job, first: int, stop: int) -> None:
        frame = 0 if job.config.skip_special else len(job.tokenizer.prefix) + len(job.tokenizer.suffix)
        members = np.concatenate(job.contexts.batches[first:stop])
        self._rows = int(job.contexts.lengths[members].sum()) + frame * len(members)
        kind = DTYPES[job.config.store_dtype]
        self._values = {site.name: torch.empty(self._rows, site.width or 0, dtype=kind) for site in job.sites}
        self._labels: list[tuple[Tensor, Tensor, Tensor]] = []
        self._filled = 0

    def fill(self, batch: _Batch, seen: dict[str, Tensor]) -> None:
        """Take over the rows of one batch. Raises: NonFiniteError that names the site."""
        keep = batch.keep
        tokens = batch.token_ids.cpu()[keep]
        stop = self._filled + len(tokens)
        columns = keep.all(0)
        solid = bool((keep == columns).all())  # the same columns of every row: a slice instead of a gather
        first, last = int(columns.int().argmax()), int(columns.sum()) + int(columns.int().argmax())
        for site, buffer in self._values.items():
            target = buffer[self._filled : stop]
            if solid:
                target.view(len(keep), last - first, -1).copy_(seen[site][:, first:last])
            else:
                target.copy_(seen[site][keep.to(seen[site].device)])
            _check_finite(site, target, seen[site])
        self._labels.append((tokens, batch.documents, batch.positions))
        self._filled = stop

    def commit(self, writer: ShardWriter, document_ids: list[str], cursor: int) -> None:
        """Write the shard."""
        assert self._filled == self._rows, f"{self._filled} of {self._rows} rows"
        tokens, documents, positions = (torch.cat(column) for column in zip(*self._labels, strict=True))
        writer.append(self._values, tokens, documents, positions, document_ids, cursor)


def _check_finite(site: str, stored: Tensor, computed: Tensor) -> None:
    # One sum is cheaper than a comparison of every value; it is not finite if any value is not.
    if stored.sum(dtype=torch.float32).isfinite() or stored.isfinite().all():
        return
    if computed.isfinite().all():
        raise NonFiniteError(
            f"activations of {site} exceed the range of {stored.dtype}",
            expected="values that fit the stored type",
            hint="store bfloat16 or float32",
        )
    raise NonFiniteError(f"activations of {site} hold NaN or infinity", expected="finite activations")


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
