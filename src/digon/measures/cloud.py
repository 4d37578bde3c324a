"""What does a cloud of rows look like: how many dimensions, what floor of noise, what tails?

    whiten        rows without correlations, within their rank
    noise_rank    dimensions above a floor of Gaussian noise that is equally strong in all directions
    tail_index    α of P(length > x) ~ x^−α
    elliptical    do rows differ in length only, their directions being uniform once whitened?

An elliptical cloud has heavy tails in every direction and no features: its fourth cumulants are those of infinitely
many features, one in every direction.

Sources: Marchenko & Pastur 1967 and the width of its edge after Johnstone 2001; Hill 1975; Tyler 1987.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .basis import RANK_TOLERANCE

TYLER, TURNED = 3, 8192
"""Steps towards the shape of an elliptical cloud, and rows that it is fitted to (six per unit of wide layers)."""


def whiten(x: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    """Centered rows along their principal axes, each with mean square 1; axes without variance are left out."""
    eigenvalues, axes = _axes(x)
    alive = eigenvalues > max(RANK_TOLERANCE, torch.finfo(eigenvalues.dtype).eps * x.shape[1]) * eigenvalues[-1]
    return x @ (axes[:, alive] * eigenvalues[alive].rsqrt()).to(x)


def noise_rank(x: Float[Tensor, "n d"]) -> int:
    """Dimensions of centered rows above the noise; all of them where no floor of noise is seen.

    Range: 0 to d. A floor has at least two dimensions, and the fourth moments of a Gaussian.
    """
    eigenvalues, axes = _axes(x)
    above, d = _above(eigenvalues.clamp(min=0).flip(0).tolist(), len(x)), x.shape[1]
    if above == 0:
        return d
    floor = x @ axes[:, : d - above].to(x)
    return above if bool(_gaussian(floor / floor.square().mean(0).sqrt().clamp(min=1e-30)).all()) else d


def tail_index(length: Float[Tensor, " n"], share: float = 0.01) -> tuple[float, float, float, int]:
    """Hill's index of the largest values with its 95 % interval, and how many values it rests on.

    Range: above 0; infinite where the largest values are equal. Moments of higher order than the index do not exist.
    """
    k = max(20, int(share * len(length)))
    top = length.sort(descending=True).values[: k + 1]
    inverse = float((top[:k].log() - top[k].clamp(min=1e-30).log()).mean())
    index, reach = 1 / inverse if inverse > 0 else math.inf, 1.96 / math.sqrt(k)
    return index, index * (1 - reach), index * (1 + reach), k


def elliptical(white: Float[Tensor, "n r"]) -> bool:
    """Whether the fourth moments of the directions are a sphere's, as far as so many rows can tell.

    Whitened anew by the directions alone, which very long rows cannot distort.
    """
    r = white.shape[1]
    white = white[:: max(1, len(white) // max(TURNED, 6 * r))]
    n = len(white)
    for _ in range(TYLER):
        white = F.normalize(white, dim=1)
        factor, failed = torch.linalg.cholesky_ex((white.T @ white) * r / n)
        if int(failed):
            return False  # fewer directions than dimensions: no cloud
        white = torch.linalg.solve_triangular(factor, white.T, upper=False).T
    square = F.normalize(white, dim=1).square()
    moment = (square.T @ square).double() / n
    spread = ((square.square().T @ square.square()).double() / n - moment.square()).clamp(min=1e-300)
    sphere = (1 + 2 * torch.eye(r, dtype=torch.float64, device=white.device)) / (r * (r + 2))
    z = (moment - sphere) / (spread / n).sqrt()
    return float(z.abs().max()) < math.sqrt(4 * math.log(r) + 4) + 1 and float(z.square().mean()) < 1.5


def _axes(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues, rising, and axes of the second moments; of wide layers in single precision."""
    product = (x.T @ x) / len(x)
    eigenvalues, axes = torch.linalg.eigh(product.double() if x.shape[1] <= 512 else product)
    return eigenvalues, axes


def _above(falling: Sequence[float], rows: int) -> int:
    """Eigenvalues above the edge of noise of one size, the size being the mean of those below."""
    r, rest = len(falling), sum(falling)
    for k, value in enumerate(falling):
        left = r - k
        a, b = math.sqrt(rows), math.sqrt(left)
        edge = ((a + b) ** 2 + 2 * (a + b) * (1 / a + 1 / b) ** (1 / 3)) / rows  # and two widths of its law
        if left > 1 and value < rest / left * edge:
            return k
        rest -= value
    return r


def _gaussian(white: Float[Tensor, "n r"]) -> Bool[Tensor, " r"]:
    return (white.double().pow(4).mean(0) - 3).abs() < 4 * math.sqrt(24 / len(white))
