"""Five features in two dimensions: the table of exact minima, invariances of the loss, reading an arrangement."""

import math

import pytest
import torch

from digon.measures.geometry import norms
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import opening
from digon.worlds.features import features
from digon.worlds.population import expected_loss

TABLE = {1.0: 0.182917, 0.5: 0.198737, 0.3: 0.101230, 0.2: 0.059883, 0.15: 0.040973, 0.12: 0.028638, 0.1: 0.021403,
         0.08: 0.015021, 0.05: 0.007255}  # fmt: skip
"""Density → least loss, found by others with a quasi-random rule good to about 0.1 % where four features are active."""


@pytest.fixture(scope="module")
def optimum():
    return opening.optima(tuple(TABLE), 24, 0)


def test_exact_minima(optimum):
    found, share = optimum
    for loss, wanted in zip(found.loss.tolist(), TABLE.values(), strict=True):
        assert loss == pytest.approx(wanted, rel=3e-3)
        assert loss < wanted * 1.0005  # a minimum is not above what others found
    assert share.min() > 0.03


def test_arrangements_of_the_exact_minima(optimum):
    found, _ = optimum
    dense, eighty, ninety = (
        opening.arrangement(found.W[k], found.b[k]) for k in (0, list(TABLE).index(0.2), list(TABLE).index(0.1))
    )
    assert (dense.represented, dense.least) == (2, True)
    assert max(dense.left, dense.crossing) < 0.05
    assert (eighty.represented, eighty.least) == (4, True)
    assert eighty.pairs < -0.999
    assert eighty.crossing < 0.01
    assert ninety.represented == 5
    assert ninety.gap < 3
    assert -0.25 < ninety.bias < -0.15
    torch.testing.assert_close(
        norms(found.W[list(TABLE).index(0.1)]).sort(descending=True).values,
        torch.tensor([1.112, 1.107, 1.099, 1.089, 1.074], dtype=torch.float64), atol=2e-3, rtol=0,
    )  # fmt: skip


def test_scaling_all_importances_and_rotating_change_nothing(optimum):
    found, _ = optimum
    W, b = found.W[3:4], found.b[3:4]
    law = features(5, 0.2, opening.IMPORTANCE)
    loss = expected_loss(W, b, law)
    torch.testing.assert_close(expected_loss(W, b, features(5, 0.2, 7 * opening.IMPORTANCE)), 7 * loss)
    c, s = math.cos(0.7), math.sin(0.7)
    turned = W @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    torch.testing.assert_close(expected_loss(turned, b, law), loss, rtol=1e-8, atol=0)


def test_reading_made_up_networks():
    angle = 2 * torch.pi * torch.arange(5, dtype=torch.float64) / 5
    pentagon = opening.arrangement(
        torch.stack([angle.cos(), angle.sin()], 1), torch.full((5,), -0.2, dtype=torch.float64)
    )
    assert pentagon.represented == 5
    assert pentagon.gap == pytest.approx(0, abs=1e-9)
    assert pentagon.bias == pytest.approx(-0.2)
    W = torch.tensor([[1.0, 0], [0, 1], [0.3, 0], [0, -1], [-1, 0]], dtype=torch.float64)
    square = opening.arrangement(W, torch.zeros(5, dtype=torch.float64))
    assert (square.represented, square.least) == (4, False)
    assert square.left == pytest.approx(0.3)
    assert square.pairs == pytest.approx(-1)
    assert square.crossing == pytest.approx(0)


def test_the_study():
    outcome = opening.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["represented_90"].value == 5
    assert outcome.values["loss_90"].value == pytest.approx(0.021403, rel=0.01)
    assert outcome.exact["loss_80"] == pytest.approx(0.05984, rel=2e-3)
    assert {f.id for f in outcome.figures} == {"E0-directions", "E0-norms"}
    assert len(outcome.figures[0].frames) == 3
