import math

import pytest
import torch

from digon import rng
from digon.explain import choices, counts, signs


def test_always_none_is_what_an_explanation_has_to_beat():
    texts = [(True, True)] * 4 + [(False, False)] * 10
    assert choices.always_none(texts) == pytest.approx(10 / 14)
    assert choices.always_none(texts) == pytest.approx(0.7143, abs=1e-4)
    assert choices.always_none(texts, choices.balanced) == 0.5
    perfect = choices.measured("detection", texts, choices.accuracy, "x")
    assert (perfect.value, perfect.null) == (1.0, pytest.approx(10 / 14))
    silent = choices.measured("detection", [(t, False) for t, _ in texts], choices.balanced, "x")
    assert (silent.value, silent.null) == (0.5, 0.5)


def test_answers_that_cannot_be_read_widen_the_ends():
    found = choices.measured("d", [(True, True), (True, None), (False, False), (False, True)], choices.accuracy, "x")
    assert (found.value, found.low, found.high, found.n) == (pytest.approx(2 / 3), 0.5, 0.75, 3)
    assert math.isnan(choices.measured("d", [], choices.accuracy, "x").value)
    assert math.isnan(choices.measured("d", [(True, True)], choices.balanced, "x").value)


def unit(name):
    return torch.randn(200_000, generator=rng.stream(0, name))


def test_tails_of_a_normal_unit_are_one_and_a_half_and_one_side_is_explained():
    z = unit("z")
    found = signs.sides(torch.stack([z, -2 * z + 7], 1))
    assert found.upper.tolist() == pytest.approx([1.5, 1.5], rel=0.03)
    assert found.both.tolist() == [False, False]


def test_the_heavier_side_is_explained_and_both_only_if_both_are_heavy():
    z, rare = unit("z"), (torch.rand(200_000, generator=rng.stream(0, "r")) < 0.01).float()
    values = torch.stack([z + 12 * rare, z - 12 * rare, z + 12 * rare - 12 * rare.roll(7), z.relu(), 0 * z], 1)
    found = signs.sides(values)
    assert found.sign.tolist() == [1, -1, found.sign[2], 1, 1]
    assert found.both.tolist() == [False, False, True, False, False]
    units, sign = signs.expanded(found)
    assert units.tolist() == [0, 1, 2, 2, 3, 4]
    assert sorted(sign[2:4].tolist()) == [-1, 1]
    assert [found.statement(u).split(" ", 2)[1] for u in (0, 1)] == ["upper", "lower"]
    assert found.statement(2).startswith("both")
    assert "never varies" in found.statement(4)


@pytest.mark.parametrize("seed", range(3))
def test_of_units_without_explanation_as_many_are_false_as_are_found(seed):
    null = 0.3 * torch.randn(200, 2000, generator=rng.stream(seed, "null"))
    rho = 0.3 * torch.randn(2000, generator=rng.stream(seed, "rho"))
    number, share = counts.count_above(rho, null, 0.5)
    assert number.value == pytest.approx(number.null, rel=0.35)
    assert number.p > 0.01
    assert share.value == pytest.approx(1, abs=0.25)


def test_explained_units_are_found_with_few_false_ones():
    null = 0.3 * torch.randn(200, 2000, generator=rng.stream(0, "null"))
    rho = 0.3 * torch.randn(2000, generator=rng.stream(0, "rho"))
    rho[:300] = 0.95
    rho[-1] = math.nan
    number, share = counts.count_above(rho, null, 0.8, (rho - 0.2, rho + 0.2))
    # by chance P(z ≥ .8/.3) = .00383 of 2,000
    assert number.null == pytest.approx(7.7, abs=0.3)
    assert 300 <= number.value <= 320
    assert number.low < number.value <= number.high
    assert number.p == pytest.approx(1 / 201)
    assert share.value == pytest.approx(number.null / number.value, rel=1e-9)
    assert share.value < share.high < 0.04
    none, empty = counts.count_above(rho * 0, null, 0.8)
    assert (none.value, math.isnan(empty.value)) == (0, True)
