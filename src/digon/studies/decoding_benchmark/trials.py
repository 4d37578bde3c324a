"""What is tried: worlds from flat and easy to hierarchical and crowded, sweeps of one property at a time, and every coder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...worlds.tree import FULL, SMALL, TreeConfig
from .arena import WorldTrial
from .entrants import ENTRANTS

Tier = Literal["smoke", "small", "medium", "large", "full"]


@dataclass(frozen=True)
class Arena:
    """A world, and how it is asked about."""

    about: str
    world: TreeConfig
    width: int
    l0: tuple[int, ...]
    steps: int
    batch: int = 1024
    rows: int = 200_000
    """To judge by."""


FLAT = TreeConfig(features=64, d=32, roots=0, rank=0, most=0.05, least=0.02)
DENSE = TreeConfig(features=512, d=48, roots=4, most=0.2, least=0.001)
MIDDLE = TreeConfig(features=256, d=64, roots=8, depth=2, most=0.2, least=0.003)
ARENAS: dict[Tier, Arena] = {
    "smoke": Arena("64 independent features in 32 dimensions", FLAT, 64, (2,), 300, 512, 20_000),
    "small": Arena("64 independent features in 32 dimensions", FLAT, 64, (1, 2, 3), 1000),
    "medium": Arena(
        "512 features in trees and correlated, in 48 dimensions; 128 latents", DENSE, 128, (1, 2, 3), 1000, rows=50_000
    ),
    "large": Arena(
        "2,048 features in trees and correlated, in 128 dimensions; 512 latents", SMALL, 512, (3, 5, 8), 1000, rows=50_000
    ),
    "full": Arena(
        "16,384 features in trees and correlated, in 768 dimensions; 4,096 latents", FULL, 4096,
        (15, 20, 25, 30, 35, 40, 45), 195_312, rows=500_000,
    ),
}  # fmt: skip
"""The small one is a sanity check. Medium and large ask what the published world asks, for processors: as many latents per
feature (a quarter), as many dimensions as sparse recovery needs (l0·ln(features/l0)/d is .28), the target from about half
of what the latents' features add up to, to almost twice that. Full is the published world, for a GPU."""
SWEPT = Arena(
    "256 features in trees and correlated, in 64 dimensions; 128 latents", MIDDLE, 128, (4,), 1000, rows=50_000
)
SWEEPS: dict[str, dict[float, TreeConfig]] = {
    "load": {n / MIDDLE.d: replace(MIDDLE, features=n) for n in (64, 256, 512)},
    "correlation": {c: replace(MIDDLE, correlation=c) for c in (0.0, 0.1, 0.2)},
    "exponent": {e: replace(MIDDLE, exponent=e) for e in (0.0, 0.5, 1.0)},
    "hierarchy": {float(depth): replace(MIDDLE, depth=depth) for depth in (0, 2, 3)},
}
"""One property of the swept world at a time; latents as many as half of the features. The world itself is in all of them."""
SHARED = "swept"
"""Name of the world that is in all sweeps."""
STEPPED = ("batchtopk", "matryoshka", "digon", "truth")
"""Coders that are swept."""


def trials(tier: Tier, coders: Sequence[str], seeds: int, steps: int | None = None) -> list[WorldTrial]:
    """All trials of a tier: every coder at every l0, with every seed."""
    arena = ARENAS[tier]
    return [_trial(arena, tier, coder, l0, seed, steps) for l0 in arena.l0 for coder in coders for seed in range(seeds)]


def swept(coders: Sequence[str], seeds: int, steps: int | None = None) -> Iterator[WorldTrial]:
    """Trials of the sweeps, named by `swept_name`."""
    worlds = {swept_name(name, value): world for name, its in SWEEPS.items() for value, world in its.items()}
    for about, world in worlds.items():
        arena = replace(SWEPT, world=world, width=world.features // 2)
        for coder in [c for c in STEPPED if c in coders]:
            yield from (_trial(arena, about, coder, arena.l0[0], seed, steps) for seed in range(seeds))


def swept_name(sweep: str, value: float) -> str:
    """The property and its value; the world that all sweeps have in common has one name.

    >>> swept_name("load", 8.0), swept_name("load", 4.0), swept_name("hierarchy", 2.0)
    ('load 8', 'swept', 'swept')
    """
    return SHARED if SWEEPS[sweep][value] == MIDDLE else f"{sweep} {value:g}"


def _trial(arena: Arena, about: str, coder: str, l0: int, seed: int, steps: int | None) -> WorldTrial:
    assert coder in ENTRANTS, "checked with the settings"
    return WorldTrial(about, coder, l0, seed, arena.world, arena.width, steps or arena.steps, arena.batch, arena.rows)
