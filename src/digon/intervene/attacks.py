"""How much does the worst small change of the input hurt?

Superposition spreads every feature over the inputs of the others: the output i of a toy network rises fastest along
row i of (V Wᵀ)ᵀ, so an attacker who moves a little in *all* inputs moves one output a lot.

1. One candidate per feature and sign: ±size · (row i) / ‖row i‖. It is the exact maximizer of pre-activation i.
2. The attack is the candidate that hurts most, of all 2 n, for every input anew. Gradient ascent has nothing to follow
   where ReLUs are off (gradient masking); where they are on it may combine candidates and find more.
3. Vulnerability = (L' − L) / (L'₀ − L₀). The reference, a network without superposition, loses exactly
   size² · (largest importance): its worst candidate moves one kept output by `size`.

Source: Elhage et al. 2022, "Toy Models of Superposition", section on adversarial robustness.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ConfigError
from ..worlds.fit import Perturbation
from ..worlds.toys import ACTIVATIONS, Toy

Size = float | Float[Tensor, " i"]
"""Euclidean length of the change: one for all instances, or one per instance."""
_DEAD = 1e-8  # a feature whose direction is shorter than this cannot be attacked through


def attack_directions(toy: Toy, least: float = 0.0) -> Float[Tensor, "i n n"]:
    """Row k: the unit change of the input that raises pre-activation k most (zero if the feature is not embedded).

    Features shorter than `least` get zeros too. Training leaves a feature that it gives up with a tiny vector of random
    direction; normalized, that is one more direction to attack along, though no feature lies there.
    Raises: ConfigError unless the hidden layer is linear.
    """
    if toy.hidden != "linear":
        raise ConfigError(f"a closed-form attack on a {toy.hidden!r} hidden layer", expected="'linear'", hint="use pgd")
    rows = (toy.V @ toy.W.mT).detach().mT
    norm = rows.norm(dim=-1, keepdim=True)
    kept = (norm > _DEAD) & (toy.W.detach().norm(dim=-1, keepdim=True) >= least)
    return torch.where(kept, rows / norm.clamp(min=_DEAD), 0.0)


@torch.no_grad()
def analytic_attack(
    toy: Toy,
    x: Float[Tensor, "i b n"],
    size: Size,
    importance: Float[Tensor, "*i n"] | None = None,
    least: float = 0.0,
) -> tuple[Float[Tensor, "i b n"], Float[Tensor, "i b"]]:
    """The worst of all features' candidates for every row: the change, and the loss it adds (zero or more).

    Only features of length `least` and more are candidates.
    Raises: ConfigError unless the hidden layer is linear, or if `size` is negative.
    """
    step, weight = _size(size, x), _weight(importance, x)
    directions = step * attack_directions(toy, least).to(x)
    act, target = ACTIVATIONS[toy.output], toy.target(x)
    z = x @ toy.V @ toy.W.mT + toy.b[:, None]
    clean = (weight * (act(z) - target).square()).sum(-1)
    moved = directions @ toy.V @ toy.W.mT
    worst, which = clean.clone(), torch.zeros(clean.shape, dtype=torch.long, device=x.device)
    sign = torch.zeros_like(clean)
    for k in directions.abs().amax((0, 2)).nonzero().flatten().tolist():
        for s in (1.0, -1.0):
            hurt = (weight * (act(z + s * moved[:, k, None]) - target).square()).sum(-1)
            better = hurt > worst
            worst = torch.where(better, hurt, worst)
            which.masked_fill_(better, k)
            sign.masked_fill_(better, s)
    chosen = directions.gather(1, which[..., None].expand(-1, -1, x.shape[-1]))
    return sign[..., None] * chosen, worst - clean


def pgd_attack(
    network: Callable[[Tensor], Tensor],
    x: Float[Tensor, "i b n"],
    target: Float[Tensor, "i b n"],
    size: Size,
    *,
    importance: Float[Tensor, "*i n"] | None = None,
    steps: int = 50,
    restarts: int = 5,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "i b n"], Float[Tensor, "i b"]]:
    """Projected gradient ascent on any differentiable network, the best of all steps of all restarts.

    The first restart begins at the clean input, the others on random points of the sphere. Returns as
    `analytic_attack`.
    Raises: ConfigError if `size` is negative or a count is below 1.
    Source: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    if min(steps, restarts) < 1:
        raise ConfigError(f"{restarts} restarts of {steps} steps", expected="at least 1 of each")
    radius, weight = _size(size, x), _weight(importance, x)

    def hurt(delta: Tensor) -> Tensor:
        return (weight * (network(x + delta) - target).square()).sum(-1)

    with torch.no_grad():
        clean = hurt(torch.zeros_like(x))
    worst, best = clean.clone(), torch.zeros_like(x)
    for restart in range(restarts):
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        delta = torch.zeros_like(x) if restart == 0 else radius * _unit(noise)
        for step in range(steps + 1):
            delta = delta.detach().requires_grad_()
            now = hurt(delta)
            better = now.detach() > worst
            worst, best = torch.where(better, now.detach(), worst), torch.where(better[..., None], delta.detach(), best)
            if step < steps:
                (slope,) = torch.autograd.grad(now.sum(), delta)
                delta = delta.detach() + 2.5 / steps * radius * _unit(slope)
                delta = delta * (radius / delta.norm(dim=-1, keepdim=True).clamp(min=_DEAD)).clamp(max=1.0)
    return best, worst - clean


def reference_damage(size: Size, importance: Float[Tensor, "*i n"] | None = None) -> Float[Tensor, "*i"]:
    """L'₀ − L₀ of a network without superposition: exactly size² times the largest importance."""
    square = torch.as_tensor(size, dtype=torch.float64).square()
    return square if importance is None else square * importance.max(-1).values.to(square)


def vulnerability(
    toy: Toy,
    x: Float[Tensor, "i b n"],
    size: Size,
    importance: Float[Tensor, "*i n"] | None = None,
    least: float = 0.0,
) -> Float[Tensor, "i b"]:
    """What the analytic attack costs on every row, in units of a network without superposition.

    Only features of length `least` and more are candidates.
    Range: 0 or more; the mean over rows is 1 without superposition.
    """
    cost = reference_damage(size, importance)
    return analytic_attack(toy, x, size, importance, least)[1] / cost.to(x).reshape(-1, 1)


def single_attack_gain(W: Float[Tensor, "*i n m"]) -> Float[Tensor, "*i n"]:
    """Closed form: what the attack on one feature costs when the input is silent and biases are 0, over size².

    With G = W Wᵀ: Σⱼ ReLU((G gᵢ)ⱼ)² / ‖gᵢ‖². For unit vectors in a tight frame of λ features per dimension this is
    λ Σ_{c>0} c² over the cosines c of one row: λ itself for simplices, where no cosine but the own is positive.

    >>> single_attack_gain(torch.tensor([[1.0], [-1.0]])).round(decimals=3)
    tensor([2., 2.])
    """
    gram = W @ W.mT
    rows = gram / gram.norm(dim=-1, keepdim=True).clamp(min=_DEAD)
    return (rows @ gram).relu().square().sum(-1)


def adversarial(size: Size) -> Perturbation:
    """A perturbation for `fit`: every row is attacked through one random feature, with the sign that hurts more.

    The attack follows the weights as they train; no gradient flows through it.
    Raises: ConfigError if `size` is negative.
    """

    def perturb(toy: Toy, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            step, directions = _size(size, x), attack_directions(toy)
            pick = torch.randint(x.shape[-1], x.shape[:2], generator=generator, device=x.device)
            delta = step * directions.gather(1, pick[..., None].expand_as(x))
            target = toy.target(x)
            up, down = ((toy(x + s * delta) - target).square().sum(-1, keepdim=True) for s in (1.0, -1.0))
            return x + torch.where(up >= down, delta, -delta)

    _size(size, torch.zeros(1, 1, 1))
    return perturb


def _size(size: Size, x: Tensor) -> Tensor:
    value = torch.as_tensor(size, dtype=x.dtype, device=x.device)
    if not (value.isfinite() & (value >= 0)).all():
        raise ConfigError(f"attack size {size}", expected="a length of 0 or more")
    return value.reshape(-1, 1, 1)


def _weight(importance: Tensor | None, x: Tensor) -> Tensor:
    if importance is None:
        return torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    weight = importance.to(x)
    return weight if weight.ndim == 1 else weight[:, None]


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-30)
