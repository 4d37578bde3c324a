"""What is a toy autoencoder's loss on all data at once, without sampling?

Output j sees z = b + Σᵢ aᵢ xᵢ with aᵢ = Wⱼ·Wᵢ, a sum of independent sparse features (or sets of features), and its loss
needs E[ReLU(z)²] and E[xⱼ ReLU(z)]. Both are line integrals of the moment-generating function:

    M(s)         = e^{bs} Π φ(s)             φ = 1 − p + p D(as) for one feature, D(w) = E[e^{wx} | active]
    E[ReLU(z)²]  = 1/(2πi) ∫ M(s) 2/s³ ds    along Re s = c > 0
    E[xⱼReLU(z)] = 1/(2πi) ∫ M(s) (ψ/φ) /s² ds   ψ = p D′(as) for feature j

1. A set of features shares one factor: correlated 1 − p + p Π D(aᵢs), anticorrelated 1 − Σp + Σ pᵢ D(aᵢs).
2. The events "nothing active" and "one feature active" have transforms that hardly decay: they are taken out and done
   in closed form.
3. The trapezoidal rule with step 2π/T sees z periodically. If |z| ≤ T, the copies are whole polynomials, known from the
   moments, and are subtracted.
4. Nodes are added until the sum no longer changes; the error falls with the fourth power of their number.

Outputs that are never or always clipped need moments only; up to three independent features in [0, 1] have a closed form
in the compiled engine. Everything is float64 and differentiable. The gradient converges more slowly than the loss: where
an inner product or a bias is exactly 0 its error falls only with the number of nodes itself.

Source: Bromwich's inversion integral with the trapezoidal rule (Abate and Whitt 1992, "The Fourier-series method for
inverting transforms of probability distributions"), applied to Elhage et al. 2022, "Toy Models of Superposition".
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ..errors import ConfigError
from .contour import contour_loss, linear_loss
from .features import EXACT_KINDS, Features
from .memory import check_memory

Output = Literal["relu", "linear"]
Engine = Literal["auto", "torch", "numba"]
EXACT_VALUES = ("uniform", "symmetric")


def expected_loss(
    W: Float[Tensor, "i n m"],
    b: Float[Tensor, "i n"],
    law: Features,
    *,
    V: Float[Tensor, "i n m"] | None = None,
    output: Output = "relu",
    nodes: int | None = None,
    engine: Engine = "auto",
) -> Float[Tensor, " i"]:
    """E Σⱼ importanceⱼ (xⱼ − x′ⱼ)² of x′ = output(x V Wᵀ + b), float64, differentiable; V is W unless it is given.

    `nodes` fixes the nodes per output; None adds them until the loss holds to about 1e-9. "auto" takes the compiled
    engine on the CPU; second derivatives need "torch".

    Raises: ConfigError if the law has no exact loss or does not fit the network, or if memory would not hold it.
    """
    possible = W.device.type == "cpu" and has_numba()
    if engine == "numba" and not possible:
        raise ConfigError(
            f"engine 'numba' on {W.device.type}" if has_numba() else "engine 'numba' without numba",
            expected="tensors on the CPU, and numba installed",
            hint="use engine='torch'",
        )
    compiled = possible and engine != "torch"
    check_exact(W, b, law, output, V=V, nodes=nodes, compiled=compiled)
    parts = [part.double() for part in ((W, b) if V is None else (W, V, b))]
    if compiled:
        return _Compiled.apply(law, output == "linear", nodes, *parts)
    if output == "linear":
        return linear_loss(parts[0], parts[-2], parts[-1], law)
    return contour_loss(parts[0], parts[-2], parts[-1], law, nodes)


@cache
def has_numba() -> bool:
    """Whether the compiled engine can be used."""
    return find_spec("numba") is not None


def check_exact(
    W: Tensor,
    b: Tensor,
    law: Features,
    output: str,
    *,
    V: Tensor | None = None,
    nodes: int | None = None,
    compiled: bool = True,
) -> None:
    """Raises: ConfigError if the expected loss of such a network on this law is not known, or memory would not hold it."""
    fits = W.ndim == 3 and b.shape == W.shape[:2] and (V is None or V.shape == W.shape)
    if not fits or law.n != W.shape[1]:
        raise ConfigError(
            f"a law of {law.n} features for weights {list(W.shape)} and biases {list(b.shape)}",
            expected="weights [instances, n, m], biases [instances, n] and a law of n features",
        )
    for name in ("density", "importance"):
        shape = getattr(law, name).shape
        if len(shape) > 2 or (len(shape) == 2 and shape[0] not in (1, len(W))):
            raise ConfigError(
                f"{name} {list(shape)} for {len(W)} networks", expected=f"[{law.n}] or [{len(W)}, {law.n}]"
            )
    if not all(bool(part.isfinite().all()) for part in (W, b, *(() if V is None else (V,)))):
        raise ConfigError("weights or biases are not finite", expected="finite numbers")
    kinds = {group.kind for group in law.sets} - set(EXACT_KINDS)
    if output not in ("relu", "linear") or kinds:
        raise ConfigError(
            f"no exact loss is known of {output} outputs on {', '.join(kinds) or 'any'} features",
            expected=f"relu or linear outputs; sets that are {' or '.join(EXACT_KINDS)}",
            hint="train with engine='sampled'",
        )
    if output == "relu" and law.values not in EXACT_VALUES:
        raise ConfigError(
            f"values {law.values!r} have no exact loss behind a ReLU",
            expected=" | ".join(EXACT_VALUES),
            hint="train with engine='sampled'",
        )
    if nodes is not None and nodes < 1:
        raise ConfigError(f"setting 'nodes': {nodes}", expected="at least 1")
    count, n, m = W.shape
    weights = 8 * count * n * (2 * m + 1)
    needed = 3 * weights + 64 * n * n if compiled else weights + 80 * count * n * n
    check_memory(needed, f"the exact loss of {count} networks of {n} features", "fewer features or instances")


class _Compiled(torch.autograd.Function):
    """The compiled engine, with the gradient it computes along the way."""

    @staticmethod
    def forward(ctx: FunctionCtx, law: Features, linear: bool, nodes: int | None, *parts: Tensor) -> Tensor:
        from .exact_engine import losses

        loss, slopes = losses(list(parts), law, linear=linear, nodes=nodes)
        ctx.save_for_backward(*slopes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slopes = (above[0].view(-1, *[1] * (s.ndim - 1)) * s for s in ctx.saved_tensors)
        return None, None, None, *slopes
