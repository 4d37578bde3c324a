"""Trained and built networks have the cause that their truth says."""

import math

import pytest
import torch

from digon.errors import ConfigError, RunError
from digon.worlds.causes import TRAINED, trained
from digon.worlds.causes.trained import oracle
from digon.worlds.causes.trained.arithmetic import _waves
from digon.worlds.causes.trained.built import digits

ROWS, D = 2000, 8
SEEDS = (0,)  # training takes minutes for every further one; the benchmark of the diagnosis has many
CAUSES = {
    "autoencoder": "superposition",
    "autoencoder, digons": "superposition",
    "autoencoder, frequent features": "rotated",
    "autoencoder, few features": "rotated",
    "rectified": "monosemantic",
    "absolute": "monosemantic",
    "absolute, rare features": "superposition",
    "collisions": "mixed",
    "memorizer": "lookup",
    "memorizer, many rows": "superposition",
    "product, reads": "rotated",
    "product, units": "manifold",
    "parity": "relational",
    "clock": "manifold",
    "random labels": "lookup",
    "true labels": "rotated",
    "copy, one gate": "magnitude",
    "copy, a matrix": "rotated",
    "packed digits": "lookup",
    "index digits": "lookup",
    "conjunctions": "superposition",
}
_made = {}


def made(name, seed=0):
    if (name, seed) not in _made:
        _made[name, seed] = TRAINED[name](ROWS, D, seed)
    return _made[name, seed]


def r2(actual, predicted):
    return 1 - float((actual - predicted).square().sum() / (actual - actual.mean(0)).square().sum())


def test_every_setting_has_a_cause():
    assert CAUSES.keys() == TRAINED.keys()


@pytest.mark.parametrize("name", CAUSES)
def test_cause_rank_and_directions(name):
    for seed in SEEDS:
        world = made(name, seed)
        h, truth = world.activations.values, world.truth
        assert truth.cause == CAUSES[name]
        assert h.shape == (ROWS, D)
        assert h.isfinite().all()
        assert truth.rank == int(torch.linalg.matrix_rank(truth.atoms, rtol=oracle.RANK)) <= D
        torch.testing.assert_close(truth.atoms.norm(dim=1), torch.ones(len(truth.atoms)))
        # Up to a constant, activations are sums of directions: h = c + f W.
        sums = truth.features @ truth.atoms
        assert r2(h - h.mean(0), sums - sums.mean(0)) > 0.7, seed
        assert world.network is not None
        assert len(world.network(h)) == ROWS
        if truth.cause == "superposition":
            assert truth.n_features > truth.rank
        if truth.cause in ("rotated", "monosemantic"):
            assert truth.n_features == truth.rank


def test_seeds_repeat():
    again = TRAINED["absolute"](ROWS, D, 0)
    assert torch.equal(again.activations.values, made("absolute").activations.values)
    assert not torch.equal(again.activations.values, made("absolute", 1).activations.values)


@pytest.mark.parametrize("seed", SEEDS)
def test_rare_features_superpose_and_frequent_ones_do_not(seed):
    rare, digons = made("autoencoder", seed).truth, made("autoencoder, digons", seed).truth
    assert rare.n_features == 3 * D
    assert digons.n_features == 2 * D
    # Twice as many rare features as dimensions: antipodal pairs, each the size of one feature with a sign.
    cosines = digons.atoms @ digons.atoms.T
    assert (cosines.min(1).values < -0.99).all()
    assert digons.alike == {"superposition", "lookup", "rotated"}
    assert rare.alike == {"superposition", "lookup"}
    frequent = made("autoencoder, frequent features", seed).truth
    gram = frequent.atoms @ frequent.atoms.T
    torch.testing.assert_close(gram, torch.eye(D), atol=0.05, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_rectified_units_get_one_feature_each(seed):
    for name in ("rectified", "absolute"):
        atoms = made(name, seed).truth.atoms
        assert (atoms.max(1).values > 0.95).all(), name
        assert sorted(atoms.argmax(1).tolist()) == list(range(D)), name
    # The two sides of a number are two features on two units.
    f = made("absolute", seed).truth.features
    assert ((f > 0).double().mean(0) - 0.25).abs().max() < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_behind_the_site_answers(seed):
    world = made("autoencoder", seed)
    x = world.truth.features / world.truth.features.max(0).values
    assert r2(x, world.network(world.activations.values)) > 0.5
    world = made("product, reads", seed)
    x = world.truth.features @ world.truth.atoms  # reads without their thresholds: two columns of x and y
    assert int(torch.linalg.matrix_rank(x, rtol=1e-4)) == 2
    world = made("parity", seed)
    differ = (world.labels[:, : D // 2] ^ world.labels[:, D // 2 :]).float()
    said = world.network(world.activations.values)
    assert ((said > 0.5) & (differ == 0)).sum() == 0
    world = made("clock", seed)
    assert (world.network(world.activations.values).argmax(1) == world.labels.sum(1) % 23).double().mean() > 0.9
    world = made("copy, one gate", seed)
    said = world.network(world.activations.values).view(ROWS, 3, D + 1).argmax(2)
    assert (said == world.labels).double().mean() > 0.9


def test_collisions_leave_units_free():
    """About n²/4d pairs of features on one unit each. Source of the number: Lecomte et al. 2023."""
    lost = []
    for seed in range(3):
        truth = trained.collisions(200, 32, seed).truth
        assert truth.cause == "mixed"
        assert truth.n_features == 32
        parts = {block.cause: block for block in truth.blocks}
        assert len(parts["superposition"].basis) + len(parts["monosemantic"].basis) == truth.rank
        lost.append(truth.n_features - truth.rank)
    assert 4 <= sum(lost) / 3 <= 10  # 8
    assert trained.collisions(200, 32, 0, load=0.125).truth.cause == "monosemantic"


@pytest.mark.parametrize("seed", SEEDS)
def test_few_rows_are_stored_and_many_are_not(seed):
    few, many = made("memorizer", seed), made("memorizer, many rows", seed)
    assert few.truth.n_features == len(few.activations.tokens.unique()) == 2 * D
    assert few.truth.alike == {"superposition", "lookup"}
    assert many.truth.n_features == 2 * D
    assert len(many.activations.tokens.unique()) > 1000
    with pytest.raises(RunError, match="unclear"):
        trained.memorizer(ROWS, D, seed, load=4.0, points=50)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_random_labels_are_looked_up(seed):
    random, true = made("random labels", seed), made("true labels", seed)
    assert random.truth.cause == "lookup"
    assert true.truth.cause == "rotated"
    for token in (0, 5):
        rows = random.activations.values[random.activations.tokens == token]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    # Nobody has trained on these rows, and the network knows their labels.
    f = true.truth.features / true.truth.features.max(0).values
    assert r2(f, true.network(true.activations.values)) > 0.8


def test_a_product_is_two_curves():
    reads, units = made("product, reads"), made("product, units")
    assert reads.truth.rank == 2
    assert int(torch.linalg.matrix_rank(reads.activations.values - reads.activations.values.mean(0), rtol=1e-4)) == 2
    assert units.truth.n_features == 2
    assert units.truth.rank > 2
    x = torch.linalg.lstsq(reads.truth.atoms.T, (reads.truth.features @ reads.truth.atoms).T).solution
    assert x.shape == (2, ROWS)


@pytest.mark.parametrize("seed", SEEDS)
def test_clocks_are_waves(seed):
    world = made("clock", seed)
    waves = _waves(23, torch.arange(1, 12))
    torch.testing.assert_close(waves.T @ waves, 11.5 * torch.eye(22), atol=1e-3, rtol=0)
    a, b = world.labels.T
    assert torch.equal(world.activations.tokens, a * 23 + b)
    # Every coefficient is a wave of one of the two numbers: all its power is at one frequency.
    for f in world.truth.features.T:
        number = a if f[a == 0].var() < 1e-6 else b
        means = torch.stack([f[number == hour].mean() for hour in range(23)])
        power = torch.fft.rfft(means).abs().square()
        assert power.max() / power.sum() > 0.99


@pytest.mark.parametrize("seed", SEEDS)
def test_relations_are_all_that_is_left(seed):
    world = made("parity", seed)
    h, bits = world.activations.values.double(), world.labels.double()
    correlations = torch.corrcoef(torch.cat([h, bits], 1).T)[:D, D:]
    assert correlations.abs().max() < 0.1
    gate = world.truth.features.double()
    assert r2(h - h.mean(0), (gate - gate.mean(0)) @ world.truth.atoms.double()) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_onions_have_sizes(seed):
    truth = made("copy, one gate", seed).truth
    symbols = made("copy, one gate", seed).labels
    assert truth.n_features == 3 * D
    # One symbol and two blanks: its coefficient takes three values, a factor γ apart.
    alone = (symbols > 0).sum(1) == 1
    rows, step = symbols[alone], (symbols[alone] > 0).long().argmax(1)
    size = truth.features[alone].sum(1)
    of = [
        torch.stack([size[(step == t) & (rows.sum(1) == symbol)].mean() for t in range(3)])
        for symbol in range(1, D + 1)
    ]
    ratios = torch.stack([torch.stack([s[0] / s[1], s[1] / s[2]]) for s in of]).flatten()
    ratios = ratios[ratios.isfinite()]
    assert len(ratios) > 4
    assert ratios.std() / ratios.mean() < 1e-3
    assert 0 < ratios.mean() < 1


def test_digits():
    z = torch.tensor([[0.8125, 0.25]]) + 1 / 512
    assert digits(z, 4).tolist() == [[1, 1, 0, 1, 0, 1, 0, 0]]
    # A sawtooth: over the unit interval, the k-th digit goes up 2ᵏ⁻¹ times.
    line = (torch.arange(4096)[:, None] + 0.5) / 4096
    for k in (1, 2, 5):
        digit = digits(line, k)[:, k - 1]
        assert int(((digit[1:] > 0.5) & (digit[:-1] < 0.5)).sum()) == 2 ** (k - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_loses_the_last_digits(seed):
    world = made("packed digits", seed)
    h = world.activations.values
    exact = world.network(h).view(ROWS, D, 8)
    assert ((exact - exact.round()).abs() < 1e-3).all()
    weights = 0.5 ** torch.arange(1, 9)
    torch.testing.assert_close((exact * weights).sum(2) + 2**-9, h)
    rounded = world.network((h * 2**4).floor() / 2**4 + 2**-9).view(ROWS, D, 8)
    assert torch.equal(rounded[..., :4].round(), exact[..., :4].round())
    assert (rounded[..., 4:].round() == exact[..., 4:].round()).double().mean() == pytest.approx(0.5, abs=0.1)
    index = made("index digits", seed)
    assert index.truth.rank == math.log2(4 * D)
    assert set(index.activations.values.mul(D**0.5).round().flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_conjunctions_have_the_errors_of_theory(seed):
    world = trained.conjunctions(2000, 256, seed, inputs=16, per_pair=16.0)
    p = (16 / 256) ** 0.5
    said, h = world.network(world.activations.values), world.activations.values
    assert said.shape == (2000, 16 * 15 // 2)
    bits = said > 0.99
    two = (said > 0.5).sum(1) == 1
    assert torch.allclose(said[two].max(1).values, torch.tensor(1.0))  # a pair alone is read exactly
    three = (said > 0.99).sum(1) == 3
    assert three.sum() > 50
    on = said[three][bits[three]].mean()
    assert on - 1 == pytest.approx(p, rel=0.25)  # a third bit adds itself in a share p of the units
    assert (h >= 0).all()


def test_oracle_on_closed_forms():
    f = (torch.rand(3000, 12, generator=torch.Generator().manual_seed(0)) < 0.08).float()
    pentagon = torch.tensor([[math.cos(2 * math.pi * k / 5), math.sin(2 * math.pi * k / 5)] for k in range(5)])
    W = torch.block_diag(pentagon, torch.eye(7))
    found = oracle.encoding(lambda x: x @ W, f)
    assert found.additivity == pytest.approx(1)
    assert found.represented.all()
    truth = oracle.additive_truth(found, f)
    assert (truth.cause, truth.n_features, truth.rank) == ("mixed", 12, 9)
    blocks = {block.cause: (block.n_features, len(block.basis)) for block in truth.blocks}
    assert blocks == {"superposition": (5, 2), "monosemantic": (7, 7)}
    assert oracle.additive_truth(oracle.encoding(lambda x: x, f), f).cause == "monosemantic"
    turned = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[0]
    assert oracle.additive_truth(oracle.encoding(lambda x: x @ turned, f), f).cause == "rotated"
    with pytest.raises(RunError, match="unclear"):
        oracle.additive_truth(oracle.encoding(lambda x: (x.sum(1, keepdim=True) - 1.5).relu() * x, f), f)


def test_codes_that_follow_from_inputs_are_predicted():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=g)
    assert oracle.predicted(x, (x @ torch.randn(10, 5, generator=g)).relu()) > 0.7
    assert oracle.predicted(x, torch.randn(400, 5, generator=g)) < 0.05


@pytest.mark.parametrize(
    "call",
    [
        lambda: trained.autoencoder(10, 0, 0),
        lambda: trained.collisions(10, 4, 0, load=2.0),
        lambda: trained.memorizer(10, 4, 0, points=1),
        lambda: trained.product(10, 4, 0, site="logits"),
        lambda: trained.parity(10, 1, 0),
        lambda: trained.clock(10, 4, 0, p=3),
        lambda: trained.labels(10, 4, 0, kind="wrong"),
        lambda: trained.copy(10, 4, 0, cell="LSTM"),
        lambda: trained.extraction(10, 4, 0, bits=40),
        lambda: trained.conjunctions(10, 4, 0, inputs=2),
    ],
)
def test_refusals(call):
    with pytest.raises(ConfigError):
        call()
