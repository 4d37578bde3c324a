"""The folder of an SAE in training: checkpoints and metrics, all replaced atomically.

<folder>/checkpoints/00000500.safetensors    the whole state after 500 steps; the last few are kept
<folder>/metrics.jsonl                       a line per log step
<folder>/cfg.json, sae_weights.safetensors   the finished SAE (see `formats`); the checkpoints are then gone

Of several processes the first one writes; all read, and a checkpoint does not depend on how many there were.
"""

import json
import math
import shutil
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import ConfigError, CorruptError
from ...store import files, weights
from .. import formats
from ..sae import SAE
from .batches import fingerprint
from .config import learning_rate
from .trainer import Trainer

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
MISS = 0.2
"""How far the deployed l0 may be from its target, relative to it, before the metrics warn."""

FAR = 2.0
"""Factor between the two from which on the target was not reached at all."""
RESCALED = 0.1
"""Relative difference of scales that two samples of the same activations do not have."""

Metrics = dict[str, float | int | str]


class Folder:
    """Where one trainer keeps what it must not lose."""

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self.path = path
        self.trainer = trainer
        self.lines: list[Metrics] = []
        self.clean = 0
        """Step up to which everything was found finite."""
        self._mark: str | None = None
        """Hash of the batch before the checkpoint that was taken over."""
        self._since = (time.perf_counter(), 0.0)

    @property
    def finished(self) -> bool:
        """True if the SAE is there, trained in the same way. Raises: ConfigError if it was trained otherwise."""
        if not (self.path / formats.CONFIG).is_file():
            return False
        known = formats.read_metadata(self.path)
        self._check_run(known.get("training"), known.get("scales"))
        return True

    def resume(self) -> None:
        """Take over the newest checkpoint that is whole, if there is any.

        Raises: CorruptError if there are some and all are damaged; ConfigError if they are those of another run.
        """
        found = self._checkpoints()
        for file in reversed(found):
            try:
                self._restore(file)
                break
            except CorruptError:
                if file == found[0]:
                    raise
        if found:
            self._since = (time.perf_counter(), float(self.trainer.sums[3]))
            self.clean = self.trainer.step
            step, config = self.trainer.step, self.trainer.config
            logged = _read_lines(self.path / METRICS) if step >= config.log_every else []
            self.lines = [line for line in logged if int(line["step"]) <= step]

    def save(self, batch: Float[Tensor, "n d"]) -> None:
        """Write a checkpoint after a step on `batch`.

        Raises: NonFiniteError rather than keep a broken state; StorageError.
        """
        self.trainer.check_finite()
        first = self.trainer.group.first
        tensors = self.trainer.tensors(wanted=first)
        if not first:
            return
        file = self.path / CHECKPOINTS / f"{self.trainer.step:08d}.safetensors"
        weights.write_tensors(file, tensors | {"batch": torch.tensor(list(fingerprint(batch).encode()))})
        for old in self._checkpoints()[: -self.trainer.config.keep]:
            old.unlink()

    def recognize(self, step: int, batch: Float[Tensor, "n d"]) -> None:
        """Check that the batch before the checkpoint is still the same.

        Raises: ConfigError if it is not, as what comes after it would be something else as well.
        """
        if self._mark is not None and step + 1 == self.trainer.step:
            if fingerprint(batch) != self._mark:
                raise ConfigError(
                    f"batch {step} is not the one that {self.path} was trained on",
                    expected="a source that gives the same batches when it is started again",
                    hint="seed it, or delete the folder and train again",
                )
            self._mark = None

    def log(self) -> Metrics:
        """Turn the sums since the last log step into a line of metrics and start over."""
        trainer = self.trainer
        trainer.check_finite()
        error, spread, active, rows = trainer.sums.tolist()
        self.clean = trainer.step
        now, (then, seen) = time.perf_counter(), self._since
        config = trainer.sae.config
        line: Metrics = {
            "step": trainer.step,
            "fvu": error / spread if spread > 0 else math.nan,
            "l0": active / rows,
            "dead_share": float(trainer.group.latents.add((trainer.silent >= config.dead_after).sum())) / config.width,
            "lr": learning_rate(trainer.step - 1, config.width, trainer.config),
            "tokens_per_s": (rows - seen) / (now - then),
        }
        if trainer.sae.activation.steered:
            line["penalty"] = float(trainer.controller.weight)
        if trainer.step == trainer.config.steps:
            line |= _deployed_l0(trainer)
        self.lines.append(line)
        trainer.sums.zero_()
        self._since = (time.perf_counter(), 0.0)
        if trainer.group.first:
            files.write_text(self.path / METRICS, "".join(json.dumps(each) + "\n" for each in self.lines))
        return line

    def finish(self) -> SAE:
        """Write the deployed SAE; no checkpoint is needed any more."""
        sae = self.trainer.deployed()
        if self.trainer.group.first:
            formats.save(sae, self.path, {"training": self.trainer.key, "scales": list(self.trainer.scales)})
        self.clear()
        return sae

    def load(self) -> SAE:
        """The finished SAE."""
        self.clear()
        return formats.load(self.path).to(self.trainer.center.device)

    def clear(self) -> None:
        """Remove the checkpoints."""
        if self.trainer.group.first:
            shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)

    def _check_run(self, found: str | None, scales: list[float] | None) -> None:
        """Raises: ConfigError if what is there was trained otherwise, or on activations of another scale."""
        if found == self.trainer.key:
            return
        parts = ("the SAE's settings", "the training settings", "the activations")
        pairs = zip(parts, (found or "").split("-"), self.trainer.key.split("-"), strict=False)
        changed = ", ".join(part for part, old, new in pairs if old != new) or "its origin"
        for then, now in zip(scales or (), self.trainer.scales, strict=False):
            if parts[2] in changed and abs(then / now - 1) > RESCALED:
                changed += f" (their scale was {then:.3g} and is {now:.3g}: were they normalized otherwise?)"
                break
        raise ConfigError(
            f"{self.path} holds an SAE that was trained otherwise: {changed} differ",
            hint="choose another folder, or delete this one",
        )

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / CHECKPOINTS).glob("[0-9]*.safetensors"))

    def _restore(self, file: Path) -> None:
        saved = weights.read_tensors(file)
        try:
            self._check_run(bytes(saved.pop("key").tolist()).decode(), saved["scales"].tolist())
            mark = bytes(saved.pop("batch").tolist()).decode()
            self.trainer.restore(saved)
            self._mark = mark
        except (KeyError, RuntimeError, ValueError) as error:
            raise CorruptError(
                f"{file} is not a checkpoint of this run: {error}", hint=f"delete {self.path} and train again"
            ) from None


def _deployed_l0(trainer: Trainer) -> Metrics:
    """What the deployed encoder does on the last batch, and a warning if that is far from the target."""
    codes, rows = trainer.whole().encode(trainer.last), trainer.group.rows
    l0 = float(rows.add((codes.values > 0).sum())) / (len(codes) * rows.size)
    target = trainer.sae.target_l0
    line: Metrics = {"deployed_l0": l0}
    if abs(l0 - target) > MISS * target:
        share = f"{100 * l0 / target:.0f} % of it"
        line["far"] = int(not 1 / FAR <= l0 / target <= FAR)
        line["warning"] = f"the deployed l0 is {l0:.3g}, not {target} ({share}): more steps, or another target"
    return line


def missed_l0(folder: Path) -> str | None:
    """What the metrics of a finished SAE say if its deployed l0 is not even near to the target."""
    last = _read_lines(folder / METRICS)[-1]
    return str(last["warning"]) if last.get("far") else None


def _read_lines(path: Path) -> list[Metrics]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} is damaged: {error}", hint=f"delete {path.parent} and train again") from None
