import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.additivity import additivity
from digon.worlds import causes


def of(values, labels, seed, per_group=1):
    return additivity(values, labels, torch.arange(len(values)) // per_group, rng.stream(seed, "test"))


@pytest.mark.parametrize("seed", range(3))
def test_two_way_layout_in_closed_form(seed):
    g = rng.stream(seed, "layout")
    a, b = torch.randint(3, (6000,), generator=g), torch.randint(4, (6000,), generator=g)
    main = torch.randn(3, 5, generator=g)[a] + torch.randn(4, 5, generator=g)[b]
    noise = torch.randn(6000, 5, generator=g)
    labels = torch.stack([a, b], 1)
    sums = of(main + noise, labels, seed)
    expected = float(main.var(0).sum() / (main + noise).var(0).sum())
    assert sums.main == pytest.approx(expected, abs=0.02)
    assert abs(sums.gain) < 0.01
    cell = torch.randn(3, 4, 5, generator=g)
    cell = cell - cell.mean(0, keepdim=True) - cell.mean(1, keepdim=True) + cell.mean((0, 1), keepdim=True)
    both = main + cell[a, b] + noise
    found = of(both, labels, seed)
    assert found.gain == pytest.approx(float(cell[a, b].var(0).sum() / both.var(0).sum()), abs=0.02)
    assert found.gain > 5 * found.gain_error


@pytest.mark.parametrize("seed", range(3))
def test_unbalanced_designs_do_not_make_interactions(seed):
    g = rng.stream(seed, "unbalanced")
    a = (torch.rand(6000, generator=g) < 0.1).long()
    b = torch.where(torch.rand(6000, generator=g) < 0.8, a, torch.randint(2, (6000,), generator=g))
    h = a[:, None] * torch.randn(1, 4, generator=g) + b[:, None] * torch.randn(1, 4, generator=g)
    found = of(h + 0.1 * torch.randn(6000, 4, generator=g), torch.stack([a, b], 1), seed)
    assert found.main > 0.8
    assert abs(found.gain) < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_relations(seed):
    # h = gate * size * (+-1), the sign a product of bits: E[h | bits] has variance 0.09 of E[h^2] = 0.3 (1 + 1/12)
    world = causes.relational(6000, 8, seed, "product")
    found = of(world.activations.values, world.labels, seed, 20)
    assert found.main < 0.02
    assert found.gain == pytest.approx(0.09 / (0.3 * 13 / 12), abs=0.03)
    gated = causes.relational(6000, 8, seed, "gated")
    context = of(gated.activations.values, gated.labels, seed, 20)
    assert context.swapped == 4
    assert context.swap > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_features_with_sizes_of_their_own_move_nothing(seed):
    for world in (causes.superposition(6000, 8, seed), causes.rotated(6000, 8, seed, dependence="pairs")):
        found = of(world.activations.values, (world.truth.features > 0).long(), seed, 20)
        assert found.main > 0.6
        assert found.gain < 0.01
        assert found.swapped == 0


@pytest.mark.parametrize("seed", range(3))
def test_magnitudes_are_collinear(seed):
    world = causes.magnitude(5000, 24, seed, decay=0.5)
    assert world.labels is not None
    found = of(world.activations.values, world.labels, seed, 20)
    assert found.main == pytest.approx(1, abs=1e-3)
    assert found.collinear == 1
    assert found.decay == pytest.approx(0.5, abs=0.02)
    other = torch.stack([world.labels[:, 0], torch.randint(16, (5000,), generator=rng.stream(seed, "other"))], 1)
    assert of(world.activations.values, other, seed, 20).collinear == 0


def test_what_cannot_be_asked():
    h = torch.randn(400, 3, generator=rng.stream(0, "h"))
    one = torch.randint(3, (400, 1), generator=rng.stream(0, "one"))
    with pytest.raises(ConfigError, match="1 variables"):
        of(h, one, 0)
    with pytest.raises(ConfigError):
        of(h, torch.cat([one, torch.zeros(400, 1, dtype=torch.long)], 1), 0)
    assert math.isnan(of(h, torch.randint(2, (400, 2), generator=rng.stream(0, "two")), 0).collinear)
