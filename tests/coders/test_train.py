import dataclasses
import itertools
import json
import math

import pytest
import torch

from digon.coders import formats
from digon.coders.base import evaluate
from digon.coders.sae import SAEConfig
from digon.coders.train import CHECKPOINT, METRICS, TrainConfig, from_store, learning_rate, train
from digon.errors import ConfigError, CorruptError, NonFiniteError
from digon.store.shards import HarvestPlan, Rows, ShardWriter

ACTIVATIONS = ("topk", "batchtopk")
SHORT = TrainConfig(steps=60, log_every=7, checkpoint_every=16)
SMALL = SAEConfig(d_in=16, width=128, l0=1, dead_after=512)


@pytest.fixture(scope="module", params=ACTIVATIONS)
def recovered(request, tmp_path_factory, Planted):
    config = SAEConfig(d_in=16, width=32, l0=2, activation=request.param, dead_after=50_000)
    sae = train(config, Planted(), TrainConfig(steps=1500), tmp_path_factory.mktemp(request.param) / "sae")
    return sae, Planted()


def test_planted_features_are_recovered(recovered):
    sae, planted = recovered
    cosines = planted.directions @ sae.dictionary.atoms.T
    assert float(cosines.max(1).values.mean()) > 0.9
    assert evaluate(sae, [planted.draw(4096, "held out")]).fvu < 0.3


def test_deployed_l0_is_near_its_target(recovered):
    sae, planted = recovered
    totals = evaluate(sae, [planted.draw(1024, "held out", i) for i in range(4)])
    assert totals.l0 == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stop", [7, 21, 56])
def test_resume_is_bit_exact(tmp_path, activation, stop, Planted):
    # Stops before the first checkpoint, between checkpoint and log step, and at the end; latents die and are revived.
    config = dataclasses.replace(SMALL, activation=activation)
    train(config, Planted(), SHORT, tmp_path / "whole")

    def interrupt(line):
        if line["step"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, Planted(), SHORT, tmp_path / "broken", interrupt)
    assert (tmp_path / "broken" / CHECKPOINT).is_file() == (stop > 16)
    train(config, Planted(), SHORT, tmp_path / "broken")
    for name in (formats.WEIGHTS, formats.CONFIG):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    lines = [
        [json.loads(line) | {"tokens_per_s": 0} for line in (tmp_path / where / METRICS).read_text().splitlines()]
        for where in ("whole", "broken")
    ]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert max(line["dead_share"] for line in lines[0]) > 0
    assert not (tmp_path / "broken" / CHECKPOINT).exists()


def test_a_finished_folder_is_loaded_not_trained(tmp_path, Planted):
    first = train(SMALL, Planted(), SHORT, tmp_path / "sae")
    again = train(SMALL, Planted(), SHORT, tmp_path / "sae", lambda line: pytest.fail(f"trained again: {line}"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_training_from_a_store_resumes_in_mid_epoch(tmp_path, Planted):
    writer = ShardWriter(tmp_path / "store", HarvestPlan({"mlp": 16}, "float32", "model", "data", {}))
    rows = torch.arange(700)
    for cursor in (1, 2):
        writer.append(Rows({"mlp": Planted().draw(700, cursor)}, rows, rows, rows), [], cursor)
    config = TrainConfig(steps=30, batch=200, log_every=5, checkpoint_every=10)
    batches = from_store(writer.finish(), "mlp", config)  # seven batches per epoch

    def interrupt(line):
        if line["step"] == 25:
            raise KeyboardInterrupt

    whole = train(SMALL, batches, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, batches, config, tmp_path / "broken", interrupt)
    resumed = train(SMALL, batches, config, tmp_path / "broken")
    assert torch.equal(whole.W_enc, resumed.W_enc)


def test_other_settings_or_data_do_not_resume(tmp_path, Planted):
    train(SMALL, Planted(), SHORT, tmp_path / "sae")
    for changed, word in (
        ((dataclasses.replace(SMALL, l0=2), Planted(), SHORT), "SAE's settings"),
        ((SMALL, Planted(density=0.2), SHORT), "activations"),
        ((SMALL, Planted(), dataclasses.replace(SHORT, steps=61)), "training settings"),
    ):
        with pytest.raises(ConfigError, match=word):
            train(*changed, tmp_path / "sae")


def late_features(Planted, switch: int):
    """Only 8 of the 32 features until step `switch`, so that latents die which are needed later."""

    def batches(start: int):
        for step in itertools.count(start):
            planted = Planted(density=0.1 if step < switch else 0.05)
            planted.directions = planted.directions[: 8 if step < switch else 32]
            yield planted.draw(512, step)

    return batches


def test_the_auxiliary_loss_revives_dead_latents(tmp_path, Planted):
    dead, found = {}, {}
    for coefficient in (0.0, 1 / 32):
        config = SAEConfig(16, 32, 2, dead_after=4000, aux_coefficient=coefficient)
        sae = train(config, late_features(Planted, 300), TrainConfig(steps=900), tmp_path / str(coefficient))
        dead[coefficient] = evaluate(sae, [Planted().draw(8192, "held out")]).dead_share
        found[coefficient] = float((Planted().directions @ sae.dictionary.atoms.T).max(1).values.mean())
    assert dead[0.0] > 0.1, dead
    assert dead[1 / 32] <= 0.5 * dead[0.0], dead
    assert found[1 / 32] > found[0.0], found


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_scale_of_the_data_does_not_matter(tmp_path, activation, Planted):
    # A power of two scales floating-point numbers exactly, so the two runs must agree to the last bit.
    config = dataclasses.replace(SMALL, width=48, l0=2, activation=activation)
    small, large, tenfold = (
        train(config, Planted(scale=s), SHORT, tmp_path / f"{activation}{s}") for s in (1.0, 8.0, 10.0)
    )
    x = Planted().draw(256, "held out")
    assert torch.equal(large.encode(8 * x).dense(), 8 * small.encode(x).dense())
    gap = tenfold.encode(10 * x).dense() - 10 * small.encode(x).dense()
    assert gap.norm() < 1e-2 * small.encode(x).dense().norm() * 10


def test_atoms_have_unit_norm(recovered):
    sae, _ = recovered
    torch.testing.assert_close(sae.dictionary.atoms.norm(dim=1), torch.ones(32))


def test_learning_rate_schedule():
    config = TrainConfig(steps=100, warmup=0.1, decay=0.2)
    rates = [learning_rate(step, 2**14, config) for step in range(101)]
    assert rates[0] == pytest.approx(2e-5)
    assert rates[9] == rates[50] == rates[80] == pytest.approx(2e-4)
    assert rates[90] == pytest.approx(1e-4)
    assert rates[100] == 0
    assert learning_rate(50, 2**12, config) == pytest.approx(4e-4)
    assert learning_rate(50, 2**12, dataclasses.replace(config, lr=0.5)) == 0.5


def broken_after(Planted, step: int, value: float):
    def batches(start: int):
        for i, x in zip(itertools.count(start), Planted()(start), strict=False):
            yield x.clone().index_fill_(0, torch.tensor([3]), value) if i >= step else x

    return batches


@pytest.mark.parametrize(("step", "value"), [(0, math.nan), (20, math.nan), (20, math.inf)])
def test_nan_is_reported_and_never_kept(Planted, tmp_path, step, value):
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        train(SMALL, broken_after(Planted, step, value), SHORT, tmp_path / "sae")
    assert not (tmp_path / "sae" / formats.CONFIG).exists()
    if (tmp_path / "sae" / CHECKPOINT).exists():  # from step 16, before the NaN
        lines = (tmp_path / "sae" / METRICS).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [7, 14]


def test_divergence_is_reported(tmp_path, Planted):
    with pytest.raises(NonFiniteError, match="diverged"):
        train(SMALL, Planted(), dataclasses.replace(SHORT, lr=1e38), tmp_path / "sae")


def test_refusals(tmp_path, Planted):
    for bad in ({"steps": 0}, {"warmup": 0.9, "decay": 0.2}, {"log_every": 0}):
        with pytest.raises(ConfigError):
            train(SMALL, Planted(), dataclasses.replace(SHORT, **bad), tmp_path)
    with pytest.raises(ConfigError, match="an SAE on 16 units"):
        train(SMALL, Planted(d=5), SHORT, tmp_path)
    with pytest.raises(ConfigError, match="ended before step 20"):
        train(SMALL, lambda start: itertools.islice(Planted()(start), 20), SHORT, tmp_path)
    with pytest.raises(NonFiniteError, match="constant"):
        train(SMALL, lambda start: itertools.repeat(torch.ones(10, 16)), SHORT, tmp_path)
    with pytest.raises(ConfigError, match="l0 is not set"):
        train(dataclasses.replace(SMALL, l0=None), Planted(), SHORT, tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path, Planted):
    def interrupt(line):
        if line["step"] == 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, Planted(), SHORT, tmp_path, interrupt)
    data = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError):
        train(SMALL, Planted(), SHORT, tmp_path)
