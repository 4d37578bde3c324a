import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.worlds.closed import (
    digon_loss,
    digons_loss,
    joint_error,
    linear_loss,
    onset_importance,
    own_error,
    small_loss,
    triangle_loss,
    variance,
)
from digon.worlds.descent import minimize
from digon.worlds.features import features

F = torch.float64


def test_matches_samples():
    g = rng.stream(0, "closed")
    W = 0.8 * torch.randn(1, 4, 2, generator=g, dtype=F)
    b = 0.2 * torch.randn(1, 4, generator=g, dtype=F)
    law = features(4, [0.9, 0.5, 0.2, 0.7], [1.0, 0.5, 2.0, 1.0])
    x = law.sample(400_000, g)[0].double()
    each = (law.importance * (x - torch.relu(x @ W[0] @ W[0].mT + b[0])).square()).sum(-1)
    exact = small_loss(W, b, law.density, law.importance, engine="torch").item()
    assert abs(each.mean().item() - exact) < 3 * each.std().item() / len(each) ** 0.5


@pytest.mark.parametrize("density", [0.05, 0.3, 0.7, 1.0])
def test_known_shapes(density):
    p, one = torch.full((2,), density, dtype=F), torch.ones(1, dtype=F)
    for bias in (-0.4, 0.0, 0.3):
        pair = torch.tensor([[[1.0], [-1.0]]], dtype=F)
        got = small_loss(pair, torch.full((1, 2), bias, dtype=F), p, torch.ones(2, dtype=F))
        torch.testing.assert_close(got, 2 * digon_loss(p[:1], bias * one))
    angle = torch.tensor([0.0, 2.0, 4.0], dtype=F) * torch.pi / 3
    triangle = torch.stack([angle.cos(), angle.sin()], -1)[None]
    got = small_loss(triangle, torch.zeros(1, 3, dtype=F), torch.full((3,), density, dtype=F), torch.ones(3, dtype=F))
    torch.testing.assert_close(got, 3 * triangle_loss(p[:1]))
    ignored = small_loss(torch.zeros(1, 2, 1, dtype=F), p[None] / 2, p, torch.tensor([1.0, 0.5], dtype=F))
    torch.testing.assert_close(ignored, 1.5 * variance(p[:1]))


def test_interference_never_helps_a_feature_of_its_own():
    g = rng.stream(1, "closed")
    c, b = torch.randn(2, 50, generator=g, dtype=F)
    alone = own_error(torch.ones(50, dtype=F), b)
    assert (joint_error(torch.ones(50, dtype=F), [0 * c], b) - alone).abs().max() < 1e-12
    assert (joint_error(torch.ones(50, dtype=F), [c], 0 * b) >= 0).all()


EXACT = [  # density, importance of the second feature, least loss (n = 2, m = 1)
    (1.0, 1.0, 0.083254), (0.9, 1.0, 0.097094), (0.8, 1.0, 0.105516), (0.7, 1.0, 0.108106), (0.6, 1.0, 0.098886),
    (0.571, 1.0, 0.093330), (0.5, 1.0, 0.076282), (0.3, 1.0, 0.029310), (0.1, 1.0, 0.003319), (0.16, 0.1, 0.004235),
    (0.56, 0.8, 0.081057), (0.64, 0.8, 0.088380), (0.54, 0.7, 0.071849), (0.5, 0.5, 0.052083),
]  # fmt: skip


def test_least_losses_of_two_features():
    starts = torch.tensor([[1.0, 0.0], [0.93, 0.37], [1.0, -0.3], [1.0, -0.9], [0.9, -0.9]], dtype=F)
    p, r, want = torch.tensor(EXACT, dtype=F).T
    p, r = p.repeat_interleave(len(starts)), r.repeat_interleave(len(starts))
    x = torch.cat([starts.repeat(len(want), 1) + 0.01, p[:, None].expand(-1, 2) / 4], 1)
    importance = torch.stack([torch.ones_like(r), r], 1)

    def objective(rows, which):
        density = p[which, None].expand(-1, 2)
        return small_loss(rows[:, :2, None], rows[:, 2:], density, importance[which])

    _, loss = minimize(objective, x)
    torch.testing.assert_close(loss.view(len(want), -1).min(1).values, want, rtol=0, atol=3e-6)


def test_onset_of_the_second_feature():
    p = torch.tensor([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95], dtype=F)
    want = torch.tensor([0.5504, 0.6085, 0.6654, 0.7204, 0.7726, 0.8213, 0.8660, 0.9062, 0.9419, 0.9730], dtype=F)
    torch.testing.assert_close(onset_importance(p), want, rtol=0, atol=6e-5)


def test_theory_of_pairs():
    importance = 0.7 ** torch.arange(20, dtype=F)
    counts = [digons_loss(p, importance, 5)[1:] for p in (1.0, 0.3, 0.1, 0.03)]
    assert counts == [(5, 5), (7, 3), (9, 1), (10, 0)]
    losses = [digons_loss(p, importance, 5)[0] for p in (0.3, 0.1, 0.03, 0.01)]
    assert losses == pytest.approx([3.41e-2, 7.73e-3, 1.380e-3, 3.567e-4], rel=2e-3)
    linear = [linear_loss(torch.tensor(p, dtype=F), importance, 5).item() for p in (1.0, 0.3, 0.1, 0.01)]
    assert linear == pytest.approx([4.646e-2, 4.321e-2, 1.719e-2, 1.845e-3], rel=1e-3)


def test_too_many_features_are_refused():
    with pytest.raises(ConfigError, match="closed form of 6"):
        small_loss(torch.zeros(1, 6, 2), torch.zeros(1, 6), torch.ones(6), torch.ones(6))
