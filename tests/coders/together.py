"""Work for several processes of torch.distributed, and how tests start them: forked from a server that has torch loaded."""

import itertools
import multiprocessing
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from digon import rng
from digon.coders import parallel
from digon.coders.sae import SAEConfig
from digon.coders.train import Batches, Calibration, TrainConfig, Trainer, from_iterable, from_store, train_many
from digon.store import weights
from digon.store.shards import ActivationStore

D = 16
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["digon.coders.train", "digon.store.shards"])


def draw(step: int, rows: int = 64) -> Tensor:
    """Batch number `step` of sparse features in fewer dimensions."""
    directions = torch.nn.functional.normalize(torch.randn(32, D, generator=rng.stream(0, "directions")), dim=1)
    stream = rng.stream(0, "batch", step)
    on = torch.rand(rows, 32, generator=stream) < 0.05
    return (on * (0.5 + torch.rand(rows, 32, generator=stream))) @ directions + 0.3


def endless(start: int) -> Iterator[Tensor]:
    return (draw(step) for step in itertools.count(start))


def run(n: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` returned in each of `n` processes; an exception is its type and text, a killed process its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [START.Pipe(duplex=False) for _ in range(n)]
        processes = [
            START.Process(target=_enter, args=(i, n, f"file://{folder}/store", pipes[i][1], work, arguments))
            for i in range(n)
        ]
        for process, (_, end) in zip(processes, pipes, strict=True):
            process.start()
            end.close()
        told = [_receive(end) for end, _ in pipes]
        for process in processes:
            process.join()
        return [process.exitcode if answer is None else answer for process, answer in zip(processes, told, strict=True)]


def _receive(end) -> Any:
    try:
        return end.recv()
    except EOFError:
        return None


def _enter(index: int, n: int, place: str, end, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    if n > 1:
        dist.init_process_group("gloo", init_method=place, rank=index, world_size=n)
    try:
        answer = work(*arguments)
    except Exception as error:
        answer = (type(error).__name__, str(error))
    end.send(answer)
    if n > 1:
        dist.destroy_process_group()


def step_from(state: Path, cases: dict[str, SAEConfig], config: TrainConfig, shards: int) -> dict[str, dict]:
    """For every case, gradient and state after one more step from a saved state."""
    group, found = parallel.current(shards), {}
    for name, sae in cases.items():
        trainer = Trainer(sae, config, calibration(), group)
        saved = weights.read_tensors(state / f"{name}.safetensors")
        saved.pop("key")
        trainer.restore(saved)
        trainer.advance(draw(trainer.step))
        whole = {k: v for k, v in trainer.tensors().items() if k != "key"}
        whole |= {f"grad.{k}": trainer._gathered(k, p.grad) for k, p in trainer.sae.named_parameters()}
        whole |= {f"deployed.{k}": v for k, v in trainer.deployed().state_dict().items()}
        found[name] = {k: v.numpy() for k, v in whole.items()}
    return found


def calibration() -> Calibration:
    sample = torch.cat([draw(i) for i in range(8)])
    return Calibration(sample.mean(0), (1.0,), "data", sample)


def train_all(
    out: Path,
    saes: dict[str, SAEConfig],
    config: TrainConfig,
    store: Path | None = None,
    kill: tuple[int, int] | None = None,
    shards: int = 1,
    iterated: bool = False,
) -> None:
    """Train SAEs on one pass; `kill` is the process, and the batch at which it kills itself.

    `iterated`: what the store gives comes from an iterator that can only be started at its beginning.
    """
    batches: Batches = endless if store is None else from_store(ActivationStore.open(store), "mlp", config)
    if iterated:
        batches = from_iterable(partial(batches, 0))
    group = parallel.current(shards)

    def deadly(start: int) -> Iterator[Tensor]:
        for step, x in enumerate(batches(start), start):
            if kill == (group.index, step):
                os.kill(os.getpid(), signal.SIGKILL)
            yield x

    train_many({out / name: sae for name, sae in saes.items()}, deadly, config, group=group)


def other_batches(out: Path, sae: SAEConfig, config: TrainConfig) -> None:
    """Every process has data of its own."""
    index = dist.get_rank()
    train_many({out: sae}, lambda start: (draw(step + 1000 * index) for step in itertools.count(start)), config)


def widths(sae: SAEConfig, config: TrainConfig, shards: int) -> None:
    """Only asks for a trainer, and for one step on three rows."""
    trainer = Trainer(replace(sae), config, calibration(), parallel.current(shards))
    trainer.advance(draw(0, 3))


def full_for_the_first(out: Path, sae: SAEConfig, config: TrainConfig) -> None:
    """Of the processes, the first one cannot write; the other one has nothing to write."""

    def limited(start: int) -> Iterator[Tensor]:
        for step, x in enumerate(endless(start), start):
            if step == 37 and dist.get_rank() == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            yield x

    train_many({out: sae}, limited, config)
