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
