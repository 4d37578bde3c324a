import math

import pytest
import torch

from digon import rng
from digon.measures import geometry as g
from digon.measures.basis import haar


def matrix(*shape, seed=0):
    return torch.randn(*shape, generator=rng.stream(seed, "W"), dtype=torch.float64)


def ring(k, radius=1.0):
    angle = torch.arange(k, dtype=torch.float64) * 2 * math.pi / k
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def by_definition(W):
    """Interference and dimensionality of one matrix, term by term."""
    unit = W / W.norm(dim=1, keepdim=True)
    shared = (unit @ W.T) ** 2
    s = torch.tensor([sum(shared[i, j] for j in range(len(W)) if j != i) for i in range(len(W))], dtype=W.dtype)
    return s, W.square().sum(1) / shared.sum(1)


@pytest.mark.parametrize("shape", [(2, 1), (7, 3), (5, 9), (40, 12)])
def test_against_the_definitions(shape):
    W = matrix(*shape)
    s, dimensionality = by_definition(W)
    torch.testing.assert_close(g.interference(W), s, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g.feature_dimensionality(W, least=0.0), dimensionality, rtol=1e-10, atol=0)
    torch.testing.assert_close(g.capacity(W), dimensionality, rtol=1e-10, atol=0)
    assert g.dimensions_per_feature(W) == pytest.approx(shape[1] / float((W**2).sum()), rel=1e-12)
    assert g.features_per_dimension(W) * g.dimensions_per_feature(W) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("shape", [(2, 1), (7, 3), (5, 9), (200, 20)])
def test_leverage_identities(shape):
    """Comment C10 and F14: Σ ℓ = rank, D ≤ ℓ, and D from the spectrum of F."""
    W = matrix(3, *shape)
    lever, dimensionality = g.leverage(W), g.feature_dimensionality(W, least=0.0)
    r = min(shape)
    assert g.rank(W).tolist() == [r] * 3
    assert (lever.sum(-1) - r).abs().max() < 1e-10
    assert (dimensionality - lever).max() < 1e-10
    assert (dimensionality.sum(-1) <= r + 1e-10).all()
    values, axes = torch.linalg.eigh(g.frame_operator(W))
    share = (W / g.norms(W)[..., None] @ axes).square()
    own = W.square().sum(-1)
    weighted = (share * values[:, None]).sum(-1)
    assert (dimensionality - own / weighted).abs().max() < 1e-10
    quartic = own.square() / torch.einsum("bim,bmk,bik->bi", W, g.frame_operator(W), W)
    assert (dimensionality - quartic).abs().max() < 1e-10
    direct = torch.einsum("bim,bmk,bik->bi", W, torch.linalg.pinv(g.frame_operator(W), rtol=1e-11), W)
    assert (lever - direct).abs().max() < 1e-8


@pytest.mark.parametrize("k", [3, 4, 5, 6, 9])
def test_rings_are_tight(k):
    W = ring(k, 1.3)
    assert (g.feature_dimensionality(W) - 2 / k).abs().max() < 1e-10
    assert (g.leverage(W) - 2 / k).abs().max() < 1e-10
    assert g.frame_potential(W) == pytest.approx((k * 1.69) ** 2 / 2, rel=1e-12)


def test_orthogonal_blocks_do_not_see_each_other():
    """A triangle beside a digon of other length: each keeps its own fraction, and the sum is the rank."""
    W = torch.zeros(6, 4, dtype=torch.float64)
    W[:3, :2], W[3, 2], W[4, 2], W[5, 3] = ring(3), 0.9, -0.9, 0.7
    expected = torch.tensor([2 / 3] * 3 + [0.5] * 2 + [1], dtype=torch.float64)
    torch.testing.assert_close(g.feature_dimensionality(W), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(g.leverage(W), expected, rtol=1e-10, atol=0)
    turned = W @ haar(4, rng.stream(0, "q")).double()
    torch.testing.assert_close(g.feature_dimensionality(turned), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(g.feature_dimensionality(7 * W), expected, rtol=1e-12, atol=0)
    assert g.superposed(W)
    assert not g.superposed(W[[0, 1, 3, 5]])


def test_not_tight_is_strictly_below_leverage():
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    assert g.feature_dimensionality(W).tolist() == pytest.approx([1 / 1.36] * 2, rel=1e-12)
    assert g.leverage(W).tolist() == pytest.approx([1, 1], rel=1e-12)
    assert not g.superposed(W)


def test_dead_features_are_zero_and_nan_stays_nan():
    W = torch.tensor([[0.0, 0.0], [0.03, 0.0], [1.0, 0.0]])
    assert g.feature_dimensionality(W)[:2].tolist() == [0, 0]
    assert g.interference(W)[0] == 0
    assert g.cosines(W)[0].tolist() == [0, 0, 0]
    assert g.represented(W).tolist() == [False, False, True]
    assert g.feature_dimensionality(torch.zeros(2, 3, 4)).sum() == 0
    assert g.dimensions_per_feature(torch.zeros(3, 4)) == math.inf
    assert g.rank(torch.zeros(3, 4)) == 0
    assert not g.superposed(torch.zeros(3, 4))
    assert g.feature_dimensionality(torch.tensor([[math.nan, 1.0], [1.0, 0.0]])).isnan().all()


def test_gradients_against_finite_differences_and_at_zero():
    W = matrix(4, 3).requires_grad_()
    for measure in (g.interference, g.capacity, g.leverage, g.dimensions_per_feature, g.cosines, g.frame_potential):
        assert torch.autograd.gradcheck(measure, (W,))
    dead = torch.zeros(2, 3, requires_grad=True)
    (g.interference(dead).sum() + g.feature_dimensionality(dead).sum() + g.cosines(dead).sum()).backward()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()
