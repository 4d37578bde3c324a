import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.measures.magnitudes import encode, judged, onion
from digon.worlds import causes


def of(world, seed):
    return onion(world.activations.values, rng.stream(seed, "onion"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("d", "vocabulary", "length", "decay"), [(8, 8, 4, 0.4), (16, 16, 3, 0.1), (32, 32, 4, 0.5), (16, 8, 2, 0.4)]
)
def test_the_code_is_read_back(seed, d, vocabulary, length, decay):
    found = of(causes.magnitude(8000, d, seed, vocabulary=vocabulary, length=length, decay=decay), seed)
    assert found is not None
    assert found.nested
    assert found.symbols == vocabulary
    assert found.decay == pytest.approx(decay, rel=0.06)
    assert found.dimension == pytest.approx(math.log(vocabulary) / -math.log(found.decay))
    assert found.unexplained[length - 1] < 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make",
    [
        lambda s: causes.null(6000, 8, s, "isotropic"),
        lambda s: causes.superposition(6000, 8, s, values="lognormal", active=1.0),
        lambda s: causes.superposition(6000, 8, s, values="constant", active=1.0),
        lambda s: causes.monosemantic(6000, 8, s, active=1.0),
        lambda s: causes.lookup(6000, 8, s, "product"),
        lambda s: causes.lookup(6000, 8, s, "index"),
        lambda s: causes.polygon(6000, 8, s),
    ],
    ids=["noise", "lognormal", "binary", "monosemantic", "product", "index", "polygon"],
)
def test_nothing_else_is_one(seed, make):
    found = of(make(seed), seed)
    assert found is None or not found.nested


@pytest.mark.parametrize("seed", range(2))
def test_lookalikes_of_the_fit(seed):
    g = rng.stream(seed, "alike")
    cube = torch.rand(6000, 3, generator=g) @ torch.randn(3, 6, generator=g)
    found = onion(cube, g)  # a cube is eight cubes of half the size, without a gap between them
    assert found is None or not found.nested
    first, second = torch.randn(8, 12, generator=g), 0.4 * torch.randn(8, 12, generator=g)
    x = torch.randint(8, (6000, 2), generator=g)
    found = onion(first[x[:, 0]] + second[x[:, 1]], g)  # two codebooks: no direction comes at two sizes
    assert found is None or not found.nested


@pytest.mark.parametrize("seed", range(3))
def test_symbols_are_decoded_and_judged_on_the_true_code(seed):
    world = causes.magnitude(3000, 12, seed, vocabulary=10, length=3, decay=0.3)
    book = world.truth.atoms
    symbols, errors = encode(world.activations.values, book, 0.3, 3)
    assert bool((symbols == world.labels).all())
    assert errors[-1] < 1e-6
    center = book.mean(0)
    shifted = world.activations.values - center * (1 + 0.3 + 0.09)
    found = judged(shifted, book - center, 0.3, rng.stream(seed, "judge"))
    assert found.nested
    assert found.levels == 3
    assert found.reuse == pytest.approx(1, abs=0.05)
    assert found.dependence == pytest.approx(0, abs=0.02)
    wrong = judged(shifted, book - center, 0.6, rng.stream(seed, "judge"))
    assert not wrong.nested


def test_too_few_rows_are_refused():
    with pytest.raises(ConfigError):
        onion(torch.zeros(10, 3), rng.stream(0, "few"))
