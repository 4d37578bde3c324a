"""Phase diagrams of ℓ1 decoding: the fit of the edge, the experiment beside theory."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.measures.bounds import donoho_tanner
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.claims import judge, statements
from digon.studies.toys.followups import recovery


def test_the_published_thresholds_at_one_half():
    assert float(donoho_tanner(0.5)) == pytest.approx(0.3857, abs=1e-4)
    assert float(donoho_tanner(0.5, signed=False)) == pytest.approx(0.5582, abs=1e-4)


@pytest.mark.parametrize("width", [0.01, 0.05])
def test_the_middle_of_a_logistic_curve_is_covered_by_its_interval(width):
    draws, x, truth, trials = rng.numpy_stream(0, "logistic"), np.linspace(0.05, 0.95, 19), 0.43, 40
    share = 1 / (1 + np.exp((x - truth) / width))
    found = np.array([recovery.half_point(x, draws.binomial(trials, share), trials) for _ in range(150)])
    covered = ((found[:, 1] <= truth) & (truth <= found[:, 2])).mean()
    assert 0.9 <= covered <= 1.0
    assert abs(found[:, 0].mean() - truth) < 0.004
    assert ((found[:, 1] <= found[:, 0]) & (found[:, 0] <= found[:, 2])).all()


def test_a_sudden_change_has_an_interval_of_the_grid():
    middle, low, high = recovery.half_point(np.array([0.2, 0.3, 0.4, 0.5]), np.array([10, 10, 0, 0]), 10)
    assert 0.3 < low < middle < high < 0.4


def test_drawn_codes_have_what_was_asked_for():
    for positive in (True, False):
        atoms, codes = recovery.draw(40, 20, 7, positive, 50, rng.stream(0, "draw"))
        assert atoms.shape == (40, 20)
        assert torch.equal((codes != 0).sum(1), torch.full((50,), 7))
        assert bool((codes < 0).any()) is not positive
        assert float(codes[codes != 0].abs().min()) >= 0.5


@pytest.mark.parametrize("positive", [True, False])
def test_far_below_the_edge_all_codes_are_found_and_far_above_it_none(positive):
    n, d = 120, 60
    edge = float(donoho_tanner(0.5, signed=not positive)) * d
    for share, rate in ((0.6, 1.0), (1.5, 0.0)):
        hits = []
        for seed in range(3):
            atoms, codes = recovery.draw(n, d, round(share * edge), positive, 20, rng.stream(seed, "far"))
            hits.append(float(recovery.found(codes, atoms, positive).double().mean()))
        assert np.mean(hits) == pytest.approx(rate, abs=0.05)


def test_the_study():
    outcome = recovery.run(StudyConfig(size="smoke"), lambda _: None)
    for name in recovery.KINDS:
        assert outcome.values[f"ratio_{name}"].value == pytest.approx(1, abs=0.12)  # n = 60
        assert outcome.values[f"agreement_{name}"].value == 1
        assert outcome.values[f"ratio_{name}"].n == recovery.SEEDS
    (figure,) = outcome.figures
    assert figure.id == "F17-phases"
    for panel in figure.frames[0].panels:
        theory, points = panel.series
        assert (np.diff(theory.y) > 0).all()
        assert all(a <= b <= c for a, b, c in zip(points.low, points.y, points.high, strict=True))
    rows = [row for row in statements() if row.study == "recovery"]
    assert len(rows) == 9
    for row in rows:
        assert row.quantity in outcome.values
        verdict = judge(row, outcome, "smoke").verdict
        assert verdict == ("holds" if row.size == "smoke" else "not reached")
