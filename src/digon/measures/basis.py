"""Is the neurons' basis special, and can a linear map take the layer apart into independent parts?

Rotation test (privileged basis). Whiten symmetrically (ZCA), so that every axis stays as near its neuron as it can, and
compare S(I) = Σ_j |excess kurtosis of coordinate j| with S(R) over Haar rotations R. Whitened data of independent
sparse neurons has heavy tails along its axes and lighter ones along mixtures; rotated data has no such axes.

Residual dependence (linear independent components). Unmix with ICA on some documents; on others add up, over pairs of
components, the squared correlations of |s|, s² and tanh s, relative to components that are permuted by themselves. An
unmixing learned from finitely many rows leaves cross-talk even where a perfect one exists; the reference is therefore
the best independent model of the same data (the components permuted, mixed again and unmixed again). A large excess
over it says that no linear map made the parts independent, for whatever reason: too many features, correlated features
or non-linear ones. Signal is never truncated before: that would manufacture dependence.

Sources: privileged basis after Elhage et al. 2023; ICA after Hyvärinen & Oja 2000 (scikit-learn's FastICA).
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from . import stats

RANK_TOLERANCE = 1e-6
"""Eigenvalues below this share of the largest are noise of the arithmetic, not variance."""


@dataclass(frozen=True)
class RotationTest:
    """The basis against random rotations of it."""

    statistic: float
    """Mean |excess kurtosis| along the axes."""
    null: Float[Tensor, " rotations"]
    """The same along rotated axes."""
    z: float
    p: float
    rows: int


@dataclass(frozen=True)
class ResidualDependence:
    """What is left between independent components on documents that the unmixing has not seen."""

    ratio: float
    """Observed dependence over its mean under permutation."""
    reference: float
    """Largest ratio among independent models of the same data, unmixed in the same way."""
    p: float
    """Against permutation: small even for the cross-talk of a good unmixing; judge by `excess`."""
    kurtosis: Float[Tensor, " components"]
    """Excess kurtosis of the components."""
    gaussian_share: float
    """Share of components whose tails are not told from a Gaussian's: those are not identified."""
    alignment: float
    """Mean over components of the largest share that one standardized unit has in it: 1 = every part is one unit."""
    random_alignment: float
    """The same for random directions."""
    converged: bool
    rows: int

    @property
    def excess(self) -> float:
        """Ratio over reference; independent features read about 1 or less."""
        return self.ratio / self.reference


def haar(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A rotation drawn uniformly. Source: Mezzadri 2007 (signs of R's diagonal fixed)."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, device=generator.device))
    return q * r.diagonal().sign()


def zca_whiten(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Center, scale every unit, and whiten symmetrically within the rank of the data.

    Units that never vary stay zero. Without a rank loss the covariance of the result is the identity.
    """
    x = (values - values.mean(0)).double()
    deviation = x.std(0)
    x = x / torch.where(deviation > 0, deviation, math.inf)
    eigenvalues, axes = torch.linalg.eigh(x.T @ x / len(x))
    kept = eigenvalues > RANK_TOLERANCE * eigenvalues[-1]
    scale = torch.where(kept, eigenvalues.clamp_min(1e-300).rsqrt(), 0.0)
    return (x @ (axes * scale) @ axes.T).to(values.dtype)


def token_kurtosis(values: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Kurtosis over the standardized units of each row; isotropic Gaussian rows read 3(d − 1)/(d + 1).

    Source: Elhage et al. 2023, "Privileged Bases in the Transformer Residual Stream".
    """
    deviation = values.std(0)
    x = (values - values.mean(0)) / torch.where(deviation > 0, deviation, math.inf)
    x = x - x.mean(1, keepdim=True)
    return x.pow(4).mean(1) / x.square().mean(1).square()


def rotation_test(
    values: Float[Tensor, "n d"], generator: torch.Generator, rotations: int = 39, max_rows: int = 8192
) -> RotationTest:
    """Are the axes of the data special? Source: see the module.

    Range: p from 1/(rotations + 1); z near 0 for rotated data. Rows beyond `max_rows` are thinned evenly.
    """
    thin = values[torch.linspace(0, len(values) - 1, min(len(values), max_rows)).long().to(values.device)]
    alive = thin.std(0) > 0
    white = zca_whiten(thin[:, alive])
    statistic = _tails(white)
    d = white.shape[1]
    null = torch.stack([_tails(white @ haar(d, generator).to(white)) for _ in range(rotations)])
    z = float((statistic - null.mean()) / null.std().clamp_min(1e-12))
    return RotationTest(float(statistic), null, z, float(stats.permutation_p(statistic, null)), len(thin))


def _tails(white: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    second, fourth = white.square().mean(0), white.pow(4).mean(0)
    return (fourth / second.square().clamp_min(1e-30) - 3).abs().mean()


def residual_dependence(
    values: Float[Tensor, "n d"],
    documents: Int[Tensor, " n"],
    seed: int,
    permutations: int = 99,
    max_rows: int = 20_000,
    models: int = 3,
) -> ResidualDependence:
    """Are the best linear components independent on unseen documents? Source: see the module.

    Rows are thinned evenly, so that neighbors in a document do not pass for independent draws.
    """
    generator = np.random.default_rng(seed)
    rows = torch.arange(0, len(documents), max(1, -(-len(documents) // max_rows)))
    x, owner = values[rows].double().cpu().numpy(), documents[rows].cpu().numpy()
    names = np.unique(owner)
    fit = np.isin(owner, generator.permutation(names)[: len(names) // 2])
    x = x[:, x[fit].std(0) > 0]
    ica, converged = _unmix(x[fit], seed)
    parts = ica.transform(x[~fit])
    ratio, null = _ratio(parts, generator, permutations)
    references: list[float] = []
    for model in range(models):
        surrogate = ica.inverse_transform(_permuted(ica.transform(x), generator))
        again, _ = _unmix(surrogate[fit], seed + model + 1)
        references.append(_ratio(again.transform(surrogate[~fit]), generator, permutations)[0])
    excess = torch.from_numpy((parts**4).mean(0) / (parts**2).mean(0) ** 2 - 3)
    quiet = excess.abs() < 3 * math.sqrt(24 / len(parts))
    p = float(stats.permutation_p(torch.tensor(ratio, dtype=torch.float64), torch.from_numpy(null)))
    aligned = _alignment(np.transpose(np.asarray(ica.mixing_)) / x[fit].std(0))
    random = _alignment(generator.standard_normal((1000, x.shape[1])))
    gaussian = float(quiet.double().mean())
    return ResidualDependence(ratio, max(references), p, excess, gaussian, aligned, random, converged, len(rows))


def _alignment(directions: np.ndarray) -> float:
    return float((np.abs(directions).max(1) / np.linalg.norm(directions, axis=1)).mean())


def _permuted(parts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every column shuffled by itself."""
    return generator.permuted(parts, axis=0)


def _ratio(parts: np.ndarray, generator: np.random.Generator, permutations: int) -> tuple[float, np.ndarray]:
    """Dependence of the columns over its mean under permutation, and the permuted ratios."""
    null = np.array([_dependence(_permuted(parts, generator)) for _ in range(permutations)])
    return _dependence(parts) / float(null.mean()), null / null.mean()


def _unmix(x: np.ndarray, seed: int, restarts: int = 2) -> tuple[FastICA, bool]:
    """The restart whose components are least Gaussian; local optima are common."""
    best, best_contrast, converged = None, -math.inf, False
    rank = int(np.linalg.matrix_rank(x - x.mean(0)))
    for restart in range(restarts):
        ica = FastICA(rank, fun="logcosh", whiten="unit-variance", max_iter=300, tol=1e-4, random_state=seed + restart)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            parts: np.ndarray = np.asarray(ica.fit_transform(x))
        contrast = float(np.abs(np.mean(parts**4, axis=0) - 3).sum())
        if contrast > best_contrast:
            best, best_contrast = ica, contrast
            converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    assert best is not None, f"no ICA in {restarts} restarts"
    return best, converged


def _dependence(parts: np.ndarray) -> float:
    """Sum over pairs of columns of the squared correlations of |s|, s² and tanh s."""
    return sum(_squared_correlations(g) for g in (np.abs(parts), parts**2, np.tanh(parts)))


def _squared_correlations(g: np.ndarray) -> float:
    centered = g - g.mean(0)
    centered /= np.maximum(np.sqrt((centered**2).sum(0)), 1e-300)
    correlations = centered.T @ centered
    return float((correlations**2).sum() - (np.diag(correlations) ** 2).sum()) / 2
