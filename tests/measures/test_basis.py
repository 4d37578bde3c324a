import pytest
import torch

from digon import rng
from digon.measures import basis
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_rotation_test_tells_neurons_from_directions(seed):
    z = {
        make.__name__: basis.rotation_test(make(8000, 12, seed).activations.values, rng.stream(seed, "r"))
        for make in (causes.null, causes.monosemantic, causes.rotated, causes.superposition)
    }
    assert z["monosemantic"].z > 20
    assert z["monosemantic"].p == pytest.approx(1 / 40)
    for name in ("null", "rotated", "superposition"):
        assert abs(z[name].z) < 6
    assert sum(z[name].z for name in ("null", "rotated", "superposition")) < 10


def test_rotation_test_ignores_the_scale_of_units():
    x = causes.monosemantic(4000, 8, 0).activations.values
    scaled = x * torch.logspace(-3, 3, 8)
    one, two = (basis.rotation_test(v, rng.stream(0, "s")).statistic for v in (x, scaled))
    assert one == pytest.approx(two, rel=1e-3)


def test_null_p_values_spread():
    p = [
        basis.rotation_test(torch.randn(600, 6, generator=rng.stream(s, "n")), rng.stream(s, "q"), 19).p
        for s in range(60)
    ]
    assert 0.35 < sum(p) / 60 < 0.65
    assert sum(v <= 0.1 for v in p) < 15


def test_whitening_gives_the_identity_within_the_rank():
    g = rng.stream(0, "w")
    x = torch.randn(3000, 5, generator=g) @ torch.randn(5, 5, generator=g)
    white = basis.zca_whiten(x)
    torch.testing.assert_close(white.T @ white / 3000, torch.eye(5), atol=1e-3, rtol=0)
    # symmetric: each axis stays with its unit
    corr = torch.corrcoef(torch.cat([x, white], 1).T)[:5, 5:]
    assert (corr.diagonal() > 0).all()
    dependent = torch.cat([x, x[:, :1], torch.zeros(3000, 1)], 1)
    white = basis.zca_whiten(dependent)
    eigenvalues = torch.linalg.eigvalsh((white.T @ white / 3000).double())
    torch.testing.assert_close(eigenvalues, torch.tensor([0, 0, 1, 1, 1, 1, 1]).double(), atol=1e-3, rtol=0)


def test_haar_is_orthogonal_and_centered():
    q = torch.stack([basis.haar(4, rng.stream(i, "haar")) for i in range(400)])
    torch.testing.assert_close(q @ q.mT, torch.eye(4).expand_as(q), atol=1e-5, rtol=0)
    assert q.mean(0).abs().max() < 0.1


def test_token_kurtosis_of_gaussian_rows():
    k = basis.token_kurtosis(torch.randn(20_000, 16, generator=rng.stream(0, "k"))).mean()
    # rows are centered, which leaves 15 degrees of freedom: 3 (d − 1)/(d + 1) with d = 16
    assert float(k) == pytest.approx(3 * 15 / 17, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_residual_dependence_separates_independent_from_overcomplete(seed):
    found = {}
    for make in (causes.rotated, causes.superposition):
        acts = make(8000, 8, seed).activations
        found[make.__name__] = basis.residual_dependence(acts.values, acts.documents, seed, permutations=49)
    assert found["rotated"].excess < 2
    assert found["rotated"].gaussian_share == 0
    assert found["superposition"].excess > 5
    assert found["superposition"].p == pytest.approx(1 / 50)
    assert found["rotated"].alignment < 0.9
