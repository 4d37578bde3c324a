"""How well does a direction fit what an explanation says? From second moments alone, so that trying is free.

    G = cov(z), c = cov(z, s) / sd(s) over the rows of a split     ρ(θ) = θ·c / √(θᵀGθ) = corr(z·θ, s)
    gradient     ∂ρ/∂θ = (c − ρ G θ / ‖v‖) / ‖v‖, ‖v‖ = √(θᵀGθ): tangent to the sphere, as ρ does not depend on the length
    closed form  θ ∝ (G + λI)⁻¹ c: ridge regression of s on z; λ = 0 is the largest ρ that any direction reaches on these rows
    deflated     the same under Q θ = 0: A c − A Qᵀ (Q A Qᵀ)⁻¹ Q A c with A = (G + λI)⁻¹

On rows x directions this is v = Zθ, ṽ = v/‖v‖ and ∂ρ/∂θ = Zᵀ(s̃ − ρ ṽ)/‖v‖.

Source: gradient and Adam's settings after Bills et al. 2023; the closed form is ordinary least squares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

PIECE = 16_384
PENALTIES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""λ in units of the variance of a white axis; the select split chooses."""
RATE, BETAS = 1e-2, (0.9, 0.999)


@dataclass(frozen=True)
class Moments:
    """All that the score of directions against explanations depends on, over the rows of one split."""

    gram: Float[Tensor, "r r"]
    """Covariance of the white rows."""
    cross: Float[Tensor, "b r"]
    """Covariance of the white rows with each explanation's simulated values, over the deviation of these; 0 if constant."""

    @classmethod
    def of(
        cls,
        white: Float[Tensor, "n r"],
        simulated: Float[Tensor, "n b"],
        gram: Float[Tensor, "r r"] | None = None,
    ) -> "Moments":
        """From rows; `gram` where it is known already."""
        found = covariance(white) if gram is None else gram
        s = simulated.double()
        spread = s.std(0, correction=0)
        varies = spread > 1e-9 * s.abs().amax(0).clamp_min(1e-300)
        scaled = torch.where(varies, (s - s.mean(0)) / spread.clamp_min(1e-300), 0.0).to(white)
        parts = zip(scaled.split(PIECE), white.split(PIECE), strict=True)
        cross = sum(((s.T @ z).double() for s, z in parts), torch.zeros((), dtype=torch.float64)) / len(white)
        return cls(found, cross)

    def score(self, theta: Float[Tensor, "*b r"]) -> Float[Tensor, "*b"]:
        """ρ of the b-th direction with the b-th explanation, over any leading axes. Range: [−1, 1]; 0 if one is constant."""
        theta = theta.double()
        return (theta * self.cross).sum(-1) / self._spread(theta)

    def table(self, theta: Float[Tensor, "t r"]) -> Float[Tensor, "b t"]:
        """ρ of every explanation with every direction."""
        theta = theta.double()
        return self.cross @ theta.T / self._spread(theta)

    def gradient(self, theta: Float[Tensor, "b r"]) -> Float[Tensor, "b r"]:
        """∂ρ/∂θ of every pair."""
        theta = theta.double()
        spread = self._spread(theta)[:, None]
        rho = self.score(theta)[:, None]
        return (self.cross - rho * (theta @ self.gram) / spread) / spread

    def _spread(self, theta: Float[Tensor, "*b r"]) -> Float[Tensor, "*b"]:
        return ((theta @ self.gram) * theta).sum(-1).clamp_min(1e-30).sqrt()


def covariance(white: Float[Tensor, "n r"]) -> Float[Tensor, "r r"]:
    """Covariance of rows; pieces add up in float64."""
    r = white.shape[1]
    total = torch.zeros(r, r, dtype=torch.float64, device=white.device)
    mean = torch.stack([part.sum(0, dtype=torch.float64) for part in white.split(PIECE)]).sum(0) / len(white)
    for part in white.split(PIECE):
        centered = part - mean.to(part)
        total += (centered.T @ centered).double()
    return total / len(white)


@dataclass(frozen=True)
class Ridge:
    """The closed form for any explanation and any λ: one decomposition of the covariance serves all."""

    values: Float[Tensor, " r"]
    axes: Float[Tensor, "r r"]

    @classmethod
    def of(cls, gram: Float[Tensor, "r r"]) -> "Ridge":
        """Decompose a covariance."""
        return cls(*torch.linalg.eigh(gram))

    def path(
        self,
        cross: Float[Tensor, "b r"],
        apart: Float[Tensor, "q r"],
        penalties: Sequence[float] = PENALTIES,
    ) -> Float[Tensor, "p b r"]:
        """Unit directions for every λ, orthogonal to those in `apart`."""
        c, q = cross @ self.axes, apart.double() @ self.axes
        found = []
        for penalty in penalties:
            inverse = 1 / (self.values + penalty).clamp_min(1e-9 * float(self.values[-1]))
            free = c * inverse
            if len(q):
                held = (q * inverse) @ q.T
                free = free - torch.linalg.solve(held, (q @ free.T)).T @ q * inverse
            found.append(free @ self.axes.T)
        return torch.nn.functional.normalize(torch.stack(found), dim=-1)


def adam(
    theta: Float[Tensor, "b r"], fit: Moments, apart: Float[Tensor, "q r"], steps: int
) -> Float[Tensor, "steps b r"]:
    """Every iterate of gradient ascent on the fit split, put back on the sphere after each step."""
    moving = torch.nn.Parameter(project(theta, apart))
    optimizer = torch.optim.Adam([moving], lr=RATE, betas=BETAS)
    seen = []
    for _ in range(steps):
        moving.grad = -project(fit.gradient(moving.detach()), apart, unit=False)
        optimizer.step()
        with torch.no_grad():
            moving.copy_(project(moving, apart))
        seen.append(moving.detach().clone())
    return torch.stack(seen)


def project(theta: Float[Tensor, "b r"], apart: Float[Tensor, "q r"], *, unit: bool = True) -> Float[Tensor, "b r"]:
    """What is left of directions outside the span of orthonormal ones; back to length 1 if `unit`."""
    left = theta.double() - (theta.double() @ apart.T.double()) @ apart.double()
    return torch.nn.functional.normalize(left, dim=-1) if unit else left
