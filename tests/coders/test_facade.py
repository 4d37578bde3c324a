"""Coders as scikit-learn transformers."""

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from digon.coders import classic
from digon.coders.base import evaluate
from digon.coders.facade import CoderTransformer
from digon.errors import ConfigError, NonFiniteError

QUICK = {"max_iter": 3, "batch_size": 32, "n_components": 12}


@parametrize_with_checks([CoderTransformer(**QUICK), CoderTransformer(coder="pca"), CoderTransformer(coder="identity")])
def test_scikit_learn_takes_it_for_one_of_its_own(estimator, check):
    check(estimator)  # all of them: none is declared to fail


@pytest.fixture(scope="module")
def rows(request):
    draws = np.random.default_rng(0)
    on = draws.random((600, 24)) < 0.06
    directions = draws.normal(size=(24, 12))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return ((on * draws.uniform(0.5, 1.5, on.shape)) @ directions + 0.3).astype(np.float32), on, directions


@pytest.fixture(scope="module")
def fitted(rows):
    return CoderTransformer(24, l0=2, activation="topk", max_iter=250, batch_size=128).fit(rows[0])


def test_what_is_fitted_is_the_coder(rows, fitted):
    X, _, directions = rows
    codes = fitted.transform(X)
    assert codes.shape == (600, 24)
    assert (codes > 0).sum(1).max() == 2
    expected = fitted.coder_.encode(torch.from_numpy(X)).dense().numpy()
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(fitted.inverse_transform(codes), codes @ fitted.components_ + fitted.bias_, atol=1e-5)
    assert fitted.score(X) == 1 - evaluate(fitted.coder_, iter([torch.from_numpy(X)])).fvu
    assert fitted.score(X) > 0.7
    chance = classic.random(12, 24, 0).dictionary.atoms.numpy()
    assert (chance @ directions.T).max(0).mean() < 0.7
    assert (fitted.components_ @ directions.T).max(0).mean() > 0.82, "the planted directions are not found"
    assert (fitted.n_components_, fitted.n_features_in_, fitted.n_iter_) == (24, 12, 250)
    assert list(fitted.get_feature_names_out()[:2]) == ["codertransformer0", "codertransformer1"]


def test_sparse_codes_hold_the_same(rows, fitted):
    X = rows[0]
    dense = fitted.transform(X)
    sparse = clone(fitted).set_params(sparse_output=True, max_iter=1)
    sparse.__dict__ |= {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    codes = sparse.transform(X)
    assert scipy.sparse.issparse(codes)
    assert codes.nnz == (dense != 0).sum()
    assert codes.dtype == X.dtype
    np.testing.assert_array_equal(codes.toarray(), dense)
    np.testing.assert_array_equal(sparse.inverse_transform(codes), fitted.inverse_transform(dense))
    np.testing.assert_array_equal(sparse.inverse_transform(codes[:0]), np.zeros((0, 12)))


def test_blocks_change_nothing(rows, fitted, monkeypatch):
    from digon.coders import facade

    whole = fitted.transform(rows[0]), fitted.inverse_transform(fitted.transform(rows[0]))
    monkeypatch.setattr(facade, "BLOCK", 128)
    np.testing.assert_allclose(fitted.transform(rows[0]), whole[0], atol=1e-5)
    np.testing.assert_allclose(fitted.inverse_transform(whole[0]), whole[1], atol=1e-5)


def test_equal_seeds_give_equal_coders(rows):
    one, two, three = (CoderTransformer(**QUICK, random_state=seed).fit(rows[0]).components_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_in_a_pipeline(rows):
    X, on, _ = rows
    model = make_pipeline(
        CoderTransformer(24, l0=2, max_iter=100, sparse_output=True), LogisticRegression(max_iter=500)
    )
    assert model.fit(X, on[:, 0]).score(X, on[:, 0]) > on[:, 0].mean()


@pytest.mark.parametrize("name", ["identity", "random", "pca", "ica", "kmeans", "dictionary_learning", "nmf"])
def test_every_coder_has_this_face(rows, name):
    X = np.abs(rows[0][:200]).astype(np.float64)
    k = 12 if name == "identity" else 6
    fitted = CoderTransformer(k, coder=name, l0=2).fit(X)
    codes = fitted.transform(X)
    assert codes.shape == (200, k)
    assert fitted.components_.shape == (k, 12)
    np.testing.assert_allclose(
        fitted.inverse_transform(codes), codes @ fitted.components_ + fitted.bias_, rtol=1e-6, atol=1e-6
    )


def test_pca_is_that_of_scikit_learn(rows):
    X = rows[0].astype(np.float64)
    ours, theirs = CoderTransformer(4, coder="pca").fit(X), PCA(4, random_state=0).fit(X)
    np.testing.assert_allclose(np.abs(ours.transform(X)), np.abs(theirs.transform(X)), atol=1e-6)
    np.testing.assert_allclose(ours.score(X), theirs.explained_variance_ratio_.sum(), atol=1e-9)


def test_coders_that_are_made_or_ready(rows):
    X = rows[0]
    ready = classic.random(12, 5, seed=3)
    made = CoderTransformer(5, coder=lambda rows, k, seed: classic.random(rows.shape[1], k, 3))
    for transformer in (made, CoderTransformer(coder=ready)):
        np.testing.assert_array_equal(transformer.fit(X).components_, ready.dictionary.atoms.numpy())
    with pytest.raises(ConfigError, match="a coder for 3 features, and rows of 12"):
        CoderTransformer(coder=classic.identity(3)).fit(X)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"coder": "pcaa"}, "(?s)no coder 'pcaa'.*did you mean pca"),
        ({"coder": 7}, "no coder 7"),
        ({"n_components": 0}, "n_components = 0"),
        ({"n_components": 2.5}, "n_components = 2.5"),
        ({"n_components": 4, "l0": 5}, "l0 = 5"),
        ({"max_iter": True}, "max_iter = True"),
        ({"coder": "pca", "n_components": 13}, "13 components"),
    ],
)
def test_settings_that_make_no_sense(rows, settings, says):
    with pytest.raises(ConfigError, match=says):
        CoderTransformer(**settings).fit(rows[0])


def test_rows_that_make_no_sense(rows, fitted):
    with pytest.raises(NonFiniteError, match="constant"):
        CoderTransformer(**QUICK).fit(np.ones((9, 3)))
    with pytest.raises(ValueError, match="NaN"):
        CoderTransformer(**QUICK).fit(np.full((9, 3), np.nan))
    with pytest.raises(ValueError, match="13 features"):
        fitted.transform(np.ones((2, 13)))
    with pytest.raises(ValueError, match=r"X has shape \(2, 23\)"):
        fitted.inverse_transform(np.ones((2, 23)))
