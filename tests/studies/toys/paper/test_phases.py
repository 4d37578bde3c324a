"""Phases of two and three features: tables of exact minima and edges, formulas against each other."""

import numpy as np
import pytest
import torch

from digon.measures.geometry import cosines, norms
from digon.studies.toys import diagram
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import phases
from digon.worlds.closed import onset_importance, small_loss

F64 = torch.float64
MINIMA = {
    (1, 1): 0.083254, (0.9, 1): 0.097094, (0.8, 1): 0.105516, (0.7, 1): 0.108106, (0.6, 1): 0.098886, (0.571, 1): 0.093330,
    (0.5, 1): 0.076282, (0.3, 1): 0.029310, (0.1, 1): 0.003319, (0.16, 0.1): 0.004235, (0.56, 0.8): 0.081057,
    (0.64, 0.8): 0.088380, (0.54, 0.7): 0.071849, (0.5, 0.5): 0.052083,
}  # fmt: skip
"""(density, importance) → least loss of two features on a line."""


def column(values):
    return torch.tensor(values, dtype=F64)


def test_exact_minima_of_two_features():
    p, r = (column([float(key[k]) for key in MINIMA]) for k in (0, 1))
    W, b, loss = diagram.exact_two(p, r)
    assert loss.tolist() == pytest.approx(list(MINIMA.values()), abs=3e-6)
    size = W[:, :, 0].abs().sort(1, descending=True).values
    assert size[0].tolist() == pytest.approx([0.936, 0.368], abs=2e-3)
    assert size[6].tolist() == pytest.approx([0.969, 0.969], abs=1e-3)
    assert b[6].tolist() == pytest.approx([0.0977, 0.0977], abs=1e-3)
    assert size[9].tolist() == pytest.approx([1.023, 0.773], abs=1e-3)
    assert size[-1, 1] < 1e-3  # ignored


def test_swapping_roles():
    p = column([0.15, 0.3, 0.5])
    low, high = column([0.25] * 3), column([4.0] * 3)
    torch.testing.assert_close(diagram.exact_two(p, high)[2], 4 * diagram.exact_two(p, low)[2], rtol=1e-6, atol=0)


def test_exact_minima_of_three_features():
    p = column([0.571, 0.7, 0.5, 0.3, 0.5, 0.3])
    r = column([1, 1, 1, 1, 4, 4])
    W, _, loss = diagram.exact_three(p, r)
    assert loss.tolist() == pytest.approx([0.09006, 0.10220, 0.07632, 0.02931, 0.07632, 0.02931], rel=1e-3)
    off = cosines(W[:2])[:, ~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, -0.5), atol=5e-3, rtol=0)  # the triangle
    assert cosines(W[4])[0, 1] < -0.999  # the others are a digon, the last one is alone
    assert norms(W[4])[2].item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("density", "confused"), [(1, 0.083333), (0.9, 0.0975), (0.8, 0.106667), (0.5, 0.104167)])
def test_confused_features_without_biases(density, confused):
    one = torch.ones(2, dtype=F64)
    W = torch.full((1, 2, 1), 0.5**0.5, dtype=F64)
    loss = small_loss(W, torch.zeros(1, 2, dtype=F64), density * one, one)
    assert float(loss) == pytest.approx(confused, abs=1e-6)


@pytest.mark.parametrize(
    ("importance", "edge"),
    [
        (0.1, 0.1812),
        (0.2, 0.2956),
        (0.3, 0.3756),
        (0.5, 0.4845),
        (0.55, 0.506),
        (0.6, 0.526),
        (0.65, 0.543),
        (0.7, 0.565),
    ],
)
def test_edges_of_strong_superposition(importance, edge):
    density = np.linspace(edge - 0.016, edge + 0.016, 17)
    p = torch.from_numpy(density)
    size = diagram.exact_two(p, torch.full_like(p, importance))[0][:, 1, 0].abs().numpy()
    assert phases.appearance(density, size, 0.55) == pytest.approx(edge, abs=0.004)
    assert size[(size > 0.46) & (size < 0.62)].size == 0  # it jumps
    if importance < 0.56:
        assert phases.jump(density, size) > 0.6  # from nothing


def test_continuous_onset():
    p = column([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert onset_importance(p).tolist() == pytest.approx([0.5504, 0.6654, 0.7726, 0.8660, 0.9419, 0.9730], abs=1e-4)
    assert [phases.onset(r) for r in (0.65, 0.7, 0.8, 0.9, 0.95)] == pytest.approx(
        [0.5863, 0.6312, 0.7276, 0.8419, 0.9124], abs=1e-4
    )
    around = column([0.71, 0.745])  # below the onset the feature is there, weakly; above it is not
    size = diagram.exact_two(around, column([0.8, 0.8]))[0][:, 1, 0].abs()
    assert 0.05 < size[0] < 0.45
    assert size[1] < 1e-3


def test_formula_of_the_fixed_weight_edge():
    r = np.array([0.1, 0.5, 1.0, 3.0, 10.0])
    edge = diagram.fixed_edge(r, 2)
    assert edge[[0, 2, 4]] == pytest.approx([0.16, 4 / 7, 0.16])
    for n in (2, 3):
        for importance, p in zip(r, diagram.fixed_edge(r, n), strict=True):
            at = diagram.fixed_weights(np.array([p * 1.001, p * 0.999]), np.array([importance]), n)
            assert at.loss[0, 0] == pytest.approx(at.loss[1, 0], rel=0.005)
            v = p / 3 - p**2 / 4
            paired = (1 + importance) * p**2 / 6 if n == 2 or importance <= 1 else p**2 / 3
            assert min(importance, 1.0) * v == pytest.approx(paired, rel=1e-9)


def test_pixels_away_from_boundaries():
    phase = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 2]])
    inside = phases.interior(phase, np.array([0.5, 0.3, 0.1]))
    assert inside.tolist() == [[True, True, False, False], [False] * 4, [False] * 4]
    assert not phases.interior(phase, np.array([0.12, 0.11, 0.1]))[0].any()


def test_the_study():
    outcome = phases.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["edge_pixels_2"].value <= 1
    assert outcome.values["reached_2"].value > 0.9
    assert outcome.values["beaten_2"].value < 1e-5
    assert outcome.values["jump_02"].value > 0.6
    assert outcome.exact["onset_08"] == pytest.approx(0.7276, abs=1e-3)
    assert {f.id for f in outcome.figures} == {"E2-phases-2", "E2-cuts"}
