import math

import numpy as np
import pytest
import torch

from digon import rng
from digon.measures import stats


def clustered(seed, docs=60, rows=20):
    """Rows that share a document effect: mean 0, far fewer independent draws than rows."""
    g = rng.stream(seed, "clustered")
    effect = torch.randn(docs, 1, generator=g).repeat_interleave(rows, 0)
    return effect + 0.3 * torch.randn(docs * rows, 1, generator=g), torch.arange(docs).repeat_interleave(rows)


def mean_interval(values, owners, count, seed):
    sums = torch.stack(
        [stats.document_sums(torch.ones_like(values), owners, count), stats.document_sums(values, owners, count)], 1
    )
    return stats.bootstrap_interval(sums, lambda s: s[..., 1, :] / s[..., 0, :], rng.stream(seed, "bootstrap"))


def test_document_bootstrap_covers_where_rows_do_not():
    covered = {"documents": 0, "rows": 0}
    trials = 150
    for seed in range(trials):
        values, documents = clustered(seed)
        for name, owners in {"documents": documents, "rows": torch.arange(len(values))}.items():
            low, high = mean_interval(values, owners, int(owners.max()) + 1, seed)
            covered[name] += bool(low <= 0 <= high)
    assert 0.88 <= covered["documents"] / trials <= 0.99
    assert covered["rows"] / trials < 0.6


def test_bootstrap_interval_matches_the_closed_form_of_a_mean():
    x = torch.randn(400, 3, generator=rng.stream(0, "x"))
    low, high = mean_interval(x, torch.arange(400), 400, 0)
    reach = 1.96 * x.std(0) / 20
    torch.testing.assert_close((high - low).float() / 2, reach, rtol=0.2, atol=0)


def test_totals_of_draws_are_those_of_documents_taken_one_by_one():
    sums = torch.randn(7, 2, 3, generator=rng.stream(0, "s"), dtype=torch.float64)
    found = stats.resampled(sums, rng.stream(1, "r"), 20)
    picks = torch.randint(7, (20, 7), generator=rng.stream(1, "r"))
    torch.testing.assert_close(found, torch.stack([sums[row].sum(0) for row in picks]))


def test_a_sample_drawn_again_is_as_sure_as_its_standard_error():
    sample = rng.numpy_stream(0, "sample").normal(3.0, 2.0, 900)
    low, high = stats.sample_interval(sample, lambda v: v.mean(-1), rng.numpy_stream(0, "again"), 4000)
    reach = 1.96 * sample.std() / 30
    assert (low, high) == pytest.approx((sample.mean() - reach, sample.mean() + reach), abs=0.1 * reach)
    columns = np.stack([sample, 2 * sample], 1)
    both = stats.sample_interval(columns, lambda v: v.mean(1), rng.numpy_stream(0, "again"), 4000)
    assert both[0].tolist() == pytest.approx([low, 2 * low])


def test_an_interval_without_enough_draws_is_missing():
    sums = torch.ones(10, 1, 2, dtype=torch.float64)
    low, high = stats.bootstrap_interval(sums, lambda s: s[..., 0, :] * math.nan, rng.stream(0, "n"))
    assert low.isnan().all()
    assert high.isnan().all()


def test_jackknife_of_a_mean_is_the_student_interval():
    groups = torch.randn(20, 4, generator=rng.stream(1, "g"), dtype=torch.float64)
    left_out = (groups.sum(0) - groups) / 19
    low, high = stats.jackknife_interval(groups.mean(0), left_out)
    expected = 2.093024 * groups.std(0) / 20**0.5
    torch.testing.assert_close((high - low) / 2, expected, rtol=1e-5, atol=0)


def test_document_groups_are_nearly_equal():
    counts = stats.document_groups(103, 20, rng.stream(0, "g")).bincount()
    assert counts.min() >= 5
    assert counts.max() <= 6


def test_permutation_p_is_uniform_under_the_null_and_never_zero():
    draws = torch.randn(100, 2000, generator=rng.stream(0, "p"))
    p = stats.permutation_p(draws[0], draws[1:])
    assert p.min() >= 0.01
    assert abs(float((p <= 0.2).float().mean()) - 0.2) < 0.03
    assert stats.permutation_p(torch.tensor(math.nan), torch.zeros(9)).isnan()


def test_benjamini_hochberg_by_hand():
    p = torch.tensor([0.001, 0.02, 0.03, 0.8, math.nan])
    assert stats.benjamini_hochberg(p).tolist() == [True, True, True, False, False]
    assert not stats.benjamini_hochberg(torch.tensor([math.nan])).any()


@pytest.mark.parametrize("seed", range(3))
def test_false_discoveries_stay_below_the_level(seed):
    g = rng.stream(seed, "bh")
    null = torch.rand(900, generator=g)
    real = 1e-4 * torch.rand(100, generator=g)
    rejected = stats.benjamini_hochberg(torch.cat([null, real]))
    assert rejected[900:].all()
    assert float(rejected[:900].sum() / rejected.sum()) < 0.12


def test_sums_of_batches_are_the_sums_of_all():
    x = torch.rand(2000, 3, generator=rng.stream(0, "batches"))
    owner = torch.randint(40, (2000,), generator=rng.stream(1, "batches"))
    expected = torch.zeros(40, 3, dtype=torch.float64).index_add_(0, owner, x.double())
    torch.testing.assert_close(stats.document_sums(x, owner, 40), expected, rtol=1e-6, atol=0)
    running = stats.document_sums(x[:700], owner[:700], 40)
    stats.document_sums(x[700:], owner[700:], 40, into=running)
    torch.testing.assert_close(running, expected, rtol=1e-6, atol=0)


def test_a_measurement_keeps_its_provenance():
    found = stats.to_measurement("fvu", torch.tensor(0.25), None, 9, method="rows", null=1.0)
    assert (found.value, found.n, found.method, found.null) == (0.25, 9, "rows", 1.0)
    assert math.isnan(found.low)
