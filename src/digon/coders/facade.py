"""Any coder as a scikit-learn transformer: in pipelines, in grid searches, beside PCA and NMF.

    CoderTransformer(n_components=512, l0=8).fit(X).transform(X)    codes [n, k]; scipy sparse if asked for
    .inverse_transform(codes)                                       activations [n, d]
    .components_                                                    atoms [k, d]

By default the coder is a sparse autoencoder, trained on the rows of X. Its errors are digon's own; what scikit-learn checks
of X raises what scikit-learn raises.
"""

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..errors import ConfigError, did_you_mean
from ..tensors import Codes
from . import classic
from .base import Coder, evaluate
from .sae import SAEConfig
from .train import TrainConfig, from_rows, train

Make = Callable[[Tensor, int, int], Coder]
"""From rows, a number of latents and a seed to a coder."""
BLOCK = 8192
"""Rows that are encoded together."""


class CoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Codes of rows, and rows of codes, by a coder that is fitted on rows, or by one that is ready.

    n_components: latents; None: four times the features for an SAE, all that the data determine for the others.
    coder: name of a coder; or a function (rows, n_components, seed) → coder; or a ready coder, which `fit` only measures.
    l0: active latents per row (sae, dictionary_learning); None: an eighth of the features, 1 to 32.
    activation: of the SAE. max_iter: its training steps, of `batch_size` rows each.
    sparse_output: whether codes are a CSR matrix of scipy instead of an array.
    random_state: seed of everything.

    Fitted attributes: `coder_`, `components_` [k d], `bias_` [d], `n_components_`, `n_iter_`, `n_features_in_`.
    Raises (in `fit`): ConfigError for settings that make no sense; NonFiniteError for rows that do not vary.
    """

    def __init__(
        self,
        n_components: Any = None,
        *,
        coder: Any = "sae",
        l0: Any = None,
        activation: Any = "batchtopk",
        max_iter: Any = 2000,
        batch_size: Any = 1024,
        sparse_output: Any = False,
        random_state: Any = 0,
    ) -> None:
        # Nothing is checked before `fit`: scikit-learn sets parameters in any order, one by one.
        self.n_components = n_components
        self.coder = coder
        self.l0 = l0
        self.activation = activation
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.sparse_output = sparse_output
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "CoderTransformer":
        """Fit the coder on rows X [n d]; y is ignored."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.coder_ = self._made(_tensor(X), seed)
        atoms = self.coder_.dictionary
        if atoms.atoms.shape[1] != X.shape[1]:
            raise ConfigError(
                f"a coder for {atoms.atoms.shape[1]} features, and rows of {X.shape[1]}", expected="as many"
            )
        self.components_ = atoms.atoms.detach().cpu().numpy()
        self.bias_ = atoms.bias.detach().cpu().numpy()
        self.n_components_ = len(self.components_)
        self.n_iter_ = self._count("max_iter", 1) if isinstance(self.coder, str) and self.coder == "sae" else 1
        return self

    def transform(self, X: Any) -> Any:
        """Codes [n k] of rows X [n d]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        parts = [self._encoded(X[start : start + BLOCK]) for start in range(0, len(X), BLOCK)]
        return scipy.sparse.vstack(parts, format="csr") if self.sparse_output else np.concatenate(parts)

    def inverse_transform(self, X: Any) -> Any:
        """Rows [n d] of codes X [n k], an array or a sparse matrix."""
        check_is_fitted(self)
        shape = np.shape(X)
        if len(shape) != 2 or shape[1] != self.n_components_:
            raise ValueError(f"X has shape {shape}, but codes of {self.n_components_} latents are expected")
        parts = [self._decoded(X[start : start + BLOCK]) for start in range(0, shape[0], BLOCK)]
        return np.concatenate(parts) if parts else np.zeros((0, self.components_.shape[1]))

    def score(self, X: Any, y: Any = None) -> float:
        """Share of the variance of X that its codes explain. Range: below 0 to 1."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        rows = _tensor(X)
        return 1 - evaluate(self.coder_, iter(rows.split(BLOCK))).fvu

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = isinstance(self.coder, str) and self.coder == "nmf"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _made(self, rows: Tensor, seed: int) -> Coder:
        n, d = rows.shape
        if isinstance(self.coder, Coder):
            return cast("Coder", self.coder)
        if isinstance(self.coder, str) and self.coder == "sae":
            return self._trained(rows.float(), self._count("n_components", 4 * d), seed)
        k = self._count("n_components", min(n, d))
        if callable(self.coder):
            return cast(Make, self.coder)(rows, k, seed)
        makers: dict[str, Callable[[], Coder]] = {
            "identity": lambda: classic.identity(d),
            "random": lambda: classic.random(d, k, seed),
            "pca": lambda: classic.pca(rows, k, seed),
            "ica": lambda: classic.ica(rows, k, seed),
            "nmf": lambda: classic.nmf(rows, k, seed),
            "kmeans": lambda: classic.kmeans(rows, k, seed),
            "dictionary_learning": lambda: classic.dictionary_learning(rows, k, self._active(d, k), seed),
        }
        if not isinstance(self.coder, str) or self.coder not in makers:
            known = ("sae", *makers)
            raise ConfigError(
                f"no coder {self.coder!r}", expected=" | ".join(known), hint=did_you_mean(str(self.coder), known)
            )
        return makers[self.coder]()

    def _trained(self, rows: Tensor, k: int, seed: int) -> Coder:
        d, steps, batch = rows.shape[1], self._count("max_iter", 1), self._count("batch_size", 1)
        sae = SAEConfig(d, k, self._active(d, k), self.activation, seed=seed)
        config = TrainConfig(steps=steps, batch=batch, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            return train(sae, from_rows(rows, config), config, Path(folder))

    def _active(self, d: int, k: int) -> int:
        return self._count("l0", min(max(d // 8, 1), 32, k))

    def _count(self, name: str, default: int) -> int:
        """A setting that counts something. Raises: ConfigError if it does not."""
        value = getattr(self, name)
        if value is None:
            return default
        if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
            raise ConfigError(f"{name} = {value!r}", expected="a whole number, at least 1")
        return operator.index(value)

    def _encoded(self, X: Any) -> Any:
        atoms = self.coder_.dictionary.atoms
        codes = self.coder_.encode(_tensor(X).to(atoms))
        if not self.sparse_output:
            return codes.dense().detach().cpu().numpy().astype(X.dtype)
        return _csr(codes).astype(X.dtype)

    def _decoded(self, X: Any) -> Any:
        atoms = self.coder_.dictionary.atoms
        block = X.toarray() if scipy.sparse.issparse(X) else np.asarray(X)
        kind = block.dtype if block.dtype.kind == "f" else np.float64
        codes = Codes(_tensor(block).to(atoms), None, self.n_components_)
        return self.coder_.decode(codes).detach().cpu().numpy().astype(kind)


def _tensor(array: Any) -> Tensor:
    """The same numbers, in the same memory where that may be written to."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _csr(codes: Codes) -> Any:
    """Codes as a CSR matrix, without the zeros that pad rows of fewer active latents."""
    values = codes.values.detach().cpu().numpy()
    n, count = values.shape
    columns = np.tile(np.arange(count), (n, 1)) if codes.indices is None else codes.indices.cpu().numpy()
    matrix = scipy.sparse.csr_matrix(
        (values.ravel(), columns.ravel(), np.arange(0, n * count + 1, count)), shape=(n, codes.width)
    )
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix
