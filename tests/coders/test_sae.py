import pytest
import torch

from digon import rng
from digon.coders.base import Coder
from digon.coders.sae import SAE, Nested, SAEConfig
from digon.errors import ConfigError

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")


def test_deployed_topk_is_the_plain_formula(perturbed):
    sae = perturbed("topk")
    x = torch.randn(50, 8, generator=rng.stream(2, "x"))
    codes = sae.encode(x)
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    kept = z.topk(3, dim=1)
    wanted = torch.zeros_like(z).scatter(1, kept.indices, kept.values.relu())
    assert codes.indices is not None
    assert codes.values.shape == (50, 3)
    torch.testing.assert_close(codes.dense(), wanted)
    torch.testing.assert_close(sae.decode(codes), wanted @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
@pytest.mark.parametrize("level", [0.2, 1.5, 100.0])
def test_deployed_batchtopk_and_jumprelu_are_a_threshold(activation, level, perturbed):
    # From nearly all active (dense codes) over few to none.
    sae = perturbed(activation)
    with torch.no_grad():
        sae.threshold.fill_(level)
    x = torch.randn(50, 8, generator=rng.stream(2, "x"))
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    codes = sae.encode(x)
    torch.testing.assert_close(codes.dense(), z * (z > level))
    assert (codes.indices is None) == (int((z > level).sum(1).max()) > 8)
    # What a row gets does not depend on its company.
    torch.testing.assert_close(codes.dense()[:1], sae.encode(x[:1]).dense())


def test_batchtopk_spends_its_budget_across_rows(perturbed):
    sae = perturbed("batchtopk")
    x = torch.randn(64, 8, generator=rng.stream(3, "x")) * torch.linspace(0.1, 5, 64)[:, None]
    result = sae(x)
    assert len(result.values) == 3 * 64
    per_row = torch.bincount(result.support.rows, minlength=64)
    assert per_row[-16:].float().mean() > 2 * per_row[:16].float().mean()


@pytest.mark.parametrize("activation", ALL)
def test_folding_the_scale(activation, perturbed):
    sae = perturbed(activation)
    x = torch.randn(40, 8, generator=rng.stream(4, "x"))
    raw = sae.scaled(7.5)
    before, after = sae.encode(x), raw.encode(7.5 * x)
    torch.testing.assert_close(after.dense(), 7.5 * before.dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw.decode(after), 7.5 * sae.decode(before), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in raw.parameters())
    assert isinstance(raw, Coder)


@pytest.mark.parametrize("activation", ALL)
def test_no_rows_no_codes(activation, perturbed):
    sae = perturbed(activation)
    assert sae.encode(torch.empty(0, 8)).dense().shape == (0, 32)
    assert sae.decode(sae.encode(torch.empty(0, 8))).shape == (0, 8)


def test_gradient_without_growth_keeps_norms_to_first_order(perturbed):
    sae = perturbed("topk")
    x = torch.randn(64, 8, generator=rng.stream(6, "x"))
    (sae(x).reconstruction - x).square().sum().backward()
    sae.free_gradient()
    assert sae.W_dec.grad is not None
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-4
    assert sae.W_dec.grad.norm() > 0


def test_threshold_follows_the_cut():
    sae = SAE(SAEConfig(d_in=2, width=4, l0=1, activation="batchtopk", threshold_rate=0.25))
    for cut, wanted in ((0.0, 0.0), (2.0, 2.0), (4.0, 2.5)):
        sae.update_threshold(torch.tensor(cut))
        assert sae.threshold.tolist() == [wanted] * 4


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_balanced_latents_fire_equally_often(activation):
    sae = SAE(SAEConfig(d_in=8, width=64, l0=4, activation=activation))
    x = torch.randn(4000, 8, generator=rng.stream(7, "x")) * torch.linspace(0.2, 2, 8)
    sae.balance(x)
    density = (sae.encode(x).dense() > 0).float().mean(0)
    torch.testing.assert_close(density, torch.full((64,), 4 / 64), atol=2e-3, rtol=0)
    before = density.clone()
    with torch.no_grad():
        sae.W_enc[5] *= 3
    sae.balance(x, torch.tensor([5]))
    torch.testing.assert_close((sae.encode(x).dense() > 0).float().mean(0), before, atol=2e-3, rtol=0)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_tied_weights_are_one_tensor(activation):
    config = SAEConfig(d_in=8, width=32, l0=3, activation=activation, tied=True)
    sae = SAE(config)
    x = torch.randn(64, 8, generator=rng.stream(8, "x"))
    assert len(list(sae.parameters())) == 3
    (sae(x).reconstruction - x).square().sum().backward()
    z = x @ (atoms := sae.W_dec.detach().clone().requires_grad_()).T
    f = z.relu() if activation == "relu" else z.relu() * (z >= z.topk(3, dim=1).values[:, -1:])
    (wanted,) = torch.autograd.grad((f @ atoms - x).square().sum(), atoms)
    torch.testing.assert_close(sae.W_dec.grad, wanted, rtol=1e-4, atol=1e-4)
    order = torch.randperm(32, generator=rng.stream(8, "order"))
    other = sae.scaled(2.0, order)
    torch.testing.assert_close(other.encode(2 * x).dense(), 2 * sae.encode(x).dense()[:, order], rtol=1e-5, atol=1e-5)


def test_refusals():
    for settings, match in (
        ({"l0": 9}, "l0 = 9"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"nested": Nested((3, 3))}, "prefixes"),
        ({"nested": Nested((8,))}, "prefixes"),
        ({"nested": Nested()}, "neither"),
        ({"nested": Nested((2,), sampled=2)}, "together"),
    ):
        with pytest.raises(ConfigError, match=match):
            SAE(SAEConfig(**({"d_in": 2, "width": 8, "l0": 2} | settings)))
    with pytest.raises(ConfigError):
        SAE(SAEConfig(d_in=0, width=8, l0=1))
    for name, value, match in (("activation", "topc", "did you mean topk"), ("revival", "prayer", "revival")):
        config = SAEConfig(2, 8, 1)
        object.__setattr__(config, name, value)  # as a caller without a type checker could
        with pytest.raises(ConfigError, match=match):
            SAE(config)
    assert not torch.equal(*(SAE(SAEConfig(2, 4, 1, seed=s)).W_dec for s in (0, 1)))
