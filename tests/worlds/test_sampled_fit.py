"""Sampled training behind `fit`: agreement with torch in distribution, checkpoints, what goes to torch."""

import pytest
import torch

from digon.errors import ConfigError
from digon.worlds.features import features
from digon.worlds.fit import FitConfig, fit
from digon.worlds.population import expected_loss
from digon.worlds.toys import Toy


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors: threads of torch would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
