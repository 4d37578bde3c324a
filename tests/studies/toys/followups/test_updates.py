"""The four small toys: samplers, invariances, second implementations."""

import math

import numpy as np
import pytest
import torch

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import updates
from digon.studies.toys.threads import one_thread


def test_rows_of_the_circle():
    """A feature is active for half the period of a cosine: 2 · l · π/2 of 2 π; mean of μ cos is ½ · 2 l / 2π."""
    x = updates.manifold_rows(40_000, rng.stream(0, "test"))
    assert (x > 0).double().mean().item() == pytest.approx(updates.REACH / 2, rel=0.01)
    assert x.mean().item() == pytest.approx(0.5 * 2 * updates.REACH / (2 * math.pi), rel=0.02)
    row = x[x.amax(1) > 0.5][0]
    active = (row > 0).nonzero().ravel()
    first = active - active[0]
    circular = (first <= 13) | (first >= updates.CIRCLE - 13)
    assert circular.all()


def test_circular_correlation_against_the_pairwise_definition():
    draw = torch.Generator().manual_seed(0)
    a, b = 6.3 * torch.rand(30, generator=draw), 6.3 * torch.rand(30, generator=draw)
    b = 0.7 * a + 0.3 * b
    left, right = (torch.sin(t[:, None] - t).double().ravel() for t in (a, b))
    expected = abs(float(left @ right / (left.norm() * right.norm())))
    assert updates.circular_correlation(a, a) > updates.circular_correlation(a, b)
    assert updates.circular_correlation(a, b) == pytest.approx(expected, abs=1e-6)
    assert updates.circular_correlation(a + 1.2, -b) == pytest.approx(expected, abs=1e-6)


def test_angles_in_order_correlate_fully():
    angle = 2 * math.pi * torch.arange(48) / 48
    assert updates.circular_correlation(angle, -angle + 0.4) == pytest.approx(1, abs=1e-6)
    assert updates.circular_correlation(angle, 2 * angle) == pytest.approx(0, abs=1e-6)


def test_head_losses_against_a_softmax_over_two_tokens():
    """A sigmoid of the score is attention to `a` against the first token, whose score is 0."""
    draw = torch.Generator().manual_seed(1)
    h, a, b, c = 2, 4, 3, 5
    scores, values = torch.randn(1, h, a, b, generator=draw), torch.randn(1, h, a, c, generator=draw)
    rest, direct = torch.randn(1, h, c, generator=draw), torch.randn(1, b, c, generator=draw)
    table = torch.randint(c, (1, a, b), generator=draw)
    total = 0.0
    for i in range(a):
        for j in range(b):
            logits = direct[0, j].clone()
            for k in range(h):
                attention = torch.tensor([0.0, scores[0, k, i, j].item()]).softmax(0)
                logits += attention[0] * rest[0, k] + attention[1] * values[0, k, i]
            total -= logits.log_softmax(0)[table[0, i, j]].item()
    found = updates.head_losses(scores, values, rest, direct, table)
    assert found.item() == pytest.approx(total / (a * b), rel=1e-5)


def test_sparse_codes_meet_the_conditions_of_the_optimum():
    x = updates.counting_data(20, 50, 12, 0)
    D = torch.nn.functional.normalize(torch.randn(20, 12, generator=torch.Generator().manual_seed(2)), dim=1)
    c = updates.sparse_codes(x, D, 0.1, None, 3000)
    slope = (c @ D - x) @ D.mT + 0.1
    assert (slope[c > 1e-4].abs() < 1e-3).all()
    assert (slope > -1e-3).all()
    again = updates.sparse_codes(x, D, 0.0, c, 500)
    assert ((again > 0) <= (c > 0)).all()
    assert (x - again @ D).norm() <= (x - c @ D).norm() + 1e-4


def test_bits_of_a_known_description():
    """Two equally likely values cost one bit; what is constant costs nothing."""
    codes = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    D = torch.eye(2)
    found = updates.describe(codes @ D, codes, D)
    assert (found.codes, found.residual) == (1.0, 0.0)
    missed = updates.describe(codes @ D + torch.tensor([0.0, 0.3]) * torch.tensor([[0], [1], [2], [3]]), codes, D)
    assert missed.residual == 2.0


def test_true_dictionary_reconstructs():
    x = updates.counting_data(24, 1500, 32, 3)
    with one_thread():
        codes, D = updates.factorize(x, 24, 40, 3)
    assert ((x - codes @ D).square().mean() / x.square().mean()).item() < 0.05
    np.testing.assert_allclose(D.norm(dim=1), 1, rtol=1e-5)


def test_items():
    both = updates.items(True)
    assert both.shape == (16, 8)
    assert len({tuple(row.tolist()) for row in both}) == 16
    assert (both.sum(1) == 2).all()
    torch.testing.assert_close(updates.items(False), torch.eye(16))


def test_the_study():
    outcome = updates.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["held_out_composed"].value > 0.9
    assert outcome.values["held_out_items"].value < 0.5
    assert outcome.values["two_heads"].value < outcome.values["one_head"].value < math.log(updates.OUTPUTS)
    assert {f.id for f in outcome.figures} == {"F4-circle", "F4-heads", "F4-counting", "F4-composition"}
