"""One SAE in training: its state, one step, and that state as named tensors."""

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import config as configs
from ...errors import ConfigError, NonFiniteError
from ...threads import alone
from .. import sparse
from ..parallel import WHOLE, Group
from ..sae import SAE, SAEConfig, transcoder
from ..sae.folding import per_unit
from ..sae.model import Pass
from ..sae.nested import Prefixes, frequency_order
from ..sae.revival import auxiliary_loss, eligible, resample
from ..sparse.engine import compiled
from .batches import Calibration
from .config import TrainConfig, budget, learning_rate
from .control import Controller
from .step import update

REFRESH = 16
"""Steps between two looks at which latents are dead: the host has to wait for the length of that list."""
FLOOR = 0.01
"""Added to squared errors, relative to the variance of a unit, before a root is taken: what counts as no error."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
BALANCE_ROWS = 8192
"""Rows that biases and thresholds are first set on."""


class Trainer:
    """Everything that a step of one SAE reads and changes.

    Raises: ConfigError if the settings make no sense, or cannot be divided among the processes of the group.
    """

    def __init__(
        self, sae_config: SAEConfig, config: TrainConfig, data: Calibration, group: Group | None = None
    ) -> None:
        self.config = config
        self.group = group or Group()
        if sae_config.refinements and not self.group.latents.alone:
            raise ConfigError(
                "an encoder that refines, its latents divided among processes",
                expected="whole dictionaries: every look needs the codes of all latents",
                hint="divide the rows instead (no --shards)",
            )
        self.scales = data.scales
        device = data.center.device
        self.units = per_unit(self.scales, sae_config.parts).to(data.center)
        self.sae = SAE(sae_config, self.group).to(device)
        self.center = self.sae.split(data.center)[1]
        self.sae.b_dec.data.copy_(self.center)
        self.sae.precision = config.precision
        x, y = self.sae.split(data.sample)
        if sae_config.target is not None:
            transcoder.start(self.sae, x, y)
        self.sae.budget = budget(0, self.sae.target_l0, sae_config.width, config)
        self.sae.balance(x[:BALANCE_ROWS])
        groups = [{"params": [p], "pace": self._pace(name)} for name, p in self.sae.named_parameters()]
        # One fused pass over parameters and moments; the same arithmetic as the plain loop.
        self.optimizer = torch.optim.Adam(groups, lr=0.0, fused=True)
        self.controller = Controller(config.steps, device)
        self.step = 0
        self.silent = torch.zeros(self.sae.held, dtype=torch.int64, device=device)
        self.dead = self.silent.new_zeros(0)
        """Dead latents of this process, and their number in all processes."""
        self.n_dead = 0
        self.frequency = torch.zeros(self.sae.held, device=device)
        self.sums = torch.zeros(4, device=device)
        """Squared errors, squared distances from the mean, active pairs and rows since the last line of metrics."""
        self.last = x
        """What this process read of the newest batch, in units of its scale."""
        self.key = "-".join([configs.digest(sae_config), configs.digest(config), data.fingerprint])

    def advance(self, batch: Tensor) -> None:
        """One step on a batch of raw activations, which all processes are given whole.

        Nothing here waits for the device, except every `REFRESH` steps, and for the number of pairs where the
        activation does not fix it (relu, jumprelu, gated) or latents are forced.
        """
        with alone() if compiled(self.center) else nullcontext():
            self._advance(batch)

    def _advance(self, batch: Tensor) -> None:
        sae, config, peers = self.sae, self.config, self.group
        peers.check(len(batch), sae.config.width)
        x, y = (part.contiguous() for part in sae.split(peers.rows.own(batch).to(self.units) / self.units))
        if self.step % REFRESH == 0:
            self._look_for_dead()
        sae.budget = budget(self.step, sae.target_l0, sae.config.width, config)
        forced = eligible(sae.config, self.step, config.steps, len(batch), x.device)
        result = sae(x, None if forced is None else peers.latents.own(forced), self._prefixes(), y)
        self.optimizer.zero_grad()
        self._loss(x, y, result).backward()
        peers.add_gradients(sae)
        for group in self.optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate(self.step, sae.config.width, config)
        update(sae, self.optimizer, config.clip)
        self._count(y, result)
        if (
            sae.config.rescue == "resample"
            and self.step % REFRESH == 0
            and self.step < (1 - config.decay) * config.steps
        ):
            self._resample(x, y, result)
        self.last = x
        self.step += 1

    def _look_for_dead(self) -> None:
        self.dead = (self.silent >= self.sae.config.dead_after).nonzero().squeeze(1)
        across = self.group.latents
        alone = across.alone
        self.n_dead = len(self.dead) if alone else int(across.add(self.dead.new_tensor(len(self.dead))))

    def _prefixes(self) -> Prefixes | None:
        """The prefixes of this step, for the latents of this process."""
        config, across = self.sae.config, self.group.latents
        if config.nested is None:
            return None
        prefixes = Prefixes.of(config, self.step, across.gather(self.frequency))
        return prefixes and replace(prefixes, part=across.own(prefixes.part))

    def _resample(self, x: Tensor, y: Tensor, result: Pass) -> None:
        if self.n_dead:
            self.check_finite()
            resample(self.sae, self.optimizer, x, y - result.reconstruction.detach(), self.dead, self.step)
            self.silent[self.dead] = 0

    def _pace(self, name: str) -> float:
        """Learning rate of a parameter, relative to the others: thresholds move in units of the typical code."""
        return self.sae.config.typical_code if name == "threshold" else 1.0

    def _loss(self, x: Tensor, y: Tensor, result: Pass) -> Tensor:
        """This process's share of the loss: over all rows, their shares add up to it."""
        sae = self.sae
        loss = result.error
        if self.config.robust:
            loss = ((result.nested - y[:, None]).square().mean(2) + FLOOR).sqrt().mean()
        penalty = sae.activation.penalty(sae, result.pairs, result.values)
        if penalty is not None:
            loss = loss + (self.controller.weight * penalty if sae.activation.steered else penalty)
        side = sae.activation.side_error(sae, result.pairs, x, y)
        if side is not None:
            loss = loss + side
        loss = loss / self.group.rows.size
        if sae.config.rescue == "auxiliary" and self.n_dead and sae.config.aux_coefficient > 0:
            residual = y - result.reconstruction.detach()
            loss = loss + sae.config.aux_coefficient * auxiliary_loss(sae, x, residual, self.dead)
        return loss

    @torch.no_grad()
    def _count(self, y: Tensor, result: Pass) -> None:
        """Take note of what was active."""
        rows, n = self.group.rows, len(y) * self.group.rows.size
        active = (result.values > 0).to(y.dtype)
        own = active if result.pairs.forced is None else active * ~result.pairs.forced
        fires = rows.add(result.support.total_by_latent(own))
        self.silent.add_(n).masked_fill_(fires > 0, 0)
        self.frequency.lerp_(fires / n, self.sae.config.threshold_rate)
        error = result.error.detach() * y.numel()
        if result.nested.shape[1] > 1:  # only that of all latents counts
            error = F.mse_loss(result.reconstruction, y, reduction="sum")
        spread = sparse.squared_distance(y, self.center)
        found = rows.add(torch.stack([error, spread, active.sum(), own.sum()]))
        self.group.latents.add(found[2:])
        self.controller.observe(found[3] / n, self.sae.budget)
        self.sae.update_threshold(result.pairs.cut)
        self.sums += torch.cat([found[:3], torch.full_like(found[:1], n)])

    def deployed(self) -> SAE:
        """The SAE for raw activations, its latents in the order of the prefixes."""
        nested, across = self.sae.config.nested, self.group.latents
        by_frequency = nested is not None and nested.by_frequency
        order = frequency_order(across.gather(self.frequency)) if by_frequency else None
        return self.whole().scaled(self.scales, order)

    def whole(self) -> SAE:
        """The SAE with the latents of all processes."""
        if self.group.latents.alone:
            return self.sae
        whole = SAE(self.sae.config).to(self.center.device).requires_grad_(False)
        whole.load_state_dict({name: self._gathered(name, tensor) for name, tensor in self.sae.state_dict().items()})
        return whole

    def tensors(self, wanted: bool = True) -> dict[str, Tensor]:
        """All state by name, of all processes: the same however many they are; they all have to ask.

        Nothing if it is not `wanted`, so that only the process that writes it needs room for it.
        """
        named = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for part, tensor in self.optimizer.state[parameter].items():
                named[f"adam.{part}.{name}"] = tensor
        named |= {name: getattr(self, name) for name in ("silent", "frequency", "sums", "center")}
        named["dead"] = torch.zeros_like(self.silent, dtype=torch.uint8).index_fill(0, self.dead, 1)
        pairs = ((name, self._gathered(name, tensor)) for name, tensor in named.items())
        named = {name: tensor for name, tensor in pairs if wanted}
        named |= {"scales": torch.tensor(self.scales, dtype=torch.float64), "step": torch.tensor(self.step)}
        return named | {"controller": self.controller.state, "key": torch.tensor(list(self.key.encode()))}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave. Raises: KeyError, RuntimeError or ValueError if it is not that."""
        device = self.center.device
        self.scales, self.step = tuple(saved.pop("scales").tolist()), int(saved.pop("step"))
        self.controller.state = saved.pop("controller").to(device).clone()
        mine = {name: self._own(name, tensor).to(device).clone() for name, tensor in saved.items()}
        self.dead = mine.pop("dead").nonzero().squeeze(1)
        self.n_dead = int(saved["dead"].sum())
        for name in ("silent", "frequency", "sums", "center"):
            setattr(self, name, mine.pop(name))
        for name, parameter in self.sae.named_parameters():
            self.optimizer.state[parameter] = {part: mine.pop(f"adam.{part}.{name}") for part in MOMENTS}
        self.sae.load_state_dict({name.removeprefix("sae."): tensor for name, tensor in mine.items()})

    def _gathered(self, name: str, part: Tensor) -> Tensor:
        """The parts of all processes of a tensor that is divided, as everything is that has a number per latent."""
        return self.group.latents.gather(part) if _per_latent(name) else part

    def _own(self, name: str, whole: Tensor) -> Tensor:
        return self.group.latents.own(whole) if _per_latent(name) else whole

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


def _per_latent(name: str) -> bool:
    return not name.startswith("adam.step") and name.split(".")[-1] not in {*WHOLE, "sums", "center"}
