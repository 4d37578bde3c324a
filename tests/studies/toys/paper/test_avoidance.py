"""Ways to avoid superposition: closed forms of penalties, routing, strata, and thresholds."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import avoidance, penalties, planes
from digon.studies.toys.paper.penalties import Strata, plain, routed
from digon.worlds.closed import digon_loss


def sparse(rows, p, seed=0, n=2):
    g = rng.stream(seed, "test")
    return torch.rand(rows, n, generator=g) * (torch.rand(rows, n, generator=g) < p)


@pytest.mark.parametrize("w", [(0.9, -0.4), (0.5, 0.8), (-0.3, 0.3), (1.0, 0.0)])
def test_mean_activation_against_samples(w):
    W = torch.tensor(w, dtype=torch.float64).view(1, 2, 1)
    exact = planes.mean_activation(W, torch.tensor([0.4], dtype=torch.float64)).item()
    h = (sparse(1_000_000, 0.4).double() @ W[0]).abs()
    assert abs(exact - h.mean().item()) < 4 * h.std().item() / 1000


def test_dropout_energy_against_samples():
    W, b = torch.tensor([[[0.8], [-0.7]]]).double(), torch.tensor([[0.05, 0.02]]).double()
    p, r = torch.tensor([0.3]).double(), torch.tensor([0.5]).double()
    x = sparse(1_000_000, 0.3).double()
    kept = (torch.rand(len(x), 1, generator=rng.stream(1, "test")) < 0.6) / 0.6
    error = ((x @ W[0] * kept @ W[0].T + b).relu() - x).square() @ torch.tensor([1.0, 0.5]).double()
    exact = planes.with_dropout(W, b, p, r, torch.tensor([0.4]).double()).item()
    assert abs(exact - error.mean().item()) < 4 * error.std().item() / 1000


def test_a_feature_alone_is_kept_below_its_threshold():
    assert pytest.approx(0.72577, abs=1e-5) == planes.ALONE
    assert planes.threshold_alone() == pytest.approx(planes.ALONE, rel=0.002)


def test_limits_of_rare_features():
    """L1 keeps the last feature above 1.378 λ; a penalty on overlap ends sharing below density 3 μ."""
    assert planes.least_kept(0.4) == pytest.approx(0.4 / planes.ALONE, rel=0.02)
    assert planes.least_shared(3e-4) == pytest.approx(9e-4, rel=0.03)


def test_without_penalty_the_minimum_is_the_antipodal_pair():
    p = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    W, loss = planes.minima(planes.with_l1, p, torch.ones_like(p), 0.0)
    np.testing.assert_allclose(loss, [0.003319, 0.029310, 0.076282], rtol=2e-4)
    assert (W[:, 0] * W[:, 1] < 0).all()
    assert (loss < 2 * digon_loss(p, p.square() / (6 * (1 - p)))).all()


@pytest.mark.parametrize(
    ("strength", "represented", "superposed", "energy"), [(0.03, 9, 8, 0.005506), (0.15, 5, 0, 0.016287)]
)
def test_the_best_network_on_the_axes(strength, represented, superposed, energy):
    found = planes.aligned(strength, 0.7 ** torch.arange(20), 0.03, 5)
    assert (found.represented, found.superposed) == (represented, superposed)
    assert found.energy == pytest.approx(energy, rel=1e-3)
    assert found.loss < found.energy


def test_on_the_axes_without_penalty_is_digons():
    """Two equal features on one axis: the exact antipodal pair; two axes hold both without loss."""
    one, two = (planes.aligned(0.0, torch.ones(2), 0.1, m) for m in (1, 2))
    assert (one.represented, one.superposed, one.loss) == (2, 2, pytest.approx(0.003319, rel=2e-4))
    assert (two.represented, two.superposed, two.loss) == (2, 0, pytest.approx(0, abs=1e-8))


def test_routing_keeps_the_blocks_that_respond_most():
    h = torch.tensor([[[3.0, 0.0, 2.0, 2.5, 1.0, 1.0]]])
    assert routed(h, 3, 1).tolist() == [[[0, 0, 2, 2.5, 0, 0]]]
    assert routed(h, 6, 2).tolist() == [[[3, 0, 0, 2.5, 0, 0]]]
    assert routed(torch.ones(1, 1, 4), 4, 1).sum() == 1, "ties must not let more units pass"
    assert torch.equal(routed(h, 3, 3), h)


def test_strata_are_the_law():
    """Weighted moments of stratified rows are those of independent features."""
    strata = Strata(6, 0.2, 200, 40_000, 40_000)
    x, weight = strata.draw(rng.stream(0, "test")).double(), strata.weights.double()
    assert weight.sum().item() + strata.chances[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(weight @ x, np.full(6, 0.1), rtol=0.03)
    second = (x * weight[:, None]).T @ x
    expected = np.full((6, 6), 0.01) + np.eye(6) * (0.2 / 3 - 0.01)
    np.testing.assert_allclose(second, expected, atol=0.0015)


def test_reconstruction_of_a_known_network():
    """Two dedicated features and an ignored one; then one of two units in use: p²/6, and difference and sum."""
    W = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    loss, size = penalties.reconstruction(
        W, torch.zeros(1, 3), torch.ones(3), plain(1), Strata(3, 0.1, 300, 6000, 3000), 0
    )
    assert loss.item() == pytest.approx(0.1 / 3, rel=0.01)
    assert size.item() == pytest.approx(0.1, rel=0.01)
    pressure, strata = plain(1, blocks=2), Strata(2, 0.1, 300, 20_000, 0)
    loss, _ = penalties.reconstruction(torch.eye(2)[None], torch.zeros(1, 2), torch.ones(2), pressure, strata, 0)
    assert loss.item() == pytest.approx(0.01 / 6, rel=0.03)
    code = torch.tensor([[[1.0, 0.5**0.5], [-1.0, 0.5**0.5]]])
    loss, _ = penalties.reconstruction(code, torch.zeros(1, 2), torch.ones(2), pressure, strata, 0)
    theory = planes.one_of_two(np.array([0.1]), np.array([1.0]))
    assert loss.item() == pytest.approx(theory.loss.item(), rel=0.03)
    assert planes.difference_and_sum() == pytest.approx(0.02453, abs=1e-5)


def test_overlaps():
    W = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]]])
    assert penalties.overlaps(W).item() == pytest.approx(2.0)


def test_the_study():
    outcome = avoidance.run(StudyConfig(size="smoke"), lambda _: None)
    values = {name: found.value for name, found in outcome.values.items()}
    assert values["threshold_alone"] == pytest.approx(outcome.exact["threshold_alone"], rel=0.01)
    assert values["area_left_overlap"] < 0.3 < values["area_left_l1"] < 0.9
    assert values["area_left_dropout"] == pytest.approx(1.0, abs=0.15)
    assert {len(f.frames) for f in outcome.figures} == {1, 5, len(avoidance.L1)}
    for figure in outcome.figures:
        assert figure.see
        assert figure.caution
