"""The five activations: every one says which pre-activations become codes, and how it learns to choose.

With the pre-activation z, a code is active where z lies above a cut:

    relu        f = ReLU(z): the cut is zero; penalty λ Σ f ‖d‖ (atoms have unit norm)
    topk        the l0 largest z of a row
    batchtopk   the l0·B largest z of a batch of B rows; deployed, a threshold θ that gives as many on average
    jumprelu    f = z·1[z > θ], with a θ per latent; penalty λ Σ 1[z > θ]
    gated       f = ReLU(e^r (z − b_gate) + b_mag)·1[z > 0], z = x·w + b_gate; penalty λ Σ ReLU(z), and ReLU(z) has to
                reconstruct by itself with a frozen decoder

λ is steered to the target l0 (`coders.train.control`).

A jump has no useful derivative, so it is replaced by that of the jump smoothed by a rectangle K of width ε:
∂f/∂θ = −(θ/ε) K((z − θ)/ε), ∂1[z > θ]/∂θ = −(1/ε) K((z − θ)/ε). With revival = straight_through the same smoothing is
applied in z, so that latents that just miss the cut learn as well.
Sources: Bricken et al. 2023 (relu); Gao et al. 2024 (topk); Bussmann et al. 2024 (batchtopk); Rajamanoharan et al. 2024
(gated; jumprelu).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from .. import sparse
from . import sites
from .weights import Weights


@dataclass(frozen=True)
class Pairs:
    """The pairs (row, latent) that take part in a training step: the active ones and those that may learn to be."""

    z: Float[Tensor, " nnz"]
    """Pre-activations, with their gradient."""
    cut: Float[Tensor, ""] | Float[Tensor, " nnz"]
    """Above it a latent is active by itself."""
    forced: Bool[Tensor, " nnz"] | None
    """Pairs below the cut that are active all the same."""
    support: sparse.Support

    def above(self) -> Bool[Tensor, " nnz"]:
        """Pairs that are active by themselves."""
        return self.z.detach() > self.cut

    def active(self) -> Bool[Tensor, " nnz"]:
        """Pairs whose code counts."""
        return self.above() if self.forced is None else self.above() | self.forced


class Activation:
    """What an activation may differ in; the defaults are those of relu."""

    learned: dict[str, float] = {}  # noqa: RUF012
    """Parameters of its own, one number per latent, with their initial values."""
    tracked: dict[str, float] = {}  # noqa: RUF012
    """Numbers per latent that are measured, not learned."""
    steered = False
    """Whether the weight of its penalty is steered to the target l0."""
    offset: str | None = None
    """The tensor, subtracted from or added to z, that decides how often a latent fires; None if nothing has to."""

    def rule(self, sae: Weights, rows: int) -> sparse.Rule:
        """Which pairs take part in a training step."""
        raise NotImplementedError

    def settle(
        self, sae: Weights, found: sparse.Found, rows: int
    ) -> tuple[sparse.Found, Float[Tensor, ""] | Float[Tensor, " nnz"]]:
        """The pairs that take part, of those that all processes found, and the cut: above it one is active by itself."""
        return found, found.z.new_zeros(())

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """Codes of the candidates, zero for inactive ones, with the gradients that replace those of the jumps."""
        raise NotImplementedError

    def penalty(self, sae: Weights, pairs: Pairs, codes: Float[Tensor, " nnz"]) -> Float[Tensor, ""] | None:
        """What pulls toward fewer active latents, about 1 at the target; None where the choice does it."""
        return None

    def side_error(
        self, sae: Weights, pairs: Pairs, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]
    ) -> Float[Tensor, ""] | None:
        """A second reconstruction error that training needs, of `y` from `x`."""
        return None

    def deployed(
        self, sae: Weights, z: Float[Tensor, "n k"], x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
        """Codes of rows x that do not depend on other rows: as many per row as the fullest has."""
        return fullest(z.relu())


class ReLU(Activation):
    """Every positive pre-activation is a code; a penalty keeps most of them negative."""

    steered = True
    offset = "b_enc"

    def rule(self, sae: Weights, rows: int) -> sparse.Rule:
        """Positive pre-activations, and those that reach for zero."""
        return sparse.Above(sae.b_enc.new_tensor(-_reach(sae)))

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """ReLU, smoothed where pairs that are not positive take part."""
        return _open(sae, pairs)

    def penalty(self, sae: Weights, pairs: Pairs, codes: Float[Tensor, " nnz"]) -> Float[Tensor, ""]:
        """Sum of the codes."""
        return _size(sae, codes, pairs)


class TopK(Activation):
    """A fixed number of latents per row."""

    def rule(self, sae: Weights, rows: int) -> sparse.Rule:
        """The largest of every row."""
        return sparse.PerRow(min(_candidates(sae), sae.held))

    def settle(self, sae: Weights, found: sparse.Found, rows: int) -> tuple[sparse.Found, Float[Tensor, " nnz"]]:
        """A contest in every row; the cut is just below the smallest that has a place."""
        values = found.priority.view(rows, -1)
        inside, smallest = sae.group.contest_by_row(values, _candidates(sae), round(sae.budget))
        cut = _below(smallest).expand_as(values).reshape(-1)
        return (found, cut) if inside is None else (found.take(inside.reshape(-1)), cut[inside.reshape(-1)])

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """What is above the cut of its row."""
        return _jump(sae, pairs, _moving_row_cut(sae, pairs))

    def deployed(
        self, sae: Weights, z: Float[Tensor, "n k"], x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
        """The largest of every row."""
        values, indices = sparse.rowwise_top(z, sae.target_l0)
        return values.relu(), indices


class BatchTopK(Activation):
    """A fixed number of latents per batch, so that rich rows get more than poor ones; a threshold when deployed."""

    tracked = {"threshold": 0.0}  # noqa: RUF012

    def rule(self, sae: Weights, rows: int) -> sparse.Rule:
        """The largest of the batch."""
        return sparse.PerBatch(min(_candidates(sae, rows * sae.group.rows.size), rows * sae.held))

    def settle(self, sae: Weights, found: sparse.Found, rows: int) -> tuple[sparse.Found, Float[Tensor, ""]]:
        """A contest in the batch; the cut is just below the smallest that has a place."""
        n = rows * sae.group.rows.size
        inside, smallest = sae.group.contest(found.priority, _candidates(sae, n), round(sae.budget * n))
        return found if inside is None else found.take(inside), _below(smallest)

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """What is above the cut of the batch."""
        return _jump(sae, pairs, _moving_cut(sae, pairs))

    def deployed(
        self, sae: Weights, z: Float[Tensor, "n k"], x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
        """What is above the threshold."""
        return fullest(torch.where(z > sae.threshold, z, 0.0).relu())


class JumpReLU(BatchTopK):
    """A threshold per latent that is learned."""

    learned = {"threshold": 0.0}  # noqa: RUF012
    tracked = {}  # noqa: RUF012
    steered = True
    offset = "threshold"

    def rule(self, sae: Weights, rows: int) -> sparse.Rule:
        """What is above its threshold, or near enough to move it."""
        return sparse.Above(sae.threshold.detach() - sae.config.kernel / 2)

    def settle(self, sae: Weights, found: sparse.Found, rows: int) -> tuple[sparse.Found, Float[Tensor, " nnz"]]:
        """All of them; the cuts are the thresholds."""
        return found, sae.threshold.detach()[found.latents]

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """What is above its threshold, which learns from what is near."""
        return _jump(sae, pairs, sparse.spread(sae.threshold, pairs.support))

    def penalty(self, sae: Weights, pairs: Pairs, codes: Float[Tensor, " nnz"]) -> Float[Tensor, ""]:
        """Number of active latents."""
        pull = _learn(sparse.spread(sae.threshold, pairs.support))
        if sae.config.rescue == "straight_through":
            pull = pull - _learn(pairs.z)
        count = (pairs.above().to(pairs.z) - _near(sae, pairs) / sae.config.kernel * pull).sum()
        return count / (len(pairs.support.row_starts) * sae.target_l0)


class Gated(ReLU):
    """One affine map decides whether a latent fires, a rescaled copy of it how much: no shrinkage by the penalty."""

    learned = {"r_mag": 0.0, "b_mag": 0.0}  # noqa: RUF012

    def codes(self, sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
        """Magnitudes behind open gates."""
        scale, gate, magnitude = (sparse.spread(t, pairs.support) for t in (sae.r_mag, sae.b_enc, sae.b_mag))
        size = (scale.exp() * (pairs.z - gate) + magnitude).relu()
        codes = size * pairs.active()
        if sae.config.rescue == "straight_through":
            codes = codes + size.detach() / sae.config.kernel * _near(sae, pairs) * _learn(pairs.z)
        return codes

    def penalty(self, sae: Weights, pairs: Pairs, codes: Float[Tensor, " nnz"]) -> Float[Tensor, ""]:
        """Sum of what the gates see."""
        return _size(sae, _open(sae, pairs), pairs)

    def side_error(
        self, sae: Weights, pairs: Pairs, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"]
    ) -> Float[Tensor, ""]:
        """What ReLU(z) reconstructs by itself, with the decoder held still."""
        rebuilt = sparse.decode(_open(sae, pairs), sae.W_dec.detach(), pairs.support)
        return (sae.group.latents.merged(rebuilt) + sae.base(x).detach() - y).square().mean()

    def deployed(
        self, sae: Weights, z: Float[Tensor, "n k"], x: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
        """Magnitudes behind open gates, from a product of their own: rescaling z would round otherwise than other tools."""
        size = F.linear(x - sae.origin, sae.W_enc * sae.r_mag.exp()[:, None]).add_(sae.b_mag).relu()
        return fullest(torch.where(z > 0, size, 0.0))


ACTIVATIONS: dict[str, Activation] = {
    "relu": ReLU(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
}


def fullest(codes: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "n s"], Int[Tensor, "n s"]]:
    """All positive codes, as many per row as the fullest row has."""
    count = int((codes > 0).sum(1).max()) if len(codes) else 0
    return sparse.rowwise_top(codes, max(count, 1))


def _learn(number: Tensor) -> Tensor:
    """Zero, with the gradient of `number`."""
    return number - number.detach()


def _near(sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
    """The rectangle K: 1 within half a kernel of the cut."""
    return ((pairs.z.detach() - pairs.cut).abs() < sae.config.kernel / 2).to(pairs.z)


def _reach(sae: Weights) -> float:
    """How far below a cut of zero a latent still learns."""
    return sae.config.kernel / 2 if sae.config.rescue == "straight_through" else 0.0


def _candidates(sae: Weights, rows: int = 1) -> int:
    """Pairs to look at where their number is fixed: with straight-through, as many again as are active."""
    active = round(sae.budget * rows)
    return min(2 * active, sae.config.width * rows) if sae.config.rescue == "straight_through" else active


def _below(smallest: Tensor) -> Tensor:
    """The cut that lets the smallest chosen pre-activation pass, if it is positive at all."""
    return torch.nextafter(smallest, torch.full_like(smallest, -torch.inf)).clamp_min(0)


def _open(sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"]:
    """ReLU(z), with the gradient of the smoothed ReLU where z is not positive but takes part all the same."""
    codes = pairs.z.relu()
    if sae.config.rescue == "straight_through" or pairs.forced is not None:
        slope = (pairs.z.detach() / sae.config.kernel + 0.5).clamp(0, 1)
        if pairs.forced is not None:
            slope = torch.where(pairs.forced, 1.0, slope)
        codes = codes + torch.where(pairs.z > 0, 0.0, slope) * _learn(pairs.z)
    return codes


def _jump(sae: Weights, pairs: Pairs, cut: Tensor | None) -> Float[Tensor, " nnz"]:
    """z above the cut, with the derivative of the smoothed jump in the cut, and with straight-through in z."""
    codes = pairs.z.relu() * pairs.active()
    if cut is None:
        return codes
    lift = -_learn(cut)
    if sae.config.rescue == "straight_through":
        lift = lift + _learn(pairs.z)
    near = _near(sae, pairs)
    if pairs.forced is not None:
        near = torch.where(pairs.forced, 1.0, near)
    return codes + pairs.cut / sae.config.kernel * near * lift


def _moving_cut(sae: Weights, pairs: Pairs) -> Float[Tensor, ""] | None:
    """The cut of a contest for a fixed number of places, with its gradient: who rises pushes others out.

    Smoothed, the number above the cut stays the same, so the cut moves as the mean of the pairs near to it.
    """
    if sae.config.rescue != "straight_through":
        return None
    near = _near(sae, pairs)
    return sae.group.total((near * pairs.z).sum()) / sae.group.total(near.sum()).clamp_min(1)


def _moving_row_cut(sae: Weights, pairs: Pairs) -> Float[Tensor, " nnz"] | None:
    """The same where every row is a contest of its own."""
    if sae.config.rescue != "straight_through":
        return None
    near, rows, across = _near(sae, pairs), pairs.support.rows, sae.group.latents
    if across.alone:
        near = near.view(len(pairs.support.row_starts), -1)
        mean = (near * pairs.z.view_as(near)).sum(1, keepdim=True) / near.sum(1, keepdim=True).clamp_min(1)
        return mean.expand_as(near).reshape(-1)
    parts = torch.stack([near * pairs.z, near], dim=1)
    sums = across.total(parts.new_zeros(len(pairs.support.row_starts), 2).index_add(0, rows, parts))
    return (sums[:, 0] / sums[:, 1].clamp_min(1))[rows]


def _size(sae: Weights, codes: Float[Tensor, " nnz"], pairs: Pairs) -> Float[Tensor, ""]:
    """Mean sum of the codes of a row, relative to a row of l0 typical codes.

    A crosscoder pays for a code once per site, in proportion to the atom's norm there.
    """
    scale = math.sqrt(sae.config.d_out * sae.target_l0)
    if sae.config.sites:
        codes = codes * sparse.spread(sites.norms(sae).sum(1), pairs.support)
    return codes.sum() / (len(pairs.support.row_starts) * scale)
