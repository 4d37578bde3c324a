"""Sampled training behind `fit`: agreement with torch in distribution, checkpoints, what goes to torch."""

import numpy as np
import pytest
import torch

from digon.errors import ConfigError
from digon.worlds.features import features
from digon.worlds.fit import FitConfig, fit, sampled_loss
from digon.worlds.population import expected_loss
from digon.worlds.recipe import Recipe, learning_rates
from digon.worlds.toys import Toy


def nothing(toy, h):
    """A penalty of 0: the same training by torch."""
    return 0 * h.sum((1, 2))


@pytest.mark.parametrize("density", [1.0, 0.2, 0.03])
def test_losses_agree_with_torch_in_distribution(density):
    """Twelve seeds each, other batches: mean exact losses agree within four standard errors."""
    law, config = features(6, density), FitConfig(steps=600, batch=256, learning_rate=1e-2)
    found = []
    for penalty in (None, nothing):
        toy = Toy(6, 2, 12, seed=3)
        assert fit(toy, law, config, penalty=penalty).engine == ("numba" if penalty is None else "torch")
        found.append(expected_loss(toy.W.detach(), toy.b.detach(), law))
    ours, theirs = found
    # The same starts: compare instance by instance.
    gap = ours - theirs
    assert abs(gap.mean()) <= 4 * gap.std() / 12**0.5 + 0.002 * theirs.mean()
    start = Toy(6, 2, 12, seed=3)
    assert ours.mean() < 0.8 * expected_loss(start.W.detach(), start.b.detach(), law).mean()


def test_cosine_and_leak_agree_with_torch_in_distribution():
    law = features(6, 0.3)
    config = FitConfig(
        steps=400, batch=512, learning_rate=2e-2, schedule="cosine", leak=0.2, optimizer="adamw", weight_decay=0.02
    )
    found = []
    for penalty in (None, nothing):
        toy = Toy(6, 2, 12, seed=3)
        fit(toy, law, config, penalty=penalty)
        found.append(expected_loss(toy.W.detach(), toy.b.detach(), law))
    gap = found[0] - found[1]
    assert abs(gap.mean()) <= 4 * gap.std() / 12**0.5 + 0.002 * found[1].mean()


@pytest.mark.parametrize("penalty", [None, nothing])
def test_fit_stops_and_goes_on_bit_by_bit(penalty):
    law, config = features(5, 0.4), FitConfig(steps=30, batch=128, learning_rate=1e-2, schedule="cosine", leak=0.1)
    whole, stopped = Toy(5, 2, 3, seed=1), Toy(5, 2, 3, seed=1)
    a = fit(whole, law, config, penalty=penalty, snapshots=[20, 30])
    first = fit(stopped, law, config, penalty=penalty, until=11)
    assert first.checkpoint is not None
    assert first.checkpoint.step == 11
    fresh = Toy(5, 2, 3, seed=8)
    b = fit(fresh, law, config, penalty=penalty, snapshots=[20, 30], resume=first.checkpoint)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
    for one, other in zip(a.snapshots, b.snapshots, strict=True):
        assert one.step == other.step
        assert torch.equal(one.W, other.W)
        assert torch.equal(one.loss, other.loss)
    assert torch.equal(a.loss, b.loss)


def test_checkpoints_of_other_trainings_are_refused():
    law, config = features(5, 0.4), FitConfig(steps=30, batch=128)
    point = fit(Toy(5, 2), law, config, until=10).checkpoint
    with pytest.raises(ConfigError, match="another training"):
        fit(Toy(5, 2), law, FitConfig(steps=31, batch=128), resume=point)
    with pytest.raises(ConfigError, match="another training"):
        fit(Toy(5, 2), features(5, 0.41), config, resume=point)
    with pytest.raises(ConfigError, match="compiled engine"):
        fit(Toy(5, 2), law, config, resume=point, penalty=nothing)
    with pytest.raises(ConfigError, match="until"):
        fit(Toy(5, 2), law, config, resume=point, until=5)


def test_what_the_kernel_does_not_know_goes_to_torch():
    config = FitConfig(steps=3, batch=32)
    assert fit(Toy(5, 2), features(5, 0.4), config).engine == "numba"
    assert fit(Toy(5, 2, output="gelu"), features(5, 0.4), config).engine == "torch"
    assert fit(Toy(5, 2), features(5, 0.4, values="lognormal"), config).engine == "torch"
    assert fit(Toy(5, 2), features(5, 0.4), config, perturb=lambda toy, x, g: x).engine == "torch"


def test_the_reference_takes_a_device():
    """The path of a GPU, on the processor: every tensor and generator is made where the setting says."""
    config = FitConfig(steps=5, batch=32, device="cpu:0")
    done = fit(Toy(5, 2), features(5, 0.4), config, snapshots=[0, 5])
    assert done.engine == "torch"
    assert done.loss.isfinite().all()


def test_final_loss_is_exact_where_that_is_known():
    law, config = features(5, 0.4), FitConfig(steps=3, batch=32)
    for toy in (Toy(5, 2, 2), Toy(5, 2, 2, output="linear"), Toy(5, 2, 2, tied=False)):
        done = fit(toy, law, config).loss
        torch.testing.assert_close(done, sampled_loss(toy, law, 400_000, 1), rtol=0.02, atol=0)
        assert not torch.equal(done, sampled_loss(toy, law, 160_000, config.seed))
    toy = Toy(5, 2, 2, hidden="relu")
    assert torch.equal(fit(toy, law, config).loss, sampled_loss(toy, law, 160_000, config.seed))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"batch": 0}, "batch"),
        ({"steps": -1}, "steps"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"leak": -0.1}, "leak"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_work(wrong, word):
    toy = Toy(5, 2)
    before = toy.W.detach().clone()
    with pytest.raises(ConfigError, match=word):
        fit(toy, features(5, 0.4), FitConfig(**{"init_scale": 2.0} | wrong))
    assert torch.equal(toy.W, before)


@pytest.mark.parametrize("penalty", [None, nothing])
def test_a_law_of_other_features_or_instances_is_refused(penalty):
    with pytest.raises(ConfigError, match="4 features"):
        fit(Toy(5, 2), features(4, 0.4), penalty=penalty)
    with pytest.raises(ConfigError, match="density"):
        fit(Toy(5, 2, 3), features(5, torch.full((2, 5), 0.4)), penalty=penalty)
    with pytest.raises(ConfigError, match="importance"):
        fit(Toy(5, 2, 3), features(5, 0.4, torch.ones(2, 5)), penalty=penalty)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="lion"):
        Recipe(8, np.ones(2), np.zeros(3), "lion")
    with pytest.raises(ConfigError, match="linear"):
        learning_rates(5, 0.1, "linear")


def test_rates_are_those_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(learning_rates(50, 0.3, "cosine"), rates, rtol=1e-12, atol=1e-12)
