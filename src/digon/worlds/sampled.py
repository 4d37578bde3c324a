"""Train simple toy networks with the kernel of `worlds/sampled_kernel`: tables, threads, pieces of training, checkpoints.

Every instance draws from a generator of its own, so results do not depend on the number of threads or on how training
is cut into pieces.
"""

import math
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float

from .. import rng
from . import sampled_kernel
from .features import Features
from .toys import Toy

SLOPES = {"linear": 1.0, "relu": 0.0, "leaky": 0.1}
"""Activations that the kernel knows, as slopes below 0."""
VALUES = {"uniform": (1.0, 0.0), "symmetric": (2.0, -1.0), "constant": (0.0, 1.0)}
"""Value of an active feature: factor of a uniform number and summand."""
KNOWN = {"density", "importance", "values", "sets"}
DRAWS = 2.0**31
SECONDS = 0.3
"""Length of a piece of training, between two reports."""
CACHE = 512 * 1024
"""Bytes of samples and errors that are worked on together."""
FEWEST, MOST = 4, 64
"""Tiles of sixteen samples that are worked on together."""
Losses = Float[np.ndarray, "i steps"]


def supports(toy: torch.nn.Module, law: object) -> bool:
    """Whether the kernel can train this network on this law."""
    return (
        type(toy) is Toy
        and type(law) is Features
        and {f.name for f in fields(law)} <= KNOWN
        and law.values in VALUES
        and law.n == toy.n
        and toy.hidden in SLOPES
        and toy.output in SLOPES
        and toy.target_name in ("identity", "absolute")
        and toy.W.requires_grad
        and toy.V.requires_grad
        and toy.W.device.type == "cpu"
        and all(s.kind in ("correlated", "anticorrelated") for s in law.sets)
    )


def tables(law: Features, instances: int) -> sampled_kernel.Law:
    """The law as thresholds of 31-bit draws."""
    density = law.density.double().expand(instances, law.n).numpy()
    low, source, fresh = np.zeros_like(density), np.full(law.n, -1), np.zeros(law.n, bool)
    for number, group in enumerate(law.sets):
        members = list(group.members)
        source[members], fresh[members] = number, group.kind == "correlated"
        if group.kind == "anticorrelated":
            low[:, members] = density[:, members].cumsum(-1) - density[:, members]
    edges = [np.rint(DRAWS * v).astype(np.int64) for v in (low, low + density)]
    span = np.maximum(edges[1] - edges[0], 1)
    factor, summand = VALUES[law.values]
    scale = np.where(fresh, factor / DRAWS, factor / span)
    importance = law.importance.expand(instances, law.n).numpy()
    return sampled_kernel.Law(
        edges[0].astype(np.uint32), span.astype(np.uint32), *(v.astype(np.float32) for v in (scale, np.full_like(scale, summand), importance)),
        source, fresh,
    )  # fmt: skip


class Run:
    """Training in pieces: `advance` as far as wanted, `write` the parameters back into the network."""

    def __init__(
        self, toy: Toy, law: Features, *, batch: int, rates: np.ndarray, slopes: np.ndarray, seed: int
    ) -> None:
        self.toy, self.law, self.seed, self.batch = toy, law, seed, batch
        self.count = len(toy.b)
        parts = [toy.W, toy.b] if toy.tied else [toy.W, toy.V, toy.b]
        theta = torch.cat([p.detach().float().flatten(1) for p in parts], 1).numpy().copy()
        words = rng.numpy_stream(seed, "lanes").integers(0, 2**32, (self.count, 64), np.uint32)
        self.state = sampled_kernel.State(theta, np.zeros_like(theta), np.zeros_like(theta), words)
        self.tables = tables(law, self.count)
        self.rates, self.slopes = rates, slopes.astype(np.float32)

    def plan(self, optimizer: str, decay: float) -> sampled_kernel.Plan:
        """What the kernel needs to know, with tiles that fit into the cache."""
        toy = self.toy
        tiles = min(MOST, CACHE // (64 * 2 * (toy.n + toy.m)), math.ceil(self.batch / 16))
        return sampled_kernel.Plan(
            n=toy.n, m=toy.m, batch=self.batch, tiles=2 * max(FEWEST // 2, math.ceil(tiles / 2)),
            tied=toy.tied, biased=toy.b.requires_grad, absolute=toy.target_name == "absolute",
            hidden=np.float32(SLOPES[toy.hidden]), slopes=self.slopes, rates=self.rates,
            optimizer=["sgd", "adam", "adamw"].index(optimizer), decay=decay,
        )  # fmt: skip
