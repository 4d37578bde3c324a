"""Sparse autoencoders on known features: the law of the data, the score, and recovery where it is easy."""

import pytest
import torch
from torch.nn import functional as F

from digon import rng
from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.followups import autoencoders


def test_the_law():
    source = autoencoders.truth(20, 8, 3.0, 0)
    s = source.strengths(200_000, rng.stream(0, "test"))
    on = (s > 0).double().mean(0)
    assert float(on.sum()) == pytest.approx(3.0, rel=0.01)
    torch.testing.assert_close(on[1:] / on[:-1], torch.full((19,), 0.99, dtype=torch.float64), rtol=0.05, atol=0)
    assert float(s[s > 0].mean()) == pytest.approx(0.5, abs=0.005)
    torch.testing.assert_close(source.directions.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(source.mixer.norm(dim=0), torch.ones(20))


def test_activity_is_correlated():
    source = autoencoders.truth(20, 8, 6.0, 0)
    on = (source.strengths(200_000, rng.stream(0, "test")) > 0).double()
    wanted = source.mixer.T @ source.mixer
    found = torch.corrcoef(on.T)
    off = ~torch.eye(20, dtype=torch.bool)
    assert float(torch.corrcoef(torch.stack([wanted[off].double(), found[off]]))[0, 1]) > 0.97


def test_impossible_activity():
    with pytest.raises(ConfigError, match="active"):
        autoencoders.truth(4, 2, 5.0, 0)


def test_mmcs():
    g = torch.Generator().manual_seed(0)
    D = F.normalize(torch.randn(6, 5, generator=g), dim=1)
    assert float(autoencoders.mmcs(D, 3 * D[torch.randperm(6, generator=g)])) == pytest.approx(1.0, abs=1e-6)
    assert float(autoencoders.mmcs(torch.eye(4), torch.eye(4)[:2])) == pytest.approx(0.5)
    assert float(autoencoders.mmcs(torch.eye(3), -torch.eye(3))) == pytest.approx(0.0, abs=1e-6)


def test_orthogonal_features_are_found():
    """Without superposition and with few features at a time the right penalty leaves nothing to doubt."""
    directions = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q

    def draw(rows: int, g: torch.Generator) -> torch.Tensor:
        on = torch.rand(rows, 8, generator=g) < 0.1
        return (on * torch.rand(rows, 8, generator=g)) @ directions

    sizes = autoencoders.Sizes(8, 8, 0.8, (1.0,), (0.1,), 800, 256, 1, 1e-2)
    net = autoencoders.learn(draw, 12, 8, torch.tensor([0.1, 30.0]), sizes, 0)
    found = autoencoders.mmcs(directions, net.decoder)
    assert float(found[0]) > 0.97
    x = draw(4000, rng.stream(0, "fresh"))
    assert float(net.dead(x)[1].float().mean()) > 0.8
    active = (net.codes(x)[0] > 0).float().sum(1).mean()
    assert float(active) < 2


def test_the_study():
    outcome = autoencoders.run(StudyConfig(size="smoke"), lambda _: None)
    assert outcome.values["mmcs_topk"].value > outcome.values["chance"].value + 0.2
    assert outcome.values["best_mmcs"].value > outcome.values["low_penalty_mmcs"].value
    assert 0.7 < outcome.values["hidden_mmcs"].value <= 1
    assert len(outcome.figures[0].frames[0].panels) == 4
