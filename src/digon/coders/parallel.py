"""Several processes that train one SAE, with the result of one process up to the rounding of sums.

A batch of activations and a dictionary can both be divided. Processes stand in a grid with two axes:

    rows      every process has its slice of each batch, and all latents: sums over rows are sums over this axis
    latents   every process has its slice of the latents, and all rows: a reconstruction is a sum over this axis, and a
              contest for places (topk, batchtopk) is held among the best of every process

A process by itself is a grid of one, in which nothing is exchanged. Gradients follow from three kinds of sums
(Shoeybi et al. 2019), where L is the loss and L_i what process i sees of it:

    total    of parts, each used by its own process in another way: ∂L/∂part = Σ_i ∂L_i/∂total
    merged   of parts, after which all processes do the same:       ∂L/∂part = ∂L_i/∂merged
    shared   no sum: a tensor that all have, each using it for its own part; its gradients are added

Start them with `torchrun --nproc-per-node N`, or initialize torch.distributed yourself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch import distributed as dist

from ..errors import ConfigError, PeerError

WHOLE = frozenset({"b_dec", "b_in", "W_skip", "site_scale"})
"""Tensors of an SAE that all processes have; all others have a row per latent."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class Axis:
    """Processes that hold the parts of something, in order; without a handle one process holds it all."""

    def __init__(self, handle: "dist.ProcessGroup | None" = None) -> None:
        self.handle = handle
        self.size = 1 if handle is None else handle.size()
        self.index = 0 if handle is None else handle.rank()

    @property
    def alone(self) -> bool:
        """True if there is nobody to exchange anything with."""
        return self.size == 1

    def part(self, length: int) -> slice:
        """Which of `length` things this process has. `length` has to be a multiple of the number of processes."""
        share = length // self.size
        return slice(self.index * share, (self.index + 1) * share)

    def own(self, whole: Tensor) -> Tensor:
        """This process's part of something that all have."""
        return whole if self.alone else whole[self.part(len(whole))]

    def total(self, part: Tensor) -> Tensor:
        """Sum over the processes, which use it in different ways."""
        return part if self.alone else _Total.apply(part, self)  # type: ignore[no-any-return]

    def merged(self, part: Tensor) -> Tensor:
        """Sum over the processes, which then all do the same with it."""
        return part if self.alone else _Merged.apply(part, self)  # type: ignore[no-any-return]

    def shared(self, whole: Tensor) -> Tensor:
        """What all have and each uses for its own part."""
        return whole if self.alone else _Shared.apply(whole, self)  # type: ignore[no-any-return]

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place and without gradient."""
        if not self.alone:
            with _reaching_others():
                dist.all_reduce(tensor, group=self.handle)
        return tensor

    def stack(self, part: Tensor) -> Tensor:
        """The parts of all processes, which have equal shapes, along a new first axis."""
        if self.alone:
            return part[None]
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with _reaching_others():
            dist.all_gather(parts, part.contiguous(), group=self.handle)
        return torch.stack(parts)

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes, which have equal shapes, in one tensor."""
        return part if self.alone else self.stack(part).flatten(0, 1)


@dataclass(frozen=True)
class Group:
    """The processes that train together, as a grid; by default this one alone."""

    rows: Axis = field(default_factory=Axis)
    latents: Axis = field(default_factory=Axis)

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.rows.size * self.latents.size

    @property
    def index(self) -> int:
        """Number of this process; the first one writes files."""
        return self.rows.index * self.latents.size + self.latents.index

    @property
    def first(self) -> bool:
        """True for the process that writes files."""
        return self.index == 0

    def total(self, part: Tensor) -> Tensor:
        """Sum over all processes, which use it in different ways."""
        return self.rows.total(self.latents.total(part))

    def stack(self, part: Tensor) -> Tensor:
        """The parts of all processes, in their order, along a new first axis."""
        return self.rows.stack(self.latents.stack(part)).flatten(0, 1)

    def check(self, rows: int, width: int) -> None:
        """Raises: ConfigError if a batch or a dictionary cannot be divided among the processes."""
        for what, length, axis in (("a batch of {} rows", rows, self.rows), ("{} latents", width, self.latents)):
            if length % axis.size or not length:
                nearest = max(length // axis.size, 1) * axis.size
                raise ConfigError(
                    f"{what.format(length)} on {axis.size} processes", expected="equal shares", hint=f"take {nearest}"
                )

    def contest(
        self, values: Float[Tensor, " m"], count: int, places: int
    ) -> tuple[Bool[Tensor, " m"] | None, Float[Tensor, ""]]:
        """Which of this process's values are among the `count` largest of all, None if all; and the `places`-th largest."""
        if self.size == 1:
            return None, values.amin() if places == len(values) else values.topk(places).values[-1]
        everyone = self.stack(values)
        best = everyone.view(-1).topk(count)
        inside = torch.zeros_like(everyone, dtype=torch.bool)
        inside.view(-1)[best.indices] = True
        return inside[self.index], best.values[places - 1]

    def contest_by_row(
        self, values: Float[Tensor, "n c"], count: int, places: int
    ) -> tuple[Bool[Tensor, "n c"] | None, Float[Tensor, "n 1"]]:
        """The same among the processes that hold the other latents of the same rows, row by row."""
        if self.latents.alone:
            whole = places == values.shape[1]
            return None, values.amin(1, keepdim=True) if whole else values.topk(places, dim=1).values[:, -1:]
        missing = values.new_full((len(values), count - values.shape[1]), -torch.inf)
        everyone = self.latents.stack(torch.cat([values, missing], 1)).transpose(0, 1)
        best = everyone.flatten(1).topk(count, dim=1)
        inside = torch.zeros_like(everyone, dtype=torch.bool).flatten(1).scatter(1, best.indices, True)
        own = inside.view_as(everyone)[:, self.latents.index, : values.shape[1]]
        return own, best.values[:, places - 1 : places]

    def strongest(self, best: Float[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """For every latent, whether no process has a row with a larger value; of equal ones, the first has it."""
        return self.rows.stack(best).max(0).indices == self.rows.index

    def add_gradients(self, module: nn.Module) -> None:
        """Give every process the gradient of the whole batch."""
        for parameter in module.parameters():
            if parameter.grad is not None:
                self.rows.add(parameter.grad)

    def clip_gradients(self, module: nn.Module, most: float) -> None:
        """Scale the gradient down so that its norm, over all processes, is at most `most`."""
        if self.latents.alone:
            torch.nn.utils.clip_grad_norm_(module.parameters(), most)
            return
        squares = {n: p.grad.square().sum() for n, p in module.named_parameters() if p.grad is not None}
        whole = torch.stack([squares.pop(name) for name in WHOLE & squares.keys()]).sum()
        norm = (self.latents.add(torch.stack(list(squares.values())).sum()) + whole).sqrt()
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_((most / (norm + 1e-6)).clamp(max=1.0))

    def agree(self, what: str, text: str, hint: str) -> None:
        """Raises: ConfigError if the processes differ in something that has to be the same."""
        if self.size > 1:
            told: list[Any] = [None] * self.size
            with _reaching_others():
                dist.all_gather_object(told, text)
            if set(told) != {text}:
                seen = " and ".join(sorted(set(told))[:2])
                raise ConfigError(
                    f"{self.size} processes with different {what}: {seen}", expected="the same", hint=hint
                )

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            with _reaching_others():
                dist.barrier()


def current(shards: int = 1) -> Group:
    """The processes of torch.distributed, or this one alone if there are none.

    `shards` of them hold the parts of the dictionary; if there are more, these are so many copies for parts of the rows.
    Raises: ConfigError if the number of processes is not a multiple of `shards`.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if shards < 1 or world % shards:
        raise ConfigError(
            f"latents in {shards} parts on {world} processes",
            expected="as many processes, or a multiple of them",
            hint=f"torchrun --nproc-per-node {max(shards, 1)} -m digon.cli …",
        )
    return Group() if world == 1 else _grid(dist.group.WORLD, shards)


@cache
def _grid(world: "dist.ProcessGroup", shards: int) -> Group:
    if shards in (1, world.size()):
        return Group(Axis(world)) if shards == 1 else Group(latents=Axis(world))
    grid = torch.arange(world.size()).view(-1, shards)
    axes = [dist.new_subgroups_by_enumeration(g.tolist())[0] for g in (grid.T, grid)]
    return Group(*(Axis(handle) for handle in axes if isinstance(handle, dist.ProcessGroup)))


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them in the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(BACKENDS.get(kind, "gloo"))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _reaching_others() -> Iterator[None]:
    """Raises: PeerError in place of what torch raises when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            f"another process of this run has stopped: {str(error).splitlines()[0]}",
            expected="all processes alive to the end",
            hint="see what it said; the same command goes on from the last checkpoint",
        ) from None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return axis.add(part.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.axis.add(grad.clone()), None


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: Axis) -> Tensor:
        return axis.add(part.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return grad, None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.axis.add(grad.clone()), None
