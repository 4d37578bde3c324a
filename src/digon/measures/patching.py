"""What does a network lose if it reads a reconstruction in the place of its own activations?

    ce_recovered   (CE_ablated − CE_patched) / (CE_ablated − CE_clean)
    kl             mean of KL(clean ‖ patched) over tokens
    kl_recovered   1 − Σ KL(clean ‖ patched) / Σ KL(clean ‖ ablated)

CE is the network's own loss on the next token. What "ablated" means decides the number: with zeros the network reads what it
never meets, and nearly everything looks recovered; with the mean row it only loses what differs from token to token. State it.

What these do not say: whether features were found. The identity reads 1, and more or wider codes read more, so compare at
equal l0 beside a null: random directions, as many, with as many active. Copies of atoms gain nothing.

Sources: Bricken et al. 2023 (loss recovered); Gao et al. 2024, who show how it flatters; intervals resample documents.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 256
"""Rows of logits that are looked at together."""


def token_costs(
    clean: Float[Tensor, "n v"], edited: Float[Tensor, "n v"], targets: Int[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """Per row: loss of the edited logits on the target, and KL(clean ‖ edited). Unit: nats. Range: [0, ∞).

    >>> token_costs(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1])).tolist()
    [[0.6931471805599453, 0.0]]
    """
    parts: list[Tensor] = []
    for own, other, wanted in zip(clean.split(ROWS), edited.split(ROWS), targets.split(ROWS), strict=True):
        before, after = (F.log_softmax(logits.double(), -1) for logits in (own, other))
        divergence = (before.exp() * (before - after)).sum(-1).clamp(min=0)
        parts.append(torch.stack([-after.gather(1, wanted[:, None])[:, 0], divergence], 1))
    return torch.cat(parts) if parts else clean.new_zeros(0, 2).double()


def jensen_shannon(clean: Float[Tensor, "n v"], edited: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Per row: divergence of two distributions, given by logits, from their mean. Unit: nats. Range: [0, ln 2].

    Source: Lin 1991.

    >>> bool(jensen_shannon(torch.tensor([[0.0, -1e9]]), torch.tensor([[-1e9, 0.0]])).isclose(torch.tensor(2.0).double().log()))
    True
    """
    parts: list[Tensor] = []
    for own, other in zip(clean.split(ROWS), edited.split(ROWS), strict=True):
        before, after = (F.log_softmax(logits.double(), -1) for logits in (own, other))
        middle = torch.logaddexp(before, after) - math.log(2)
        sides = [(side.exp() * (side - middle)).sum(-1) for side in (before, after)]
        parts.append(((sides[0] + sides[1]) / 2).clamp(min=0))
    return torch.cat(parts) if parts else clean.new_zeros(0).double()


def per_token_of(sums: Float[Tensor, "*b 2 u"]) -> Float[Tensor, "*b u"]:
    """Mean from a total and a count of tokens; NaN without tokens."""
    total, count = sums.unbind(-2)
    return torch.where(count > 0, total / count, math.nan)


def ce_recovered_of(sums: Float[Tensor, "*b 3 u"]) -> Float[Tensor, "*b u"]:
    """Share of the loss that ablation costs which the reconstruction saves, from the totals clean, patched, ablated.

    Range: 1 as clean, 0 as ablated, below 0 worse; NaN where ablation costs nothing.

    >>> ce_recovered_of(torch.tensor([[2.0], [2.5], [4.0]]))
    tensor([0.7500])
    """
    clean, patched, ablated = sums.unbind(-2)
    return torch.where(ablated > clean, (ablated - patched) / (ablated - clean), math.nan)


def kl_recovered_of(sums: Float[Tensor, "*b 2 u"]) -> Float[Tensor, "*b u"]:
    """1 − patched / ablated from the totals of KL(clean ‖ ·). Range: up to 1; NaN where ablation changes nothing.

    >>> kl_recovered_of(torch.tensor([[0.5], [2.0]]))
    tensor([0.7500])
    """
    patched, ablated = sums.unbind(-2)
    return torch.where(ablated > 0, 1 - patched / ablated, math.nan)
