"""The training loop: schedule, optimizer, independence of instances, errors."""

import numpy as np
import pytest
import torch

from digon.errors import NonFiniteError
from digon.worlds.loops import minimize, rate


def test_schedule():
    rates = [rate(step, 100, 0.5, 0.1) for step in range(101)]
    assert max(rates) == pytest.approx(0.5)
    assert rates[0] == pytest.approx(0.05)
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[10:]) < 0).all()


def test_constant_schedule_is_adamw_of_torch():
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = start.clone(), start.clone().requires_grad_(True)
    minimize([ours], lambda _: (ours**4).sum(1), steps=25, peak=0.05, weight_decay=0.1, schedule="constant")
    optimizer = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.1)
    for _ in range(25):
        optimizer.zero_grad()
        (theirs**4).sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach())
    assert not ours.requires_grad


def test_reaches_the_optimum_of_least_squares():
    draw = torch.Generator().manual_seed(1)
    A, y = torch.randn(2, 9, 3, generator=draw), torch.randn(2, 9, 1, generator=draw)
    w = torch.zeros(2, 3, 1)
    minimize([w], lambda _: (A @ w - y).square().sum((1, 2)), steps=1500, peak=0.05, warmup=0.05)
    torch.testing.assert_close(w, torch.linalg.lstsq(A, y).solution, atol=1e-4, rtol=1e-4)


def test_instances_do_not_mix():
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    together, alone = start.clone(), start[2:3].clone()
    for w in (together, alone):
        minimize([w], lambda _, w=w: (w.sin() + w**2).sum(1), steps=40, peak=0.02)
    torch.testing.assert_close(together[2:3], alone)


def test_after_sees_every_step():
    seen = list[tuple[int, float]]()
    w = torch.ones(1, 1)
    minimize([w], lambda _: w.square().sum(1), steps=3, peak=0.1, after=lambda step, now: seen.append((step, now)))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert seen[0][1] == pytest.approx(0.1)


def test_loss_that_is_not_finite():
    w = torch.ones(1, 1)
    with pytest.raises(NonFiniteError, match="step 0"):
        minimize([w], lambda _: (w / 0).sum(1), steps=5, peak=0.1)
