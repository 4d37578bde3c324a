"""Bad input is named, repaired or refused; good input passes unchanged."""

import math

import pytest
import torch

from digon.diagnose.preflight import preflight
from digon.tensors import Activations
from digon.worlds import causes

NAN = float("nan")


def noise(n=2000, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def measured(found):
    return {m.name: m.value for m in found.measurements}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clean_activations_pass_unchanged(seed):
    world = causes.superposition(4000, 16, seed, 2.0, active=1.0)
    found = preflight(world.activations)
    assert found.refused == ""
    assert found.cautions == ()
    torch.testing.assert_close(found.activations.values, world.activations.values)
    assert found.kept_units.tolist() == list(range(16))
    assert bool(found.kept_rows.all())
    assert found.activations.documents is not None
    assert found.distinct_rows == len(world.activations.values.unique(dim=0))
    assert measured(found)["numeric_rank"] == 16


def test_rows_that_are_not_finite_are_named_and_left_out():
    values = noise()
    values[3, 1], values[7, 0] = NAN, math.inf
    given = Activations(values, documents=torch.arange(2000) // 20)
    found = preflight(given)
    assert found.refused == ""
    assert "2 rows of 2000 with NaN or infinity (3, 7) left out." in found.notes
    assert len(found.activations) == 1998
    assert found.kept_rows.nonzero().flatten().tolist() == [i for i in range(2000) if i not in (3, 7)]
    assert torch.equal(found.activations.documents, given.documents[found.kept_rows])


def test_many_of_them_are_refused_with_the_units_that_hold_them():
    values = noise()
    values[:50, 5] = NAN
    assert "in 1 unit (5)" in preflight(Activations(values)).refused
    values[:, 2] = NAN
    assert "2 units (2, 5)" in preflight(Activations(values)).refused


@pytest.mark.parametrize(("n", "d"), [(0, 3), (5, 0), (99, 4), (100, 26), (20, 64)])
def test_too_few_rows_are_refused(n, d):
    found = preflight(Activations(noise(n, d)))
    assert found.refused
    assert ("fewer rows than units" in found.refused) == (0 < n < d)


def test_few_rows_are_a_caution():
    found = preflight(Activations(noise(150, 10)))
    assert not found.refused
    assert any("150 rows of 10 units are few" in text for text in found.cautions)
    assert not preflight(Activations(noise(200, 10))).cautions


def test_units_that_never_vary_are_left_out_even_if_arithmetic_wobbles():
    values = noise()
    values[:, 2] = 7.0
    values[:, 4] = 1e6 + 0.05 * noise(d=1)[:, 0]  # float32 resolves steps of 0.06 there
    found = preflight(Activations(values))
    assert any("2 units that never vary left out (2, 4)" in note for note in found.notes)
    assert found.kept_units.tolist() == [0, 1, 3, 5, 6, 7]
    assert found.activations.d == 6


def test_one_unit_or_none_is_refused():
    values = torch.zeros(500, 3)
    assert "0 units that vary" in preflight(Activations(values)).refused.replace("varies", "vary")
    values[:, 1] = noise(500, 1)[:, 0]
    assert "1 unit that varies" in preflight(Activations(values)).refused


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_are_named_up_to_scale_and_kept(seed):
    values = noise(3000, 10, seed)
    values[:, 7] = 5 - 3 * values[:, 2]
    values[:, 8] = values[:, 1] + 0.1 * noise(3000, 1, seed + 9)[:, 0]  # a close relative is no copy
    found = preflight(Activations(values))
    assert any("1 unit repeats another one up to scale: 7 of 2; all kept." in note for note in found.notes)
    assert any("span 9 dimensions: 1 of them is a linear combination" in note for note in found.notes)
    assert found.activations.d == 10


def test_copied_rows_are_counted_and_a_handful_of_rows_copied_many_times_is_a_caution():
    few = noise(50).repeat(40, 1)
    found = preflight(Activations(few))
    assert found.distinct_rows == 50
    assert any("50 of 2000 rows are distinct; one row alone occurs 40 times" in text for text in found.cautions)
    mixed = preflight(Activations(torch.cat([noise(), noise()[:100]])))
    assert mixed.distinct_rows == 2000
    assert mixed.cautions == ()
    signs = torch.tensor([[0.0, 1.0], [-0.0, 1.0]]).repeat(100, 1)
    signs[::3, 0] = 1.0
    assert preflight(Activations(signs)).refused  # the second unit never varies
    assert preflight(Activations(torch.cat([signs, signs.flip(0)], 1) + noise(200, 4) * 0)).distinct_rows <= 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_few_massive_rows_are_set_aside(seed):
    values = noise(5000, 16, seed)
    scatter = float(values.std())
    values[[11, 4000]] *= 1e4
    found = preflight(Activations(values))
    assert any("2 rows (11, 4000) with 100 % of the variance set aside" in note for note in found.notes)
    assert (~found.kept_rows).nonzero().flatten().tolist() == [11, 4000]
    assert float(found.activations.values.std()) == pytest.approx(scatter, rel=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sparse_rows_and_heavy_tails_are_not_massive(seed):
    for world in (
        causes.rotated(20_000, 16, seed, density=0.0005),
        causes.superposition(20_000, 16, seed, active=0.1, values="half-normal"),
        causes.null(20_000, 16, seed, "elliptical"),
    ):
        assert bool(preflight(world.activations).kept_rows.all())


def test_offsets_and_scales_cost_no_digits():
    values = noise(3000, 6).double()
    sizes, offsets = [[1e-9, 1.0, 1.0, 1.0, 1e6, 1.0], [0.0, 1e8, 1e8, 1e8, 1e8, 1e8]]
    far = values * torch.tensor(sizes, dtype=torch.float64) + torch.tensor(offsets, dtype=torch.float64)
    found = preflight(Activations(far))
    assert not found.refused
    kept = found.activations.values.double()
    standard = lambda x: (x - x.mean(0)) / x.std(0, correction=0)  # noqa: E731
    torch.testing.assert_close(standard(kept), standard(values), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.restore(kept), far, atol=0, rtol=1e-5)
    assert any("5 units with large offsets centered, outlying units scaled" in note for note in found.notes)
    assert any("over 10 times the median unit's scatter (4)" in note for note in found.notes)
    rounded = preflight(Activations((values + 1e6).float()))
    assert any("an offset has eaten their digits" in note for note in rounded.notes)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("d", [8, 64])
def test_elliptical_clouds_are_told_from_sparse_features(seed, d):
    said = "in which fourth moments see no features"
    elliptical = preflight(causes.null(20_000, d, seed, "elliptical", degrees=3.0).activations)
    assert any(said in note for note in elliptical.notes)
    assert measured(elliptical)["length_kurtosis"] > 1.5
    for world in (
        causes.null(20_000, d, seed),
        causes.rotated(20_000, d, seed),
        causes.rotated(20_000, d, seed, dependence="hierarchy"),
        causes.superposition(20_000, d, seed, active=2.0),
    ):
        assert not any(said in note for note in preflight(world.activations).notes)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tail_index_and_rank_are_what_was_put_in(seed):
    heavy = preflight(causes.null(50_000, 8, seed, "elliptical", degrees=3.0).activations)
    assert measured(heavy)["tail_index"] == pytest.approx(3.0, rel=0.25)
    world = causes.observed(causes.rotated(20_000, 16, seed, n=6), ["noise"], seed)
    assert measured(preflight(world.activations))["noise_rank"] == 6
    full = causes.observed(causes.rotated(20_000, 16, seed), ["noise"], seed)
    assert measured(preflight(full.activations))["noise_rank"] == 16
    assert measured(preflight(causes.null(20_000, 16, seed).activations))["noise_rank"] == 16


def test_normalized_rows_are_named():
    world = causes.observed(causes.rotated(5000, 16, 0, density=0.3), ["row_normalization"], 0)
    assert any("have one length" in note for note in preflight(world.activations).notes)
    assert not any("have one length" in note for note in preflight(Activations(noise())).notes)


def test_the_same_whatever_the_order_of_pieces(monkeypatch):
    values = noise(3000, 7)
    values[:, 6] = values[:, 0] * 2
    values[5] = NAN
    whole = preflight(Activations(values))
    monkeypatch.setattr("digon.diagnose.preflight.PIECE", 500)
    small = preflight(Activations(values))
    assert small.notes == whole.notes
    assert small.distinct_rows == whole.distinct_rows
    torch.testing.assert_close(small.activations.values, whole.activations.values)


def test_a_network_reads_what_was_given():
    values = noise(1000, 5)
    values[:, 1], values[:, 3] = 7.0, 50 * values[:, 3]
    values[:, 4] += 100
    found = preflight(Activations(values))
    assert found.kept_units.tolist() == [0, 2, 3, 4]
    torch.testing.assert_close(found.restore(found.activations.values), values, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.activations.values[:, 0], values[:, 0])  # what is not far stays
    assert float(found.activations.values[:, 2].std()) == pytest.approx(1, abs=0.1)
    assert abs(float(found.activations.values[:, 3].mean())) < 1e-3
    moved = found.restore(found.activations.values + 1)
    torch.testing.assert_close(moved - values, torch.tensor([1.0, 0.0, 1.0, float(values[:, 3].std() / found.activations.values[:, 2].std()), 1.0]).expand(1000, 5), atol=1e-3, rtol=1e-3)  # fmt: skip
