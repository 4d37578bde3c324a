import pytest
import scipy.stats
import torch

from digon import rng
from digon.measures import selectivity as s


def token_world(seed, documents=400, rows=50, vocabulary=300, document_effect=1.0):
    """a = f(token) + document effect + noise, with known shares of the variance."""
    g = rng.stream(seed, "tokens")
    n = documents * rows
    owner = torch.arange(n) // rows
    token = torch.randint(vocabulary, (n,), generator=g)
    f = torch.randn(vocabulary, generator=g)
    f = (f - f[token].mean()) / f[token].std()
    effect = document_effect * torch.randn(documents, generator=g)[owner]
    noise = torch.randn(n, generator=g)
    return torch.stack([f[token] + effect + noise, f[token], effect + noise], 1), token, owner


@pytest.mark.parametrize("seed", range(3))
def test_ceiling_is_right_where_the_plug_in_is_not(seed):
    values, token, owner = token_world(seed)
    found = s.context_free_ceiling(values, token, owner, rng.stream(seed, "c"))
    torch.testing.assert_close(found.value, torch.tensor([1 / 3, 1, 0]).double(), atol=0.025, rtol=0)
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    assert found.low[0] < 1 / 3 + 0.02
    assert found.high[0] > 1 / 3 - 0.02
    assert s.plug_in_ceiling(values, token)[2] > 0.01
    assert found.uncovered == 0


def test_rare_tokens_do_not_explain_themselves():
    g = rng.stream(0, "rare")
    values, owner = torch.randn(4000, 2, generator=g), torch.arange(4000) // 20
    token = torch.randint(3000, (4000,), generator=g)
    assert (s.plug_in_ceiling(values, token) > 0.5).all()
    found = s.context_free_ceiling(values, token, owner, g)
    assert (found.value < 0.08).all()
    assert 0.1 < found.uncovered < 0.6


def test_ceiling_of_a_constant_unit_is_missing():
    _, token, owner = token_world(0, documents=40)
    found = s.context_free_ceiling(torch.ones(len(token), 1), token, owner, rng.stream(0, "k"))
    assert found.value.isnan().all()


def test_ceiling_is_invariant_to_scale_and_order():
    values, token, owner = token_world(1, documents=60)
    shuffle = torch.randperm(len(token), generator=rng.stream(0, "o"))
    one = s.context_free_ceiling(values, token, owner, rng.stream(0, "i"))
    two = s.context_free_ceiling(5 * values[shuffle] + 3, token[shuffle], owner[shuffle], rng.stream(0, "i"))
    torch.testing.assert_close(one.value, two.value, atol=1e-5, rtol=0)


def test_power_sums_give_what_scipy_gives():
    x = torch.rand(3000, 4, generator=rng.stream(0, "power")).pow(3) - 0.1
    owner = torch.arange(3000) // 30
    whole = s.power_sums(x, owner, 100).sum(0)
    expected = scipy.stats.kurtosis(x.double().numpy(), axis=0, fisher=False)
    torch.testing.assert_close(s.kurtosis_of(whole), torch.from_numpy(expected), rtol=1e-6, atol=0)
    torch.testing.assert_close(s.density_of(whole), s.density(x))
    assert s.shift_of(whole).abs().max() < 1e-6


def test_kurtosis_of_a_subset_from_its_sums():
    x = torch.randn(2000, 3, generator=rng.stream(0, "sub"))
    owner = torch.arange(2000) // 20
    some = s.power_sums(x, owner, 100)[:50].sum(0)
    expected = scipy.stats.kurtosis(x[:1000].double().numpy(), axis=0, fisher=False)
    torch.testing.assert_close(s.kurtosis_of(some), torch.from_numpy(expected), rtol=1e-6, atol=0)


def test_planted_readings_of_the_simple_numbers():
    g = rng.stream(0, "planted")
    sparse = (torch.rand(50_000, 1, generator=g) < 0.05) * torch.rand(50_000, 1, generator=g)
    gauss = torch.randn(50_000, 1, generator=g)
    sums = s.power_sums(torch.cat([sparse, gauss], 1), torch.arange(50_000) // 50, 1000).sum(0)
    assert s.density_of(sums)[0] == pytest.approx(0.05, abs=0.005)
    assert s.kurtosis_of(sums)[0] > 20
    assert s.kurtosis_of(sums)[1] == pytest.approx(3, abs=0.1)


def test_token_means_by_hand():
    means, counts = s.token_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    assert counts.tolist() == [2, 0, 1]
    assert means[0].item() == 2
    assert means[1].isnan()
    assert means[2].item() == 5


def ceiling_by_loops(values, token, owner):
    """The same estimator, token by token and pair of documents by pair."""
    covered = [t for t in token.unique() if len(owner[token == t].unique()) > 1]
    keep = torch.isin(token, torch.stack(covered))
    x, token, owner = values[keep].double(), token[keep], owner[keep]
    n, conditional = len(x), 0.0
    for t in covered:
        members = token == t
        different = owner[members][:, None] != owner[members][None]
        conditional += members.sum() * torch.outer(x[members], x[members])[different].mean()
    mean = x.mean()
    residual = torch.stack([(x[owner == o] - mean).sum() for o in owner.unique()])
    of_mean = residual.square().sum() / n**2 * len(residual) / (len(residual) - 1)
    square = mean**2 - of_mean
    return (conditional / n - square) / (x.square().mean() - square)


def test_ceiling_and_its_jackknife_match_plain_loops():
    g = rng.stream(0, "loops")
    owner = torch.randint(12, (300,), generator=g).sort().values
    token = torch.randint(60, (300,), generator=g)
    x = torch.randn(60, generator=g)[token] + torch.randn(12, generator=g)[owner] + torch.randn(300, generator=g)
    x = x - x.mean()
    index = s._Index.of(token, owner, 4, rng.stream(1, "loops"))
    whole, left_out = s._chunk(x[:, None], index)
    assert float(whole) == pytest.approx(float(ceiling_by_loops(x, token, owner)), abs=1e-5)
    frequent = torch.randint(5, (300,), generator=g)  # tokens that stay covered whichever group is left out
    index = s._Index.of(frequent, owner, 4, rng.stream(1, "loops"))
    whole, left_out = s._chunk(x[:, None], index)
    for group in range(4):
        rows = index.group_of_document[owner] != group
        expected = ceiling_by_loops(x[rows], frequent[rows], owner[rows])
        assert float(left_out[group, 0]) == pytest.approx(float(expected), abs=1e-5)


def test_ceiling_of_shuffled_tokens_is_zero_within_its_interval():
    values, token, owner = token_world(2, documents=100)
    token = token[torch.randperm(len(token), generator=rng.stream(0, "shuffle"))]
    whole, left_out = s._chunk(values, s._Index.of(token, owner, 20, rng.stream(0, "groups")))
    low, high = s.stats.jackknife_interval(whole, left_out)
    assert (low < 0).all()
    assert (high > 0).all()
    assert whole.abs().max() < 0.01


def test_jackknife_interval_of_the_ceiling_covers():
    covered = 0
    for seed in range(60):
        values, token, owner = token_world(100 + seed, documents=120, rows=30, vocabulary=40)
        found = s.context_free_ceiling(values[:, :1], token, owner, rng.stream(seed, "cover"))
        covered += bool(found.low <= 1 / 3 <= found.high)
    assert 0.88 <= covered / 60 <= 1


def test_tiny_and_constant_units():
    values, token, owner = token_world(3, documents=60)
    tiny = s.context_free_ceiling(values * 1e-8, token, owner, rng.stream(0, "tiny"))
    usual = s.context_free_ceiling(values, token, owner, rng.stream(0, "tiny"))
    torch.testing.assert_close(tiny.value, usual.value, atol=1e-5, rtol=0)
    constant = torch.full((len(token), 1), 0.1)
    assert s.kurtosis_of(s.power_sums(constant, owner, 60).sum(0)).isnan().all()
    assert s.context_free_ceiling(constant, token, owner, rng.stream(0, "k")).value.isnan().all()
