"""A world seen through fewer dimensions: what is left of its truth, and what the loss of dimensions makes it look like.

Features that had a dimension each no longer have, and nothing in the view says that the dimensions were lost behind the
network and not in it: a rotated code seen through half of its dimensions is, to whoever sees the view alone, a code in
superposition. The cause is still the old one; the name of the site says that this is a view.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ... import rng
from ...errors import ConfigError
from ...measures.basis import haar
from .base import Block, World

KINDS = ("random", "pca", "neurons")
LOST = 1e-5
"""Atoms that keep less than this share of their length cannot be seen."""
RANK = 1e-4


def projected(world: World, d: int, seed: int, kind: str = "random") -> World:
    """The world in d of its dimensions: random ones, those of most variance, or d of the units.

    The cause stays; atoms, coefficients and blocks are those of the view, where features that left no trace are missing.
    Where more atoms than dimensions are left, the view could be superposition, and `alike` says so. The network behind
    the site is gone, since it reads all dimensions.

    Raises: ConfigError for an unknown kind, or unless the view has fewer dimensions than the world.
    """
    h, truth = world.activations.values, world.truth
    if kind not in KINDS:
        raise ConfigError(f"no projection {kind!r}", expected=" | ".join(KINDS))
    if not 1 <= d < h.shape[1]:
        raise ConfigError(f"a view of {d} out of {h.shape[1]} dimensions", expected=f"1 to {h.shape[1] - 1}")
    lens = _lens(h, d, seed, kind)
    shadows = truth.atoms @ lens
    length = shadows.norm(dim=1)
    seen = length > LOST * truth.atoms.norm(dim=1)
    atoms, f = shadows[seen] / length[seen, None], truth.features[:, seen] * length[seen]
    rank = int(torch.linalg.matrix_rank(atoms, rtol=RANK)) if len(atoms) else min(truth.rank, d)
    alike = truth.alike
    if len(atoms) > rank and truth.cause != "superposition":
        alike = alike | {truth.cause, "superposition"}
    n = int(seen.sum()) if truth.n_features == len(truth.atoms) else truth.n_features
    blocks = tuple(Block(part.cause, part.n_features, part.basis @ lens) for part in truth.blocks)
    view = replace(truth, n_features=n, rank=rank, atoms=atoms, features=f, alike=alike, blocks=blocks)
    site = f"{world.activations.site}, {d} of {h.shape[1]} dimensions ({kind})"
    return replace(world, activations=replace(world.activations, values=h @ lens, site=site), truth=view, network=None)


def _lens(h: Float[Tensor, "n d"], d: int, seed: int, kind: str) -> Float[Tensor, "d e"]:
    """Orthonormal columns: what the view shows of the dimensions."""
    g = rng.stream(seed, "projected", kind)
    if kind == "random":
        return haar(h.shape[1], g)[:, :d].to(h)
    if kind == "neurons":
        return torch.eye(h.shape[1])[:, torch.randperm(h.shape[1], generator=g)[:d].sort().values].to(h)
    centered = (h - h.mean(0)).double()
    return torch.linalg.eigh(centered.T @ centered)[1][:, -d:].flip(1).to(h)
