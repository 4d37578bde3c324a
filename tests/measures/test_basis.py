import math

import pytest
import torch

from digon import rng
from digon.measures import basis
from digon.worlds import causes


@pytest.mark.parametrize("seed", range(3))
def test_rotation_test_tells_neurons_from_directions(seed):
    z = {
        make.__name__: basis.rotation_test(make(8000, 12, seed).activations.values, rng.stream(seed, "r"))
        for make in (causes.null, causes.monosemantic, causes.rotated, causes.superposition)
    }
    assert z["monosemantic"].z > 20
    assert z["monosemantic"].p == pytest.approx(1 / 40)
    for name in ("null", "rotated", "superposition"):
        assert abs(z[name].z) < 6
    assert sum(z[name].z for name in ("null", "rotated", "superposition")) < 10


def test_rotation_test_ignores_the_scale_of_units():
    x = causes.monosemantic(4000, 8, 0).activations.values
    scaled = x * torch.logspace(-3, 3, 8)
    one, two = (basis.rotation_test(v, rng.stream(0, "s")).statistic for v in (x, scaled))
    assert one == pytest.approx(two, rel=1e-3)


def test_null_p_values_spread():
    p = [
        basis.rotation_test(torch.randn(600, 6, generator=rng.stream(s, "n")), rng.stream(s, "q"), 19).p
        for s in range(60)
    ]
    assert 0.35 < sum(p) / 60 < 0.65
    assert sum(v <= 0.1 for v in p) < 15


def test_whitening_gives_the_identity_within_the_rank():
    g = rng.stream(0, "w")
    x = torch.randn(3000, 5, generator=g) @ torch.randn(5, 5, generator=g)
    white = basis.zca_whiten(x)
    torch.testing.assert_close(white.T @ white / 3000, torch.eye(5), atol=1e-3, rtol=0)
    # symmetric: each axis stays with its unit
    corr = torch.corrcoef(torch.cat([x, white], 1).T)[:5, 5:]
    assert (corr.diagonal() > 0).all()
    dependent = torch.cat([x, x[:, :1], torch.zeros(3000, 1)], 1)
    white = basis.zca_whiten(dependent)
    eigenvalues = torch.linalg.eigvalsh((white.T @ white / 3000).double())
    torch.testing.assert_close(eigenvalues, torch.tensor([0, 0, 1, 1, 1, 1, 1]).double(), atol=1e-3, rtol=0)


def test_haar_is_orthogonal_and_centered():
    q = torch.stack([basis.haar(4, rng.stream(i, "haar")) for i in range(400)])
    torch.testing.assert_close(q @ q.mT, torch.eye(4).expand_as(q), atol=1e-5, rtol=0)
    assert q.mean(0).abs().max() < 0.1


def test_token_kurtosis_of_gaussian_rows():
    k = basis.token_kurtosis(torch.randn(20_000, 16, generator=rng.stream(0, "k"))).mean()
    # rows are centered, which leaves 15 degrees of freedom: 3 (d − 1)/(d + 1) with d = 16
    assert float(k) == pytest.approx(3 * 15 / 17, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_residual_dependence_separates_independent_from_overcomplete(seed):
    found = {}
    for make in (causes.rotated, causes.superposition):
        acts = make(8000, 8, seed).activations
        found[make.__name__] = basis.residual_dependence(acts.values, acts.documents, seed, permutations=49)
    assert found["rotated"].excess < 2
    assert found["rotated"].gaussian_share == 0
    assert found["superposition"].excess > 5
    assert found["superposition"].p == pytest.approx(1 / 50)
    assert found["rotated"].alignment < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_turns_of_neighbors_are_found(seed):
    turned = basis.turn_test(
        causes.rotated(8000, 16, seed, basis="partial", angle=0.4).activations.values, rng.stream(seed, "t")
    )
    assert turned.turned == 1.0
    assert turned.angle == pytest.approx(0.4 * 180 / math.pi, abs=3)
    assert turned.gain > 1.2
    for dependence in ("none", "pairs", "copula", "hierarchy"):
        world = causes.monosemantic(8000, 16, seed, dependence=dependence)
        straight = basis.turn_test(world.activations.values, rng.stream(seed, "t"))
        assert straight.turned == 0
        assert straight.gain == pytest.approx(1, abs=0.05)
        assert straight.z.min() > 1.5


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_turns_have_a_size(seed):
    world = causes.rotated(8000, 32, seed, basis="block", block=4)
    found = basis.turn_test(world.activations.values, rng.stream(seed, "t"))
    assert found.sizes == (2, 4, 8)
    assert found.z[1] < 2  # within a block no axes are special
    assert found.z[2] > 6  # and rotations of two blocks against each other show it
    assert found.turned > 0.4


def test_pair_tails_against_turned_data():
    g = rng.stream(0, "pairs")
    x, y = torch.randn(2, 500, 3, generator=g, dtype=torch.float64) ** 3
    angles = torch.tensor([0.0, 0.3, -0.7], dtype=torch.float64)
    found = basis._pair_tails(x, y, angles)
    for angle, row in zip(angles, found, strict=True):
        turned = [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y]
        torch.testing.assert_close(row, sum((t.pow(4).mean(0) / t.square().mean(0).square() - 3).abs() for t in turned))


def test_one_unit_has_no_turns():
    assert basis.turn_test(torch.randn(100, 1, generator=rng.stream(0, "one")), rng.stream(0, "t")) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_common_length_is_told_from_dependence(seed):
    lengths = causes.null(8000, 8, seed, "elliptical").activations
    found = basis.residual_dependence(lengths.values, lengths.documents, seed, permutations=9)
    assert found.excess > 10
    assert found.excess_normed < 1.5
    many = causes.superposition(8000, 8, seed).activations
    found = basis.residual_dependence(many.values, many.documents, seed, permutations=9)
    assert found.excess_normed > 3


def test_dense_codes_have_light_tails():
    signs = 2.0 * torch.randint(2, (8000, 6), generator=rng.stream(0, "signs")) - 1
    found = basis.residual_dependence(signs, None, 0, permutations=9)
    assert found.sub_gaussian_share == 1.0
    assert found.kurtosis_quantiles == pytest.approx([-2] * 5, abs=0.1)
    assert found.alignment > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_noise_reads_four_thirds(seed):
    # The whitening of one half leaves correlations on the other: those of tanh s are of order s, and count twice.
    noise = torch.randn(12_000, 40, generator=rng.stream(seed, "noise"))
    found = basis.residual_dependence(noise, None, seed, permutations=9)
    assert found.ratio == pytest.approx(4 / 3, abs=0.12)
    assert found.excess == pytest.approx(1, abs=0.15)
    assert found.gaussian_share > 0.9


def test_p_from_the_normal_law_is_the_wider_one():
    noise = torch.randn(6000, 20, generator=rng.stream(0, "law"))
    generator = rng.stream(0, "p")
    assert basis._p(noise, 1.0, generator, 0) == pytest.approx(0.5)
    assert basis._p(noise, 1.4, generator, 0) < 0.001
    assert basis._p(noise, 1.4, generator, 49) == pytest.approx(1 / 50)
