"""Train simple toy networks with the kernel of `worlds/sampled_kernel`: tables, threads, pieces of training, checkpoints.

Every slice of every instance draws from a generator of its own, and sums are taken in a fixed order, so results depend
neither on the number of threads (`torch.get_num_threads()`) nor on where training is cut into pieces. Threads take
turns at instances; with fewer instances than threads, several threads share the batch of one.

This module imports numba; import it lazily.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import rng
from ..errors import ConfigError, NonFiniteError
from . import sampled_kernel
from .features import Features
from .recipe import OPTIMIZERS, Checkpoint, Recipe, check_match
from .sampled_draws import DRAWS
from .toys import Toy

SLOPES = {"linear": 1.0, "relu": 0.0, "leaky": 0.1}
"""Activations that the kernel knows, as slopes below 0."""
VALUES = {"uniform": (1.0, 0.0), "symmetric": (2.0, -1.0), "constant": (0.0, 1.0)}
"""Value of an active feature: factor of a uniform number and summand."""
SETS = ("correlated", "anticorrelated")
KNOWN = {"density", "importance", "values", "sets"}
PIECE = 0.02
"""Seconds of a piece of training, after which a thread takes another instance."""
CACHE = 1024 * 1024
"""Bytes of samples and errors that are worked on together."""
MOST = 64
"""Tiles of sixteen samples that are worked on together, at most."""
SLICE, SPARSE_SLICE = 256, 512
"""Samples of a slice, at least; where features are rare, work that does not depend on samples weighs more."""
SLICES = 16
"""Slices of a batch, at most; each keeps a gradient."""
WORK = 2**16
"""Multiplications (n · m · samples) of a slice, at least, so that threads that share a batch seldom wait."""


def supports(toy: torch.nn.Module, law: object) -> bool:
    """Whether the kernel can train this network on this law; a frozen b is fine, frozen weights are not."""
    return (
        type(toy) is Toy
        and type(law) is Features
        and {f.name for f in fields(law)} <= KNOWN
        and law.values in VALUES
        and all(s.kind in SETS for s in law.sets)
        and toy.hidden in SLOPES
        and toy.output in SLOPES
        and toy.target_name in ("identity", "absolute")
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in (toy.W, toy.V, toy.b))
        and toy.W.requires_grad
        and toy.V.requires_grad
    )


def tables(law: Features, instances: int) -> sampled_kernel.Law:
    """The law as thresholds of 31-bit draws."""
    density = law.density.double().cpu().expand(instances, law.n).numpy()
    low, source, fresh = np.zeros_like(density), np.full(law.n, -1), np.zeros(law.n, bool)
    for number, group in enumerate(law.sets):
        members = list(group.members)
        source[members], fresh[members] = number, group.kind == "correlated"
        if group.kind == "anticorrelated":
            low[:, members] = density[:, members].cumsum(-1) - density[:, members]
    start, end = (np.rint(DRAWS * np.minimum(v, 1)).astype(np.int64) for v in (low, low + density))
    span = np.maximum(end - start, 1)
    factor, summand = VALUES[law.values]
    scale = np.where(fresh, factor / DRAWS, factor / span)
    importance = law.importance.double().cpu().expand(instances, law.n).numpy()
    # One memory layout for all laws: another one would be compiled once more.
    low_, span_ = (np.ascontiguousarray(v, np.uint32) for v in (start, span))
    scale_, shift_, importance_ = (
        np.ascontiguousarray(v, np.float32) for v in (scale, np.full(scale.shape, summand), importance)
    )
    return sampled_kernel.Law(low_, span_, scale_, shift_, importance_, len(law.sets), source, fresh)


def make_plan(toy: Toy, law: Features, recipe: Recipe) -> sampled_kernel.Plan:
    """What the kernel needs to know; it depends on sizes, densities and settings only, never on the machine."""
    n, m = toy.W.shape[1:]
    sparse = not law.sets and is_sparse(m, float(law.density.mean()))
    slices = min(recipe.batch * n * m // WORK, recipe.batch // (SPARSE_SLICE if sparse else SLICE), SLICES)
    rows = 32 * math.ceil(recipe.batch / max(slices, 1) / 32)
    tiles = 2 * max(1, min(MOST, CACHE // (128 * (n + m)), rows // 16) // 2)
    weights = n * m * (1 if toy.tied else 2)
    return sampled_kernel.Plan(
        n=n, m=m, batch=recipe.batch, slices=math.ceil(recipe.batch / rows), rows=rows, tiles=tiles,
        sparse=sparse, tied=toy.tied, absolute=toy.target_name == "absolute",
        hidden=np.float32(SLOPES[toy.hidden]), trained=weights + (n if toy.b.requires_grad else 0),
        slopes=np.where(recipe.leaks == 0, SLOPES[toy.output], recipe.leaks).astype(np.float32), rates=recipe.rates.astype(np.float64),
        optimizer=OPTIMIZERS.index(recipe.optimizer), decay=float(recipe.weight_decay),
    )  # fmt: skip


def is_sparse(m: int, density: float) -> bool:
    """Whether going over active features is faster than multiplying by all; measured."""
    return density <= 0.012 and m >= 12


class Run:
    """Training in pieces: `advance` as far as wanted, `write` the parameters back into the network.

    Raises: ConfigError if the law is of other features or instances than the network.
    """

    def __init__(self, toy: Toy, law: Features, recipe: Recipe) -> None:
        check_match(toy, law)
        self.toy, self.count, self.steps = toy, len(toy.b), len(recipe.rates)
        self.plan, self.law = make_plan(toy, law, recipe), tables(law, self.count)
        theta = torch.cat([p.detach().flatten(1) for p in self._parameters()], 1).numpy()
        size = theta.shape[1]
        words = rng.numpy_stream(recipe.seed, "lanes").integers(
            0, 2**32, (self.count, self.plan.slices, 4 * sampled_kernel.LANES), np.uint32
        )
        padded = np.zeros((self.count, size + sampled_kernel.LANES), np.float32)
        padded[:, :size] = theta
        self.state = sampled_kernel.State(padded, np.zeros_like(theta), np.zeros_like(theta), words)
        self.done = np.zeros(self.count, np.int64)
        """Steps that every instance has behind it."""
        self.kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        """Snapshots: W [i, n, m], b [i, n], and the loss [i] on the batch of that step."""
        self._stop = False

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.done.min())

    def advance(
        self, until: int, *, snapshots: Iterable[int] = (), progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Train all instances up to a step; remember snapshots at steps from here to there, both included.

        Raises: NonFiniteError if a loss is not finite.
        """
        self._stop, wanted = False, sorted(s for s in set(snapshots) if self.step <= s <= until)
        for s in wanted:
            n, m = self.toy.W.shape[1:]
            self.kept[s] = torch.empty(self.count, n, m), torch.empty(self.count, n), torch.empty(self.count)
        sampled_kernel.train(self.plan, self.law, self.state, self._team(), (0, 0, 0, 0), False, np.empty((0, 0)))
        threads = torch.get_num_threads()
        members = max(1, min(threads // self.count, self.plan.slices))
        with ThreadPoolExecutor(members * min(self.count, threads)) as pool:
            try:
                if members > 1:
                    self._together(pool, members, until, wanted, progress)
                else:
                    queue = deque(range(self.count))
                    tasks = [pool.submit(self._take, queue, until, wanted) for _ in range(min(self.count, threads))]
                    self._watch(tasks, progress)
            finally:
                self._stop = True
        if until in self.kept:
            for i in range(self.count):
                self._keep(i, until, float(self.peek(i, until)))
        if progress is not None:
            progress(until, self.steps)

    def _take(self, queue: deque[int], until: int, wanted: list[int]) -> None:
        """One thread: take turns at instances, a piece at a time."""
        team, length = self._team(), 8
        while not self._stop:
            try:
                i = queue.popleft()
            except IndexError:
                return
            here = int(self.done[i])
            if here >= until:
                continue
            end = self._end(here, length, until, wanted)
            trace, start = np.empty((1, end - here)), time.perf_counter()
            sampled_kernel.train(
                self.plan, self.law, self._before(i, here, wanted), team, (i, i + 1, here, end), True, trace
            )
            self._after(i, here, end, trace[0])
            length = _longer(end - here, time.perf_counter() - start)
            queue.append(i)

    def _together(
        self, pool: ThreadPoolExecutor, members: int, until: int, wanted: list[int],
        progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        """Several threads per instance, all instances in step."""
        length = 8
        while (here := self.step) < until:
            end, start = self._end(here, length, until, wanted), time.perf_counter()
            traces, tasks = np.empty((self.count, 1, end - here)), list[Future[None]]()
            for i in range(self.count):
                team, state = self._team(0, members), self._before(i, here, wanted)
                tasks += [
                    pool.submit(
                        sampled_kernel.train, self.plan, self.law, state, team._replace(member=k), (i, i + 1, here, end), True, traces[i]
                    )
                    for k in range(members)
                ]  # fmt: skip
            self._watch(tasks, None)
            for i in range(self.count):
                self._after(i, here, end, traces[i, 0])
            length = _longer(end - here, time.perf_counter() - start)
            if progress is not None:
                progress(end, self.steps)

    def _watch(self, tasks: list[Future[None]], progress: Callable[[int, int], None] | None) -> None:
        waiting = set(tasks)
        while waiting:
            finished, waiting = wait(waiting, timeout=0.2, return_when="FIRST_EXCEPTION")
            for task in finished:
                task.result()
            if progress is not None and waiting:
                progress(int(self.done.mean()), self.steps)

    def _end(self, here: int, length: int, until: int, wanted: list[int]) -> int:
        return min([here + length, until, *(s for s in wanted if s > here)])

    def _before(self, i: int, here: int, wanted: list[int]) -> sampled_kernel.State:
        if here in wanted:
            self._keep(i, here, math.nan)
        return self.state

    def _after(self, i: int, here: int, end: int, losses: Float[np.ndarray, " steps"]) -> None:
        bad = ~np.isfinite(losses)
        if bad.any():
            raise NonFiniteError(
                f"the loss became {losses[bad][0]} at step {here + int(bad.argmax())}", hint="lower the learning rate"
            )
        if here in self.kept:
            self.kept[here][2][i] = float(losses[0])
        self.done[i] = end

    def _keep(self, i: int, step: int, loss: float) -> None:
        (n, m), theta = self.toy.W.shape[1:], torch.from_numpy(self.state.theta[i])
        W, b, losses = self.kept[step]
        W[i], b[i], losses[i] = (
            theta[: n * m].view(n, m),
            theta[-n - sampled_kernel.LANES : -sampled_kernel.LANES],
            loss,
        )

    def peek(self, i: int, step: int) -> float:
        """Loss of one instance on its next batch, which stays the next one."""
        trace, words = np.empty((1, 1)), self.state.words[i].copy()
        sampled_kernel.train(self.plan, self.law, self.state, self._team(), (i, i + 1, step, step + 1), False, trace)
        self.state.words[i] = words
        return float(trace[0, 0])

    def write(self) -> None:
        """Put the parameters into the network."""
        parts = self._parameters()
        theta = torch.from_numpy(self.state.theta[:, : -sampled_kernel.LANES])
        with torch.no_grad():
            for p, values in zip(parts, theta.split([p[0].numel() for p in parts], 1), strict=True):
                p.copy_(values.view_as(p))

    def checkpoint(self, key: str = "") -> Checkpoint:
        """Everything that training needs to go on from here."""
        tensors = {
            name: torch.from_numpy(v.copy()) for name, v in zip(("theta", "mean", "square"), self.state, strict=False)
        }
        return Checkpoint(self.step, tensors | {"words": torch.from_numpy(self.state.words.astype(np.int64))}, key)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises: ConfigError if it is of another network or recipe.
        """
        for name, mine in zip(("theta", "mean", "square", "words"), self.state, strict=True):
            saved = checkpoint.tensors.get(name)
            if saved is None or saved.shape != mine.shape:
                raise ConfigError(
                    f"the checkpoint's {name!r} has shape {None if saved is None else tuple(saved.shape)}",
                    expected=str(mine.shape), hint="resume with the same network, law and settings",
                )  # fmt: skip
            mine[:] = saved.numpy()
        self.done[:] = checkpoint.step

    def _parameters(self) -> list[torch.nn.Parameter]:
        toy = self.toy
        return [toy.W, toy.b] if toy.tied else [toy.W, toy.V, toy.b]

    def _team(self, member: int = 0, members: int = 1) -> sampled_kernel.Team:
        slices = self.plan.slices
        parts = np.empty((slices, self.state.theta.shape[1]), np.float32)
        return sampled_kernel.Team(member, members, parts, np.empty(slices), np.zeros(1, np.int64))


def _longer(steps: int, seconds: float) -> int:
    """Steps of the next piece, so that it takes about `PIECE` seconds."""
    return max(1, min(4 * steps, round(steps * PIECE / max(seconds, 1e-9))))
