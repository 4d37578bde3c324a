"""How do features share dimensions? Measures of a matrix W [*b, n, m] whose rows are the directions of n features.

    norm                       ‖Wᵢ‖                                     how strongly a feature is represented
    interference               sᵢ = Σ_{j≠i} (Ŵᵢ·Wⱼ)²                    what other features put on its direction
    dimensions per feature     D* = m / ‖W‖²_F
    feature dimensionality     Dᵢ = ‖Wᵢ‖² / Σⱼ (Ŵᵢ·Wⱼ)²                 the share of a dimension that it has to itself
    leverage                   ℓᵢ = Wᵢᵀ F⁺ Wᵢ,   F = WᵀW = Σⱼ WⱼWⱼᵀ     the share of the span that needs it

With F's eigenvalues λₖ and pᵢₖ, the share of Ŵᵢ along eigenvector k: Dᵢ = ‖Wᵢ‖⁴ / (Wᵢᵀ F Wᵢ) = ‖Wᵢ‖² / Σₖ pᵢₖ λₖ and
ℓᵢ = ‖Wᵢ‖² Σₖ pᵢₖ / λₖ. So by Jensen Dᵢ ≤ ℓᵢ, equal where Wᵢ is an eigenvector of F (its block is a tight frame), and
Σ Dᵢ ≤ Σ ℓᵢ = rank W ≤ m. All functions are differentiable where they are continuous; a NaN in W stays a NaN.

Sources: Elhage et al. 2022, "Toy Models of Superposition"; Scherlis et al. 2022 (capacity = Dᵢ); leverage scores: a
comment by F. Zhang in the article; spectrum of F: Ivanov 2026, "Spectral superposition".
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_NORM = 0.05
"""Features shorter than this have dimensionality 0: their direction is noise."""


def norms(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n"]:
    """Length of every feature's direction."""
    return torch.linalg.vector_norm(W, dim=-1)


def gram(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n n"]:
    """Inner products of all pairs of features."""
    return W @ W.mT


def cosines(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n n"]:
    """Cosines of all pairs of features; 0 with a feature of length 0. Range: [−1, 1]."""
    length = norms(W)[..., None]
    unit = W / torch.where(length == 0, 1, length)
    return unit @ unit.mT


def frame_operator(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b m m"]:
    """F = Σᵢ Wᵢ Wᵢᵀ; a multiple of the identity for a tight frame."""
    return W.mT @ W


def frame_potential(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b"]:
    """Σᵢⱼ (Wᵢ·Wⱼ)²: at least (Σᵢ ‖Wᵢ‖²)² / m, equal for tight frames alone. Source: Benedetto & Fickus 2003."""
    return frame_operator(W).square().sum((-2, -1))


def interference(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n"]:
    """sᵢ: squared length of what the other features project on a feature's direction; 0 for a feature of length 0.

    Range: [0, ∞); 0 = a direction of its own, 1 = an antipodal pair of unit length. Memory: n² numbers.

    >>> interference(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    tensor([1., 1., 0.])
    """
    inner = gram(W)
    own = inner.diagonal(dim1=-2, dim2=-1)
    others = inner.square().masked_fill(torch.eye(W.shape[-2], dtype=torch.bool, device=W.device), 0)
    return others.sum(-1) / torch.where(own == 0, 1, own)


def features_per_dimension(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b"]:
    """‖W‖²_F / m: how many unit-length features one dimension carries."""
    return W.square().sum((-2, -1)) / W.shape[-1]


def dimensions_per_feature(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b"]:
    """D* = m / ‖W‖²_F; infinite for W = 0."""
    return 1 / features_per_dimension(W)


def capacity(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n"]:
    """Cᵢ = (Wᵢ·Wᵢ)² / Σⱼ (Wᵢ·Wⱼ)², the same number as the feature dimensionality; 0 for a feature of length 0.

    Range: [0, 1]; the sum is at most the rank of W. Cost: n·m², no n × n matrix.
    """
    own = W.square().sum(-1)
    total = ((W @ frame_operator(W)) * W).sum(-1)
    return own.square() / torch.where(total == 0, 1, total)


def feature_dimensionality(W: Float[Tensor, "*b n m"], least: float = LEAST_NORM) -> Float[Tensor, "*b n"]:
    """Dᵢ, the share of a dimension that a feature has to itself; 0 if it is shorter than `least`.

    Range: [0, 1]; 1 alone, 1/2 in a digon, 2/3 in a triangle, 2/5 in a pentagon.

    >>> feature_dimensionality(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.01]]))
    tensor([0.5000, 0.5000, 0.9999, 0.0000])
    """
    return capacity(W).masked_fill(norms(W) < least, 0)


def leverage(W: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n"]:
    """ℓᵢ = Wᵢᵀ F⁺ Wᵢ. Range: [0, 1]; the sum is the rank of W. Compute it in float64 for more than six digits."""
    return (W @ torch.linalg.pinv(W)).diagonal(dim1=-2, dim2=-1)


def rank(W: Float[Tensor, "*b n m"], rtol: float = 1e-6) -> Int[Tensor, "*b"]:
    """Number of singular values above `rtol` times the largest."""
    values = torch.linalg.svdvals(W)
    return (values > rtol * values.amax(-1, keepdim=True)).sum(-1)


def represented(W: Float[Tensor, "*b n m"], least: float = 0.5) -> Bool[Tensor, "*b n"]:
    """Which features are longer than `least`."""
    return norms(W) > least


def superposed(W: Float[Tensor, "*b n m"], least: float = 0.5) -> Bool[Tensor, "*b"]:
    """Whether W represents more features than its directions span: the definition of superposition."""
    live = represented(W, least)
    return live.sum(-1) > rank(W * live[..., None])
