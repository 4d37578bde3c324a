"""Which networks are trained, and how each of them is read.

Sizes differ in width alone, depths in the number of blocks alone, and the grid in the activation alone. All of a tier read
the same tokens in the same order: `TinyLMConfig.seed` draws their weights, and nothing else has a seed that differs.
A reading with another activation than the network was trained with tells what sparsity does to scores by itself.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ... import config as configs
from ...hosts.tinylm import Activation, TinyLMConfig
from ...hosts.tinylm_train import LMTrainConfig
from ..jobs import Record

Base = Literal["gelu", "relu", "solu"]
Part = Literal["sizes", "depths", "sparsity"]
DENSITIES = (1.0, 0.1, 0.01, 0.001)
RATE, RATE_WIDTH = 8e-3, 96
"""Largest learning rate, and the width above which it falls with the width."""


@dataclass(frozen=True)
class Tier:
    """How much is tried."""

    widths: tuple[tuple[int, int], ...]
    """Width of the residual stream → seeds, at `layers` blocks."""
    layers: int
    depths: tuple[int, ...]
    """Numbers of blocks, at width `depth_width`."""
    depth_width: int
    sparse: tuple[int, int, int]
    """Width, neurons per block and blocks of the grid of activations."""
    densities: tuple[float, ...]
    shape: TinyLMConfig
    """Vocabulary, context and heads, the same for all."""
    recipe: LMTrainConfig
    look: "Look"


@dataclass(frozen=True)
class Look:
    """How a network is read."""

    tokens: int
    """Tokens of held-out documents on which activations are read."""
    units: int
    """Units per layer that are explained, drawn among those that are active at all."""
    taken_apart: int
    """The first of them, whose explanations are taken apart into kinds of context."""
    opening: int
    """Tokens from the start of every held-out document on which the loss is measured."""
    judged: int = 192
    """Units per layer that the diagnosis looks at: what it reads depends on their number, so it is one for all."""
    rows: int = 20_000
    """Rows that it looks at."""
    held_out: float = 0.5
    """Share of the documents that is never trained on."""
    text_bytes: int | None = None
    """Size of the text, training and held-out together; None: all."""


SMALL_LM = TinyLMConfig(vocabulary=1024, context=64, heads=4)
TIERS: dict[str, Tier] = {
    "default": Tier(
        ((48, 3), (96, 3), (192, 3), (384, 1)), 3, (1, 3, 6), 96, (64, 1024, 2), DENSITIES, SMALL_LM,
        LMTrainConfig(steps=400, batch=32, lr=RATE, warmup=40, checkpoint_every=100, evaluation_bytes=200_000),
        Look(60_000, 64, 12, 256),
    ),
    "smoke": Tier(
        ((8, 3), (16, 2)), 2, (1, 2), 16, (8, 32, 1), (1.0, 0.1), TinyLMConfig(vocabulary=300, context=16, heads=2),
        LMTrainConfig(steps=8, batch=4, lr=RATE, warmup=2, checkpoint_every=3, tokenizer_bytes=50_000, evaluation_bytes=20_000),
        Look(3000, 4, 2, 32, 16, 2000, text_bytes=400_000),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One network to train."""

    parts: tuple[Part, ...]
    """Ladders that it is a rung of."""
    base: Base
    density: float
    """Share of neurons kept per token, at least one."""
    shape: TinyLMConfig
    recipe: LMTrainConfig
    look: Look
    data: str | None
    """Text; None: Python's own."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        sparse = f"-{self.density:g}" if self.density < 1 else ""
        s = self.shape
        return f"w{s.width}-l{s.layers}-m{s.mlp_width}-{self.base}{sparse}-s{s.seed}"

    @property
    def key(self) -> str:
        """Changes if anything does that training depends on."""
        texts = {"held_out": self.look.held_out, "bytes": self.look.text_bytes, "data": self.data}
        parts = [configs.digest(self.shape), configs.digest(self.recipe), *map(str, texts.values())]
        return "/".join([self.name, *parts])

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        return {"name": self.name}


@dataclass(frozen=True)
class Reading:
    """One network, read with an activation: its own, or that of another density."""

    subject: Subject
    density: float
    """Share of neurons kept per token while it is read."""

    @property
    def own(self) -> bool:
        """Whether this is how it was trained."""
        return self.density == self.subject.density

    @property
    def key(self) -> str:
        """Changes if anything about the reading does."""
        return "/".join([self.subject.key, configs.digest(self.subject.look), f"{self.density:g}", str(VERSION)])

    @property
    def head(self) -> Record:
        """What its line says beside its results."""
        s = self.subject
        sizes = {k: v for k, v in asdict(s.shape).items() if k in ("width", "layers", "mlp_width", "seed")}
        return {
            "name": s.name,
            "parts": list(s.parts),
            "base": s.base,
            "trained": s.density,
            "read": self.density,
        } | sizes


VERSION = 1
"""Of what `measure` does: raised, it has everything measured again, and nothing trained again."""


def subjects(tier: Tier, seeds: int, data: str | None) -> list[Subject]:
    """Every network once, whatever the number of ladders that it belongs to."""
    found: dict[TinyLMConfig, Subject] = {}
    for part, base, density, shape in _wanted(tier, seeds):
        before = found[shape].parts if shape in found else ()
        rate = tier.recipe.lr * min(1.0, RATE_WIDTH / shape.width)
        recipe = replace(tier.recipe, lr=rate)
        found[shape] = Subject((*before, part), base, density, shape, recipe, tier.look, data)
    return list(found.values())


def readings(networks: list[Subject]) -> list[Reading]:
    """Every network as it was trained; networks of the grid also dense if they are sparse, and sparse if they are dense."""
    found = [Reading(s, s.density) for s in networks]
    grid = [s for s in networks if "sparsity" in s.parts and s.base != "solu"]
    densities = sorted({s.density for s in grid}, reverse=True)
    found += [Reading(s, density) for s in grid if s.density == 1 for density in densities if density < 1]
    return found + [Reading(s, 1.0) for s in grid if s.density < 1]


def activation(base: Base, density: float) -> Activation:
    """What `TinyLMConfig` calls it. `solu` is dense."""
    if density >= 1:
        return base
    assert base != "solu", "its neurons are normalized over all of them"
    return "topk" if base == "gelu" else "topk_relu"


Wanted = tuple[Part, Base, float, TinyLMConfig]


def _wanted(tier: Tier, seeds: int) -> Iterator[Wanted]:
    for width, most in tier.widths:
        for seed in range(min(seeds, most)):
            yield "sizes", "gelu", 1.0, _dense(tier, width, tier.layers, seed)
    for layers in tier.depths:
        for seed in range(seeds):
            yield "depths", "gelu", 1.0, _dense(tier, tier.depth_width, layers, seed)
    width, neurons, layers = tier.sparse
    bases: tuple[Base, ...] = ("gelu", "relu", "solu")
    for seed in range(seeds):
        shape = replace(tier.shape, width=width, layers=layers, mlp_width=neurons, seed=seed)
        for base in bases:
            for density in tier.densities if base != "solu" else (1.0,):
                # the density of a dense network is not read: its settings are then those of any other dense one
                kept = density if density < 1 else shape.density
                yield "sparsity", base, density, replace(shape, activation=activation(base, density), density=kept)


def _dense(tier: Tier, width: int, layers: int, seed: int) -> TinyLMConfig:
    return replace(tier.shape, width=width, layers=layers, mlp_width=4 * width, seed=seed)
