import torch

from digon import rng
from digon.worlds.descent import minimize


def rosenbrock(x, which):
    return (1 - x[:, 0]).square() + (1.0 + which) * (x[:, 1] - x[:, 0].square()).square()


def test_reaches_the_bottom_of_a_curved_valley():
    start = torch.randn(40, 2, generator=rng.stream(0, "start"), dtype=torch.float64)
    x, loss = minimize(rosenbrock, start)
    assert loss.max() < 1e-12
    torch.testing.assert_close(x, torch.ones_like(x), rtol=0, atol=1e-5)


def test_solves_quadratic_problems():
    g = rng.stream(1, "bowls")
    root = torch.randn(8, 5, 5, generator=g, dtype=torch.float64)
    bowl = root @ root.mT + 0.1 * torch.eye(5, dtype=torch.float64)
    middle = torch.randn(8, 5, generator=g, dtype=torch.float64)

    def objective(x, which):
        gap = x - middle[which]
        return 1 + (gap * (bowl[which] @ gap[..., None])[..., 0]).sum(-1)

    x, loss = minimize(objective, torch.zeros(8, 5, dtype=torch.float64))
    torch.testing.assert_close(loss, torch.ones(8, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(x, middle, rtol=0, atol=1e-3)


def test_problems_do_not_disturb_each_other():
    start = torch.randn(6, 2, generator=rng.stream(2, "start"), dtype=torch.float64)
    together, _ = minimize(lambda x, which: rosenbrock(x, 0 * which), start)
    for i in range(6):
        alone, _ = minimize(lambda x, which: rosenbrock(x, 0 * which), start[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-9)


def test_start_is_left_alone_and_a_minimum_stays():
    start = torch.ones(1, 2, dtype=torch.float64)
    x, loss = minimize(rosenbrock, start)
    assert loss.item() == 0
    assert torch.equal(x, start)
