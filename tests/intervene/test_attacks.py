import math

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.intervene.attacks import (
    adversarial,
    analytic_attack,
    attack_directions,
    pgd_attack,
    reference_damage,
    single_attack_gain,
    vulnerability,
)
from digon.worlds.features import features
from digon.worlds.fit import FitConfig, fit
from digon.worlds.toys import Toy, loss


def gon(k: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(k, dtype=torch.float64) / k
    return torch.stack([angle.cos(), angle.sin()], -1)


def simplex(k: int) -> torch.Tensor:
    centered = torch.eye(k, dtype=torch.float64) - 1 / k
    rows = centered @ torch.linalg.eigh(centered).eigenvectors[:, 1:]
    return rows / rows.norm(dim=1, keepdim=True)


def antiprism(height: float) -> torch.Tensor:
    radius, angle = (1 - height**2) ** 0.5, math.pi / 4 * torch.arange(8, dtype=torch.float64)
    level = height * torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), level], -1)


def toy_of(W: torch.Tensor, b: torch.Tensor | None = None) -> Toy:
    toy = Toy(*W.shape[-2:], instances=1)
    toy.double()
    with torch.no_grad():
        toy.W.copy_(W)
        toy.b.copy_(torch.zeros(W.shape[-2]) if b is None else b)
    return toy


def random_toy(n: int = 12, m: int = 4, seed: int = 0) -> Toy:
    g = rng.stream(seed, "random toy")
    return toy_of(0.5 * torch.randn(n, m, generator=g).double(), 0.2 * torch.randn(n, generator=g).double())


@pytest.mark.parametrize(
    ("rows", "gain"),
    [
        (simplex(4), 4 / 3),
        (simplex(3), 3 / 2),
        (simplex(2), 2.0),
        (gon(5), 2.977),
        (gon(6), 4.5),
        (antiprism(3**-0.5), 3.361),
        (torch.eye(3, dtype=torch.float64), 1.0),
    ],
    ids=["tetrahedron", "triangle", "digon", "pentagon", "hexagon", "tight antiprism", "dedicated"],
)
def test_closed_form_gain_of_polytopes(rows, gain):
    """The general formula, and its shorter form for tight frames: λ² Σ_{c>0} c² / Σ c² over a row of cosines."""
    assert single_attack_gain(rows).numpy() == pytest.approx(gain, abs=6e-4)
    c, per_dimension = rows @ rows.T, rows.shape[0] / rows.shape[1]
    assert (per_dimension**2 * c.relu().square().sum(1) / c.square().sum(1)).numpy() == pytest.approx(gain, abs=6e-4)


def test_tight_frame_formula_at_the_antiprism_that_is_not_tight():
    """3.34 is the tight-frame formula at the height 0.555 of least energy; the attack itself gains 3.370 there."""
    rows = antiprism(0.555)
    c = rows @ rows.T
    assert ((8 / 3) ** 2 * c.relu().square().sum(1) / c.square().sum(1)).numpy() == pytest.approx(3.34, abs=0.005)
    assert single_attack_gain(rows).numpy() == pytest.approx(3.370, abs=0.001)


def test_gain_is_the_damage_on_silent_input():
    """Two digons and a triangle, bias 0: on x = 0 the worst candidate costs what the formula says."""
    W = torch.block_diag(gon(3), simplex(2), simplex(2))
    damage = analytic_attack(toy_of(W), torch.zeros(1, 1, 7, dtype=torch.float64), 0.1)[1]
    assert damage.item() == pytest.approx(0.01 * single_attack_gain(W).max().item(), rel=1e-9)


def test_a_network_without_superposition_costs_exactly_the_reference():
    W = torch.zeros(6, 3, dtype=torch.float64)
    W[:3] = torch.eye(3)
    b = torch.tensor([0, 0, 0, 0.2, 0.2, 0.2])
    x = features(6, 0.4).sample(500, rng.stream(0, "x")).double()
    assert vulnerability(toy_of(W, b), x, 0.3).numpy() == pytest.approx(1.0, abs=1e-6)
    importance = torch.tensor([0.5, 2.0, 1.0, 1.0, 1.0, 1.0])
    assert reference_damage(0.3, importance).item() == pytest.approx(0.18)
    assert vulnerability(toy_of(W, b), x, 0.3, importance).numpy() == pytest.approx(1.0, abs=1e-6)


def test_features_that_training_gave_up_are_attacked_only_on_request():
    """A tiny vector in a random direction is one more direction to attack along, until `least` excludes it."""
    W = torch.cat([torch.block_diag(simplex(2), simplex(2)), 1e-4 * torch.tensor([[0.6, 0.8]])])
    x = features(5, 0.4).sample(300, rng.stream(0, "x")).double()
    digons = toy_of(W * torch.tensor([1, 1, 1, 1, 0.0])[:, None])
    alone, everything = vulnerability(digons, x, 0.2).mean(), vulnerability(toy_of(W), x, 0.2).mean()
    assert everything > alone + 0.05
    assert vulnerability(toy_of(W), x, 0.2, least=0.05).mean().item() == pytest.approx(alone.item(), abs=1e-3)


def test_a_change_of_length_zero_costs_nothing():
    toy, x = random_toy(), features(12, 0.3).sample(50, rng.stream(0, "x")).double()
    delta, damage = analytic_attack(toy, x, 0.0)
    assert damage.abs().max() == 0
    assert delta.abs().max() == 0
    target, g = toy.target(x), rng.stream(0, "pgd")
    assert pgd_attack(toy, x, target, 0.0, steps=3, restarts=2, generator=g)[1].abs().max() == 0


def test_damage_is_the_loss_that_the_returned_change_adds():
    toy, law = random_toy(), features(12, 0.3, [0.9**i for i in range(12)])
    x = law.sample(200, rng.stream(0, "x")).double()
    delta, damage = analytic_attack(toy, x, 0.4, law.importance)
    with torch.no_grad():
        added = loss(toy(x + delta), x, law.importance) - loss(toy(x), x, law.importance)
    assert added.item() == pytest.approx(damage.mean().item(), rel=1e-9)
    assert delta.norm(dim=-1)[damage > 0].numpy() == pytest.approx(0.4, rel=1e-6)


def test_directions_are_gradients_by_finite_differences():
    toy, h = random_toy(), 1e-6
    toy.output = "linear"
    basis = torch.cat([torch.zeros(1, 12), torch.eye(12)]).double()[None] * h
    with torch.no_grad():
        out = toy(basis)[0]
    slope = ((out[1:] - out[0]) / h).T  # row k: d output_k / d input
    unit = slope / slope.norm(dim=1, keepdim=True)
    assert attack_directions(toy)[0].numpy() == pytest.approx(unit.numpy(), abs=1e-6)


def test_a_candidate_raises_its_own_output_more_than_any_other_change_of_that_length():
    toy = random_toy()
    other = torch.randn(1000, 12, generator=rng.stream(0, "other")).double()
    other /= other.norm(dim=1, keepdim=True)
    gram = (toy.V @ toy.W.mT).detach()[0]
    own = (attack_directions(toy)[0] @ gram).diagonal()
    assert (own >= (other @ gram).max(0).values).all()


def test_the_attack_follows_a_rotation_of_the_features_space_and_a_permutation():
    toy, x = random_toy(), features(12, 0.3).sample(100, rng.stream(0, "x")).double()
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng.stream(0, "q")).double()).Q
    order = torch.randperm(12, generator=rng.stream(0, "p"))
    damage = analytic_attack(toy, x, 0.3)[1]
    turned = toy_of(toy.W.detach()[0] @ rotation, toy.b.detach()[0])
    assert analytic_attack(turned, x, 0.3)[1].numpy() == pytest.approx(damage.numpy(), abs=1e-9)
    mixed = toy_of(toy.W.detach()[0, order], toy.b.detach()[0, order])
    assert analytic_attack(mixed, x[..., order], 0.3)[1].numpy() == pytest.approx(damage.numpy(), abs=1e-9)


def test_analytic_attack_beats_gradient_ascent_where_relus_are_off():
    """Pentagons with their negative bias on sparse input: gradients vanish, the closed form does not."""
    W = 1.13 * torch.block_diag(gon(5), gon(5), gon(5))
    toy, law = toy_of(W, torch.full((15,), -0.24)), features(15, 0.03)
    x = law.sample(400, rng.stream(0, "x")).double()
    size = 0.5
    analytic = analytic_attack(toy, x, size)[1].mean()
    ascent = pgd_attack(toy, x, x, size, steps=50, restarts=3, generator=rng.stream(0, "pgd"))[1].mean()
    assert analytic > ascent > 0


def test_gradient_ascent_finds_the_optimum_of_a_linear_network():
    """Output x A with target 0 at x = 0: the worst change is the top singular vector, damage (σ₁ · size)²."""
    left, right = (torch.linalg.qr(torch.randn(5, 5, generator=rng.stream(1, name)).double()).Q for name in "UV")
    A = left * torch.tensor([2.0, 1.0, 0.5, 0.3, 0.1]).double() @ right
    zero = torch.zeros(1, 3, 5, dtype=torch.float64)
    damage = pgd_attack(lambda x: x @ A, zero, zero, 0.2, steps=100, generator=rng.stream(0, "pgd"))[1]
    assert damage.numpy() == pytest.approx((0.2 * 2.0) ** 2, rel=2e-2)


def test_adversarial_training_sees_changes_of_the_given_length():
    toy, x = random_toy(), features(12, 0.3).sample(300, rng.stream(0, "x")).double()
    moved = adversarial(0.7)(toy, x, rng.stream(0, "attack")) - x
    assert moved.norm(dim=-1).numpy() == pytest.approx(0.7, rel=1e-6)
    with torch.no_grad():
        hurt, other = ((toy(x + s * moved) - x).square().sum(-1) for s in (1.0, -1.0))
    assert (hurt >= other).all()


def test_adversarial_training_shrinks_what_is_packed():
    law, config = features(6, 0.05), FitConfig(steps=1200, batch=128, learning_rate=1e-2, seed=1)
    toy = Toy(6, 3, instances=2)
    fit(toy, law, config, perturb=adversarial(torch.tensor([0.0, 0.6])))
    plain, trained = toy.W.detach().square().sum((1, 2))
    assert plain > 5  # six features as three antipodal pairs
    assert trained < 0.75 * plain


def test_bad_sizes_are_refused():
    toy, x = random_toy(), torch.zeros(1, 2, 12, dtype=torch.float64)
    with pytest.raises(ConfigError, match="attack size"):
        analytic_attack(toy, x, -0.1)
    with pytest.raises(ConfigError, match="attack size"):
        adversarial(float("nan"))
    with pytest.raises(ConfigError, match="hidden"):
        analytic_attack(Toy(3, 2, hidden="relu"), torch.zeros(1, 1, 3), 0.1)
    with pytest.raises(ConfigError, match="restarts"):
        pgd_attack(toy, x, x, 0.1, restarts=0, generator=rng.stream(0, "pgd"))
