"""Toy networks on sparse features: autoencoders, absolute values, incidental collisions, few data.

    autoencoder    h = x W, x' = ReLU(h Wᵀ + b): rare features superpose, frequent ones are rotated
    rectified      h = ReLU(x W): the units are privileged, and frequent features get one each
    absolute       h = ReLU(x V), |x| is asked for: every unit reads one side of a feature, or of several
    collisions     as many features as units or fewer, and an L1 penalty on h: some pairs start out on one unit and stay
    memorizer      the autoencoder on few rows, each seen again and again: it stores rows, not features

Sources: Elhage et al. 2022, "Toy Models of Superposition"; Lecomte et al. 2023, "What Causes Polysemanticity?";
Henighan et al. 2023, "Superposition, Memorization, and Double Descent".
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ...features import Features, features, geometric
from ...fit import FitConfig, fit
from ...toys import Target, Toy
from ..base import World, check_size, world
from .oracle import PROBES, PURE, additive_truth, encoding, explained, table_truth, unclear
from .training import minimize, weights

STARTS = 2
"""Networks per world; the one with the lowest loss is taken."""
STEPS = 4000
COLLISION_STEPS = 2500
MEMORY_STEPS = 1500
STORED = 0.5
"""Least R² of the outputs for rows that a memorizer has seen."""
STRANGE = 0.2
"""Most R² of the outputs for rows that it has not."""


def autoencoder(
    n_rows: int, d: int, seed: int, *, load: float = 3.0, density: float = 0.05, importance: float = 1.0
) -> World:
    """A ReLU-output autoencoder of `load` · d features, whose importances fall geometrically, to this at feature d.

    Raises: RunError if the network's cause is unclear; ConfigError for a law that makes no sense.
    """
    check_size(n_rows, d)
    law = _law(d, load, density, importance)
    toy = Toy(law.n, d, STARTS, seed=rng.derive(seed, "autoencoder") % 2**31)
    best = fit(toy, law, _recipe(seed)).best
    W, b = toy.W[best].detach(), toy.b[best].detach()
    return _linear(n_rows, seed, law, W, lambda h: torch.relu(h @ W.T + b))


def rectified(
    n_rows: int, d: int, seed: int, *, load: float = 1.0, density: float = 0.5, importance: float = 0.1
) -> World:
    """An autoencoder whose hidden units are rectified: one feature to a unit where features are frequent.

    Raises: as `autoencoder`.
    """
    check_size(n_rows, d)
    return _hidden(n_rows, d, seed, _law(d, load, density, importance), "identity")


def absolute(
    n_rows: int, d: int, seed: int, *, load: float = 1.5, density: float = 0.5, importance: float = 0.1
) -> World:
    """A network that computes |x|; its features are the positive and the negative sides of the inputs.

    Raises: as `autoencoder`.
    """
    check_size(n_rows, d)
    law = replace(_law(d, load, density, importance), values="symmetric")
    return _hidden(n_rows, d, seed, law, "absolute")


def collisions(n_rows: int, d: int, seed: int, *, load: float = 1.0, density: float = 0.05, l1: float = 0.03) -> World:
    """An autoencoder with room for every feature, on a penalty that makes units of features: some have to share.

    About n²/(4 d) pairs of features end up with opposite signs on one unit, although other units stay free.

    Raises: as `autoencoder`; ConfigError for more features than units.
    """
    check_size(n_rows, d)
    n = round(load * d)
    if not 1 <= n <= d:
        raise ConfigError(f"{n} features in {d} units", expected=f"1 to {d}: a collision is no lack of room")
    W = torch.randn(n, d, generator=rng.stream(seed, "collisions")) / d**0.5
    one = torch.eye(n)

    def loss() -> Float[Tensor, ""]:
        return (torch.relu(W @ W.T) - one).square().sum() + l1 * W.abs().sum()

    minimize([W], loss, steps=COLLISION_STEPS, peak=8e-3)
    return _linear(n_rows, seed, features(n, density), W, lambda h: torch.relu(h @ W.T))


def memorizer(
    n_rows: int, d: int, seed: int, *, load: float = 16.0, points: int | None = None, density: float = 0.05
) -> World:
    """An autoencoder that sees `points` rows (default 2 d) of `load` · d features, again and again.

    With few rows every row has a direction of its own; with many, the network learns features and this is `autoencoder`.

    Raises: RunError where it is in between.
    """
    check_size(n_rows, d)
    n, count = max(2, round(load * d)), 2 * d if points is None else points
    if count < 2:
        raise ConfigError(f"a network that sees {count} rows", expected="at least 2")
    law, g = features(n, density), rng.stream(seed, "memorizer")

    def some(rows: int) -> Float[Tensor, "rows n"]:
        return torch.nn.functional.normalize(law.sample(rows, g)[0], dim=1)

    x, fresh = some(count), some(1000)
    W, b = weights(n, d, g), torch.zeros(n)
    read = lambda h: torch.relu(h @ W.T + b)  # noqa: E731
    minimize([W, b], lambda: (read(x @ W) - x).square().sum(1).mean(), steps=MEMORY_STEPS, peak=1e-2, weight_decay=1e-2)
    return _stored(n_rows, seed, law, W, x, fresh, read)


def _law(d: int, load: float, density: float, importance: float) -> Features:
    n = max(1, round(load * d))
    return features(n, density, importance=geometric(n, importance ** (1 / d)))


def _recipe(seed: int) -> FitConfig:
    return FitConfig(steps=STEPS, batch=512, learning_rate=1e-2, schedule="cosine", seed=seed)


def _linear(n_rows: int, seed: int, law: Features, W: Float[Tensor, "n d"], read: Callable[[Tensor], Tensor]) -> World:
    """The world of a linear hidden layer with these directions, and of `read`, the network behind it."""
    f = law.sample(n_rows, rng.stream(seed, "features"))[0]
    found = encoding(lambda x: x @ W, law.sample(PROBES, rng.stream(seed, "probes"))[0])
    return replace(world(f @ W, additive_truth(found, f)), network=read)


def _hidden(n_rows: int, d: int, seed: int, law: Features, target: Target) -> World:
    """A toy with rectified units, trained on samples; features with a sign count once per side."""
    toy = Toy(
        law.n, d, STARTS, hidden="relu", tied=target == "identity", target=target,
        seed=rng.derive(seed, "hidden") % 2**31,
    )  # fmt: skip
    best = fit(toy, law, _recipe(seed)).best
    V, W, b = (p[best].detach() for p in (toy.V, toy.W, toy.b))
    signed = law.values == "symmetric"

    def embed(sides: Float[Tensor, "rows k"]) -> Float[Tensor, "rows d"]:
        x = sides[:, : law.n] - sides[:, law.n :] if signed else sides
        return torch.relu(x @ V)

    def sides(x: Float[Tensor, "rows n"]) -> Float[Tensor, "rows k"]:
        return torch.cat([x.relu(), (-x).relu()], 1) if signed else x

    f = sides(law.sample(n_rows, rng.stream(seed, "features"))[0])
    found = encoding(embed, sides(law.sample(PROBES, rng.stream(seed, "probes"))[0]))
    return replace(world(embed(f), additive_truth(found, f)), network=lambda h: torch.relu(h @ W.T + b))


def _stored(
    n_rows: int, seed: int, law: Features, W: Float[Tensor, "n d"], x: Float[Tensor, "t n"],
    fresh: Float[Tensor, "m n"], read: Callable[[Tensor], Tensor],
) -> World:  # fmt: skip
    """A table if the network returns the rows that it has seen and no others; features if it does as well on others."""
    seen, strange = explained(x, read(x @ W)), explained(fresh, read(fresh @ W))
    rows = torch.randint(len(x), (n_rows,), generator=rng.stream(seed, "rows"))
    if seen >= STORED and strange <= STRANGE:
        return replace(world(x[rows] @ W, table_truth(x @ W, rows), inputs=rows), network=read)
    if strange >= PURE * seen:
        found = encoding(lambda v: v @ W, fresh)
        return replace(world(x[rows] @ W, additive_truth(found, x[rows]), inputs=rows), network=read)
    raise unclear("the R² of rows that it has not seen", strange, f"at most {STRANGE}, or at least {PURE * seen:.2g}")
