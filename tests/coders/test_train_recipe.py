"""The recommended autoencoder: what it minimizes, how its l0 moves, and that it finds features that others swallow."""

from dataclasses import replace

import pytest
import torch

from digon.coders.sae import SAEConfig
from digon.coders.train import TrainConfig, recommended, train
from digon.coders.train.batches import calibrate
from digon.coders.train.config import budget
from digon.coders.train.trainer import FLOOR, Trainer
from digon.errors import ConfigError
from digon.measures.recovery import Recovery, report
from digon.worlds.tree import TreeConfig, TreeWorld


def trainer(planted, robust):
    sae, how = recommended(16, 24, 2, TrainConfig(steps=50))
    how = replace(how, robust=robust)
    return Trainer(sae, how, calibrate(planted, (16,), how))


def test_robust_training_minimizes_the_mean_root_of_squared_errors(Planted):
    planted = Planted(density=2 / 32)
    x = planted.draw(64, "a batch")
    for robust in (True, False):
        job = trainer(planted, robust)
        rows = x / job.units
        result = job.sae(rows, None, None)
        codes = torch.zeros(64, 24).index_put((result.support.rows, result.support.latents), result.values)
        error = (codes @ job.sae.W_dec + job.sae.b_dec - rows).square().mean(1)
        expected = (error + FLOOR).sqrt().mean() if robust else error.mean()
        assert job._loss(rows, rows, result).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_row_with_something_unknown_pulls_less(Planted):
    """The pull of a row grows with its error if squares count, and hardly if roots do."""
    planted = Planted(density=2 / 32)
    rows = planted.draw(64, "a batch")
    pulls = {}
    for robust in (True, False):
        job = trainer(planted, robust)
        job.sae.double()  # in single precision the error of a row never exists by itself
        x = rows.double() / job.units
        result = job.sae(x, None, None)
        pull = torch.autograd.grad(job._loss(x, x, result), result.reconstruction)[0].norm(dim=1)
        size = (result.reconstruction - x).norm(dim=1)
        pulls[robust] = (pull / size).detach()
    assert torch.allclose(pulls[False], pulls[False][0].expand(64), rtol=1e-3)
    assert float(pulls[True].max() / pulls[True].min()) > 1.5


def test_the_rate_falls_with_the_width_and_can_be_set():
    rates = [recommended(64, width, 8)[1].lr or 0.0 for width in (256, 1024)]
    assert rates[0] == pytest.approx(2 * rates[1])
    assert recommended(64, 256, 8, TrainConfig(lr=1e-3))[1].lr == 1e-3
    assert recommended(1, 1, 1)[0].nested is None
    trees, flat = recommended(64, 256, 8), recommended(64, 256, 8, flat=True)
    assert (replace(trees[0], nested=None), trees[1]) == flat


def test_fewer_are_active_than_wanted_until_the_last_tenth():
    how = recommended(16, 100, 3, TrainConfig(steps=100))[1]
    found = [budget(step, 3, 100, how) for step in range(100)]
    assert found[0] == pytest.approx(6)
    assert found[:51] == sorted(found[:51], reverse=True)
    assert found[50:90] == pytest.approx([2.0] * 40)
    assert found[90:] == [3.0] * 10
    with pytest.raises(ConfigError, match="l0_low"):
        TrainConfig(l0_low=0.0).check()


def test_parents_and_children_are_told_apart(tmp_path):
    """In a world of trees more features are found than by the usual autoencoder on the same rows."""
    world = TreeWorld(TreeConfig(features=60, d=24, roots=4, depth=2, rank=0, most=0.2, least=0.01))
    training = TrainConfig(steps=400)
    usual = SAEConfig(24, 40, 2, "batchtopk"), training
    f1 = []
    for name, (sae, how) in {"ours": recommended(24, 40, 2, training), "usual": usual}.items():
        coder = train(sae, world.batches(512), how, tmp_path / name)
        found = Recovery(world.dictionary, coder.dictionary)
        sample = next(world.samples(8000, 1))
        found.update(sample.codes, coder.encode(sample.x))
        f1.append(report(found, world.density).scores["latent_f1"])
    assert f1[0] > f1[1] + 0.1
