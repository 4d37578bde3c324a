"""The classic coders: bases that are one matrix each way, and dictionaries that scikit-learn learns.

    identity, random, pca, ica     codes = (x − bias) Aᵀ with the analysis matrix A: equal to the atoms for orthonormal
                                   bases, their inverse otherwise
    dictionary_learning            sparse codes over k atoms that are learned online; decoded by a pursuit
    nmf                            non-negative codes over non-negative atoms: non-negative least squares
    kmeans                         one atom per row, the nearest centroid

In all of them x̂ = codes · atoms + bias. Rows come as one tensor; `sample` draws it from a stream or a store of any size.

Sources: Pearson 1901 (PCA); Hyvärinen & Oja 2000 (FastICA); Mairal et al. 2009 (online dictionary learning); Lee & Seung
1999 (NMF); Sculley 2010 (mini-batch k-means).
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import NMF, PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .. import rng
from ..errors import ConfigError, NonFiniteError
from ..tensors import Codes, Dictionary
from .atoms_rays import densest
from .base import check_width
from .pursuit import PursuitCoder, orthogonal
from .pursuit.shrinkage import penalty_for

START = 512
"""Rows that decide the penalty of dictionary learning."""
DISTANCES = 2**24
"""Distances to centroids that are held at once."""


@dataclass(frozen=True)
class LinearCoder:
    """Linear analysis and synthesis; codes are dense."""

    analysis: Float[Tensor, "k d"]
    """Rows that the centered activations are projected on."""
    dictionary: Dictionary
    converged: bool = True
    """False if the fit stopped at its iteration limit: the directions are then not to be relied on."""

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """Codes of raw activations."""
        check_width(x, self.dictionary)
        return Codes((x - self.dictionary.bias) @ self.analysis.T, None, len(self.dictionary))

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        return self.dictionary.decode(codes)


@dataclass(frozen=True)
class LearnedCoder(PursuitCoder):
    """A learned dictionary, and whether learning came to its end."""

    converged: bool = True


@dataclass(frozen=True)
class NearestCoder:
    """One atom per row, with code 1: the nearest."""

    dictionary: Dictionary

    def encode(self, x: Float[Tensor, "n d"]) -> Codes:
        """The nearest centroid of every row."""
        check_width(x, self.dictionary)
        atoms = self.dictionary.atoms
        far = atoms.square().sum(1) / 2
        pieces = (x.to(atoms) - self.dictionary.bias).split(max(16, DISTANCES // len(atoms)))
        nearest = torch.cat([(far - part @ atoms.T).argmin(1) for part in pieces])[:, None]
        return Codes(torch.ones_like(nearest, dtype=atoms.dtype), nearest, len(atoms))

    def decode(self, codes: Codes) -> Float[Tensor, "n d"]:
        """Activations from codes."""
        return self.dictionary.decode(codes)


def sample(batches: Iterable[Float[Tensor, "_ d"]], most: int, seed: int) -> Float[Tensor, "n d"]:
    """Up to `most` rows of a stream, every set of rows equally likely, in the order of the stream.

    Memory of the sample and one batch, for streams of any length. Raises: ConfigError for a stream without rows.

    >>> sample(torch.arange(6.0)[:, None].split(4), most=9, seed=0).T
    tensor([[0., 1., 2., 3., 4., 5.]])
    """
    _check_count(most, None)
    draws, seen, kept = rng.stream(seed, "sample"), 0, None
    keys, place = torch.full((most,), torch.inf, dtype=torch.float64), torch.zeros(most, dtype=torch.long)
    for batch in batches:
        kept = batch.new_empty(most, batch.shape[1]) if kept is None else kept
        fresh = torch.rand(len(batch), generator=draws, dtype=torch.float64)
        stays = torch.zeros(most + len(batch), dtype=torch.bool)
        stays[torch.cat([keys, fresh]).argsort()[:most]] = True  # the smallest keys of all
        leave, enter = (~stays[:most]).nonzero()[:, 0], stays[most:].nonzero()[:, 0]
        kept[leave.to(kept.device)] = batch[enter.to(batch.device)]
        keys[leave], place[leave] = fresh[enter], seen + enter
        seen += len(batch)
    if kept is None or not seen:
        raise ConfigError("a stream without rows", expected="at least one row")
    filled = keys.isfinite().nonzero()[:, 0]
    return kept[filled[place[filled].argsort()].to(kept.device)]


def identity(d: int) -> LinearCoder:
    """The neuron basis: latent i is neuron i.

    >>> identity(2).encode(torch.tensor([[3.0, 4.0]])).dense()
    tensor([[3., 4.]])
    """
    return LinearCoder(torch.eye(d), Dictionary(torch.eye(d), torch.zeros(d)))


def random(d: int, k: int, seed: int) -> LinearCoder:
    """k random unit atoms: a uniformly (Haar) distributed orthonormal set if k ≤ d, independent directions if k > d.

    Codes are those of least norm, so for k ≥ d every activation is reconstructed.
    """
    _check_count(k, None)
    draws = torch.randn(d, k, generator=rng.stream(seed, "random coder"), dtype=torch.float64)
    if k <= d:
        q, r = torch.linalg.qr(draws)
        atoms = (q * r.diagonal().sign()).T  # without the signs QR is not uniformly distributed
        analysis = atoms
    else:
        atoms = torch.nn.functional.normalize(draws.T, dim=1)
        analysis = torch.linalg.pinv(atoms).T
    return LinearCoder(analysis.float().contiguous(), Dictionary(atoms.float().contiguous(), torch.zeros(d)))


def pca(x: Float[Tensor, "n d"], k: int, seed: int) -> LinearCoder:
    """The k orthonormal directions of largest variance, in descending order.

    Raises: ConfigError if k exceeds the rows or the units; NonFiniteError if `x` holds NaN.
    """
    return _linear(PCA, x, k, seed)


def ica(x: Float[Tensor, "n d"], k: int, seed: int) -> LinearCoder:
    """k directions with independent codes of unit variance, each oriented so that its heavier tail is positive.

    Raises: ConfigError if k exceeds the rows or the units; NonFiniteError if `x` holds NaN.
    """
    coder = _linear(FastICA, x, k, seed, whiten="unit-variance", max_iter=500)
    tail = coder.encode(x).values.double().pow(3).mean(0)
    sign = torch.where(tail < 0, -1.0, 1.0).to(coder.analysis)[:, None]
    atoms = Dictionary(coder.dictionary.atoms * sign, coder.dictionary.bias)
    return LinearCoder(coder.analysis * sign, atoms, coder.converged)


def dictionary_learning(
    x: Float[Tensor, "n d"],
    k: int,
    l0: int,
    seed: int,
    *,
    positive: bool = True,
    origin: Float[Tensor, " d"] | None = None,
    epochs: int = 10,
) -> PursuitCoder:
    """k unit atoms by mini-batch dictionary learning, decoded by orthogonal matching pursuit with `l0` atoms a row.

    It starts from rows, with the penalty at which other rows use `l0` of them. `origin`: where nothing is active;
    default: the densest point, zero if no rows coincide.

    Raises: ConfigError for more atoms than rows or an l0 that cannot be reached; NonFiniteError if `x` holds NaN.
    """
    _check_count(k, len(x))
    _check_finite(x)
    draws = rng.stream(seed, "dictionary learning")
    origin = densest(x, draws) if origin is None else origin.to(x)
    rows = x - origin
    active = (rows.norm(dim=1) > 1e-6 * rows.norm(dim=1).amax()).nonzero()[:, 0]
    rows = rows[active[torch.randperm(len(active), generator=draws).to(x.device)]].double()
    _check_count(k, len(rows))
    start = torch.nn.functional.normalize(rows[:k], dim=1)
    penalty = penalty_for(rows[-START:], start, l0, positive=positive)
    model, _ = _learned(
        MiniBatchDictionaryLearning, rows, seed, n_components=k, alpha=penalty, max_iter=epochs, fit_algorithm="cd",
        positive_code=positive, dict_init=start.cpu().numpy(), transform_algorithm="lasso_cd", tol=0.0, max_no_improvement=None,
    )  # fmt: skip
    return orthogonal(Dictionary(torch.as_tensor(model.components_).to(x), origin), l0, positive=positive)


def nmf(x: Float[Tensor, "n d"], k: int, seed: int) -> LearnedCoder:
    """k non-negative atoms whose non-negative combinations are nearest to the rows; codes by least squares.

    Raises: ConfigError for negative activations or more atoms than rows; NonFiniteError if `x` holds NaN.
    """
    _check_count(k, len(x))
    _check_finite(x)
    if bool((x < 0).any()):
        raise ConfigError(
            f"{int((x < 0).sum())} activations are negative, the least is {float(x.min()):.3g}",
            expected="activations of at least 0, as after a ReLU",
            hint="dictionary learning and sparse autoencoders take any sign",
        )
    model, converged = _learned(NMF, x, seed, n_components=k, max_iter=1000)
    dictionary = Dictionary(torch.as_tensor(model.components_).to(x), torch.zeros_like(x[0]))
    # with room for all atoms the pursuit ends at the non-negative least squares solution
    return LearnedCoder(dictionary, orthogonal(dictionary, k).pursue, converged)


def kmeans(x: Float[Tensor, "n d"], k: int, seed: int) -> NearestCoder:
    """k centroids by mini-batch k-means.

    Raises: ConfigError for more centroids than rows; NonFiniteError if `x` holds NaN.
    """
    _check_count(k, len(x))
    _check_finite(x)
    model, _ = _learned(MiniBatchKMeans, x, seed, n_clusters=k, n_init=3)
    return NearestCoder(Dictionary(torch.as_tensor(model.cluster_centers_).to(x), torch.zeros_like(x[0])))


def _linear(kind: Any, x: Tensor, k: int, seed: int, **settings: Any) -> LinearCoder:
    # One adapter for every scikit-learn decomposition with `components_` and, if it is not orthonormal, `mixing_`.
    _check_count(k, min(x.shape))
    _check_finite(x)
    model, converged = _learned(kind, x, seed, n_components=k, **settings)
    as_tensor = lambda a: torch.as_tensor(a.copy()).to(x)  # noqa: E731
    analysis = as_tensor(model.components_)
    atoms = as_tensor(model.mixing_.T) if hasattr(model, "mixing_") else analysis
    return LinearCoder(analysis, Dictionary(atoms, as_tensor(model.mean_)), converged)


def _learned(kind: Any, x: Tensor, seed: int, **settings: Any) -> tuple[Any, bool]:
    """A fitted model of scikit-learn, and whether it converged."""
    model = kind(random_state=rng.derive(seed, "scikit-learn") % 2**32, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x.detach().cpu().numpy())
    return model, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _check_finite(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError("activations hold NaN or infinity", expected="finite numbers")


def _check_count(k: int, most: int | None) -> None:
    if k < 1 or (most is not None and k > most):
        raise ConfigError(f"{k} components asked for", expected=f"1 to {most}" if most else "at least 1")
