import numpy as np
import torch

from digon import rng


def test_streams_repeat_and_differ_by_name_and_seed():
    def draw(*key):
        return torch.rand(1000, generator=rng.stream(*key))

    assert torch.equal(draw(0, "a"), draw(0, "a"))
    for other in [(0, "b"), (1, "a"), (0, "a", 1)]:
        assert abs(torch.corrcoef(torch.stack([draw(0, "a"), draw(*other)]))[0, 1]) < 0.13


def test_numpy_streams_repeat():
    assert np.array_equal(rng.numpy_stream(3, "x").random(4), rng.numpy_stream(3, "x").random(4))


def test_global_state_is_left_alone():
    before = torch.get_rng_state()
    rng.stream(0, "a")
    assert torch.equal(before, torch.get_rng_state())


def test_deterministic_mode_switches():
    rng.deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    rng.deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
