"""Codes whose parts are no features of one direction each: magnitudes, relations, look-up tables."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from ...records import Cause
from .base import Truth, World, check_size, world
from .dictionaries import random

CODEBOOK = 4
"""Entries of each of a product code's small tables."""


def magnitude(n_rows: int, d: int, seed: int, *, vocabulary: int = 16, length: int = 4, decay: float = 0.4) -> World:
    """An onion: h = Σₜ decayᵗ E[xₜ]; the same direction means different things at different magnitudes.

    Labels are the symbols x [n, length]. Source: Csordás et al. 2024, "Recurrent neural networks learn to store
    sequences with magnitude codes".

    Raises: ConfigError for a decay outside (0, 1).
    """
    check_size(n_rows, d)
    if not 0 < decay < 1:
        raise ConfigError(f"a decay of {decay}", expected="between 0 and 1")
    g = rng.stream(seed, "magnitude")
    atoms = random(vocabulary, d, g)
    x = torch.randint(vocabulary, (n_rows, length), generator=g)
    scale = decay ** torch.arange(length)
    f = torch.zeros(n_rows, vocabulary).scatter_add_(1, x, scale.expand(n_rows, length))
    truth = Truth("magnitude", vocabulary * length, min(vocabulary, d), atoms, f)
    return world(f @ atoms, truth, labels=x)


def relational(n_rows: int, d: int, seed: int, kind: str = "xor", *, density: float = 0.3) -> World:
    """Variables that are present only through each other: no direction says what one of them is.

    xor: a direction says whether two bits differ. product: it carries the product of two signs and a size. gated: where
    a feature points depends on a context bit. Labels are the bits; from activations alone it is a rotated code.

    Raises: ConfigError for an unknown kind.
    """
    check_size(n_rows, d)
    if kind not in ("xor", "product", "gated"):
        raise ConfigError(f"no relation {kind!r}", expected="xor | product | gated")
    g = rng.stream(seed, "relational")
    count = max(1, d // 2)
    bits = torch.randint(2, (n_rows, 2 * count), generator=g)
    first, second = bits[:, :count], bits[:, count:]
    gate = torch.rand(n_rows, count, generator=g) < density
    size = torch.rand(n_rows, count, generator=g) + 0.5
    if kind == "gated":
        f = torch.cat([gate * size * (1 - second), gate * size * second], 1)
    else:
        relation = first ^ second if kind == "xor" else (2 * first - 1) * (2 * second - 1)
        f = gate * size * relation
    atoms = haar(d, g)[: f.shape[1]]
    truth = Truth("relational", 2 * count, f.shape[1], atoms, f, frozenset({"rotated", "relational"}))
    return world(f @ atoms, truth, labels=bits)


def lookup(n_rows: int, d: int, seed: int, kind: str = "random", *, points: int | None = None) -> World:
    """Every distinct input has a code of its own that says nothing about the input.

    random: points on the sphere. hash: random signs. index: the bits of the input's number, repeated. product: a small
    random table per group of units. `points` distinct inputs, default 4 d; they are the tokens of the activations.

    Raises: ConfigError for an unknown kind or fewer than two inputs.
    """
    check_size(n_rows, d)
    count = 4 * d if points is None else points
    if count < 2:
        raise ConfigError(f"a table of {count} inputs", expected="at least 2")
    g = rng.stream(seed, "lookup")
    codes = _codes(kind, count, d, g)
    inputs = torch.randint(count, (n_rows,), generator=g)
    f = torch.nn.functional.one_hot(inputs, count).float()
    rank = int(torch.linalg.matrix_rank(codes))
    other: Cause = "superposition" if count > rank else "rotated"
    return world(codes[inputs], Truth("lookup", count, rank, codes, f, frozenset({other, "lookup"})), inputs=inputs)


def _codes(kind: str, count: int, d: int, g: torch.Generator) -> Float[Tensor, "count d"]:
    if kind == "random":
        return random(count, d, g)
    if kind == "hash":
        return (2.0 * torch.randint(2, (count, d), generator=g) - 1) / d**0.5
    if kind == "index":
        bits = max(1, (count - 1).bit_length())
        number = torch.arange(count)[:, None] >> (torch.arange(d) % bits)
        return (2.0 * (number & 1) - 1) / d**0.5
    if kind == "product":
        groups = max(1, d // 4)
        entry = torch.randint(CODEBOOK, (count, groups), generator=g)
        tables = torch.randn(groups, CODEBOOK, -(-d // groups), generator=g)
        return (tables[torch.arange(groups), entry].flatten(1)[:, :d]) / d**0.5
    raise ConfigError(f"no table {kind!r}", expected="random | hash | index | product")
