"""The controller of penalty weights, on plants whose answer to the weight is known."""

import math

import pytest
import torch

from digon.coders.train.control import LIMIT, Controller


def steered(steps: int, target: float, answer, lag: float) -> tuple[float, Controller]:
    """Mean l0 over the last tenth of a run, where l0 follows `answer(weight)` with a lag of so many steps."""
    controller = Controller(steps, torch.device("cpu"))
    level, seen = 4 * target, []
    for _ in range(steps):
        level += (answer(float(controller.weight)) - level) / lag
        controller.observe(torch.tensor(level), target)
        seen.append(level)
    return sum(seen[-steps // 10 :]) / (steps // 10), controller


@pytest.mark.parametrize("target", [2.0, 40.0])
@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("lag", [1.0, 30.0])
def test_the_target_is_met_whatever_the_scale_of_the_loss(target, strength, lag):
    # l0 falls with the weight as a power law, as it does for L1.
    reached, _ = steered(1000, target, lambda w: min(target * (w * strength) ** -0.5, 1000.0), lag)
    assert reached == pytest.approx(target, rel=0.05)


def test_an_unreachable_target_leaves_the_weight_finite():
    reached, controller = steered(10_000, 2.0, lambda w: 50.0, 1.0)
    assert reached == pytest.approx(50)
    assert float(controller.state[0]) == LIMIT
    assert math.isfinite(float(controller.weight))


def test_silence_lowers_the_weight():
    controller = Controller(100, torch.device("cpu"))
    before = float(controller.weight)
    for _ in range(20):
        controller.observe(torch.tensor(0.0), 2.0)
    assert 0 < float(controller.weight) < before
