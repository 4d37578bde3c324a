"""Gradients of the sparse training pass against the same models written down densely."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from digon import rng
from digon.coders.sae import SAE, SAEConfig

D, WIDTH, L0, ROWS = 8, 32, 3, 64
X = torch.randn(ROWS, D, generator=rng.stream(1, "x"))


class Step(torch.autograd.Function):
    """1[z > θ], with the derivative of its smoothing by a rectangle of width ε: in θ, and in z if `through`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, width: float, through: bool) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.settings = width, through
        return (z > theta).to(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, theta = ctx.saved_tensors
        width, through = ctx.settings
        slope = ((z - theta).abs() < width / 2).to(z) / width * grad
        return slope if through else None, -slope.sum(0), None, None


def dense(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Codes of all pairs, and the penalty."""
    config, through = sae.config, sae.config.revival == "straight_through"
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    size = lambda f: f.sum() / len(x) / math.sqrt(D * L0)  # noqa: E731
    if config.activation == "relu":
        return z.relu(), size(z.relu())
    if config.activation == "topk":
        return z.relu() * (z >= z.topk(L0, dim=1).values[:, -1:]), None
    if config.activation == "batchtopk":
        return z.relu() * (z >= z.flatten().topk(L0 * len(x)).values[-1]), None
    if config.activation == "jumprelu":
        step = Step.apply(z, sae.threshold, config.kernel, through)
        # z·Step has the slope (z/ε) K; that of the smoothed jump at the cut is (θ/ε) K.
        codes = z.detach() * (z > sae.threshold) + (z - z.detach()) * (z > sae.threshold)
        height = sae.threshold.detach()
        return codes + height * (step - step.detach()), step.sum() / len(x) / L0
    magnitude = (sae.r_mag.exp() * ((x - sae.b_dec) @ sae.W_enc.T) + sae.b_mag).relu()
    return magnitude * (z > 0), size(z.relu())


def gap(got: Tensor, wanted: Tensor) -> float:
    return float(((got - wanted).norm() / wanted.norm()).detach())


@pytest.mark.parametrize(
    ("activation", "revival"),
    [
        *((name, "none") for name in ("relu", "topk", "batchtopk", "jumprelu", "gated")),
        ("jumprelu", "straight_through"),
    ],
)
def test_sparse_gradients_match_dense_autograd(activation, revival, perturbed):
    reference = perturbed(activation)
    sae = SAE(SAEConfig(D, WIDTH, L0, activation, revival=revival, bandwidth=0.8))
    sae.load_state_dict(reference.state_dict())
    sae, x = sae.double(), X.double()
    codes, penalty = dense(sae, x)
    result = sae(x)
    assert gap(result.reconstruction, codes @ sae.W_dec + sae.b_dec) < 1e-10
    ours = (result.reconstruction - x).square().sum()
    wanted = (codes @ sae.W_dec + sae.b_dec - x).square().sum()
    if penalty is not None:
        found = sae.activation.penalty(sae, result.pairs, result.values)
        assert found is not None
        torch.testing.assert_close(found, penalty)
        ours, wanted = ours + 10 * found, wanted + 10 * penalty
    leaves = dict(sae.named_parameters())
    sparse = torch.autograd.grad(ours, list(leaves.values()))
    full = torch.autograd.grad(wanted, list(leaves.values()))
    for name, got, expected in zip(leaves, sparse, full, strict=True):
        assert expected.norm() > 0, name
        assert gap(got, expected) < 1e-9, name


def test_the_gate_learns_from_a_reconstruction_of_its_own(perturbed):
    sae = perturbed("gated")
    z = ((X - sae.b_dec) @ sae.W_enc.T + sae.b_enc).relu()
    wanted = (z @ sae.W_dec.detach() + sae.b_dec.detach() - X).square().mean()
    found = sae.activation.side_error(sae, sae(X).pairs, X, X)
    torch.testing.assert_close(found, wanted)
    leaves = [sae.W_enc, sae.b_enc]
    for got, expected in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        assert gap(got, expected) < 1e-5
    assert torch.autograd.grad(wanted, sae.W_dec, allow_unused=True) == (None,)


def test_the_slope_of_the_smoothed_jump_is_that_of_its_mean():
    # One latent, z = θ + u with u uniform over the kernel: the mean of f over θ + shift is what the gradient predicts.
    sae = SAE(SAEConfig(d_in=1, width=1, l0=1, activation="jumprelu", bandwidth=0.5))
    theta, width, n = 1.3, sae.config.kernel, 20_001
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.W_dec.fill_(1)
        sae.threshold.fill_(theta)
    x = theta + torch.linspace(-0.5, 0.5, n)[1:-1, None] * width
    (slope,) = torch.autograd.grad(sae(x).reconstruction.mean(), sae.threshold)
    mean = lambda cut: float((x * (x > cut)).mean())  # noqa: E731
    assert float(slope) == pytest.approx((mean(theta + 0.01) - mean(theta - 0.01)) / 0.02, rel=1e-2)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu", "gated", "relu"])
def test_straight_through_reaches_latents_that_just_miss(activation, perturbed):
    plain = perturbed(activation)
    reach = {}
    for revival in ("none", "straight_through"):
        sae = SAE(SAEConfig(D, WIDTH, L0, activation, revival=revival, bandwidth=0.5))
        sae.load_state_dict(plain.state_dict())
        result = sae(X)
        (slope,) = torch.autograd.grad((result.reconstruction - X).square().sum(), result.pairs.z)
        missed = ~result.pairs.active()
        reach[revival] = int((slope[missed] != 0).sum())
        torch.testing.assert_close(result.reconstruction, plain(X).reconstruction)
    assert reach["none"] == 0
    assert reach["straight_through"] > 20, reach


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_the_budget_may_exceed_the_target(activation, perturbed):
    sae = perturbed(activation)
    sae.budget = 5.0
    assert len(sae(X).values) == 5 * ROWS
