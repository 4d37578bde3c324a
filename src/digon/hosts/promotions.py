"""Which tokens does a unit promote? Its direct path to the logits, past all later layers.

    Δ logits = W_U · g ⊙ (w − mean w) / s        w: what the unit writes to the residual stream per unit of activation
                                                 g: gain of the last norm; only a norm that centers subtracts the mean
                                                 s: spread of the residual stream before that norm, held fixed

The gain is measured on the norm itself, so that no architecture has to be known. With s = 1 logits are right up to one common
factor; `spread` measures s on real tokens. What later layers make of the unit is not in it.

Source: nostalgebraist 2020 (logit lens).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..records import Promotion
from .load import Host
from .sites import Site
from .taps import capture


def promotions(
    host: Host, site: Site, direction: Float[Tensor, " d"], count: int = 10, spread: float = 1.0
) -> tuple[Promotion, ...]:
    """The `count` tokens whose logits a unit along `direction` of the site raises most, and as many that it lowers most.

    Strongest first; empty for a network that predicts no tokens or a site whose way to the residual stream is not known.
    """
    effect = direct_effect(host, site, direction, spread)
    if effect is None or host.tokenizer is None:
        return ()
    best = effect.topk(min(count, len(effect)))
    worst = effect.topk(min(count, len(effect)), largest=False)
    found = {
        int(token): float(value)
        for side, wanted in ((best, 1), (worst, -1))
        for token, value in zip(side.indices, side.values, strict=True)
        if float(value) * wanted > 0
    }
    text = host.tokenizer.token_text
    return tuple(Promotion(text(t), round(v, 6)) for t, v in sorted(found.items(), key=lambda pair: -abs(pair[1])))


@torch.inference_mode()
def direct_effect(
    host: Host, site: Site, direction: Float[Tensor, " d"], spread: float = 1.0
) -> Float[Tensor, " vocabulary"] | None:
    """Change of every logit per unit of activation; None where there is no such path."""
    head, norm, write = _unembedding(host.model), _last_norm(host), _write(host.model, site, direction)
    if head is None or norm is None or write is None or len(write) != head.shape[1]:
        return None
    gain, centers = _gain(norm[1], head)
    write = write.to(head).float()
    moved = write - write.mean() if centers else write
    return (head.float() @ (gain * moved) / spread).cpu()


@torch.inference_mode()
def spread(host: Host, token_ids: Int[Tensor, "b t"]) -> float:
    """Mean deviation (root mean square for a norm that does not center) of the stream before the last norm, over tokens.

    NaN for a network without one. The first token of every context is left out: it is often far off.
    """
    norm, head = _last_norm(host), _unembedding(host.model)
    if norm is None or head is None:
        return float("nan")
    with capture(host.model, [Site(norm[0], norm[0], "input", None)]) as seen:
        host.forward(token_ids.to(host.device))
    stream = seen[norm[0]][:, 1:].double()
    _, centers = _gain(norm[1], head)
    rows = stream - stream.mean(-1, keepdim=True) if centers else stream
    return float(1 / rows.square().mean(-1).rsqrt().mean())


def _write(model: nn.Module, site: Site, direction: Float[Tensor, " d"]) -> Tensor | None:
    """What a unit along a direction of the site adds to the residual stream."""
    if site.kind in ("resid", "embed", "mlp.out", "attn.out"):
        return direction
    if site.kind not in ("mlp.act", "attn.heads"):
        return None
    weight = getattr(model.get_submodule(site.module), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    turned = type(model.get_submodule(site.module)).__name__ == "Conv1D"
    matrix = weight.T if turned else weight
    return matrix.float() @ direction.to(matrix.device).float() if matrix.shape[1] == len(direction) else None


def _unembedding(model: nn.Module) -> Tensor | None:
    find: Callable[[], nn.Module | None] | None = getattr(model, "get_output_embeddings", None)
    module = find() if find is not None else getattr(model, "unembed", None)
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _last_norm(host: Host) -> tuple[str, nn.Module] | None:
    """The norm behind the last block: the only ones outside the blocks are this one and, in some, one behind the embedding."""
    blocks = {site.module for site in host.sites("*") if site.kind == "resid"}
    outside = [
        (path, module)
        for path, module in host.model.named_modules()
        if "norm" in type(module).__name__.lower() and not any(path.startswith(f"{block}.") for block in blocks)
    ]
    return outside[-1] if outside and blocks else None


def _gain(norm: nn.Module, head: Tensor) -> tuple[Float[Tensor, " d"], bool]:
    """Gain of every dimension, and whether the norm subtracts the mean: by what it does to alternating signs."""
    d = head.shape[1]
    sign = torch.ones(d, device=head.device)
    sign[1::2] = -1
    total, weight = torch.zeros_like(sign), torch.zeros_like(sign)
    for x in (sign, -sign.roll(1)) if d % 2 == 0 else _odd(sign):
        x = (10 * x).to(head)  # far above the norm's ε
        size = x.float().square().mean().sqrt()
        slope = (norm(x[None])[0] - norm(-x[None])[0]).float() / 2 * size
        total, weight = total + torch.where(x != 0, slope / x.where(x != 0, 1).float(), 0.0), weight + (x != 0)
    x = torch.randn(d, generator=torch.Generator().manual_seed(0)).to(head)
    centers = torch.allclose(norm(x[None] + 3), norm(x[None]), atol=1e-2)
    return total / weight, bool(centers)


def _odd(sign: Tensor) -> tuple[Tensor, Tensor]:
    """Two patterns of mean zero that together cover an odd number of dimensions."""
    first = sign.clone()
    first[-1] = 0
    return first, first.roll(1)
