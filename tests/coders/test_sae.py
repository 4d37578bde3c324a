import pytest
import torch

from digon import rng
from digon.coders.base import Coder
from digon.coders.sae import SAE, SAEConfig
from digon.errors import ConfigError

ACTIVATIONS = ("topk", "batchtopk")


def dense_training_pass(sae: SAE, x: torch.Tensor) -> torch.Tensor:
    """The same model written down densely, for autograd."""
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    k = sae.config.l0
    assert k is not None
    if sae.config.activation == "topk":
        cut = z.topk(k, dim=1).values[:, -1:]
    else:
        cut = z.flatten().topk(k * len(x)).values[-1]
    return (z.relu() * (z >= cut)) @ sae.W_dec + sae.b_dec


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sparse_gradients_match_dense_autograd(activation, perturbed):
    sae = perturbed(activation)
    x = torch.randn(64, 8, generator=rng.stream(1, "x"))
    wanted = dense_training_pass(sae, x)
    ours = sae(x).reconstruction
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    leaves = list(sae.parameters())
    dense = torch.autograd.grad((wanted - x).square().sum(), leaves)
    sparse = torch.autograd.grad((ours - x).square().sum(), leaves)
    for got, expected, (name, _) in zip(sparse, dense, sae.named_parameters(), strict=True):
        assert float((got - expected).norm() / expected.norm()) < 1e-5, name


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


@pytest.mark.parametrize("level", [0.2, 1.5, 100.0])
def test_deployed_batchtopk_is_a_threshold(level, perturbed):
    # From nearly all active (dense codes) over few to none.
    sae = perturbed("batchtopk")
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_folding_the_scale(activation, perturbed):
    sae = perturbed(activation)
    x = torch.randn(40, 8, generator=rng.stream(4, "x"))
    raw = sae.scaled(7.5)
    before, after = sae.encode(x), raw.encode(7.5 * x)
    torch.testing.assert_close(after.dense(), 7.5 * before.dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw.decode(after), 7.5 * sae.decode(before), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in raw.parameters())
    assert isinstance(raw, Coder)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_rows_no_codes(activation, perturbed):
    sae = perturbed(activation)
    assert sae.encode(torch.empty(0, 8)).dense().shape == (0, 32)
    assert sae.decode(sae.encode(torch.empty(0, 8))).shape == (0, 8)


def test_auxiliary_loss_by_hand(perturbed):
    sae = perturbed("topk", d=8, width=32)
    x = torch.randn(20, 8, generator=rng.stream(5, "x"))
    residual = torch.randn(20, 8, generator=rng.stream(5, "r"))
    dead = torch.arange(3, 20)
    z = ((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)[:, 3:20].relu()
    z = z * (z >= z.topk(4, dim=1).values[:, -1:])  # d/2 = 4 of the 17 dead latents
    wanted = (z @ sae.W_dec[3:20] - residual).square().sum() / (residual - residual.mean(0)).square().sum()
    torch.testing.assert_close(sae.auxiliary_loss(x, residual, dead), wanted)
    gradient = torch.autograd.grad(sae.auxiliary_loss(x, residual, dead), sae.W_enc)[0]
    assert gradient[3:20].norm() > 0  # the dead learn
    assert gradient[:3].norm() == gradient[20:].norm() == 0  # and only they


def test_gradient_without_growth_keeps_norms_to_first_order(perturbed):
    sae = perturbed("topk")
    x = torch.randn(64, 8, generator=rng.stream(6, "x"))
    (sae(x).reconstruction - x).square().sum().backward()
    sae.free_gradient()
    assert sae.W_dec.grad is not None
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() < 1e-4
    assert sae.W_dec.grad.norm() > 0


def test_threshold_follows_the_smallest_positive_code():
    sae = SAE(SAEConfig(d_in=2, width=4, l0=1, activation="batchtopk", threshold_rate=0.25))
    sae.update_threshold(torch.tensor([0.0, 0.0]))
    assert sae.threshold.tolist() == [0.0] * 4
    sae.update_threshold(torch.tensor([0.0, 2.0, 3.0]))
    assert sae.threshold.tolist() == [2.0] * 4
    sae.update_threshold(torch.tensor([4.0, 5.0]))
    assert sae.threshold.tolist() == [2.5] * 4


def test_refusals():
    with pytest.raises(ConfigError, match="l0 = 9"):
        SAE(SAEConfig(d_in=2, width=8, l0=9))
    with pytest.raises(ConfigError):
        SAE(SAEConfig(d_in=0, width=8, l0=1))
    assert not torch.equal(*(SAE(SAEConfig(2, 4, 1, seed=s)).W_dec for s in (0, 1)))
