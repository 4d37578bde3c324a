"""Changes of scale, folded into the weights: an SAE for raw activations from one that was trained on scaled ones.

With s the factor of every unit that is read, t of every unit that is written, and c that of the codes:

    W_enc · c/s,   W_dec · t/c,   W_skip · t/s,   b_in · s,   b_dec · t,   b_enc, b_mag and thresholds · c

An autoencoder has s = t = c, a transcoder c = t: atoms keep their norm. The sites of a crosscoder have a factor each, so c
is their root mean square over the units: all codes keep the same scale, which topk needs, and atoms lose their norm.
What a transcoder takes off its input goes into the biases, so that files need not hold it.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .config import SAEConfig
from .weights import Weights

OF_CODES = frozenset({"b_enc", "b_mag", "threshold"})


@torch.no_grad()
def rescale(sae: Weights, factors: Sequence[float]) -> None:
    """Multiply in place by a factor per part of the rows."""
    read, written = sae.split(per_unit(factors, sae.config.parts))
    c = code_factor(sae.config, factors)
    tensors = sae.state_dict(keep_vars=False)
    for name in tensors.keys() & OF_CODES:
        tensors[name].mul_(c)
    sae.b_dec.mul_(written.to(sae.b_dec))
    if len(factors) == 1:
        return
    sae.W_enc.mul_((c / read).to(sae.W_enc))
    sae.W_dec.mul_((written / c).to(sae.W_dec))
    if "b_in" in tensors:
        sae.b_in.mul_(read.to(sae.b_in))
    if "W_skip" in tensors:
        sae.W_skip.mul_((written[:, None] / read).to(sae.W_skip))
        sae.b_dec.sub_(sae.W_skip @ sae.b_in)
    if "b_in" in tensors:
        shift = sae.W_enc @ sae.b_in
        sae.b_enc.sub_(shift)
        if "b_mag" in tensors:
            sae.b_mag.sub_(sae.r_mag.exp() * shift)
        sae.b_in.zero_()
    if "site_scale" in tensors:
        sae.site_scale.mul_(torch.tensor(list(factors)).to(sae.site_scale))


def code_factor(config: SAEConfig, factors: Sequence[float]) -> float:
    """c: the factor of what is written, or its root mean square over the units of several sites."""
    if not config.sites:
        return factors[-1]
    return math.sqrt(sum(f * f * d for f, d in zip(factors, config.sites, strict=True)) / config.d_in)


def per_unit(factors: Sequence[float], parts: Sequence[int]) -> Float[Tensor, " d"]:
    """The factor of every unit of a row whose sites have so many units, in float64."""
    return torch.tensor(list(factors), dtype=torch.float64).repeat_interleave(torch.tensor(list(parts)))
