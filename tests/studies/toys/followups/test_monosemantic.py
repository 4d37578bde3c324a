"""Projection, the measure of monosemanticity, a network whose loss is known."""

import numpy as np
import pytest
import torch

from digon import rng
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import monosemantic


def test_projection_has_unit_rows_and_an_almost_tight_frame():
    P = monosemantic.projection(128, 32, 3, rng.stream(0, "test"))
    np.testing.assert_allclose(P.norm(dim=-1), 1, rtol=1e-5)
    spectrum = torch.linalg.eigvalsh(P.mT @ P)
    assert spectrum.min() > 0.6 * 128 / 32
    assert spectrum.max() < 1.6 * 128 / 32


def test_focus():
    response = torch.tensor([[[1.0, 2.0, 0.0, 1.0], [0.0, 2.0, 0.0, 1e-4]]])
    np.testing.assert_allclose(monosemantic.focus(response), [[1.0, 0.5, 0.0, 1 / 1.0001]], rtol=1e-5)
    found = monosemantic.Decoders(response, torch.zeros(1))
    assert found.alive.tolist() == [[True, True, False, True]]
    assert found.monosemantic.tolist() == [[True, False, False, True]]
    assert found.share == pytest.approx([2 / 3])


def test_permuting_features_and_rescaling_neurons_changes_nothing():
    response = torch.rand(2, 9, 5, generator=torch.Generator().manual_seed(0))
    order, scale = torch.randperm(9, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, 2, 3, 4, 5])
    torch.testing.assert_close(monosemantic.focus(response[:, order] * scale), monosemantic.focus(response))


def test_silent_loss_is_the_variance():
    plan = monosemantic.SMOKE
    draw = np.random.default_rng(0)
    f = draw.random((400_000, plan.n)) * (draw.random((400_000, plan.n)) < plan.density)
    assert monosemantic.silence(plan) == pytest.approx(f.var(0).sum(), rel=0.01)


def test_the_study():
    outcome = monosemantic.run(StudyConfig(size="smoke"), lambda _: None)
    assert 0 < outcome.values["loss_ratio_naive"].value < 1
    assert outcome.values["loss_ratio"].value == pytest.approx(1, abs=0.3)
    assert 0 <= outcome.values["share_zero"].value <= 1
    assert {f.id for f in outcome.figures} == {"F5-offset", "F5-width", "F5-rate", "F5-neurons"}
