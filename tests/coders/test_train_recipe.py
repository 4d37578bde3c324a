"""The recommended autoencoder: what it minimizes, and that it finds planted features from width and l0 alone."""

from dataclasses import replace

import pytest
import torch

from digon.coders.base import evaluate
from digon.coders.train import TrainConfig, recommended, train
from digon.coders.train.batches import calibrate
from digon.coders.train.trainer import FLOOR, Trainer


def trainer(planted, robust):
    sae, how = recommended(16, 24, 2, TrainConfig(steps=50))
    how = replace(how, robust=robust)
    return Trainer(sae, how, calibrate(planted, 16, how))


def test_robust_training_minimizes_the_mean_root_of_squared_errors(Planted):
    planted = Planted(density=2 / 32)
    x = planted.draw(64, "a batch")
    for robust in (True, False):
        job = trainer(planted, robust)
        rows = x / job.scale
        result = job.sae(rows, None, None)
        codes = torch.zeros(64, 24).index_put((result.support.rows, result.support.latents), result.values)
        error = (codes @ job.sae.W_dec + job.sae.b_dec - rows).square().mean(1)
        expected = (error + FLOOR).sqrt().mean() if robust else error.mean()
        assert job._loss(rows, result).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_row_with_something_unknown_pulls_less(Planted):
    """The pull of a row grows with its error if squares count, and hardly if roots do."""
    planted = Planted(density=2 / 32)
    rows = planted.draw(64, "a batch")
    pulls = {}
    for robust in (True, False):
        job = trainer(planted, robust)
        x = rows / job.scale
        result = job.sae(x, None, None)
        pull = torch.autograd.grad(job._loss(x, result), result.nested)[0].norm(dim=(1, 2))
        size = (result.reconstruction - x).norm(dim=1)
        pulls[robust] = (pull / size).detach()
    assert torch.allclose(pulls[False], pulls[False][0].expand(64), rtol=1e-3)
    assert float(pulls[True].max() / pulls[True].min()) > 1.5


def test_the_rate_falls_with_the_width_and_can_be_set():
    rates = [recommended(64, width, 8)[1].lr for width in (256, 1024)]
    assert rates[0] == pytest.approx(2 * rates[1])
    assert recommended(64, 256, 8, TrainConfig(lr=1e-3))[1].lr == 1e-3
    assert recommended(1, 1, 1)[0].nested is None


def test_planted_features_are_found_from_width_and_l0_alone(Planted, tmp_path):
    planted = Planted(density=2 / 32)
    sae, how = recommended(16, 32, 2, TrainConfig(steps=600))
    coder = train(sae, planted, how, tmp_path)
    found = (planted.directions @ coder.dictionary.atoms.T).max(1).values
    assert float((found > 0.9).float().mean()) > 0.85
    assert evaluate(coder, [planted.draw(2048, "held out", 0)]).l0 == pytest.approx(2, rel=0.15)
