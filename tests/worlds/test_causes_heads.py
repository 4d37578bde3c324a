"""Attention heads: what one head cannot store, two share; and what the sites are made of."""

import pytest
import torch

from digon.errors import ConfigError, RunError
from digon.worlds import causes
from digon.worlds.causes import heads

ROWS = 2000
SEEDS = (0, 1)
_layers = {}


def layer(seed, **settings):
    key = (seed, *sorted(settings.items()))
    if key not in _layers:
        _layers[key] = heads.layer(seed, **settings)
    return _layers[key]


@pytest.mark.parametrize("seed", SEEDS)
def test_two_heads_know_what_one_does_not(seed):
    one, two = layer(seed, heads=1), layer(seed)
    assert float(two.loss()) < heads.LEARNED < float(one.loss())
    correct = two.logits(two.outputs(two.pattern())).argmax(2) == two.table
    assert correct.all()


@pytest.mark.parametrize("seed", SEEDS)
def test_trigrams_are_shared(seed):
    two = layer(seed)
    needs = two.needs()
    assert (needs.double().mean((0, 1)) > 0.3).all()  # no head is idle
    assert 0.1 < two.shared().double().mean() < 0.9
    assert torch.equal(two.shared(), needs[..., 0] & needs[..., 1])
    # Nothing is shared where there is one head, and nothing needed that writes nothing.
    assert not layer(seed, heads=1).shared().any()
    silent = heads.Layer(two.table, two.queries, two.keys, two.values, two.rest, 0 * two.out, two.direct)
    known = silent.logits(silent.outputs(silent.pattern())).argmax(2) == silent.table
    assert torch.equal(silent.needs(), ~known[..., None].expand(-1, -1, 2))


def test_the_layer_is_attention():
    """Softmax over two places, the source and the first token."""
    made = layer(0)
    a, b, h = 3, 7, 1
    scores = torch.stack([made.queries[h, b] @ made.keys[h, a], torch.tensor(0.0)])
    written = scores.softmax(0) @ torch.stack([made.values[h, a], made.rest[h]])
    torch.testing.assert_close(made.outputs(made.pattern())[a, b, h], written)


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_are_sources_at_sizes(seed):
    world = causes.skip_trigrams(ROWS, 16, seed)
    truth, h = world.truth, world.activations.values
    assert (truth.cause, truth.n_features, truth.rank) == ("superposition", 24, 16)
    assert ((truth.features > 0).sum(1) == 2).all()  # one source per head
    sums = truth.features @ truth.atoms
    torch.testing.assert_close(h - h.mean(0), sums - sums.mean(0), atol=1e-4, rtol=1e-4)
    assert torch.equal(world.activations.tokens, world.labels[:, 0] * 12 + world.labels[:, 1])
    assert (truth.atoms[:12, 8:] == 0).all()  # heads have units of their own
    made = layer(seed)
    a, b = world.labels.T
    said = world.network(h) + made.direct[b]
    assert torch.equal(said.argmax(1), made.table[a, b])


def test_room_for_every_source_is_no_superposition():
    truth = causes.skip_trigrams(ROWS, 32, 0).truth
    assert (truth.cause, truth.n_features, truth.rank) == ("rotated", 24, 24)


def test_queries_and_keys_are_tokens():
    for site, column in (("queries", 1), ("keys", 0)):
        world = causes.skip_trigrams(ROWS, 16, 0, site=site)
        assert (world.truth.cause, world.truth.n_features) == ("rotated", 12)
        assert torch.equal(world.truth.features.argmax(1), world.labels[:, column])
        torch.testing.assert_close(
            world.activations.values, world.truth.features @ world.truth.atoms, atol=1e-4, rtol=1e-4
        )


def test_the_pattern_has_more_trigrams_than_heads():
    world = causes.skip_trigrams(ROWS, 2, 0, site="pattern")
    assert (world.truth.n_features, world.truth.rank) == (144, 2)
    assert world.truth.cause == "lookup"
    assert world.truth.alike == {"superposition", "lookup"}
    torch.testing.assert_close(world.activations.values, layer(0).pattern().flatten(0, 1)[world.activations.tokens])


def test_refusals():
    for settings in ({"d": 15}, {"d": 16, "site": "residual"}, {"d": 16, "site": "pattern"}):
        with pytest.raises(ConfigError):
            causes.skip_trigrams(10, seed=0, **settings)
    with pytest.raises(RunError, match="unclear"):
        causes.skip_trigrams(10, 2, 0, heads=1, tokens=12)
