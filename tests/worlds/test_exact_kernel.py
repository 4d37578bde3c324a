import cmath
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from digon import rng
from digon.worlds import eights
from digon.worlds.closed import small_loss
from digon.worlds.descent_kernel import Plan
from digon.worlds.exact_engine import losses, solve, task_of
from digon.worlds.exact_kernel import evaluate
from digon.worlds.exact_law import Law, rare, scratch
from digon.worlds.features import FeatureSet, features


@eights.compiled
def arithmetic(a, b, out):
    x, y = eights.load(a, 0), eights.load(b, 0)
    eights.store(out, 0, (x * y + x * 2.0 - y) * 0.5 - 1.0)
    eights.store(out, 1, eights.inverse(x) + eights.conjugate(y))
    eights.store(out, 2, eights.exponential(x))
    eights.store(out, 3, eights.within(x, 1.0, x, y))
    eights.store(out, 4, eights.ladder(0.5, 1.0, 0.25))
    return eights.real_dot(x, y)


def test_eight_numbers_at_a_time():
    g = np.random.default_rng(0)
    x = g.uniform(-3, 3, 8) + 1j * g.uniform(-60, 60, 8)
    x[0], x[1] = 0.1 + 0.2j, -3.0 + 3.14159j
    y = g.normal(size=8) + 1j * g.normal(size=8)
    a, b, out = (np.concatenate([v.real, v.imag]) for v in (x, y, np.zeros(40)))
    out = np.zeros(5 * 16)
    assert arithmetic(a, b, out) == pytest.approx((x * y).real.sum())
    got = [out[16 * i : 16 * i + 8] + 1j * out[16 * i + 8 : 16 * i + 16] for i in range(5)]
    np.testing.assert_allclose(got[0], (x * y + 2 * x - y) / 2 - 1, rtol=1e-13)
    np.testing.assert_allclose(got[1], 1 / x + y.conj(), rtol=1e-13)
    np.testing.assert_allclose(got[2], [cmath.exp(v) for v in x], rtol=1e-12)
    np.testing.assert_array_equal(got[3], np.where(abs(x) < 1, x, y))
    np.testing.assert_allclose(got[4], 0.5 + 1j * (1 + 0.25 * np.arange(8)), rtol=1e-15)


def loss_and_gradient(law, W, b, *, few=None, nodes=1024):
    task = task_of(law, W.shape[1])
    task = task._replace(few=task.few if few is None else few)
    work, p = scratch(task.n), law.density.numpy().copy()
    case = Law(p, law.importance.numpy().copy(), rare(p, task, work.one))
    theta = np.concatenate([W.ravel(), b])
    gradient, count = np.empty_like(theta), np.full(task.n, nodes)
    return evaluate(theta, task, case, count, (0.0, 0), work, gradient), gradient


@pytest.mark.parametrize("n", [2, 3])
def test_closed_forms_and_integral_are_the_same_function(n):
    g = np.random.default_rng(n)
    for _ in range(10):
        W, b = g.normal(size=(n, 2)), 0.3 * g.normal(size=n)
        law = features(n, torch.tensor(g.uniform(0.05, 1, n)), torch.tensor(g.uniform(0.5, 2, n)))
        closed, integral = (loss_and_gradient(law, W, b, few=few) for few in (True, False))
        exact = small_loss(
            torch.tensor(W)[None], torch.tensor(b)[None], law.density, law.importance, engine="torch"
        ).item()
        assert closed[0] == pytest.approx(exact, rel=1e-12)
        assert integral[0] == pytest.approx(exact, rel=1e-8)
        np.testing.assert_allclose(integral[1], closed[1], atol=1e-7)


def test_degenerate_rows():
    law = features(3, [0.3, 1.0, 0.5])
    for W in (np.zeros((3, 2)), np.eye(3, 2), np.array([[1.0, 0], [-1, 0], [1e-9, 1e-9]])):
        for b in (np.zeros(3), np.array([-2.0, 0.5, 1e-12]), np.array([0.15, -0.5, 0.25])):
            closed, integral = (loss_and_gradient(law, W, b, few=few) for few in (True, False))
            assert integral[0] == pytest.approx(closed[0], abs=1e-9)
            # Where an inner product or a bias is exactly 0, the gradient converges with the nodes, not with their square.
            np.testing.assert_allclose(integral[1], closed[1], atol=4 / 1024)


def test_rare_events_of_sets():
    law = features(
        5, [0.2, 0.2, 0.3, 0.1, 0.4], sets=(FeatureSet((0, 1), "correlated"), FeatureSet((2, 3), "anticorrelated"))
    )
    one = np.empty(5)
    none = rare(law.density.numpy(), task_of(law, 2), one)
    assert none == pytest.approx(0.8 * 0.6 * 0.6)
    assert one == pytest.approx([0, 0, 0.8 * 0.3 * 0.6, 0.8 * 0.1 * 0.6, 0.8 * 0.6 * 0.4])


def test_error_falls_with_nodes():
    g = np.random.default_rng(1)
    W, b, law = 0.5 * g.normal(size=(20, 5)), -0.1 * np.ones(20), features(20, 0.1)
    best = loss_and_gradient(law, W, b, nodes=4096)[0]
    errors = [abs(loss_and_gradient(law, W, b, nodes=k)[0] / best - 1) for k in (16, 64, 256, 1024)]
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4
    assert errors[2] < 1e-6
    assert errors[3] < 1e-9


def test_threads_and_pieces_do_not_change_a_bit():
    law, task = features(6, 0.2), task_of(features(6, 0.2), 2)
    start = rng.numpy_stream(0, "start").normal(size=(9, 18))
    plan = Plan(warm=20, rate=0.03, coarse=16, most=64, steps=30, tolerance=1e-9, memory=8, judge=1e-9)
    found, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        theta, seen = start.copy(), []
        loss, _ = solve(theta, task, law, plan, progress=lambda *where, seen=seen: seen.append(where))
        assert seen[-1] == (9, 9)
        assert seen == sorted(seen)
        found.append((loss, theta))
    torch.set_num_threads(threads)
    alone = start[4:5].copy()
    loss, _ = solve(alone, task, law, plan)
    for one, other in ((found[0], found[1]), ((found[0][0][4:5], found[0][1][4:5]), (loss, alone))):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_many_parameters_at_once():
    g = rng.stream(3, "parts")
    W = torch.randn(5, 4, 2, generator=g, dtype=torch.float64)
    b = torch.zeros(5, 4, dtype=torch.float64)
    law = features(4, torch.rand(5, 4, generator=g) * 0.9 + 0.1)
    got, slopes = losses([W, b], law, linear=False, nodes=None)
    torch.testing.assert_close(got, small_loss(W, b, law.density, law.importance, engine="torch"), rtol=1e-8, atol=0)
    assert [s.shape for s in slopes] == [W.shape, b.shape]
    assert math.isfinite(got.sum().item())


def test_kernels_work_where_nothing_can_be_cached():
    code = (
        "import numba.core.caching as c\n"
        "for k in vars(c).values():\n"
        "    if hasattr(k, '_locator_classes'): k._locator_classes = []\n"
        "from digon.worlds.eights import compiled\n"
        "print(compiled(lambda x: x + 1)(1))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["2"]


def test_numba_is_imported_only_when_it_is_needed():
    code = "import sys, digon.worlds.fit, digon.worlds.closed, digon.worlds.population; print('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
