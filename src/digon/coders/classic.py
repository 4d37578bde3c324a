"""Coders that are one matrix each way: the neuron basis, a random basis, PCA and ICA.

    codes = (x − bias) Aᵀ,   x̂ = codes · atoms + bias

A is the analysis matrix: equal to the atoms for orthonormal bases, their inverse otherwise. PCA and ICA are fitted by
scikit-learn. Sources: Pearson 1901 (PCA); Hyvärinen & Oja 2000 (FastICA).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .. import rng
from ..errors import ConfigError, NonFiniteError
from ..tensors import Codes, Dictionary
from .base import check_width


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
    return _fit(PCA(k, random_state=_state(seed)), x, k)


def ica(x: Float[Tensor, "n d"], k: int, seed: int) -> LinearCoder:
    """k directions with independent codes of unit variance, each oriented so that its heavier tail is positive.

    Raises: ConfigError if k exceeds the rows or the units; NonFiniteError if `x` holds NaN.
    """
    model = FastICA(k, whiten="unit-variance", max_iter=500, random_state=_state(seed))
    coder = _fit(model, x, k)
    tail = coder.encode(x).values.double().pow(3).mean(0)
    sign = torch.where(tail < 0, -1.0, 1.0).to(coder.analysis)[:, None]
    atoms = Dictionary(coder.dictionary.atoms * sign, coder.dictionary.bias)
    return LinearCoder(coder.analysis * sign, atoms, coder.converged)


def _fit(model: Any, x: Tensor, k: int) -> LinearCoder:
    # One adapter for every scikit-learn decomposition with `components_` and, if it is not orthonormal, `mixing_`.
    _check_count(k, min(x.shape))
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError("activations hold NaN or infinity", expected="finite numbers")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x.detach().cpu().numpy())
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    as_tensor = lambda a: torch.as_tensor(a.copy()).to(x)  # noqa: E731
    analysis = as_tensor(model.components_)
    atoms = as_tensor(model.mixing_.T) if hasattr(model, "mixing_") else analysis
    return LinearCoder(analysis, Dictionary(atoms, as_tensor(model.mean_)), converged)


def _check_count(k: int, most: int | None) -> None:
    if k < 1 or (most is not None and k > most):
        raise ConfigError(f"{k} components asked for", expected=f"1 to {most}" if most else "at least 1")


def _state(seed: int) -> int:
    return rng.derive(seed, "scikit-learn") % 2**32
