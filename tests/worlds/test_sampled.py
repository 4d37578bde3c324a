"""The sampled engine against torch: the same batches step by step, and other batches in distribution."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.errors import ConfigError, NonFiniteError
from digon.worlds import sampled, sampled_draws, sampled_kernel
from digon.worlds.features import FeatureSet, features
from digon.worlds.recipe import Recipe
from digon.worlds.sampled import Run
from digon.worlds.toys import Toy, loss

SPARSE = {"n": 60, "m": 18, "density": 0.01}


def recipe(steps=20, batch=256, rate=1e-2, slope=0.0, **more):
    return Recipe(batch, np.full(steps, rate), np.full(steps + 1, slope), **more)


def next_batch(run, i=0):
    """The batch that an instance will draw next, which stays the next one."""
    plan, words, pieces = run.plan, run.state.words[i].copy(), []
    for s in range(plan.slices):
        left, scratch = min(plan.rows, plan.batch - s * plan.rows), sampled_kernel.prepare(plan, run.law)
        while left > 0:
            rows = min(left, 16 * plan.tiles)
            tiles, draw = 2 * -(-rows // 32), (run.law, scratch, i, run.state.words[i, s])
            if plan.sparse:
                busy = sampled_draws.leap(plan, *draw, rows)
                order = scratch.place[:rows]
                assert sorted(order[order >= 0]) == list(range(busy))
            else:
                sampled_draws.draw(plan, *draw, tiles)
                order = np.arange(rows)
            x = scratch.x[: tiles * plan.n * 16].reshape(tiles, plan.n, 16).transpose(0, 2, 1).reshape(-1, plan.n)
            pieces.append(np.where(order[:, None] >= 0, x[order], 0))
            left -= rows
    run.state.words[i] = words
    return torch.from_numpy(np.concatenate(pieces))


def draws(law, rows=100_000, instances=1, seed=0, sparse=None, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(sampled, "is_sparse", lambda m, density: sparse)
    run = Run(Toy(law.n, 2, instances), law, recipe(batch=rows, seed=seed))
    return torch.stack([next_batch(run, i) for i in range(instances)]).double()


# ------------------------------------------------------------------------------------------------- step by step
CASES = {
    "linear": ({"output": "linear"}, {}),
    "relu": ({}, {}),
    "leaky": ({"output": "leaky", "hidden": "leaky"}, {}),
    "hidden relu": ({"hidden": "relu"}, {}),
    "untied": ({"tied": False}, {}),
    "absolute": ({"tied": False, "hidden": "relu", "target": "absolute"}, {"values": "symmetric"}),
    "constant": ({}, {"values": "constant"}),
    "importance": ({}, {"importance": torch.linspace(2, 0, 7)}),
    "sets": ({}, {"sets": (FeatureSet((0, 2), "correlated"), FeatureSet((1, 3, 4), "anticorrelated"))}),
}


def by_torch(toy, batches, importance, settings, rate=1e-2, slope=0.0):
    """The same steps by torch's own gradients and optimizers."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizer = kinds[settings.optimizer](toy.parameters(), rate, weight_decay=settings.weight_decay)
    losses = []
    for x in batches:
        h = toy.embed(x)
        y = toy.read(h) if slope == 0 else torch.nn.functional.leaky_relu(h @ toy.W.mT + toy.b[:, None], slope)
        each = loss(y, toy.target(x), importance)
        losses.append(each.detach())
        optimizer.zero_grad()
        each.sum().backward()
        optimizer.step()
    return torch.stack(losses)


def assert_same_steps(toy, law, settings, steps=4, slope=0.0):
    """Loss and parameters agree with torch to 1e-5 after every step."""
    with torch.no_grad():
        toy.b += 0.1 * torch.randn(toy.b.shape, generator=rng.stream(1, "b"))
    twin = Toy(
        toy.W.shape[1], toy.W.shape[2], len(toy.b), hidden=toy.hidden, output=toy.output, tied=toy.tied, target=toy.target_name
    )  # fmt: skip
    twin.load_state_dict(toy.state_dict())
    run = Run(toy, law, settings)
    batches = []
    for step in range(steps):
        batches.append(torch.stack([next_batch(run, i) for i in range(len(toy.b))]))
        peeked = torch.tensor([run.peek(i, step) for i in range(len(toy.b))])
        run.advance(step + 1, snapshots=[step])
        torch.testing.assert_close(run.kept[step][2], peeked.float(), rtol=0, atol=0)
    run.write()
    losses = by_torch(twin, batches, law.importance, settings, settings.rates[0], slope)
    kept = torch.stack([run.kept[s][2] for s in range(steps)])
    torch.testing.assert_close(kept, losses, rtol=2e-5, atol=1e-6)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(
            toy.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    return run


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_torch(case):
    network, world = CASES[case]
    law = features(7, 0.3, **world)
    assert_same_steps(Toy(7, 3, 2, seed=1, **network), law, recipe(batch=1000))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optimizers_mean_what_they_mean_in_torch(optimizer, decay):
    settings = recipe(batch=64, optimizer=optimizer, weight_decay=decay)
    assert_same_steps(Toy(5, 2, seed=1), features(5, 0.5), settings, steps=6)


def test_leak():
    assert_same_steps(Toy(5, 2, seed=1), features(5, 0.5), recipe(slope=0.3), slope=0.3)


def test_every_instance_has_its_own_law():
    density = torch.tensor([[0.9, 0.1, 0.5, 0.5], [0.01, 1.0, 0.3, 0.2]])
    importance = torch.tensor([[1.0, 2, 3, 4], [0, 1, 0, 1]])
    run = assert_same_steps(Toy(4, 2, 2, seed=1), features(4, density, importance), recipe(batch=500))
    shares = torch.stack([(next_batch(run, i) != 0).double().mean(0) for i in range(2)])
    assert ((shares - density).abs() <= 4 * (density * (1 - density) / 500).sqrt() + 1e-9).all()


@pytest.mark.parametrize("batch", [1, 31, 100, 1024, 5000])
def test_any_batch_size(batch):
    assert_same_steps(Toy(5, 2, seed=1), features(5, 0.5), recipe(batch=batch), steps=2)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 5), (17, 4), (33, 9), (90, 20), (200, 20)])
def test_any_size_and_slices(n, m):
    run = assert_same_steps(Toy(n, m, seed=1), features(n, 0.2), recipe(batch=600), steps=2)
    assert (run.plan.slices > 1) == (n >= 33)


@pytest.mark.parametrize("density", [0.1, 0.01])
def test_large_batches_have_few_slices_of_several_blocks(density):
    run = assert_same_steps(Toy(130, 20, seed=1), features(130, density), recipe(batch=30_000), steps=2)
    assert run.plan.slices == 16
    assert run.plan.rows > 16 * run.plan.tiles


@pytest.mark.parametrize(
    "network", [{}, {"hidden": "relu"}, {"tied": False}, {"hidden": "relu", "output": "linear", "tied": False}]
)
@pytest.mark.parametrize("bias", [0.0, -0.5])
def test_rare_features_take_the_sparse_path(network, bias):
    """With and without so few wrong outputs (negative biases) that products with them are sparse too."""
    toy = Toy(SPARSE["n"], SPARSE["m"], seed=1, **network)
    with torch.no_grad():
        toy.b += bias
    run = assert_same_steps(toy, features(SPARSE["n"], SPARSE["density"]), recipe(batch=700))
    assert run.plan.sparse


def test_frozen_biases_stay():
    toy = Toy(5, 2, seed=1)
    toy.b.requires_grad_(False)
    run = Run(toy, features(5, 0.5), recipe(optimizer="adamw", weight_decay=0.5))
    before = toy.W.detach().clone()
    run.advance(5)
    run.write()
    assert (toy.b == 0).all()
    assert not torch.equal(toy.W, before)


# ------------------------------------------------------------------------------------------------- random numbers
MOMENTS = {"uniform": (0.5, 1 / 3), "symmetric": (0.0, 1 / 3), "constant": (1.0, 1.0)}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("values", MOMENTS)
@pytest.mark.parametrize("density", [1.0, 0.3, 0.01, 0.001])
def test_samples_have_the_moments_of_the_law(values, density, sparse, monkeypatch):
    rows, (first, second) = 200_000, MOMENTS[values]
    x = draws(features(6, density, values=values), rows, sparse=sparse, monkeypatch=monkeypatch)[0]
    for found, expected, spread in (
        ((x != 0).double(), density, density * (1 - density)),
        (x, density * first, density * second - (density * first) ** 2),
        (x**2, density * second, density * (second if values == "constant" else 0.2) - (density * second) ** 2),
    ):
        error = 4 * (max(spread, 0) / rows) ** 0.5
        assert ((found.mean(0) - expected).abs() <= error + 1e-6).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_values_of_active_features_are_uniform(sparse, monkeypatch):
    """Kolmogorov-Smirnov distance below its 1-in-10,000 value, at densities with few and with many levels."""
    for density in (0.9, 0.05):
        x = draws(features(4, density), sparse=sparse, monkeypatch=monkeypatch)[0]
        values = x[x != 0].sort().values
        levels = (torch.arange(len(values)) + 0.5) / len(values)
        assert (values - levels).abs().max() < 2.23 / len(values) ** 0.5
        assert values.max() <= 1


@pytest.mark.parametrize("sparse", [False, True])
def test_features_rows_instances_and_steps_are_independent(sparse, monkeypatch):
    monkeypatch.setattr(sampled, "is_sparse", lambda m, density: sparse)
    rows, n = 4096, 6
    run = Run(Toy(n, 2, 3), features(n, 0.4), recipe(batch=rows))
    seen = []
    for step in range(3):
        seen.append(torch.stack([next_batch(run, i) for i in range(3)]))
        run.advance(step + 1)
    x = torch.stack(seen).double()  # [step, instance, row, feature]
    columns = x.permute(2, 0, 1, 3).flatten(1)  # a column per step, instance and feature
    columns = torch.cat([columns, columns.roll(1, 0), columns.roll(16, 0), columns.roll(32, 0)], 1)
    for y in (columns, (columns != 0).double()):
        z = (y - y.mean(0)) / y.std(0)
        r = (z.mT @ z / rows - torch.eye(z.shape[1], dtype=z.dtype)).abs() * rows**0.5
        assert r.max() < 5.5  # of 23,220 correlations; one in a thousand such tests would be higher


def test_sets_are_together_or_never_together():
    sets = (FeatureSet((0, 2), "correlated"), FeatureSet((1, 3, 4), "anticorrelated"))
    rows, p = 100_000, torch.tensor([0.2, 0.1, 0.2, 0.3, 0.25], dtype=torch.float64)
    x = draws(features(5, p, sets=sets), rows)[0]
    on = (x != 0).double()
    assert ((on.mean(0) - p).abs() <= 4 * (p * (1 - p) / rows).sqrt()).all()
    assert (on[:, 0] == on[:, 2]).all()
    assert on[:, [1, 3, 4]].sum(1).max() == 1
    both = x[on[:, 0] == 1][:, [0, 2]]
    assert abs(torch.corrcoef(both.mT)[0, 1]) < 4 / len(both) ** 0.5
    for j in range(5):
        assert abs(x[:, j][x[:, j] != 0].mean() - 0.5) < 4 * (1 / 12 / rows / p[j]) ** 0.5


def test_seeds_differ():
    law = features(4, 0.5)
    assert not torch.equal(draws(law, 64, seed=0), draws(law, 64, seed=1))
    assert torch.equal(draws(law, 64, seed=0), draws(law, 64, seed=0))


# ------------------------------------------------------------------------------------------------- repeatability
def threads(number, shape, density, stops=(40,), snapshots=(), **more):
    """Parameters after training with a number of threads."""
    n, m, count = shape
    torch.set_num_threads(number)
    run = Run(Toy(n, m, count, seed=2), features(n, density), recipe(40, 512, **more))
    for stop in stops:
        run.advance(stop, snapshots=snapshots)
    return run


@pytest.mark.parametrize(
    ("shape", "density"), [((5, 2, 3), 0.3), ((60, 20, 1), 0.3), ((60, 20, 2), 0.3), ((60, 20, 1), 0.01)]
)
def test_threads_and_pieces_change_no_bit(shape, density):
    one = threads(1, shape, density)
    for number in (2, 3, 4):
        np.testing.assert_array_equal(one.state.theta, threads(number, shape, density).state.theta)
    pieces = threads(2, shape, density, stops=(1, 7, 8, 40), snapshots=(3, 8, 9, 40))
    np.testing.assert_array_equal(one.state.theta, pieces.state.theta)
    np.testing.assert_array_equal(one.state.words, pieces.state.words)
    assert sorted(pieces.kept) == [3, 8, 9, 40]


def test_snapshots_are_the_network_on_its_way():
    run, short = threads(1, (5, 2, 3), 0.3, snapshots=(0, 7, 40)), threads(1, (5, 2, 3), 0.3, stops=(7,))
    short.write()
    torch.testing.assert_close(run.kept[7][0], short.toy.W.detach(), rtol=0, atol=0)
    torch.testing.assert_close(run.kept[7][1], short.toy.b.detach(), rtol=0, atol=0)
    assert [run.kept[7][2][i].item() for i in range(3)] == pytest.approx([short.peek(i, 7) for i in range(3)], rel=1e-6)
    assert run.kept[40][2].sum() < run.kept[0][2].sum()


def test_a_checkpoint_goes_on_bit_by_bit():
    whole, first = threads(1, (60, 20, 2), 0.3), threads(2, (60, 20, 2), 0.3, stops=(13,))
    point = first.checkpoint()
    other = Run(Toy(60, 20, 2, seed=9), features(60, 0.3), recipe(40, 512))
    other.restore(point)
    other.advance(40)
    assert other.step == 40
    np.testing.assert_array_equal(whole.state.theta, other.state.theta)
    np.testing.assert_array_equal(whole.state.square, other.state.square)


def test_a_checkpoint_of_another_network_is_refused():
    point = threads(1, (5, 2, 3), 0.3).checkpoint()
    with pytest.raises(ConfigError, match="theta"):
        Run(Toy(6, 2, 3), features(6, 0.3), recipe()).restore(point)


# ------------------------------------------------------------------------------------------------- what it knows
def test_what_the_kernel_knows_and_what_it_leaves_to_torch():
    law = features(5, 0.3)
    assert sampled.supports(Toy(5, 2), law)
    assert sampled.supports(Toy(5, 2, hidden="relu", output="linear", tied=False, target="absolute"), law)
    assert not sampled.supports(Toy(5, 2, output="gelu"), law)
    assert not sampled.supports(Toy(5, 2, target="square"), law)
    assert not sampled.supports(Toy(5, 2).double(), law)
    assert not sampled.supports(Toy(5, 2), features(5, 0.3, values="lognormal"))
    frozen = Toy(5, 2)
    frozen.W.requires_grad_(False)
    assert not sampled.supports(frozen, law)

    class Louder(Toy):
        def read(self, h):
            return 2 * super().read(h)

    assert not sampled.supports(Louder(5, 2), law)


@pytest.mark.parametrize("count", [1, 3])
def test_a_loss_that_explodes_is_an_error(count):
    run = Run(Toy(90, 20, count, output="linear"), features(90, 0.5), recipe(200, rate=1e4, optimizer="sgd"))
    with pytest.raises(NonFiniteError, match="at step"):
        run.advance(200)


def test_progress_ends_at_the_end():
    calls = []
    run = Run(Toy(5, 2, 3), features(5, 0.5), recipe(50))
    run.advance(50, progress=lambda done, steps: calls.append((done, steps)))
    assert calls[-1] == (50, 50)
    assert [d for d, _ in calls] == sorted(d for d, _ in calls)


def test_a_plan_does_not_depend_on_the_machine():
    law, toy = features(5, 0.3), Toy(5, 2)
    plans = []
    for number in (1, 2):
        torch.set_num_threads(number)
        plans.append(sampled.make_plan(toy, law, recipe())[:10])
    assert plans[0] == plans[1]
