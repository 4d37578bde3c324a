"""The pentagon and its rival: losses, crossings, the sparse limit, against the published table and second ways."""

import pytest
import torch

from digon.measures.geometry import norms
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.claims import judge, statements
from digon.studies.toys.diagram import random_starts, settle
from digon.studies.toys.paper import pentagon
from digon.worlds.features import features
from digon.worlds.population import expected_loss

F64 = torch.float64


def law(*relative, base=0.05):
    return pentagon.law_of(torch.tensor(relative, dtype=F64), base)


def test_table_of_losses():
    relative = (1.0, 0.5, 2.0, 10.0, 0.2)
    found = settle(*pentagon.pentagon_start(5), law(*relative))
    assert found.loss.tolist() == pytest.approx([8.9038e-3, 7.3015e-3, 1.12162e-2, 2.3459e-2, 5.5369e-3], rel=5e-4)
    assert norms(found.W)[:3, pentagon.VARIED].tolist() == pytest.approx([1.133, 1.162, 1.093], abs=2e-3)
    digons = pentagon.digons_loss(law(1.0, 0.2, 0.1))
    assert digons.tolist() == pytest.approx([1.7707e-2, 4.9736e-3, 3.3257e-3], rel=1e-3)


def test_digons_loss_is_that_of_a_network():
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]], dtype=F64)[None]
    found = settle(W, torch.zeros(1, 5, dtype=F64), law(0.2))
    assert float(found.loss) == pytest.approx(float(pentagon.digons_loss(law(0.2))), rel=1e-4)


def test_crossings():
    found = pentagon.crossings((0.01, 0.05, 0.1, 0.15), 2)
    assert found.tolist() == pytest.approx([0.158, 0.269, 0.425, 0.609], abs=3e-3)


def test_far_from_the_crossing_the_better_arrangement_is_clear():
    gap = pentagon.pentagon_advantage(law(0.2, 0.35, 1.0))
    assert gap[0] < 0 < gap[1] < gap[2]


def test_sparse_limit_is_the_limit_of_the_exact_loss():
    W, b = random_starts(3, 5, 2, 1)
    b = b - 0.1 * torch.arange(5, dtype=F64)  # no positive bias: nothing happens while no feature is active
    p = 1e-6
    limit = pentagon.one_active_loss(W, b)
    torch.testing.assert_close(expected_loss(W, b, features(5, p)) / p, limit, rtol=1e-4, atol=0)


def test_pentagon_of_one_active_feature():
    found = pentagon.sparse_limit(60, 3)
    assert 3 * float(found.loss.min()) == pytest.approx(0.23738, abs=1e-5)
    best = found.loss.argmin()
    assert norms(found.W[best]).tolist() == pytest.approx([1.17046] * 5, abs=1e-3)
    assert found.b[best].tolist() == pytest.approx([-0.28230] * 5, abs=1e-3)


def test_importance_at_which_the_pentagon_breaks():
    at, kept, dropped = pentagon.importance_branches()
    crossing = pentagon.importance_crossing(at, kept, dropped)
    assert crossing == pytest.approx(0.368, abs=0.003)
    equal = int(abs(at - 1).argmin())
    assert kept[equal] == pytest.approx(8.9036e-3, rel=1e-4)
    # the importance of an ignored feature multiplies its variance
    variance = 0.05 / 3 - 0.05**2 / 4
    assert dropped[-1] - dropped[0] == pytest.approx((at[-1] - at[0]) * variance, rel=1e-9)


def test_upright_keeps_shapes():
    W = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    turned = pentagon.upright(W, 4)
    torch.testing.assert_close(turned @ turned.T, W @ W.T)
    assert turned[4, 0] > 0
    assert turned[4, 1].abs() < 1e-12


def test_the_study_and_its_published_claim():
    outcome = pentagon.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.exact["times_sparser"] == pytest.approx(3.72, abs=0.03)
    assert outcome.values["limit_loss"].value == pytest.approx(0.23738, abs=1e-5)
    assert outcome.values["dropped_norm"].value < 0.15
    rows = {row.id: row for row in statements()}
    assert judge(rows["E4.12"], outcome, "smoke").verdict == "differs"
    assert judge(rows["E4.13"], outcome, "smoke").verdict == "holds"
    assert {f.id for f in outcome.figures} == {
        "E4-shapes", "E4-branches", "E4-crossing", "E4-norms", "E4-importance",
    }  # fmt: skip
