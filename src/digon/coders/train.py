"""The only training loop: from batches of activations to a deployed sparse autoencoder.

1. The first batches give the mean and the scale σ² = E‖x − mean‖²/d; the SAE is trained on x/σ, starting at that mean.
2. Each step: sparse forward pass, loss = mean squared error + auxiliary loss of dead latents, gradient without the part
   that changes atom norms, clipping, Adam, unit-norm atoms, threshold.
3. σ is folded into the biases and the SAE is written in SAELens' layout; it takes raw activations.

Everything a step depends on is in one checkpoint that is replaced atomically, so a run that is killed at any moment and
started again ends in identical bytes (same machine, same number of threads).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor
from torch.nn import functional as F

from .. import config as configs
from ..errors import ConfigError, CorruptError, NonFiniteError
from ..store import files, weights
from ..store.shards import ActivationStore
from . import formats
from .sae import SAE, SAEConfig

Batches = Callable[[int], Iterator[Tensor]]
"""From a step to the endless batches that start there; equal steps must give equal batches."""
Metrics = dict[str, float | int]
Progress = Callable[[Metrics], None]
"""Called at every log step."""

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
CALIBRATION = 8
"""Batches that give mean and scale."""
REFRESH = 16
"""Steps between two looks at which latents are dead: the host has to wait for the length of that list."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train."""

    steps: int = 2000
    """Number of batches."""
    batch: int = 4096
    """Rows per batch, where the batches are drawn from a store."""
    lr: float | None = None
    """Largest learning rate; None: 2e-4 · √(2¹⁴ / width)."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises linearly."""
    decay: float = 0.2
    """Share of the steps, at the end, in which it falls linearly to zero."""
    clip: float = 1.0
    """Largest norm of the whole gradient."""
    log_every: int = 50
    """Steps between two lines of metrics; NaN is noticed then."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    seed: int = 0
    """Seed of the data order, where the batches are drawn from a store."""
    device: str | None = None
    """Device to train on; None: the one the batches are on."""


def from_store(store: ActivationStore, site: str, config: TrainConfig) -> Batches:
    """Batches from a store, in an order that depends on the seed alone."""
    return lambda start: store.shuffled(site, config.batch, config.seed, start)


def train(
    sae_config: SAEConfig, batches: Batches, config: TrainConfig, out: Path, progress: Progress | None = None
) -> SAE:
    """Train in the folder `out`, resuming what is there; a finished folder is only loaded.

    Returns the deployed SAE: frozen, for raw activations. Metrics are in `metrics.jsonl`; all but their tokens_per_s
    repeat exactly.
    Raises: ConfigError if the settings make no sense or `out` was trained otherwise; NonFiniteError on NaN.
    """
    _check(sae_config, config)
    state = _State(sae_config, config, _calibrate(batches, sae_config, config))
    if (out / formats.CONFIG).is_file():
        _same_run(formats.read_metadata(out).get("training"), state.key, out)
        (out / CHECKPOINT).unlink(missing_ok=True)
        return formats.load(out).to(state.center.device)
    state.resume(out)
    with _bar(config.steps, state.step) as show:
        stream = batches(state.step)
        while state.step < config.steps:
            _advance(state, stream)
            if state.step % config.log_every == 0 or state.step == config.steps:
                line = state.log(out)
                show(line)
                if progress is not None:
                    progress(line)
            if state.step % config.checkpoint_every == 0 and state.step < config.steps:
                state.save(out)
    deployed = state.sae.scaled(state.scale)
    formats.save(deployed, out, {"training": state.key})
    (out / CHECKPOINT).unlink(missing_ok=True)
    return deployed


def learning_rate(step: int, width: int, config: TrainConfig) -> float:
    """Rate of the step after `step` steps: linear warm-up, plateau, linear decay to zero."""
    top = config.lr if config.lr is not None else 2e-4 * math.sqrt(2**14 / width)
    rise = (step + 1) / max(config.warmup * config.steps, 1)
    fall = (config.steps - step) / max(config.decay * config.steps, 1)
    return top * min(rise, fall, 1.0)


@dataclass(frozen=True)
class Calibration:
    """What the first batches say about the data."""

    center: Float[Tensor, " d"]
    """Mean, in units of the scale."""
    scale: float
    """Root mean square distance from the mean per unit."""
    fingerprint: str
    """Hash of the first batch."""


class _State:
    """Everything that a step reads and changes."""

    def __init__(self, sae_config: SAEConfig, config: TrainConfig, data: Calibration) -> None:
        self.config = config
        self.scale = data.scale
        self.center = data.center
        device = data.center.device
        self.sae = SAE(sae_config).to(device)
        self.sae.b_dec.data.copy_(self.center)
        # One fused pass over parameters and moments; the same arithmetic as the plain loop.
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=0.0, fused=True)
        self.step = 0
        self.silent = torch.zeros(sae_config.width, dtype=torch.int64, device=device)
        self.dead = self.silent.new_zeros(0)
        self.sums = torch.zeros(4, device=device)
        self.lines: list[Metrics] = []
        self._since = (time.perf_counter(), 0.0)
        parts = [configs.digest(sae_config), configs.digest(config), data.fingerprint]
        self.key = "-".join(parts)

    def tensors(self) -> dict[str, Tensor]:
        """All state by name."""
        named = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for part, tensor in self.optimizer.state[parameter].items():
                named[f"adam.{part}.{name}"] = tensor
        named |= {"silent": self.silent, "dead": self.dead, "sums": self.sums, "center": self.center}
        named |= {"scale": torch.tensor(self.scale, dtype=torch.float64), "step": torch.tensor(self.step)}
        return named | {"key": torch.tensor(list(self.key.encode()))}

    def save(self, out: Path) -> None:
        """Replace the checkpoint. Raises: NonFiniteError rather than keep a broken state; StorageError."""
        self.check_finite()
        weights.write_tensors(out / CHECKPOINT, self.tensors())

    def resume(self, out: Path) -> None:
        """Take over the checkpoint in `out`, if there is one."""
        if not (out / CHECKPOINT).is_file():
            return
        saved = weights.read_tensors(out / CHECKPOINT)
        try:
            _same_run(bytes(saved.pop("key").tolist()).decode(), self.key, out)
            self.step, self.scale = int(saved.pop("step")), float(saved.pop("scale"))
            device = self.silent.device
            for name in ("silent", "dead", "sums", "center"):
                setattr(self, name, saved.pop(name).to(device).clone())
            for name, parameter in self.sae.named_parameters():
                parts = ("step", "exp_avg", "exp_avg_sq")
                moments = {part: saved.pop(f"adam.{part}.{name}").to(device).clone() for part in parts}
                self.optimizer.state[parameter] = moments
            self.sae.load_state_dict({name.removeprefix("sae."): tensor for name, tensor in saved.items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise CorruptError(
                f"{out / CHECKPOINT} is not a checkpoint of this run: {error}", hint=f"delete {out} and train again"
            ) from None
        self._since = (time.perf_counter(), float(self.sums[3]))
        self.lines = [line for line in _read_lines(out / METRICS) if line["step"] <= self.step]

    def log(self, out: Path) -> Metrics:
        """Turn the sums since the last log step into a line of metrics and start over."""
        self.check_finite()
        error, spread, active, rows = self.sums.tolist()
        now, (then, seen) = time.perf_counter(), self._since
        silent = (self.silent >= self.sae.config.dead_after).float().mean()
        line = {
            "step": self.step,
            "fvu": error / spread if spread > 0 else math.nan,
            "l0": active / rows,
            "dead_share": float(silent),
            "lr": learning_rate(self.step - 1, self.sae.config.width, self.config),
            "tokens_per_s": (rows - seen) / (now - then),
        }
        self.lines.append(line)
        self.sums.zero_()
        self._since = (time.perf_counter(), 0.0)
        files.write_text(out / METRICS, "".join(json.dumps(each) + "\n" for each in self.lines))
        return line

    def check_finite(self) -> None:
        """Raises: NonFiniteError if anything since the last log step was not finite."""
        error, spread = self.sums[:2].tolist()
        if not math.isfinite(spread):
            raise NonFiniteError(
                f"the activations hold NaN or infinity, at or shortly before step {self.step}",
                expected="finite numbers",
                hint="look for NaN weights in the model, or harvest in a wider dtype",
            )
        if not math.isfinite(error):
            raise NonFiniteError(
                f"training diverged at or shortly before step {self.step}", hint="lower lr, or lengthen the warm-up"
            )


def _advance(state: _State, stream: Iterator[Tensor]) -> None:
    """One step. Nothing here waits for the device, except once every REFRESH steps."""
    sae, config = state.sae, state.config
    x = _next(stream, sae.config.d_in, state.step).to(state.center) / state.scale
    if state.step % REFRESH == 0:
        state.dead = (state.silent >= sae.config.dead_after).nonzero().squeeze(1)
    result = sae(x)
    error = F.mse_loss(result.reconstruction, x)
    loss = error
    if len(state.dead) and sae.config.aux_coefficient > 0:
        residual = x - result.reconstruction.detach()
        loss = error + sae.config.aux_coefficient * sae.auxiliary_loss(x, residual, state.dead)
    state.optimizer.zero_grad()
    loss.backward()
    sae.free_gradient()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), config.clip)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, sae.config.width, config)
    state.optimizer.step()
    sae.normalize_atoms()
    with torch.no_grad():
        active = (result.values > 0).to(x.dtype)
        sae.update_threshold(result.values)
        fired = result.support.total_by_latent(active) > 0
        state.silent.add_(len(x)).masked_fill_(fired, 0)
        spread = F.mse_loss(x, state.center.expand_as(x), reduction="sum")
        rows = torch.full_like(spread, len(x))
        state.sums += torch.stack([error * x.numel(), spread, active.sum(), rows])
    state.step += 1


def _next(stream: Iterator[Tensor], d_in: int, step: int) -> Tensor:
    x = next(stream, None)
    if x is None:
        raise ConfigError(f"the batches ended before step {step}", expected="endless batches", hint="fewer steps")
    if x.ndim != 2 or x.shape[1] != d_in:
        raise ConfigError(f"a batch of shape {tuple(x.shape)} for an SAE on {d_in} units", expected=f"(rows, {d_in})")
    return x


def _calibrate(batches: Batches, sae: SAEConfig, config: TrainConfig) -> Calibration:
    stream = batches(0)
    drawn = [_next(stream, sae.d_in, step) for step in range(min(CALIBRATION, config.steps))]
    exact = torch.cat(drawn).double()
    mean = exact.mean(0)
    scale = float((exact - mean).square().mean().sqrt())
    if not (math.isfinite(scale) and scale > 0):
        problem = "are constant" if scale == 0 else "hold NaN or infinity"
        raise NonFiniteError(f"the first activations {problem}", expected="finite activations that vary")
    center = (mean / scale).float().to(config.device or mean.device)
    # The bytes themselves, as a mean may differ in its last bit with another number of threads.
    fingerprint = hashlib.blake2b(drawn[0].float().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    return Calibration(center, scale, fingerprint)


def _check(sae: SAEConfig, config: TrainConfig) -> None:
    if sae.l0 is None:
        raise ConfigError("l0 is not set", expected="the number of active latents per row")
    for name in ("steps", "batch", "log_every", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}", expected="at least 1")
    if not (config.warmup >= 0 and config.decay >= 0 and config.warmup + config.decay <= 1):
        raise ConfigError(f"warmup = {config.warmup}, decay = {config.decay}", expected="shares that sum to at most 1")


def _same_run(found: str | None, key: str, out: Path) -> None:
    if found != key:
        parts = ("the SAE's settings", "the training settings", "the activations")
        pairs = zip(parts, (found or "").split("-"), key.split("-"), strict=False)
        changed = ", ".join(part for part, old, new in pairs if old != new)
        raise ConfigError(
            f"{out} holds an SAE that was trained otherwise: {changed or 'its origin'} differ",
            hint="choose another folder, or delete this one",
        )


def _read_lines(path: Path) -> list[Metrics]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} is damaged: {error}", hint=f"delete {path.parent} and train again") from None


@contextmanager
def _bar(steps: int, start: int) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=steps, completed=start)

        def show(line: Metrics) -> None:
            text = "{tokens_per_s:,.0f} tokens/s  l0 {l0:.1f}  fvu {fvu:.3f}  dead {dead_share:.1%}".format(**line)
            bar.update(task, completed=line["step"], description=text)

        yield show
