"""Several processes against one: the same step, the same training, up to the rounding of sums."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from together import calibration, draw, other_batches, run, step_from, train_all, widths

from digon.coders import formats, parallel
from digon.coders.sae import Nested, SAEConfig
from digon.coders.train import CHECKPOINTS, METRICS, TrainConfig, Trainer
from digon.errors import ConfigError
from digon.store import weights

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")
REVIVALS = ("auxiliary", "resample", "forced", "straight_through")
STEPS = 16
CONFIG = TrainConfig(steps=200, batch=64, log_every=10, checkpoint_every=50)
SMALL = SAEConfig(16, 48, 2, dead_after=640)
GROUPS = {"rows": (2, 1), "latents": (2, 2), "rows and latents": (4, 2)}
"""Processes, and how many of them hold parts of the latents."""
TOLERANCE = 2e-5
"""Of a step: largest difference, relative to the largest number of its kind."""


@pytest.fixture(scope="module")
def cases():
    # More latents than features are left to keep, so that some die and are brought back at the step that is compared.
    plain = {f"{a} {r}": SAEConfig(16, 128, 1, a, revival=r, dead_after=256) for a in ALL for r in REVIVALS}
    nested = {
        "fixed": Nested((4, 100)),
        "sampled": Nested(sampled=3),
        "by frequency": Nested((4, 100), by_frequency=True, detached=True),
    }
    many = {name: SAEConfig(16, 128, 2, "batchtopk", nested=n, dead_after=256) for name, n in nested.items()}
    return plain | many | {"tied": SAEConfig(16, 128, 2, "topk", tied=True)}


@pytest.fixture(scope="module")
def saved(cases, tmp_path_factory):
    """The state of every case after some steps in one process."""
    folder = tmp_path_factory.mktemp("saved")
    dead = 0
    for name, sae in cases.items():
        trainer = Trainer(sae, CONFIG, calibration())
        for step in range(STEPS):
            trainer.advance(draw(step))
        dead += int((trainer.silent >= sae.dead_after).sum())
        weights.write_tensors(folder / f"{name}.safetensors", trainer.tensors())
    assert dead > 100  # or else revival is not compared
    return folder


@pytest.mark.parametrize("grid", GROUPS)
def test_a_step_is_that_of_one_process(grid, cases, saved):
    n, shards = GROUPS[grid]
    answers = run(n, step_from, saved, cases, CONFIG, shards)
    assert all(isinstance(answer, dict) for answer in answers), answers
    for name, alone in step_from(saved, cases, CONFIG, 1).items():
        for key, wanted in alone.items():
            for answer in answers:
                got = answer[name][key]
                scale = np.abs(wanted).max() + 1e-12
                assert np.abs(got.astype(float) - wanted).max() <= TOLERANCE * scale, (grid, name, key)
                # All processes have the same numbers to the last bit.
                assert np.array_equal(got, answers[0][name][key]), (grid, name, key)


def fvu(folder) -> list[float]:
    return [json.loads(line)["fvu"] for line in (folder / METRICS).read_text().splitlines()]


@pytest.mark.parametrize("grid", ["rows", "latents"])
def test_training_is_that_of_one_process(grid, tmp_path):
    saes, config = {a: replace(SMALL, activation=a) for a in ALL}, replace(CONFIG, steps=40)
    n, shards = GROUPS[grid]
    train_all(tmp_path / "one", saes, config)
    assert run(n, train_all, tmp_path / "many", saes, config, None, None, shards) == [0] * n
    x = torch.cat([draw(10_000 + i) for i in range(16)])
    for name in ALL:
        one, many = (formats.load(tmp_path / where / name) for where in ("one", "many"))
        gap = (one.dictionary.atoms - many.dictionary.atoms).norm(dim=1)
        assert float(gap.max()) < 1e-5, name
        assert fvu(tmp_path / "many" / name) == pytest.approx(fvu(tmp_path / "one" / name), rel=1e-5), name
        errors = [float((sae.decode(sae.encode(x)) - x).square().sum()) for sae in (one, many)]
        assert errors[1] == pytest.approx(errors[0], rel=1e-3), name
        assert not (tmp_path / "many" / name / CHECKPOINTS).exists()


def test_processes_have_to_be_given_the_same(tmp_path):
    answers = run(2, other_batches, tmp_path, SMALL, CONFIG)
    assert {kind for kind, _ in answers} == {"ConfigError"}
    assert all("2 processes with different batches" in text for _, text in answers)
    assert not list(tmp_path.iterdir())


def test_shares_have_to_be_equal():
    for kind, text in run(2, widths, replace(SMALL, width=47), CONFIG, 2):
        assert kind == "ConfigError"
        assert "47 latents on 2 processes" in text
        assert "take 46" in text
    assert all("a batch of 3 rows on 2 processes" in text for _, text in run(2, widths, SMALL, CONFIG, 1))
    with pytest.raises(ConfigError, match="latents in 2 parts on 1 processes"):
        parallel.current(2)
