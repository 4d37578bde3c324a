"""One SAE in training: its state, one step, and that state as named tensors."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import config as configs
from ...errors import NonFiniteError
from .. import sparse
from ..sae import SAE, SAEConfig
from ..sae.model import Pass
from ..sae.nested import Prefixes, frequency_order
from ..sae.revival import auxiliary_loss, eligible, resample
from ..sparse.engine import compiled
from ..sparse.threads import alone
from .batches import Calibration
from .config import TrainConfig, budget, learning_rate
from .control import Controller
from .step import update

REFRESH = 16
"""Steps between two looks at which latents are dead: the host has to wait for the length of that list."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
BALANCE_ROWS = 8192
"""Rows that biases and thresholds are first set on."""


class Trainer:
    """Everything that a step of one SAE reads and changes."""

    def __init__(self, sae_config: SAEConfig, config: TrainConfig, data: Calibration) -> None:
        self.config = config
        self.scale = data.scale
        self.center = data.center
        device = data.center.device
        self.sae = SAE(sae_config).to(device)
        self.sae.b_dec.data.copy_(self.center)
        self.sae.precision = config.precision
        self.sae.budget = budget(0, self.sae.target_l0, sae_config.width, config)
        self.sae.balance(data.sample[:BALANCE_ROWS])
        groups = [{"params": [p], "pace": self._pace(name)} for name, p in self.sae.named_parameters()]
        # One fused pass over parameters and moments; the same arithmetic as the plain loop.
        self.optimizer = torch.optim.Adam(groups, lr=0.0, fused=True)
        self.controller = Controller(config.steps, device)
        self.step = 0
        self.silent = torch.zeros(sae_config.width, dtype=torch.int64, device=device)
        self.dead = self.silent.new_zeros(0)
        self.frequency = torch.zeros(sae_config.width, device=device)
        self.sums = torch.zeros(4, device=device)
        """Squared errors, squared distances from the mean, active pairs and rows since the last line of metrics."""
        self.last = data.sample
        """The newest batch, in units of the scale."""
        self.key = "-".join([configs.digest(sae_config), configs.digest(config), data.fingerprint])

    def advance(self, batch: Tensor) -> None:
        """One step on a batch of raw activations.

        Nothing here waits for the device, except every `REFRESH` steps, and for the number of pairs where the
        activation does not fix it (relu, jumprelu, gated) or latents are forced.
        """
        with alone() if compiled(self.center) else nullcontext():
            self._advance(batch)

    def _advance(self, batch: Tensor) -> None:
        sae, config = self.sae, self.config
        x = batch.to(self.center) / self.scale
        if self.step % REFRESH == 0:
            self.dead = (self.silent >= sae.config.dead_after).nonzero().squeeze(1)
        sae.budget = budget(self.step, sae.target_l0, sae.config.width, config)
        forced = eligible(sae.config, self.step, config.steps, len(x), x.device)
        result = sae(x, forced, Prefixes.of(sae.config, self.step, self.frequency))
        self.optimizer.zero_grad()
        self._loss(x, result).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate(self.step, sae.config.width, config)
        update(sae, self.optimizer, config.clip)
        self._count(x, result)
        if (
            sae.config.rescue == "resample"
            and self.step % REFRESH == 0
            and self.step < (1 - config.decay) * config.steps
        ):
            self._resample(x, result)
        self.last = x
        self.step += 1

    def _resample(self, x: Tensor, result: Pass) -> None:
        if len(self.dead):
            self.check_finite()
            resample(self.sae, self.optimizer, x, x - result.reconstruction.detach(), self.dead, self.step)
            self.silent[self.dead] = 0

    def _pace(self, name: str) -> float:
        """Learning rate of a parameter, relative to the others: thresholds move in units of the typical code."""
        return self.sae.config.typical_code if name == "threshold" else 1.0

    def _loss(self, x: Tensor, result: Pass) -> Tensor:
        sae = self.sae
        loss = result.error
        penalty = sae.activation.penalty(sae, result.pairs, result.values)
        if penalty is not None:
            loss = loss + (self.controller.weight * penalty if sae.activation.steered else penalty)
        side = sae.activation.side_error(sae, result.pairs, x)
        if side is not None:
            loss = loss + side
        if sae.config.rescue == "auxiliary" and len(self.dead) and sae.config.aux_coefficient > 0:
            residual = x - result.reconstruction.detach()
            loss = loss + sae.config.aux_coefficient * auxiliary_loss(sae, x, residual, self.dead)
        return loss

    @torch.no_grad()
    def _count(self, x: Tensor, result: Pass) -> None:
        """Take note of what was active."""
        active = (result.values > 0).to(x.dtype)
        own = active if result.pairs.forced is None else active * ~result.pairs.forced
        fires = result.support.total_by_latent(own)
        self.silent.add_(len(x)).masked_fill_(fires > 0, 0)
        self.frequency.lerp_(fires / len(x), self.sae.config.threshold_rate)
        self.controller.observe(own.sum() / len(x), self.sae.budget)
        self.sae.update_threshold(result.pairs.cut)
        error = result.error * x.numel()
        if result.nested.shape[1] > 1:  # only that of all latents counts
            error = F.mse_loss(result.reconstruction, x, reduction="sum")
        spread = sparse.squared_distance(x, self.center)
        self.sums += torch.stack([error, spread, active.sum(), torch.full_like(spread, len(x))])

    def deployed(self) -> SAE:
        """The SAE for raw activations, its latents in the order of the prefixes."""
        nested = self.sae.config.nested
        order = frequency_order(self.frequency) if nested is not None and nested.by_frequency else None
        return self.sae.scaled(self.scale, order)

    def tensors(self) -> dict[str, Tensor]:
        """All state by name."""
        named = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for part, tensor in self.optimizer.state[parameter].items():
                named[f"adam.{part}.{name}"] = tensor
        named |= {name: getattr(self, name) for name in ("silent", "dead", "frequency", "sums", "center")}
        named |= {"scale": torch.tensor(self.scale, dtype=torch.float64), "step": torch.tensor(self.step)}
        return named | {"controller": self.controller.state, "key": torch.tensor(list(self.key.encode()))}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave. Raises: KeyError, RuntimeError or ValueError if it is not that."""
        device = self.center.device
        self.scale, self.step = float(saved.pop("scale")), int(saved.pop("step"))
        for name in ("silent", "dead", "frequency", "sums", "center"):
            setattr(self, name, saved.pop(name).to(device).clone())
        self.controller.state = saved.pop("controller").to(device).clone()
        for name, parameter in self.sae.named_parameters():
            moments = {part: saved.pop(f"adam.{part}.{name}").to(device).clone() for part in MOMENTS}
            self.optimizer.state[parameter] = moments
        self.sae.load_state_dict({name.removeprefix("sae."): tensor for name, tensor in saved.items()})

    def check_finite(self) -> None:
        """Raises: NonFiniteError if anything since the last line of metrics was not finite."""
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
