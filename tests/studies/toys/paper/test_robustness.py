"""Adversarial vulnerability: the network that theory expects, the closed forms it obeys, a study in small."""

import pytest
import torch

from digon import rng
from digon.intervene.attacks import single_attack_gain, vulnerability
from digon.measures.geometry import features_per_dimension
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import robustness
from digon.studies.toys.paper.ideal import blocks, ideal, shape
from digon.worlds.closed import digon_loss, small_loss, variance
from digon.worlds.features import features

DENSITIES = (1.0, 0.7, 0.5, 0.35, 0.3, 0.2, 0.1)


def mean_vulnerability(density: float, n: int, m: int, rows: int) -> float:
    law, data = features(n, density), rng.stream(0, "test")
    size = 0.1 * float(law.sample(20_000, data).norm(dim=-1).mean())
    toy = ideal(blocks(DENSITIES)[density], density, n, m)
    return float(vulnerability(toy, law.sample(rows, data), size).mean())


@pytest.mark.parametrize(
    ("density", "expected"), [(0.5, 2.71), (0.35, 3.19), (0.3, 3.27), (0.2, 6.81)], ids=lambda v: f"{v:g}"
)
def test_vulnerability_of_ideal_networks_of_100_features(density, expected):
    assert mean_vulnerability(density, 100, 20, 2000) == pytest.approx(expected, rel=0.05)


def test_vulnerability_of_an_ideal_network_of_400_features():
    assert mean_vulnerability(0.35, 400, 30, 150) == pytest.approx(2.23, rel=0.06)


def test_the_best_polytope_changes_where_theory_says():
    """Tetrahedra, triangles down to 0.645, digons to 0.226, pentagons to 0.203; at density 1 all tie."""
    edges = (1.0, 0.85, 0.74, 0.66, 0.63, 0.235, 0.215, 0.19)
    names = [blocks(edges)[p][0].name for p in edges]
    assert names == [
        "dedicated", "tetrahedron", "triangle", "triangle", "digon", "digon", "pentagon", "square antiprism",
    ]  # fmt: skip


def test_a_block_is_at_a_minimum_of_the_closed_form():
    """The digon's loss from another formula, and no neighbor is lower."""
    density = 0.35
    digon = next(b for b in blocks(DENSITIES)[density] if b.name == "digon")
    p, one = torch.tensor([density], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)

    def loss(scale: float, bias: float) -> float:
        W = scale * digon.W[None]
        return float(small_loss(W, torch.full((1, 2), bias, dtype=torch.float64), p.expand(1, 2), one))

    best = loss(1.0, digon.bias)
    assert digon.gain == pytest.approx(2 * float(variance(p)) - best, abs=1e-9)
    for scale, shift in ((1.01, 0.0), (0.99, 0.0), (1.0, 0.005), (1.0, -0.005)):
        assert loss(scale, digon.bias + shift) > best
    unit = 2 * float(digon_loss(p, torch.zeros(1, dtype=torch.float64)))
    assert best < unit


def test_a_triangle_is_at_a_minimum_of_the_closed_form():
    triangle = next(b for b in blocks(DENSITIES)[0.7] if b.name == "triangle")
    p = torch.full((1, 3), 0.7, dtype=torch.float64)
    loss = small_loss(triangle.W[None], torch.full((1, 3), triangle.bias, dtype=torch.float64), p, torch.ones(1, 3))
    assert triangle.gain == pytest.approx(float((3 * variance(p[0, 0]) - loss) / 2), abs=1e-7)


def test_shapes_are_scaled_polytopes():
    x = torch.tensor([[1.3, 0.0, 0.555]], dtype=torch.float64)
    for name, count in (("digon", 2), ("triangle", 3), ("tetrahedron", 4), ("pentagon", 5), ("square antiprism", 8)):
        rows = shape(name, x)[0]
        assert rows.shape[0] == count
        assert rows.norm(dim=1).numpy() == pytest.approx(1.3, abs=1e-6)
        assert rows.sum(0).numpy() == pytest.approx(0.0, abs=1e-6)


def test_an_ideal_network_fills_its_dimensions():
    toy = ideal(blocks(DENSITIES)[0.2], 0.2, 100, 20)
    W = toy.W.detach()[0]
    assert int((W.norm(dim=1) > 0.5).sum()) == 6 * 8 + 2 * 2  # six antiprisms and two digons
    assert float(features_per_dimension(W)) == pytest.approx(2.69, abs=0.05)
    assert toy.b.detach()[0, -1].item() == pytest.approx(0.1)
    assert single_attack_gain(W)[0].item() > 3


def test_the_size_that_removes_superposition_is_interpolated():
    assert robustness._reaches([6.0, 5.0, 4.0, 2.1, 0.1, 0.0], 1.1) == pytest.approx(0.5)
    assert robustness._reaches([6.0] * 6, 1.1) != robustness._reaches([6.0] * 6, 1.1)  # NaN: never


def test_the_study():
    outcome = robustness.run(StudyConfig("smoke"), lambda _: None)
    values = {k: v.value for k, v in outcome.values.items()}
    assert values["vulnerability_p1"] == pytest.approx(1, abs=0.05)
    assert values["spearman"] > 0.9
    assert values["rise"] > 5
    assert values["silent_gain_p0_35"] == pytest.approx(outcome.exact["silent_gain_p0_35"], rel=0.1)
    assert values["trained_falls"] == 1
    assert values["trained_per_dimension_0_8"] < 1.1 < values["trained_per_dimension_0"]
    assert {f.id for f in outcome.figures} == {"E7-vulnerability", "E7-scatter", "E7-attacks", "E7-training"}
    assert all(name == m.name for name, m in outcome.values.items())
