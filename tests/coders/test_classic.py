import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA, FastICA

from digon import rng
from digon.coders import classic
from digon.coders.base import Coder, evaluate
from digon.errors import ConfigError, NonFiniteError
from digon.worlds import causes


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
    bases = (classic.identity(5), classic.random(5, 3, 0), classic.pca(x, 2, 0), classic.ica(x, 3, 0))
    learned = (classic.dictionary_learning(x, 6, 2, 0), classic.nmf(x.abs(), 3, 0), classic.kmeans(x, 4, 0))
    for coder in (*bases, *learned):
        assert isinstance(coder, Coder)
        codes = coder.encode(x[:7])
        assert codes.dense().shape == (7, len(coder.dictionary))
        assert coder.decode(codes).shape == (7, 5)


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


def matched(atoms, truth):
    """Cosine of every true direction with its own atom, one to one."""
    cosines = torch.nn.functional.normalize(atoms, dim=1) @ torch.nn.functional.normalize(truth, dim=1).T
    return cosines.numpy()[linear_sum_assignment(-cosines.numpy())]


@pytest.mark.parametrize("seed", range(3))
def test_dictionary_learning_finds_features_in_superposition(seed):
    world = causes.superposition(4000, 16, seed, load=1.5, active=2.0)
    x = world.activations.values + 0.7  # the densest point is where nothing is active
    coder = classic.dictionary_learning(x, 24, 3, seed, epochs=5)
    torch.testing.assert_close(coder.dictionary.bias, torch.full((16,), 0.7), atol=1e-3, rtol=0)
    torch.testing.assert_close(coder.dictionary.atoms.norm(dim=1), torch.ones(24), atol=1e-4, rtol=0)
    found = matched(coder.dictionary.atoms, world.truth.atoms)
    assert found.mean() > 0.9
    assert (found > 0.95).mean() > 0.75
    totals = evaluate(coder, x.split(1000))
    assert totals.fvu < 0.1
    assert totals.l0 <= 3
    # the same seed gives the same atoms
    again = classic.dictionary_learning(x, 24, 3, seed, epochs=5)
    assert torch.equal(again.dictionary.atoms, coder.dictionary.atoms)


@pytest.mark.parametrize("seed", range(3))
def test_dictionary_learning_finds_no_sparse_code_of_noise(seed):
    """The null: codes of Gaussian rows are no better than over directions that were drawn."""
    x = causes.null(4000, 16, seed, "isotropic").activations.values
    fresh = causes.null(2000, 16, seed + 100, "isotropic").activations.values
    learned = classic.dictionary_learning(x, 24, 2, seed, positive=False, epochs=5)
    drawn = classic.orthogonal(classic.random(16, 24, seed).dictionary, 2, positive=False)
    gained = evaluate(drawn, [fresh]).fvu - evaluate(learned, [fresh]).fvu
    assert -0.02 < gained < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_nmf_finds_non_negative_parts_and_codes_as_scikit_learn_does(seed):
    draws = rng.numpy_stream(seed, "nmf test")
    parts = draws.exponential(size=(5, 12)) * (draws.random((5, 12)) < 0.4)
    loads = draws.exponential(size=(600, 5)) * (draws.random((600, 5)) < 0.4)
    x = torch.tensor(loads @ parts, dtype=torch.float32)
    coder = classic.nmf(x, 5, seed)
    assert coder.converged
    assert (coder.dictionary.atoms >= 0).all()
    codes = coder.encode(x).dense()
    assert (codes >= 0).all()
    assert evaluate(coder, [x]).fvu < 1e-3
    assert matched(coder.dictionary.atoms, torch.tensor(parts, dtype=torch.float32)).min() > 0.98
    # any codes of scikit-learn leave no less: ours are the least squares solution over the same atoms
    model = NMF(5, max_iter=1000, random_state=rng.derive(seed, "scikit-learn") % 2**32).fit(x.numpy())
    error = np.square(model.inverse_transform(model.transform(x.numpy())) - x.numpy()).sum(1)
    ours = (coder.decode(coder.encode(x)) - x).square().sum(1).numpy()
    assert (ours <= error + 1e-6).all()


def test_nmf_says_when_it_did_not_converge():
    x = torch.rand(200, 30, generator=rng.stream(0, "x"))
    limited = lambda *a, **settings: NMF(*a, **(settings | {"max_iter": 2}))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classic, "NMF", limited)
        assert not classic.nmf(x, 10, 0).converged


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_finds_separate_clusters(seed):
    g = rng.stream(seed, "clusters")
    centers = 10 * torch.randn(6, 4, generator=g)
    member = torch.randint(6, (900,), generator=g)
    x = centers[member] + 0.1 * torch.randn(900, 4, generator=g)
    coder = classic.kmeans(x, 6, seed)
    codes = coder.encode(x)
    assert codes.values.shape == (900, 1)
    assert torch.equal(coder.decode(codes), coder.dictionary.atoms[codes.indices[:, 0]])
    near = torch.cdist(x, coder.dictionary.atoms).argmin(1)
    assert torch.equal(codes.indices[:, 0], near)
    known = KMeans(6, n_init=5, random_state=0).fit(x.numpy()).inertia_
    assert evaluate(coder, x.split(100)).error == pytest.approx(known, rel=0.05)


def test_a_sample_is_uniform_and_does_not_depend_on_the_batches():
    x = torch.arange(60.0)[:, None]
    whole, pieces = (classic.sample(x.split(size), 20, 3) for size in (60, 7))
    assert whole.shape == (20, 1)
    assert torch.equal(whole, pieces)
    assert (whole[:, 0].diff() > 0).all()  # in the order of the stream, without repeats
    assert torch.equal(classic.sample(x.split(7), 99, 0), x)
    drawn = torch.cat([classic.sample(x.split(16), 20, seed)[:, 0] for seed in range(600)])
    counts = torch.bincount(drawn.long(), minlength=60).double()
    # each row is in a third of the samples; the counts have the hypergeometric variance 600 · 1/3 · 2/3
    chi2 = float(((counts - 200) ** 2).sum() / (600 * 2 / 9))
    assert 30 < chi2 < 100


def test_refusals_of_learned_dictionaries(mixed):
    _, x = mixed
    with pytest.raises(ConfigError, match="activations are negative") as error:
        classic.nmf(x - 5, 3, 0)
    assert "ReLU" in str(error.value)
    with pytest.raises(NonFiniteError):
        classic.kmeans(torch.full((10, 2), torch.inf), 2, 0)
    for learn in (classic.nmf, classic.kmeans, lambda x, k, seed: classic.dictionary_learning(x, k, 1, seed)):
        with pytest.raises(ConfigError, match="11 components"):
            learn(x[:10].abs(), 11, 0)
    with pytest.raises(ConfigError, match="without rows"):
        classic.sample([], 5, 0)
    with pytest.raises(ConfigError, match="0 components"):
        classic.sample([x], 0, 0)
