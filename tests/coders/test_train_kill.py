"""Training that is killed for real, and goes on in other processes: the bytes of training that was not."""

import json
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from together import draw, endless, run, train_all

from digon.coders import formats
from digon.coders.sae import SAEConfig
from digon.coders.train import CHECKPOINTS, METRICS, TrainConfig, from_iterable, train
from digon.errors import ConfigError
from digon.store.shards import HarvestPlan, Rows, ShardWriter

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")
CONFIG = TrainConfig(steps=200, batch=32, log_every=20, checkpoint_every=50)
SAES = {a: SAEConfig(16, 32, 2, a, dead_after=640) for a in ALL}
STOP = 110
"""The batch at which a process kills itself: after a checkpoint, in the middle of an epoch."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store") / "store"
    writer = ShardWriter(root, HarvestPlan({"mlp": 16}, "float32", "model", "data", {}))
    for cursor in (1, 2):
        rows = torch.arange(350)
        writer.append(Rows({"mlp": draw(cursor, 350)}, rows, rows, rows), [], cursor)
    writer.finish()
    return root


def state(folder: Path) -> dict[str, object]:
    """Everything that training leaves, but the tokens per second."""
    found: dict[str, object] = {}
    for name in SAES:
        for file in (formats.WEIGHTS, formats.CONFIG):
            found[f"{name} {file}"] = (folder / name / file).read_bytes()
        lines = (folder / name / METRICS).read_text().splitlines()
        found[f"{name} metrics"] = [json.loads(line) | {"tokens_per_s": 0} for line in lines]
        assert not (folder / name / CHECKPOINTS).exists()
    return found


@pytest.fixture(scope="module", params=[1, 2])
def whole(request, store, tmp_path_factory) -> tuple[int, dict[str, object]]:
    """What so many processes leave that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(request.param, train_all, folder, SAES, CONFIG, store) == [0] * request.param
    return request.param, state(folder)


@pytest.mark.parametrize("source", ["shards", "iterator"])
def test_200_steps_are_100_a_kill_and_100(source, whole, store, tmp_path):
    processes, wanted = whole
    train_from = partial(train_all, iterated=source == "iterator")
    answers = run(processes, train_from, tmp_path, SAES, CONFIG, store, (processes - 1, STOP))
    assert answers.pop() == -signal.SIGKILL
    for kind, text in answers:  # of the processes that were left
        assert kind == "PeerError"
        assert "another process of this run has stopped" in text
        assert "goes on from the last checkpoint" in text
    for name in SAES:
        found = sorted(file.name for file in (tmp_path / name / CHECKPOINTS).glob("[0-9]*"))
        assert found == ["00000050.safetensors", "00000100.safetensors"]
    assert run(processes, train_from, tmp_path, SAES, CONFIG, store) == [0] * processes
    assert state(tmp_path) == wanted


@pytest.mark.parametrize(("first", "then", "shards"), [(1, 2, 1), (2, 1, 1), (2, 2, 2)])
def test_another_number_of_processes_goes_on(first, then, shards, tmp_path):
    # The same up to the rounding of sums.
    config = replace(CONFIG, steps=40, checkpoint_every=20, log_every=10)
    saes = {name: SAES[name] for name in ("batchtopk", "gated")}
    train_all(tmp_path / "whole", saes, config)
    assert -signal.SIGKILL in run(first, train_all, tmp_path / "cut", saes, config, None, (0, 30))
    assert run(then, train_all, tmp_path / "cut", saes, config, None, None, shards) == [0] * then
    for name in saes:
        whole, cut = (formats.load(tmp_path / where / name).state_dict() for where in ("whole", "cut"))
        for key, wanted in whole.items():
            gap = (cut[key] - wanted).abs().max() / wanted.abs().max()
            assert float(gap) < 1e-4, (name, key)
        a, b = ((tmp_path / where / name / METRICS).read_text().splitlines() for where in ("whole", "cut"))
        numbers = [[list(json.loads(line).values())[:4] for line in lines] for lines in (a, b)]
        assert np.allclose(*numbers, rtol=1e-4), name


def test_an_iterator_that_gives_other_batches_does_not_go_on(tmp_path):
    config = replace(CONFIG, steps=60, checkpoint_every=20)

    def stopped(start):
        for step, x in enumerate(endless(start), start):
            if step == 50:
                raise KeyboardInterrupt
            yield x

    with pytest.raises(KeyboardInterrupt):
        train(SAES["topk"], stopped, config, tmp_path)
    calls = []

    def unseeded():
        # The first batch is what it was, the others are not.
        calls.append(0)
        yield draw(0)
        yield from (draw(1000 * len(calls) + step) for step in range(1000))

    with pytest.raises(ConfigError, match="batch 39 is not the one"):
        train(SAES["topk"], from_iterable(unseeded), config, tmp_path)
    whole = train(SAES["topk"], endless, config, tmp_path / "whole")
    cut = train(SAES["topk"], from_iterable(lambda: endless(0)), config, tmp_path)
    assert torch.equal(whole.W_enc, cut.W_enc)
