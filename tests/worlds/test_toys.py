"""Toy networks: outputs by hand, symmetries of the loss, targets, and what is refused."""

import inspect

import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.worlds import memory, toys
from digon.worlds.features import features
from digon.worlds.toys import Toy, loss


def by_hand(toy, x, instance, hidden, output):
    V, W, b = (t[instance].detach().double().numpy() for t in (toy.V, toy.W, toy.b))
    return np.stack([output(W @ hidden(V.T @ row) + b) for row in x[instance].double().numpy()])


def relu(z):
    return np.maximum(z, 0)


@pytest.mark.parametrize(
    ("hidden", "output", "tied"), [("linear", "linear", True), ("linear", "relu", True), ("relu", "relu", False)]
)
def test_outputs_by_hand(hidden, output, tied):
    toy = Toy(6, 3, 2, hidden=hidden, output=output, tied=tied, seed=3)
    torch.nn.init.normal_(toy.b, generator=rng.stream(0, "bias"))
    x = features(6, 0.5, values="symmetric").sample(7, rng.stream(0, "x"), 2)
    acts = {"linear": lambda z: z, "relu": relu}
    for i in range(2):
        np.testing.assert_allclose(toy(x)[i].detach(), by_hand(toy, x, i, acts[hidden], acts[output]), atol=1e-5)


def test_tied_weights_are_one_tensor():
    tied, untied = Toy(4, 2), Toy(4, 2, tied=False)
    assert tied.V is tied.W
    assert len(list(tied.parameters())) == 2
    assert len(list(untied.parameters())) == 3
    with torch.no_grad():
        for copy in (untied.W, untied.V):
            copy.copy_(tied.W)
    x = features(4, 1.0).sample(16, rng.stream(1, "x"))
    for toy in (tied, untied):
        loss(toy(x), x, torch.ones(4)).sum().backward()
    torch.testing.assert_close(tied.W.grad, untied.W.grad + untied.V.grad)


def test_initial_weights_do_not_depend_on_the_number_of_instances():
    many = Toy(100, 20, 200).W.detach()
    assert many.std().item() == pytest.approx((2 / 120) ** 0.5, rel=0.01)
    assert Toy(100, 20, 2).W.std().item() == pytest.approx((2 / 120) ** 0.5, rel=0.05)


def test_rotation_of_the_hidden_space_changes_nothing_but_only_without_hidden_neurons():
    x = features(5, 0.5).sample(64, rng.stream(2, "x"))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng.stream(2, "turn"))).Q
    for hidden, same in (("linear", True), ("relu", False)):
        toy = Toy(5, 3, hidden=hidden)
        before = toy(x).detach()
        with torch.no_grad():
            toy.W.copy_(toy.W @ turn)
        assert torch.allclose(toy(x), before, atol=1e-5) == same


def test_rescaling_hidden_neurons_of_an_untied_network_changes_nothing():
    toy = Toy(5, 7, hidden="relu", tied=False)
    x = features(5, 0.5, values="symmetric").sample(64, rng.stream(3, "x"))
    before, scale = toy(x).detach(), torch.rand(7, generator=rng.stream(3, "scale")) + 0.5
    with torch.no_grad():
        toy.V.mul_(scale)
        toy.W.div_(scale)
    torch.testing.assert_close(toy(x), before, atol=1e-5, rtol=1e-5)


def test_loss_is_summed_over_features_and_scales_with_importance():
    output, target = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    assert loss(output, target, torch.tensor([1.0, 0.1])).item() == pytest.approx((1 + 0.4 + 0.1) / 2)
    wide = loss(output.expand(2, 2, 2), target.expand(2, 2, 2), torch.tensor([[1.0, 0.1], [10.0, 1.0]]))
    assert (wide[1] / wide[0]).item() == pytest.approx(10)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("identity", [1.0, 0.0, -0.5]),
        ("absolute", [1.0, 0.0, 0.5]),
        ("and", [0.0, -0.5, -0.5]),
        ("or", [1.0, 0.0, 1.0]),
        ("product", [0.0, 0.0, -0.5]),
        ("square", [1.0, 0.0, 0.25]),
    ],
)
def test_targets(target, expected):
    toy = Toy(3, 4, target=target)
    assert toy.target(torch.tensor([[[1.0, 0.0, -0.5]]])).flatten().tolist() == expected


def test_logic_of_bits():
    """x AND y + x OR y = x + y, and the AND of bits is their product."""
    bits = torch.tensor([[[a, b, c] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)]])
    both, either = Toy(3, 1, target="and").target(bits), Toy(3, 1, target="or").target(bits)
    assert torch.equal(both + either, bits + bits.roll(-1, -1))
    assert torch.equal(both, Toy(3, 1, target="product").target(bits))


def test_activations():
    z = torch.tensor([-2.0, -0.1, 0.0, 0.3, 2.0])
    values = {name: f(z).numpy() for name, f in toys.ACTIVATIONS.items()}
    np.testing.assert_allclose(values["leaky"], [-0.2, -0.01, 0, 0.3, 2], rtol=1e-6)
    np.testing.assert_allclose(values["square"], z.numpy() ** 2)
    np.testing.assert_allclose(values["softplus"], np.log1p(np.exp(5 * z.numpy())) / 5, atol=1e-6)
    np.testing.assert_allclose(values["solu"], z.numpy() * np.exp(z.numpy()) / np.exp(z.numpy()).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "m": 2}, "0 features"),
        ({"n": 5, "m": 0}, "0 dimensions"),
        ({"n": 5, "m": 2, "instances": 0}, "0 networks"),
        ({"n": 5, "m": 2, "output": "sine"}, "'output': 'sine'"),
        ({"n": 5, "m": 2, "target": "xor"}, "'target': 'xor'"),
    ],
)
def test_bad_networks(arguments, message):
    with pytest.raises(ConfigError, match=message):
        inspect.unwrap(Toy.__init__)(Toy.__new__(Toy), **arguments)  # without the run-time types of the tests


def test_more_dimensions_than_features_are_allowed():
    assert Toy(3, 6, hidden="relu", tied=False, target="absolute").W.shape == (1, 3, 6)


def test_networks_that_do_not_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 2**30)
    with pytest.raises(ConfigError, match=r"14\.9 GiB\nExpected: at most 1\.0 GiB"):
        Toy(1_000_000, 1000)
