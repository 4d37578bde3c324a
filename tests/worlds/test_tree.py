"""The tree world: closed forms of its law, and three samplers (compiled, torch, dense) that draw from it."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path
from typing import no_type_check

import numpy as np
import pytest
import torch
from numba import njit
from scipy.special import log_ndtr
from scipy.stats import kstest, multivariate_normal, norm, truncnorm

from digon import rng
from digon.errors import ConfigError
from digon.worlds.lanes import kernel, load, store
from digon.worlds.tree import FULL, SMALL, TreeConfig, TreeSample, TreeWorld, dice
from digon.worlds.tree.instructions import lower, negative, power, upper
from digon.worlds.tree.law import _survival, build, densities, separate
from digon.worlds.tree.plan import TANGENTS, UNIT, _bounds

ROWS = 60_000
TINY = TreeConfig(
    features=60, d=20, roots=4, branching=3, depth=2, most=0.5, least=0.05, rank=3, correlation=0.3, seed=1
)
FLAT = TreeConfig(features=12, d=16, roots=0, most=0.5, least=0.05, rank=2, correlation=0.45)


def benchmark_module():
    path = Path(__file__).parents[2] / "benchmarks" / "world_sampling.py"
    spec = importlib.util.spec_from_file_location("world_sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DenseTree = benchmark_module().DenseTree


def compiled(world, rows, seed):
    return world.sample(rows, rng.stream(seed, "rows")).codes.dense()


def torch_rows(world, rows, seed):
    return world.sample_torch(rows, rng.stream(seed, "rows")).codes.dense()


def dense(world, rows, seed):
    return DenseTree(world).strengths(rows, rng.stream(seed, "rows"))


SAMPLERS = pytest.mark.parametrize("draw", [compiled, torch_rows, dense])


def standard_errors(rates, exact, rows):
    return (rates - exact) / (exact * (1 - exact) / rows).sqrt().clamp(min=1e-12)


def test_the_full_size_has_the_published_number_of_active_features():
    law = build(FULL)
    density = densities(law, 0, draws=128)
    assert float(density.sum()) == pytest.approx(34.47, abs=0.1)  # measured on the released world
    assert float(density.sort(descending=True).values[:4096].sum()) == pytest.approx(25, abs=0.3)
    assert int(((law.parent >= 0) | (law.children > 0)).sum()) == 10_880
    assert (float(law.wish[0]), float(law.wish[-1])) == pytest.approx((0.4, 5e-4))
    assert law.parent[[0, 127, 128, 131, 132, 639, 640, 10_879, 10_880]].tolist() == [
        -1, -1, 0, 0, 1, 127, 128, 2687, -1,
    ]  # fmt: skip


@SAMPLERS
@pytest.mark.parametrize("scale", [False, True])
def test_densities(draw, scale):
    world = TreeWorld(replace(TINY, scale_children=scale))
    rates = (draw(world, ROWS, 0) > 0).double().mean(0)
    z = standard_errors(rates, world.density, ROWS)
    assert z.abs().max() < 4.5
    assert 0.7 < z.std() < 1.3


@pytest.mark.parametrize("draw", [compiled, torch_rows])
def test_pairs_are_active_together_as_often_as_in_the_dense_generator(draw):
    world = TreeWorld(TINY)

    def pairs(sampler, seed):
        active = (sampler(world, ROWS, seed) > 0).float()
        return (active.T @ active / ROWS).double()

    ours, theirs = pairs(draw, 1), pairs(dense, 2)
    mean = (ours + theirs) / 2
    z = (ours - theirs) / (2 * mean * (1 - mean) / ROWS).sqrt().clamp(min=1e-9)
    upper = z[torch.ones_like(z).triu(1).bool() & (mean > 5e-4)]
    assert upper.abs().max() < 5
    assert 0.85 < upper.std() < 1.15


@SAMPLERS
def test_the_copula_has_its_closed_form(draw):
    world = TreeWorld(FLAT)
    law = world.law
    assert world.density.numpy() == pytest.approx(norm.cdf(-law.threshold) * norm.cdf(law.mean / law.spread), rel=1e-9)
    active = (draw(world, ROWS, 3) > 0).double()
    together = active.T @ active / ROWS
    correlation = law.mixing @ law.mixing.T
    assert correlation.fill_diagonal_(0).abs().max() > 0.3
    positive = norm.cdf(law.mean / law.spread)
    for i, j in itertools.combinations(range(6), 2):
        shape = [[1, float(correlation[i, j])], [float(correlation[i, j]), 1]]
        corner = [-law.threshold[i], -law.threshold[j]]
        fire = multivariate_normal.cdf(corner, cov=shape)  # pyright: ignore[reportArgumentType]
        both = fire * positive[i] * positive[j]
        assert float(together[i, j]) == pytest.approx(both, abs=4.5 * (both / ROWS) ** 0.5)


@SAMPLERS
def test_children_need_their_parent_and_exclude_each_other(draw):
    world = TreeWorld(TINY)
    active = draw(world, ROWS // 4, 4) > 0
    below = (world.parents >= 0).nonzero().squeeze(1)
    assert not (active[:, below] & ~active[:, world.parents[below]]).any()
    for parent in world.parents[below].unique():
        assert active[:, world.parents == parent].sum(1).max() <= 1
    assert world.trees.tolist()[:7] == [0, 1, 2, 3, 0, 0, 0]
    assert (world.trees[world.parents[below]] == world.trees[below]).all()
    assert (world.trees == -1).sum() == TINY.features - 4 * (1 + 3 + 9)


@SAMPLERS
def test_strengths_are_cut_normals(draw):
    world = TreeWorld(TINY)
    codes, law = draw(world, ROWS, 5).double(), world.law
    for feature in (0, 5, 20, 55):
        values = codes[codes[:, feature] > 0, feature]
        mean, spread = float(law.mean[feature]), float(law.spread[feature])
        exact = truncnorm(-mean / spread, np.inf, loc=mean, scale=spread)
        assert float(values.mean()) == pytest.approx(exact.mean(), abs=4.5 * exact.std() / len(values) ** 0.5)
        assert float(values.std()) == pytest.approx(exact.std(), rel=6 / len(values) ** 0.5)


@SAMPLERS
def test_children_follow_their_parents_strength_on_demand(draw):
    plain, scaled = TreeWorld(TINY), TreeWorld(replace(TINY, scale_children=True))
    child, law = 4, plain.law
    parent = int(law.parent[child])
    mean, spread = float(law.mean[child]), float(law.spread[child])
    exact = truncnorm(-mean / spread, np.inf, loc=mean, scale=spread)

    def on_rows_with_child(world):
        codes = draw(world, ROWS, 6).double()
        return codes[codes[:, child] > 0][:, [child, parent]].T

    own, above = on_rows_with_child(scaled)
    ratio = own / above * law.mean[parent]
    assert float(ratio.mean()) == pytest.approx(exact.mean(), abs=4.5 * exact.std() / len(ratio) ** 0.5)
    assert abs(float(torch.corrcoef(torch.stack([ratio, above]))[0, 1])) < 4.5 / len(ratio) ** 0.5
    assert abs(float(torch.corrcoef(on_rows_with_child(plain))[0, 1])) < 4.5 / len(ratio) ** 0.5
    assert float(torch.corrcoef(torch.stack([own, above]))[0, 1]) > 0.3


@pytest.mark.parametrize("scale", [False, True])
def test_mean_strengths_and_mean_row(scale):
    world = TreeWorld(replace(TINY, scale_children=scale))
    x, codes = world.sample(ROWS, rng.stream(9, "rows"))
    dense_codes = codes.dense().double()
    count = (dense_codes > 0).sum(0)
    mean = dense_codes.sum(0) / count
    spread = ((dense_codes.square().sum(0) / count - mean.square()) / count).sqrt()
    assert ((mean - world.strength) / spread).abs().max() < 4.5
    assert ((x.mean(0) - world.mean) / (x.std(0) / ROWS**0.5)).abs().max() < 4.5


def test_survival_among_siblings_by_enumeration():
    p = torch.tensor([0.3, 0.9, 0.05, 1.0], dtype=torch.float64)
    exact = torch.zeros(4, dtype=torch.float64)
    for fires in itertools.product([0, 1], repeat=4):
        chosen = torch.tensor(fires, dtype=torch.float64)
        weight = torch.where(chosen > 0, p, 1 - p).prod()
        exact += weight * chosen / max(sum(fires), 1)
    assert _survival(p[None, None])[0, 0].numpy() == pytest.approx(exact.numpy(), rel=1e-12)


def test_rows_are_sums_of_atoms():
    for config in (TINY, replace(FLAT, d=7), TreeConfig(features=40, d=33, roots=2, branching=16, depth=1, rank=0)):
        world = TreeWorld(config)
        for sample in (world.sample(100, rng.stream(0, "x")), world.sample_torch(100, rng.stream(0, "x"))):
            assert (world.dictionary.decode(sample.codes) - sample.x).abs().max() < 1e-4
            assert sample.codes.width == config.features


def test_features_without_copula_are_independent():
    world = TreeWorld(replace(TINY, rank=0))
    active = (compiled(world, ROWS, 7) > 0).double()
    assert standard_errors(active.mean(0), world.density, ROWS).abs().max() < 4.5
    tops = active[:, world.parents < 0]
    correlation = torch.corrcoef(tops.T).fill_diagonal_(0) * ROWS**0.5
    assert correlation.abs().max() < 5


def test_rows_are_independent_of_each_other():
    count = (compiled(TreeWorld(TINY), ROWS, 8) > 0).double().sum(1)
    for lag in (1, 15, 16, 1024):
        assert abs(float(torch.corrcoef(torch.stack([count[lag:], count[:-lag]]))[0, 1])) < 4.5 / ROWS**0.5


def test_batches_start_anywhere_and_depend_on_their_step_alone():
    world = TreeWorld(TINY)
    batches = world.batches(300, seed=2)
    from_zero = list(itertools.islice(batches(0), 4))
    assert torch.equal(from_zero[3], next(batches(3)))
    assert torch.equal(from_zero[3], TreeWorld(TINY).batches(300, seed=2)(3).__next__())
    assert not torch.equal(from_zero[0], from_zero[1])
    assert not torch.equal(from_zero[0], next(world.batches(300, seed=3)(0)))
    with_truth = next(world.samples(300, seed=2, start=3))
    assert isinstance(with_truth, TreeSample)
    assert torch.equal(with_truth.x, from_zero[3])


def test_threads_do_not_matter():
    world = TreeWorld(TINY)
    one = world.sample(5000, rng.stream(0, "threads"))
    try:
        torch.set_num_threads(3)
        three = world.sample(5000, rng.stream(0, "threads"))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.x, three.x)
    assert torch.equal(one.codes.values, three.codes.values)


def test_rows_with_more_active_features_than_expected():
    world = TreeWorld(TreeConfig(features=150, d=16, roots=20, branching=2, depth=1, most=0.8, least=0.6, rank=4))
    sample = world.sample(2000, rng.stream(0, "many"))
    assert sample.codes.values.shape[1] > 64
    rates = (sample.codes.dense() > 0).double().mean(0)
    assert standard_errors(rates, world.density, 2000).abs().max() < 4.5


def test_atoms_form_a_tight_frame():
    random = torch.nn.functional.normalize(torch.randn(400, 32, generator=rng.stream(0, "atoms")))
    atoms = separate(random)
    assert float((atoms.T @ atoms).square().sum()) == pytest.approx(400**2 / 32, rel=1e-4)
    assert float((atoms * random).sum(1).mean()) > 0.98
    few = separate(random[:20])
    assert (few @ few.T - torch.eye(20)).abs().max() < 1e-4
    rounded = TreeWorld(TINY).dictionary.atoms
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert (rounded.norm(dim=1) - 1).abs().max() < 4e-3


def test_the_small_size_is_as_hard_as_the_full_one():
    from digon.measures.bounds import recovery_dimensions

    def needed(config, active):
        return recovery_dimensions(config.features, active, signed=False) / config.d

    active = float(densities(build(SMALL), 0, draws=128).sum())
    assert needed(SMALL, active) == pytest.approx(needed(FULL, 34.45), rel=0.03)


@pytest.mark.parametrize(
    "wrong",
    [{"features": 0}, {"roots": 61}, {"branching": 17}, {"least": 0.0}, {"most": 1.0}, {"least": 0.6}, {"rank": -1},
     {"correlation": -0.1}, {"depth": -1}, {"d": 0}],
)  # fmt: skip
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError):
        replace(TINY, **wrong)


def test_too_many_rows_are_refused():
    with pytest.raises(ConfigError, match="rows of the tree world"):
        TreeWorld(TINY).sample(10**12, rng.stream(0, "x"))


def test_tangents_bound_the_hazard():
    x = np.linspace(-12, 8, 4001)
    exact = np.log(-log_ndtr(-x))
    survival = log_ndtr(-TANGENTS)
    level = np.log(-survival)
    steepness = np.exp(norm.logpdf(TANGENTS) - survival - level)
    gap = level + steepness * (x[:, None] - TANGENTS) - exact[:, None]
    assert gap.min() > -1e-12


def test_tops_are_bounded_for_every_draw():
    law = build(SMALL)
    tilt, lift, slope = _bounds(law)
    tops = law.tops
    shared = torch.randn(500, SMALL.rank, generator=rng.stream(0, "shared"), dtype=torch.float64)
    bound = shared.numpy() @ tilt.transpose(0, 2, 1).reshape(-1, SMALL.rank)[: len(tops)].T + lift[: len(tops)]
    x = ((shared @ law.mixing[tops].T - law.threshold[tops]) / law.residue[tops]).numpy()
    assert (bound >= UNIT * np.log(-log_ndtr(-x)) - 1).all()
    assert bound * slope[:, 0] + slope[:, 1] == pytest.approx(x, abs=1e-4)
    candidates = np.exp(bound / UNIT).sum(1).mean()
    assert candidates < 1.6 * norm.cdf(x).sum(1).mean()


def test_single_random_numbers():
    edges, heights = dice.ziggurat()

    @njit
    def draw(count):
        state, out = np.zeros(1, np.uint64), np.empty((2, count))
        for i in range(count):
            out[0, i], out[1, i] = dice.normal(edges, heights, state), dice.uniform(state)
        return out

    normal, uniform = draw(400_000)
    assert kstest(normal, norm.cdf).pvalue > 1e-3
    assert kstest(uniform, "uniform").pvalue > 1e-3
    far = normal[np.abs(normal) > 3.7]
    assert len(far) == pytest.approx(400_000 * 2 * norm.sf(3.7), abs=float(4.5 * (400_000 * 2 * norm.sf(3.7)) ** 0.5))
    assert abs(np.corrcoef(normal[1:], normal[:-1])[0, 1]) < 4.5 / 400_000**0.5


def test_vector_instructions():
    exponents = np.linspace(-200 * 2.0**23, 60 * 2.0**23, 16).astype(np.float32)
    words = np.arange(16, dtype=np.uint32) * 0x01230000 + 0x3F80

    @kernel
    @no_type_check
    def tried(out):
        store(out, 0, power(load(exponents_in, 0)))
        store(out, 16, lower(load(words_in, 0)))
        store(out, 32, upper(load(words_in, 0)))
        return negative(load(exponents_in, 0))

    exponents_in, words_in = exponents, words
    out = np.zeros(48, np.float32)
    mask = tried(out)
    exact = 2.0 ** np.maximum(exponents.astype(np.float64) / 2**23, -126)
    assert (out[:16] >= exact * (1 - 1e-6)).all()
    assert (out[:16] <= exact * 1.0616).all()
    assert out[16:32].tolist() == ((words & 0xFFFF) << 16).view(np.float32).tolist()
    assert out[32:].tolist() == (words & 0xFFFF0000).view(np.float32).tolist()
    assert [bool(mask >> i & 1) for i in range(16)] == (exponents < 0).tolist()
