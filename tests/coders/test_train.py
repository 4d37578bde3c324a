import dataclasses
import itertools
import json
import math

import pytest
import torch

from digon.coders import formats
from digon.coders.sae import Nested, SAEConfig
from digon.coders.train import (
    CHECKPOINTS,
    METRICS,
    TrainConfig,
    Trainer,
    from_iterable,
    from_rows,
    learning_rate,
    missed_l0,
    train,
    train_many,
)
from digon.errors import ConfigError, CorruptError, NonFiniteError

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")
SHORT = TrainConfig(steps=60, log_every=7, checkpoint_every=16)
SMALL = SAEConfig(d_in=16, width=128, l0=1, dead_after=512)


def test_a_finished_folder_is_loaded_not_trained(tmp_path, Planted):
    first = train(SMALL, Planted(), SHORT, tmp_path / "sae")
    again = train(SMALL, Planted(), SHORT, tmp_path / "sae", lambda line: pytest.fail(f"trained again: {line}"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_other_settings_or_data_do_not_resume(tmp_path, Planted):
    train(SMALL, Planted(), SHORT, tmp_path / "sae")
    for changed, word in (
        ((dataclasses.replace(SMALL, l0=2), Planted(), SHORT), "SAE's settings"),
        ((SMALL, Planted(density=0.2), SHORT), "activations"),
        ((SMALL, Planted(), dataclasses.replace(SHORT, steps=61)), "training settings"),
    ):
        with pytest.raises(ConfigError, match=word):
            train(*changed, tmp_path / "sae")


@pytest.mark.parametrize("activation", ALL)
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


def test_atoms_have_unit_norm(tmp_path, Planted):
    sae = train(SMALL, Planted(), dataclasses.replace(SHORT, steps=10), tmp_path)
    torch.testing.assert_close(sae.dictionary.atoms.norm(dim=1), torch.ones(128))


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
    where = f"batch {step} holds NaN or infinity in 1 of 512 rows, first in row 3 at unit 0"
    with pytest.raises(NonFiniteError, match=where):
        train(SMALL, broken_after(Planted, step, value), SHORT, tmp_path / "sae")
    assert not (tmp_path / "sae" / formats.CONFIG).exists()
    if (tmp_path / "sae" / CHECKPOINTS).exists():  # from step 16, before the NaN
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


def stop_at(step: int):
    def interrupt(line):
        if line["step"] == step:
            raise KeyboardInterrupt

    return interrupt


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, Planted):
    train(SMALL, Planted(), SHORT, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, Planted(), SHORT, tmp_path / "broken", stop_at(56))
    found = sorted((tmp_path / "broken" / CHECKPOINTS).iterdir())
    assert [file.name for file in found] == ["00000032.safetensors", "00000048.safetensors"]
    data = found[1].read_bytes()
    found[1].write_bytes(data[: len(data) // 2])
    train(SMALL, Planted(), SHORT, tmp_path / "broken")
    names = (formats.WEIGHTS, formats.CONFIG)
    assert all((tmp_path / "whole" / n).read_bytes() == (tmp_path / "broken" / n).read_bytes() for n in names)


def test_damaged_checkpoints_are_refused(tmp_path, Planted):
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, Planted(), SHORT, tmp_path, stop_at(35))
    for file in (tmp_path / CHECKPOINTS).iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CorruptError):
        train(SMALL, Planted(), SHORT, tmp_path)


@pytest.mark.parametrize("start", [0, 3])
def test_batches_of_rows_and_of_iterables_start_anywhere(start):
    rows = torch.arange(60.0).view(30, 2)
    config = TrainConfig(batch=4, seed=1)
    for batches in (from_rows(rows, config), from_iterable(lambda: iter(rows.split(4)))):
        whole = list(itertools.islice(batches(0), 6))
        rest = list(itertools.islice(batches(start), 6 - start))
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))
        assert whole[0].shape == (4, 2)


def test_many_on_one_pass_are_the_same_as_one_by_one(tmp_path, Planted):
    shapes = {
        "a": SMALL,
        "b": dataclasses.replace(SMALL, activation="jumprelu", l0=2),
        "c": dataclasses.replace(SMALL, activation="gated", width=32, nested=Nested((8,))),
    }
    drawn = []

    def counted(start):
        for i, x in enumerate(Planted()(start), start):
            drawn.append(i)
            yield x

    # One of them is further on than the others.
    with pytest.raises(KeyboardInterrupt):
        train(shapes["b"], Planted(), SHORT, tmp_path / "many" / "b", stop_at(35))
    together = train_many({tmp_path / "many" / n: s for n, s in shapes.items()}, counted, SHORT)
    assert len(drawn) == 8 + 60
    for name, shape in shapes.items():
        alone = train(shape, Planted(), SHORT, tmp_path / name)
        for key, tensor in alone.state_dict().items():
            assert torch.equal(tensor, together[tmp_path / "many" / name].state_dict()[key]), (name, key)
    with pytest.raises(ConfigError, match="same site"):
        train_many({tmp_path / "x": SMALL, tmp_path / "y": dataclasses.replace(SMALL, d_in=8)}, Planted(), SHORT)


def test_one_that_diverges_does_not_stop_the_others(tmp_path, Planted, monkeypatch):
    shapes = {tmp_path / "good": SMALL, tmp_path / "bad": dataclasses.replace(SMALL, width=64)}
    advance = Trainer.advance

    def break_one(self, batch):
        if self.sae.config.width == 64 and self.step == 20:
            self.sae.W_dec.data.fill_(torch.nan)
        advance(self, batch)

    monkeypatch.setattr(Trainer, "advance", break_one)
    with pytest.raises(NonFiniteError, match="diverged"):
        train_many(shapes, Planted(), SHORT)
    assert (tmp_path / "good" / formats.CONFIG).is_file()
    assert not (tmp_path / "bad" / formats.CONFIG).exists()


def test_an_l0_out_of_reach_is_a_warning_in_the_metrics(tmp_path, Planted):
    # At first half of the pre-activations of a row are positive, so there are no 30 codes among 32 latents.
    config = dataclasses.replace(SHORT, steps=3)
    train(SAEConfig(16, 32, 30, "topk"), Planted(), config, tmp_path / "far")
    train(SAEConfig(16, 32, 3, "topk"), Planted(), config, tmp_path / "near")
    last = {n: json.loads((tmp_path / n / METRICS).read_text().splitlines()[-1]) for n in ("far", "near")}
    assert last["far"]["deployed_l0"] < 24
    reached = last["far"]["deployed_l0"]
    assert f"the deployed l0 is {reached:.3g}, not 30 ({100 * reached / 30:.0f} % of it)" in last["far"]["warning"]
    assert "warning" not in last["near"]
    assert missed_l0(tmp_path / "far") is None  # more than half of what was asked for
    assert missed_l0(tmp_path / "near") is None
    # Three steps are too few to come down from eight times the target.
    train(SAEConfig(16, 128, 1, "relu"), Planted(), dataclasses.replace(config, l0_start=8.0), tmp_path / "off")
    said = missed_l0(tmp_path / "off")
    assert said is not None
    assert 4 < float(said.split()[4].strip(",")) < 12
    assert said.endswith("% of it): more steps, or another target")
