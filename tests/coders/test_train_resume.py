"""A run that is stopped anywhere and started again ends in the same bytes; `test_train_kill` kills for real."""

import dataclasses
import json

import pytest
import torch

from digon.coders import formats
from digon.coders.sae import Nested, SAEConfig, Target
from digon.coders.train import CHECKPOINTS, METRICS, Batches, TrainConfig, from_store, train
from digon.store.shards import HarvestPlan, Rows, ShardWriter

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")
LONG = TrainConfig(steps=200, batch=64, log_every=10, checkpoint_every=50)
SMALL = SAEConfig(d_in=16, width=48, l0=2, dead_after=640)


class Killed(BaseException):
    """Nothing catches this, and nothing is cleaned up after it."""


def same_bytes_after_a_stop(tmp_path, sae: SAEConfig, batches: Batches, config: TrainConfig, stop: int) -> list[dict]:
    def kill(line):
        if line["step"] == stop:
            raise Killed

    train(sae, batches, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(sae, batches, config, tmp_path / "broken", kill)
    assert (tmp_path / "broken" / CHECKPOINTS).is_dir() == (stop > config.checkpoint_every)
    train(sae, batches, config, tmp_path / "broken")
    for name in (formats.WEIGHTS, formats.CONFIG):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    whole, broken = (
        [json.loads(line) | {"tokens_per_s": 0} for line in (tmp_path / where / METRICS).read_text().splitlines()]
        for where in ("whole", "broken")
    )
    assert whole == broken
    assert not (tmp_path / "broken" / CHECKPOINTS).exists()
    return whole


@pytest.mark.parametrize("activation", ["relu", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("revival", ["auxiliary", "resample", "forced", "straight_through"])
def test_every_revival_resumes(tmp_path, activation, revival, Planted):
    # More latents than features are left to keep: some die and are brought back before the stop and after.
    sae = SAEConfig(16, 128, 1, activation, revival=revival, dead_after=256)
    config = dataclasses.replace(LONG, steps=80, checkpoint_every=20)
    lines = same_bytes_after_a_stop(tmp_path, sae, Planted(batch=64), config, 50)
    assert max(line["dead_share"] for line in lines) > 0


@pytest.mark.parametrize("stop", [10, 50, 70])
@pytest.mark.parametrize(
    "nested", [Nested((4, 12)), Nested(sampled=3), Nested((4, 12), by_frequency=True, detached=True)]
)
def test_nested_prefixes_resume(tmp_path, stop, nested, Planted):
    # Before the first checkpoint, right at one, and between two.
    config = dataclasses.replace(LONG, steps=80, checkpoint_every=25)
    sae = dataclasses.replace(SMALL, activation="batchtopk", nested=nested)
    same_bytes_after_a_stop(tmp_path, sae, Planted(batch=64), config, stop)


@pytest.fixture(scope="module")
def sites(tmp_path_factory, Planted):
    """A store of two sites, one of 16 units and one of 8."""
    root = tmp_path_factory.mktemp("sites")
    writer = ShardWriter(root / "store", HarvestPlan({"mlp": 16, "out": 8}, "float32", "model", "data", {}))
    rows = torch.arange(700)
    for cursor in (1, 2):
        values = Planted().draw(700, cursor)
        writer.append(Rows({"mlp": values, "out": values[:, 8:].relu() * 3}, rows, rows, rows), [], cursor)
    return writer.finish()


MODES = {
    "refined": ({"refinements": 2}, ["mlp"]),
    "transcoder": ({"target": Target(8)}, ["mlp", "out"]),
    "skip": ({"target": Target(8, skip=True)}, ["mlp", "out"]),
    "crosscoder": ({"d_in": 24, "sites": (16, 8), "refinements": 1}, ["mlp", "out"]),
}


@pytest.mark.parametrize("activation", ALL)
@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_resumes(tmp_path, activation, mode, sites):
    changes, names = MODES[mode]
    sae = dataclasses.replace(SMALL, activation=activation, dead_after=256, **changes)
    config = dataclasses.replace(LONG, steps=40, checkpoint_every=15)
    same_bytes_after_a_stop(tmp_path, sae, from_store(sites, names, config), config, 30)
