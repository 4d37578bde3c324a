import numpy as np
import pytest
import torch

from digon import rng
from digon.explain import batches, moments, scorers, sets
from digon.explain.exemplars import Excerpts
from digon.explain.splits import NAMES

DOCUMENTS, LENGTH = 200, 32


@pytest.fixture(scope="module")
def excerpts():
    row = torch.arange(DOCUMENTS * LENGTH)
    return Excerpts.of(row // LENGTH, row % LENGTH, [f"doc{i}" for i in range(DOCUMENTS)], 0, 16)


def noise(*shape, name="x", seed=0):
    return torch.randn(*shape, generator=rng.stream(seed, name))


def pair(units=6, slope=0.6, seed=0):
    m = noise(DOCUMENTS * LENGTH, units, name="m", seed=seed)
    return slope * m + (1 - slope**2) ** 0.5 * noise(DOCUMENTS * LENGTH, units, name="e", seed=seed), m


def test_many_units_score_as_each_of_them_alone(excerpts):
    real, simulated = pair()
    found = batches.score_units(real, {"a": simulated, "b": -simulated}, excerpts, seed=3)
    chosen = sets.scoring_sets(excerpts, excerpts.maxima(real), 3)
    for unit in range(6):
        mine = chosen.of(unit)
        rows = excerpts.rows(torch.cat([mine.top, mine.beside]))
        numpy = np.corrcoef(real[rows, unit].numpy(), simulated[rows, unit].numpy())[0, 1]
        record = found["a"].records[unit]
        assert record.top_and_random.value == pytest.approx(numpy, abs=1e-6)
        assert found["b"].records[unit].top_and_random.value == pytest.approx(-numpy, abs=1e-6)
        test = excerpts.row_split("test")
        assert record.population.value == pytest.approx(
            np.corrcoef(real[test, unit].numpy(), simulated[test, unit].numpy())[0, 1], abs=1e-6
        )
        alone = scorers.score(real[:, unit], simulated[:, unit], excerpts, mine, rng.stream(0, "s"))
        assert alone.random_only.value == pytest.approx(record.random_only.value, abs=1e-12)
        assert alone.top_and_random.low == pytest.approx(record.top_and_random.low, abs=0.1)
    part = batches.score_units(real[:, 4:], {"a": simulated[:, 4:]}, excerpts, seed=3, first=4)["a"]
    for mine, whole in zip(part.records, found["a"].records[4:], strict=True):
        for name in ("top_and_random", "random_only", "population", "permuted"):
            first, again = getattr(mine, name), getattr(whole, name)
            assert (first.value, first.low) == pytest.approx((again.value, again.low), abs=1e-12)
    assert torch.allclose(part.null, found["a"].null[:, 4:], atol=1e-12)


def test_permutations_agree_with_moving_the_values_about(excerpts):
    real, simulated = pair(1)
    chosen = sets.scoring_sets(excerpts, excerpts.maxima(real))
    view = batches.View(real, excerpts, (chosen.top, chosen.beside))
    null = moments.permuted(view.paired(simulated, cross=True), view.present, rng.stream(0, "p"))
    a, m = view.real[0].numpy(), view.take(simulated)[0].numpy()
    order = torch.rand(200, len(a), generator=rng.stream(0, "p"), dtype=torch.float64).argsort(1)
    naive = [np.corrcoef(a.ravel(), m[o].ravel())[0, 1] for o in order.numpy()]
    assert null[:, 0].tolist() == pytest.approx(naive, abs=1e-6)


def test_chance_is_silent_on_noise_and_loud_on_an_explanation(excerpts):
    below = 0
    for seed in range(3):
        real, _ = pair(40, seed=seed)
        guess = noise(DOCUMENTS * LENGTH, 40, name="guess", seed=seed)
        found = batches.score_units(real, {"guess": guess, "half": real + guess}, excerpts, seed)
        p = torch.tensor([r.permuted.p for r in found["guess"].records])
        below += int((p < 0.05).sum())
        assert all(r.permuted.p == pytest.approx(1 / 201) for r in found["half"].records)
        assert float(found["guess"].null.mean()) == pytest.approx(0, abs=0.02)
    assert below <= 14  # 6 of 120 are expected; 14 would be exceeded once in 1,000


def test_explained_variance_after_the_best_line_is_rho_squared():
    a, m = (noise(500, name=name).double() for name in "am")
    a = 3 + 0.5 * a + 2 * m
    every = torch.ones(500, dtype=torch.bool)
    sums = moments.moments(a, m, every).sum(0)[:, None]
    line = moments.line_of(sums)
    slope, offset = np.polyfit(m.numpy(), a.numpy(), 1)
    assert [float(v) for v in line] == pytest.approx([offset, slope], abs=1e-9)
    rho = float(moments.correlation_of(sums)[0])
    assert float(moments.explained_of(sums, line)[0]) == pytest.approx(rho**2, abs=1e-9)
    # matching the deviation in the place of the best line explains 2ρ − 1: .7084 becomes .4167, not .5018
    scale = a.std() / m.std()
    matched = (a.mean() - scale * m.mean()).reshape(1), scale.reshape(1)
    assert float(moments.explained_of(sums, matched)[0]) == pytest.approx(2 * rho - 1, abs=1e-9)
    assert pytest.approx((0.5018, 0.4168), abs=1e-4) == (0.7084**2, 2 * 0.7084 - 1)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-6, 0.0), (1e3, -5e3)])
def test_calibration_finds_the_scale_of_the_unit(excerpts, scale, offset):
    real, simulated = pair(4)
    given = scale * simulated + offset
    mapped = scorers.calibrated(real, given, excerpts)
    calibrate = excerpts.row_split("calibrate")
    for unit in range(4):
        slope, level = np.polyfit(simulated[calibrate, unit].numpy(), real[calibrate, unit].numpy(), 1)
        assert mapped[:, unit].numpy() == pytest.approx(slope * simulated[:, unit].numpy() + level, abs=2e-3)
    found = batches.score_units(real, {"a": given}, excerpts)["a"]
    for record in found.records:
        # on other documents than those of the line a little less than ρ², on average
        assert record.further[0].value == pytest.approx(record.population.value**2, abs=0.02)
        assert record.further[0].value <= record.population.value**2 + 1e-9
    flat = scorers.calibrated(real, 0 * simulated + 7, excerpts)
    assert flat[0].tolist() == pytest.approx(real[calibrate].mean(0).tolist(), abs=1e-6)


def test_missing_values_are_left_out_and_counted_never_zero(excerpts):
    real, simulated = pair(2)
    gone = torch.rand(len(real), generator=rng.stream(0, "gone")) < 0.3
    holes = torch.where(gone[:, None], torch.nan, simulated)
    found = batches.score_units(real, {"a": holes}, excerpts)["a"]
    test = excerpts.row_split("test") & ~gone
    for unit, record in enumerate(found.records):
        kept = np.corrcoef(real[test, unit].numpy(), simulated[test, unit].numpy())[0, 1]
        assert record.population.value == pytest.approx(kept, abs=1e-6)
        assert record.population.n == int(test.sum())
        assert record.simulated_share == pytest.approx(0.7, abs=0.12)
    nothing = batches.score_units(real, {"a": torch.full_like(real, torch.nan)}, excerpts)["a"].records[0]
    assert nothing.simulated_share == 0
    assert np.isnan(nothing.top_and_random.value)


def test_weighted_excerpts_estimate_what_the_whole_split_scores():
    row = torch.arange(500 * 32)
    excerpts = Excerpts.of(row // 32, row % 32, [f"doc{i}" for i in range(500)], 0, 16)
    fires = (torch.rand(len(row), generator=rng.stream(0, "f")) < 0.02).float()
    real, simulated = 3 * fires + noise(len(row)), fires + 0.3 * noise(len(row), name="y")
    whole = scorers.population(real, simulated, excerpts, rng.stream(0, "s"))
    found, covered, extreme = [], 0, []
    for seed in range(60):
        chosen = sets.scoring_sets(excerpts, excerpts.maxima(real[:, None]), seed).of(0)
        one = scorers.weighted(real, simulated, excerpts, chosen, rng.stream(seed, "w"))
        found.append(one.value)
        covered += one.low <= whole.value <= one.high
        rows = excerpts.rows(torch.cat([chosen.top, chosen.beside]))
        extreme.append(scorers.correlation(real[rows], simulated[rows]))
    assert np.mean(found) == pytest.approx(whole.value, abs=0.03)
    assert np.mean(extreme) - whole.value > 3 * abs(np.mean(found) - whole.value)
    assert covered / 60 > 0.8
    assert one.n < whole.n


def test_openai_aggregates_differ_from_means_over_excerpts():
    a, m = torch.tensor([0.0, 1, 10, 11]), torch.tensor([1.0, 0, 11, 10])
    assert [scorers.correlation(a[s], m[s]) for s in (slice(2), slice(2, 4))] == pytest.approx([-1, -1])
    assert scorers.correlation(a, m) == pytest.approx(99 / 101)
    assert scorers.rsquared(torch.full((5,), 3.0), torch.full((5,), 3.0)) == 1
    assert scorers.rsquared(torch.full((5,), 3.0), torch.zeros(5)) == 0
    assert scorers.absolute_explained(torch.tensor([1.0, -3.0]), torch.tensor([0.0, -1.0])) == pytest.approx(1 - 3 / 4)
    assert np.isnan(scorers.rsquared(torch.zeros(2), torch.ones(2)))


def few_of_many(seed=0):
    """100 documents of 4 tokens, all unseen; the unit's largest excerpt, three random ones, and a simulation of these alone."""
    n = 400
    splits = torch.full((100,), NAMES.index("test"))
    ones = Excerpts(
        torch.arange(100) * 4, torch.full((100,), 4), torch.arange(100), splits, [f"doc{i}" for i in range(100)]
    )
    real, simulated = noise(n, seed=seed).exp(), noise(n, name="guess", seed=seed)
    top = int(ones.maxima(real[:, None])[:, 0].argmax())
    random = [i for i in (7, 50, 93, 20) if i != top][:3]
    chosen = sets.ScoringSet(torch.tensor([top]), torch.tensor(random), torch.tensor(random))
    there = torch.zeros(n, dtype=torch.bool)
    there[ones.rows(torch.tensor([top, *random]))] = True
    return ones, chosen, real, torch.where(there, simulated + real, torch.nan)


def by_hand(real, simulated, weight):
    table = np.cov(real.double().numpy(), simulated.double().numpy(), aweights=weight.numpy(), ddof=0)
    return table[0, 1] / (table[0, 0] * table[1, 1]) ** 0.5


def test_the_population_of_a_few_simulated_excerpts_is_weighted_by_what_they_stand_for():
    ones, chosen, real, simulated = few_of_many()
    random, top = chosen.random.tolist(), int(chosen.top)
    simulated[random[0] * 4 + 1] = torch.nan  # a token without an answer
    simulated[random[1] * 4 : random[1] * 4 + 4] = torch.nan  # an excerpt without one
    simulated[top * 4 + 3] = torch.nan
    weight = torch.zeros(400, dtype=torch.float64)
    weight[top * 4 : top * 4 + 3] = 4 / 3  # three tokens stand for the four of the top excerpt
    left = [random[0] * 4 + i for i in (0, 2, 3)] + [random[2] * 4 + i for i in range(4)]
    weight[left] = 99 * 4 / 7  # seven for those of all other excerpts
    kept = weight > 0
    found = scorers.score(real, simulated, ones, chosen, rng.stream(0, "s"))
    assert found.population.value == pytest.approx(by_hand(real[kept], simulated[kept], weight[kept]), abs=1e-9)
    assert found.population.n == 10
    assert "6 of 16 tokens are missing" in found.population.method
    assert found.further == ()
    pooled = np.corrcoef(real[kept].numpy(), simulated[kept].numpy())[0, 1]
    assert abs(found.population.value - pooled) > 0.01
    simulated[top * 4 : top * 4 + 4] = torch.nan  # nothing is known of the top any more
    gone = scorers.score(real, simulated, ones, chosen, rng.stream(0, "s"))
    assert np.isnan(gone.population.value)


def test_missing_answers_do_not_move_the_population_while_zeros_would():
    right, wrong = [], []
    for seed in range(60):
        ones, chosen, real, simulated = few_of_many(seed)
        gone = torch.rand(400, generator=rng.stream(seed, "gone")) < 0.3
        whole = scorers.weighted(real, simulated, ones, chosen, rng.stream(0, "w")).value
        holes = torch.where(gone, torch.nan, simulated)
        right.append(scorers.weighted(real, holes, ones, chosen, rng.stream(0, "w")).value - whole)
        filled = torch.where(gone & simulated.isfinite(), 0.0, simulated)
        wrong.append(scorers.weighted(real, filled, ones, chosen, rng.stream(0, "w")).value - whole)
    right, wrong = np.array(right), np.array(wrong)
    right = right[np.isfinite(right)]  # of some, the whole top excerpt is missing
    assert len(right) > 50
    assert abs(right.mean()) < 4 * right.std() / len(right) ** 0.5
    assert wrong.mean() < -4 * wrong.std() / 60**0.5


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12, 1e9])
def test_correlations_of_columns_do_not_depend_on_their_scales(scale):
    a, b = pair(3)
    expected = [np.corrcoef(a[:, u].numpy(), b[:, u].numpy())[0, 1] for u in range(3)]
    found = moments.correlations(scale * a.double() - 7 * scale, scale * b.double())
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    assert moments.correlations(a, torch.full_like(b, scale)).isnan().all()
    assert moments.correlations(a[:0], b[:0]).isnan().all()


def test_the_other_side_of_a_unit_is_no_baseline_for_it(excerpts):
    real, simulated = pair(2)
    both, guess = (torch.stack([x[:, 0], -x[:, 0], x[:, 1]], 1) for x in (real, simulated))
    apart = batches.score_units(both, {"a": guess}, excerpts, owners=[0, 0, 1])["a"].records
    mixed = batches.score_units(both, {"a": guess}, excerpts)["a"].records
    chosen = sets.scoring_sets(excerpts, excerpts.maxima(both))
    for unit, other in ((0, 2), (1, 2)):
        mine = chosen.of(unit)
        rows = excerpts.rows(torch.cat([mine.top, mine.beside]))
        alone = np.corrcoef(both[rows, unit].numpy(), guess[rows, other].numpy())[0, 1]
        assert apart[unit].baseline.value == pytest.approx(alone, abs=1e-6)
        assert mixed[unit].baseline.value < apart[unit].baseline.value - 0.1
        assert apart[unit].top_and_random == mixed[unit].top_and_random
    assert apart[2] == mixed[2]
    sides = batches.score_units(both[:, :2], {"a": guess[:, :2]}, excerpts, owners=[5, 5])["a"].records
    assert all(record.baseline.method == batches.NOTHING for record in sides)
