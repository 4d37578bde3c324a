"""Several causes in one layer: a direct sum of worlds, turned together."""

from collections.abc import Sequence

import torch

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from .base import Block, Truth, World, world


def mixed(parts: Sequence[World], seed: int, *, rotate: bool = True) -> World:
    """Worlds side by side, each in units of its own; then, unless told otherwise, all turned by one random rotation.

    Raises: ConfigError with fewer than two parts, or parts of different length.
    """
    rows = {len(part.activations) for part in parts}
    if len(parts) < 2 or len(rows) > 1:
        raise ConfigError(f"{len(parts)} parts of {sorted(rows)} rows", expected="at least two parts of equal length")
    d = sum(part.activations.d for part in parts)
    turn = haar(d, rng.stream(seed, "mixed")) if rotate else torch.eye(d)
    blocks, atoms, start = [], [], 0
    for part in parts:
        frame = turn[start : start + part.activations.d]
        start += part.activations.d
        blocks.append(Block(part.truth.cause, part.truth.n_features, frame))
        atoms.append(part.truth.atoms @ frame)
    h = torch.cat([part.activations.values for part in parts], 1) @ turn
    features = torch.cat([part.truth.features for part in parts], 1)
    n, rank = (sum(getattr(part.truth, name) for part in parts) for name in ("n_features", "rank"))
    return world(h, Truth("mixed", n, rank, torch.cat(atoms), features, blocks=tuple(blocks)))
