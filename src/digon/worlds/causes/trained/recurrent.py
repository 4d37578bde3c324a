"""A recurrent network reads symbols and says them again from its last state.

With one gate for all units, the directions of a symbol at different steps are one direction, and only sizes tell the
steps apart: an onion, which is peeled from the last symbol to the first. With a matrix, every step can have directions
of its own.

Source: Csordás et al. 2024, "Recurrent neural networks learn to store sequences with magnitude codes".
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ....measures.basis import haar
from ..base import Truth, World, check_size, world
from .oracle import PROBES, additive_truth, encoding, span, unclear
from .training import minimize, weights

RIGHT = 0.9
"""Least share of symbols that are copied."""
COLLINEAR = 0.95
"""Least cosine between the directions of one symbol at two steps of an onion."""
BLANK = 0.5
"""Share of steps without a symbol."""
STEPS = 1500
BATCH = 256


def copy(
    n_rows: int, d: int, seed: int, *, cell: str = "gate", length: int = 3, vocabulary: int | None = None
) -> World:
    """A recurrent network reads `length` symbols, some of them blank, and says them again from its last state.

    gate: state ← γ state + E[symbol], one γ for all units; the reader takes the strongest symbol, subtracts it, divides
    by γ and goes on. matrix: state ← state R + E[symbol], read linearly. Default vocabulary: as many symbols as units
    for a gate, as many as have dimensions enough for a matrix. Labels are the symbols, 0 for a blank.

    Raises: ConfigError for an unknown cell or too few symbols; RunError if the network does not copy.
    """
    check_size(n_rows, d)
    size = (d if cell == "gate" else max(1, d // (2 * length))) if vocabulary is None else vocabulary
    if cell not in ("gate", "matrix") or size < 1 or length < 2:
        raise ConfigError(f"a {cell} that copies {length} of {size} symbols", expected="gate | matrix; 2 of 1 or more")
    g = rng.stream(seed, "copy")
    E, step = weights(size, d, g) * size**0.5 / d**0.5, torch.tensor(-1.0) if cell == "gate" else haar(d, g)
    blank = torch.tensor(0.0)
    out = (E.T.clone()[None] if cell == "gate" else E.T.repeat(length, 1, 1)) * 4
    bias = torch.zeros(1 if cell == "gate" else length, size)

    def draw(rows: int) -> Int[Tensor, "rows t"]:
        shown = torch.rand(rows, length, generator=g) > BLANK
        return shown * (1 + torch.randint(size, (rows, length), generator=g))

    def write(x: Int[Tensor, "rows t"]) -> Float[Tensor, "rows d"]:
        table = torch.cat([torch.zeros(1, d), E])
        state = torch.zeros(len(x), d)
        for t in range(length):
            state = (step.sigmoid() * state if cell == "gate" else state @ step) + table[x[:, t]]
        return state

    read = partial(_peeled, E, step, out, bias, blank, length) if cell == "gate" else partial(_straight, out, bias)

    def loss() -> Float[Tensor, ""]:
        x = draw(BATCH)
        return torch.nn.functional.cross_entropy(read(write(x)).flatten(0, 1), x.flatten())

    minimize(
        [E, step, out, bias, *([blank] if cell == "gate" else [])],
        loss,
        steps=STEPS,
        peak=2e-2 if cell == "gate" else 5e-3,
    )
    x = draw(n_rows)
    h = write(x)
    right = float((read(h).argmax(2) == x).float().mean())
    if right < RIGHT:
        raise unclear("the share of symbols that are copied", right, f"at least {RIGHT}")
    truth = _copied(write, x, size)
    return replace(world(h, truth, labels=x), network=lambda a: read(a).flatten(1))


def _peeled(
    E: Float[Tensor, "v d"], gate: Float[Tensor, ""], out: Float[Tensor, "1 d v"], bias: Float[Tensor, "1 v"],
    blank: Float[Tensor, ""], length: int, h: Float[Tensor, "rows d"],
) -> Float[Tensor, "rows t w"]:  # fmt: skip
    """Logits of blank and symbols at every step: the last symbol first, then what is left, enlarged."""
    found: list[Tensor] = []
    for _ in range(length):
        logits = torch.cat([blank.expand(len(h), 1), h @ out[0] + bias], 1)
        found.append(logits)
        h = (h - logits.softmax(1)[:, 1:] @ E) / gate.sigmoid()
    return torch.stack(found[::-1], 1)


def _straight(
    out: Float[Tensor, "t d v"], bias: Float[Tensor, "t v"], h: Float[Tensor, "rows d"]
) -> Float[Tensor, "rows t w"]:
    """Logits of blank and symbols at every step, linear in the state."""
    logits = (h @ out).transpose(0, 1) + bias
    return torch.cat([torch.zeros(len(h), logits.shape[1], 1), logits], 2)


def _copied(write: Callable[[Tensor], Tensor], x: Int[Tensor, "rows t"], size: int) -> Truth:
    """Directions of every symbol at every step; an onion if those of one symbol are one direction."""
    length = x.shape[1]
    alone = torch.zeros(length * size, length, dtype=torch.long)
    alone[torch.arange(length * size), torch.arange(length).repeat_interleave(size)] = (
        torch.arange(size).repeat(length) + 1
    )
    codes = write(alone)
    one_hot = torch.nn.functional.one_hot(x, size + 1)[:, :, 1:].flatten(1).float()
    unit = torch.nn.functional.normalize(codes, dim=1).view(length, size, -1)
    likeness = (unit[1:] * unit[:-1]).sum(2)
    if bool((likeness > COLLINEAR).all()):
        atoms = unit[-1]
        scale = codes.norm(dim=1).view(length, size)
        f = (one_hot.view(-1, length, size) * scale).sum(1)
        return Truth("magnitude", length * size, len(span(atoms)), atoms, f)
    if float(likeness.abs().mean()) > COLLINEAR:
        raise unclear(
            "the likeness of one symbol's directions", float(likeness.min()), f"all above {COLLINEAR}, or few"
        )
    found = encoding(lambda f: f @ codes, one_hot[:PROBES])
    return additive_truth(found, one_hot)
