"""The only training loop: from batches of activations to deployed sparse autoencoders.

1. The first batches give the mean and the scale σ² = E‖x − mean‖²/d; the SAE is trained on x/σ, starting at that mean.
   Several sites (of a transcoder or a crosscoder) have a scale each.
2. Each step: sparse forward pass, loss = mean squared error + penalty + auxiliary loss of dead latents, gradient without
   the part that changes atom norms, clipping, Adam, unit-norm atoms, threshold, weight of the penalty.
3. σ is folded into the biases and the SAE is written in SAELens' layout; it takes raw activations.

Everything a step depends on is in a checkpoint that is written atomically, so a run that is killed at any moment and
started again ends in identical bytes (same machine, same number of threads and of processes).

Several processes of torch.distributed train together (see `coders.parallel`), with the result of one up to the rounding of
sums. Another number of them may go on where these stopped; the bytes are then others.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from ...errors import ConfigError, NonFiniteError
from ..parallel import Group as Group
from ..parallel import current
from ..sae import SAE, SAEConfig
from ..sae.model import check_l0
from .batches import Batches as Batches
from .batches import Calibration as Calibration
from .batches import beside as beside
from .batches import calibrate as calibrate
from .batches import following, not_finite
from .batches import from_iterable as from_iterable
from .batches import from_rows as from_rows
from .batches import from_store as from_store
from .batches import from_stores as from_stores
from .config import TrainConfig as TrainConfig
from .config import learning_rate as learning_rate
from .folder import CHECKPOINTS as CHECKPOINTS
from .folder import METRICS as METRICS
from .folder import Folder, Metrics
from .folder import missed_l0 as missed_l0
from .recipe import recommended as recommended
from .trainer import Trainer as Trainer

Progress = Callable[[Metrics], None]
"""Called at every log step."""


def train(
    sae_config: SAEConfig,
    batches: Batches,
    config: TrainConfig,
    out: Path,
    progress: Progress | None = None,
    group: Group | None = None,
) -> SAE:
    """Train in the folder `out`, resuming what is there; a finished folder is only loaded.

    Returns the deployed SAE: frozen, for raw activations. Metrics are in `metrics.jsonl`; all but their tokens_per_s
    repeat exactly. `group` are the processes that train together, each of which makes this call; None: all there are, each
    with its rows of every batch. The first one writes and reports progress.
    Raises: ConfigError if the settings make no sense or `out` was trained otherwise; NonFiniteError on NaN; StorageError if
    the disk is full; PeerError if another process has stopped.
    """
    return train_many({out: sae_config}, batches, config, progress, group)[out]


def train_many(
    saes: Mapping[Path, SAEConfig],
    batches: Batches,
    config: TrainConfig,
    progress: Progress | None = None,
    group: Group | None = None,
) -> dict[Path, SAE]:
    """Train several SAEs, each in its folder, on one pass over the batches: with the same result as one by one.

    What `train` says holds for each of them. If one diverges, the others are still trained to their end.
    Raises: as `train`.
    """
    group = group or current()
    folders = _open(saes, batches, config, group)
    done = {folder.path: folder.load() for folder in folders if folder.finished}
    running = [folder for folder in folders if folder.path not in done]
    for folder in running:
        folder.resume()
    seen = ", ".join(f"{folder.path.name} at step {folder.trainer.step}" for folder in running)
    group.agree("checkpoints", seen, "give all of them the same folder, one that all can read")
    failures = _run(running, batches, config, progress)
    done |= {folder.path: folder.finish() for folder in running}
    group.wait()
    if failures:
        raise failures[0]
    return {out: done[out] for out in saes}


def _open(saes: Mapping[Path, SAEConfig], batches: Batches, config: TrainConfig, group: Group) -> list[Folder]:
    config.check()
    parts = {sae.parts for sae in saes.values()}
    if len(parts) != 1:
        raise ConfigError(f"SAEs on {sorted(parts)} units", expected="at least one SAE, all on the same site or sites")
    for sae in saes.values():
        check_l0(sae)
    data = calibrate(batches, parts.pop(), config, group)
    folders = [Folder(out, Trainer(sae, config, data, group)) for out, sae in saes.items()]
    group.agree("settings", " ".join(folder.trainer.key for folder in folders), "make the same call in all of them")
    return folders


def _run(
    running: list[Folder], batches: Batches, config: TrainConfig, progress: Progress | None
) -> list[NonFiniteError]:
    """Advance all to the last step; those that fail are taken out of the list, and what they raised is returned."""
    failures = list[NonFiniteError]()
    if not running:
        return failures
    # The batch before the first one is read again, to see that it is the same.
    start = max(min(folder.trainer.step for folder in running) - 1, 0)
    parts, first = running[0].trainer.sae.config.parts, running[0].trainer.group.first
    with _bar(config.steps, start, first) as show:
        stream = batches(start)
        for step in range(start, config.steps):
            x = following(stream, parts, step)
            for folder in running:
                folder.recognize(step, x)
            for folder in [each for each in running if each.trainer.step == step]:
                try:
                    folder.trainer.advance(x)
                    _keep(folder, x, show, progress if first else None)
                except NonFiniteError as error:
                    again = itertools.islice(batches(folder.clean), step + 1 - folder.clean)
                    failures.append(not_finite(again, folder.clean) or error)
                    running.remove(folder)
            if not running:
                break
    return failures


def _keep(folder: Folder, x: Tensor, show: Progress, progress: Progress | None) -> None:
    """Metrics and checkpoint, if it is time for them."""
    step, config = folder.trainer.step, folder.trainer.config
    if step % config.log_every == 0 or step == config.steps:
        line = folder.log()
        show(line)
        if progress is not None:
            progress(line)
    if step % config.checkpoint_every == 0 and step < config.steps:
        folder.save(x)


@contextmanager
def _bar(steps: int, start: int, shown: bool) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task("", total=steps, completed=start)

        def show(line: Metrics) -> None:
            text = "{tokens_per_s:,.0f} tokens/s  l0 {l0:.1f}  fvu {fvu:.3f}  dead {dead_share:.1%}".format(**line)
            bar.update(task, completed=float(line["step"]), description=text)

        yield show
