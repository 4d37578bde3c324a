import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA, FastICA

from digon import rng
from digon.coders import classic
from digon.coders.base import Coder, evaluate
from digon.errors import ConfigError, NonFiniteError


@pytest.fixture(scope="module")
def mixed():
    """Three independent skewed sources, mixed into five units."""
    draws = rng.numpy_stream(0, "ica test")
    sources = np.stack([draws.exponential(size=4000) ** p for p in (1.0, 1.5, 2.0)], axis=1)
    sources = (sources - sources.mean(0)) / sources.std(0)
    x = sources @ draws.normal(size=(3, 5)) + draws.normal(size=5)
    return sources, torch.tensor(x, dtype=torch.float32)


def test_every_classic_coder_is_a_coder(mixed):
    _, x = mixed
    for coder in (classic.identity(5), classic.random(5, 3, 0), classic.pca(x, 2, 0), classic.ica(x, 3, 0)):
        assert isinstance(coder, Coder)


def test_identity_returns_what_it_got(mixed):
    _, x = mixed
    coder = classic.identity(5)
    assert torch.equal(coder.encode(x).dense(), x)
    assert torch.equal(coder.decode(coder.encode(x)), x)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_pca_is_scikit_learns_and_optimal(k):
    x = torch.randn(500, 6, generator=rng.stream(1, "x")) @ torch.randn(6, 6, generator=rng.stream(1, "a")) + 5.0
    coder, model = classic.pca(x, k, 0), PCA(k).fit(x.numpy())
    codes = coder.encode(x)
    np.testing.assert_allclose(codes.dense().numpy(), model.transform(x.numpy()), atol=2e-5)
    np.testing.assert_allclose(
        coder.decode(codes).numpy(), model.inverse_transform(model.transform(x.numpy())), atol=2e-5
    )
    # Eckart–Young: no rank-k reconstruction leaves less than the trailing eigenvalues of the scatter matrix.
    values = torch.linalg.eigvalsh((x - x.mean(0)).double().T @ (x - x.mean(0)).double())
    totals = evaluate(coder, x.split(128))
    assert totals.error == pytest.approx(float(values[: 6 - k].sum()), rel=1e-4, abs=1e-6)
    assert totals.spread == pytest.approx(float(values.sum()), rel=1e-6)


def test_ica_finds_planted_sources_with_the_heavy_tail_up(mixed):
    sources, x = mixed
    codes = classic.ica(x, 3, 0).encode(x).dense().numpy()
    r = np.corrcoef(sources.T, codes.T)[:3, 3:]
    rows, columns = linear_sum_assignment(-np.abs(r))
    # The sources are skewed to the right, so the orientation leaves no sign open.
    assert (r[rows, columns] > 0.99).all(), r


def test_ica_is_scikit_learns_up_to_orientation(mixed):
    _, x = mixed
    coder = classic.ica(x, 3, 7)
    state = rng.derive(7, "scikit-learn") % 2**32
    model = FastICA(3, whiten="unit-variance", max_iter=500, random_state=state).fit(x.numpy())
    ours, theirs = coder.encode(x).dense().numpy(), model.transform(x.numpy())
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours * signs, theirs, atol=1e-4)
    back = model.inverse_transform(theirs)
    np.testing.assert_allclose(coder.decode(coder.encode(x)).numpy(), back, atol=1e-3)
    assert ((ours**3).mean(0) > 0).all()


def test_ica_says_when_it_did_not_converge():
    x = torch.randn(300, 8, generator=rng.stream(0, "gauss"))
    # Gaussian data has no independent directions to find: whatever the flag says, codes stay white.
    coder = classic.ica(x, 8, 0)
    codes = coder.encode(x).dense()
    torch.testing.assert_close(codes.T @ codes / 300, torch.eye(8), atol=0.02, rtol=0)
    assert not coder.converged


def test_random_bases():
    tall, square, wide = (classic.random(6, k, 3) for k in (4, 6, 9))
    torch.testing.assert_close(tall.dictionary.atoms @ tall.dictionary.atoms.T, torch.eye(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(wide.dictionary.atoms.norm(dim=1), torch.ones(9))
    x = torch.randn(20, 6, generator=rng.stream(0, "x"))
    for coder in (square, wide):
        torch.testing.assert_close(coder.decode(coder.encode(x)), x, atol=1e-5, rtol=0)
    assert not torch.equal(square.dictionary.atoms, classic.random(6, 6, 4).dictionary.atoms)


def test_random_basis_is_haar():
    # The first coordinate of a Haar vector in d dimensions has mean 0 and variance 1/d, its fourth moment 3/(d(d+2)).
    d = 4
    first = torch.stack([classic.random(d, d, seed).dictionary.atoms[0] for seed in range(1500)])
    assert first.mean(0).abs().max() < 4 * (1 / d / 1500) ** 0.5
    assert float(first.pow(4).mean()) == pytest.approx(3 / (d * (d + 2)), rel=0.06)


def test_refusals(mixed):
    _, x = mixed
    with pytest.raises(ConfigError, match="9 components"):
        classic.pca(x, 9, 0)
    with pytest.raises(ConfigError):
        classic.random(3, 0, 0)
    with pytest.raises(NonFiniteError):
        classic.ica(torch.full((10, 2), torch.nan), 2, 0)
