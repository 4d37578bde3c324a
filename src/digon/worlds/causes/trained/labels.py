"""A network with a bottleneck learns labels: of the inputs' features, or random ones.

If the labels are features, the bottleneck holds features. If they are random, it holds a table: a code per input, which
nothing about other inputs predicts. Same inputs, same network, same training.

Source: Zhang et al. 2017, "Understanding deep learning requires rethinking generalization".
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .... import rng
from ....errors import ConfigError
from ...features import features
from ..base import World, check_size, world
from .oracle import PROBES, UNPREDICTED, additive_truth, encoding, explained, predicted, table_truth, unclear
from .training import minimize, weights

FITS = 0.9
"""Least R² of the outputs on inputs that were trained on."""
FRESH = 0.8
"""Least R² of the outputs on other inputs, where there is a rule."""
DENSITY = 0.2
STEPS = 1500
BATCH = 256


def labels(n_rows: int, d: int, seed: int, *, kind: str = "random", points: int | None = None) -> World:
    """A ReLU network with a linear bottleneck of d units behind its ReLUs, trained until it knows the labels.

    true: the d labels are the d sparse features that the inputs are mixed from. random: every one of `points` inputs
    (default 4 d) has d numbers for labels that nothing predicts.

    Raises: ConfigError for an unknown kind; RunError if the labels are not learned, do not generalize although they
    should, or are predicted although they should not be.
    """
    check_size(n_rows, d)
    count = 4 * d if points is None else points
    if kind not in ("random", "true") or count < 4:
        raise ConfigError(f"{kind!r} labels of {count} inputs", expected="true | random, of at least 4")
    law, g = features(d, DENSITY), rng.stream(seed, "labels")
    mixing = weights(d, 2 * d, g, 2.0)
    wide = 4 * d if kind == "true" else max(96, 2 * count)
    V, c, down = weights(2 * d, wide, g, 2**0.5), torch.zeros(wide), weights(wide, d, g)
    out, e = weights(d, d, g), torch.zeros(d)
    drawn = law.sample(8 * count, g)[0]
    f = drawn[drawn.any(1)][:count]  # without features, inputs are one and the same
    y = torch.nn.functional.normalize(torch.randn(count, d, generator=g), dim=1)

    def embed(sources: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
        return (sources @ mixing @ V + c).relu() @ down

    def loss() -> Float[Tensor, ""]:
        x = law.sample(BATCH, g)[0] if kind == "true" else f
        return (embed(x) @ out + e - (x if kind == "true" else y)).square().sum(1).mean()

    minimize([V, c, down, out, e], loss, steps=STEPS, peak=5e-3)
    network = lambda h: h @ out + e  # noqa: E731
    if kind == "true":
        return replace(_ruled(law.sample(n_rows, rng.stream(seed, "features"))[0], embed, network), network=network)
    fit, guess = explained(y, network(embed(f))), predicted(f @ mixing, embed(f))
    if fit < FITS or guess > UNPREDICTED:
        raise unclear("the share of codes that other inputs predict", guess, f"at most {UNPREDICTED}; R² {fit:.2g}")
    rows = torch.randint(count, (n_rows,), generator=g)
    return replace(world(embed(f)[rows], table_truth(embed(f), rows), inputs=rows), network=network)


def _ruled(f: Float[Tensor, "rows d"], embed: Callable[[Tensor], Tensor], network: Callable[[Tensor], Tensor]) -> World:
    """A world of the features, if the network knows them on rows that it was not trained on."""
    h = embed(f)
    fresh = explained(f, network(h))
    if fresh < FRESH:
        raise unclear("the R² on fresh inputs", fresh, f"at least {FRESH}")
    return world(h, additive_truth(encoding(embed, f[:PROBES]), f))
