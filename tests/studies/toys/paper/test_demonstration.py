"""Linear and ReLU networks: the digon formula's counts, tables of losses, the mathematical section by quadrature."""

import numpy as np
import pytest
import torch

from digon.measures.geometry import gram
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import demonstration
from digon.studies.toys.paper.demonstration import DENSITIES, LARGE, SMALL
from digon.worlds.closed import digons_loss, linear_loss
from digon.worlds.features import features
from digon.worlds.fit import FitConfig
from digon.worlds.population import expected_loss


@pytest.mark.parametrize(
    ("size", "losses"),
    [
        (SMALL, [4.646e-2, 4.321e-2, 1.719e-2, 5.450e-3, 1.845e-3, 5.563e-4, 1.857e-4]),
        (LARGE, [0.10113, 0.09405, 0.03742, 0.01186, 0.004015]),
    ],
)
def test_losses_of_the_linear_network(size, losses):
    p = torch.tensor(DENSITIES[: len(losses)], dtype=torch.float64)
    assert linear_loss(p, size.importance, size.m).tolist() == pytest.approx(losses, rel=5e-4)
    W = torch.eye(size.n, size.m, dtype=torch.float64).expand(len(p), -1, -1)
    b = (p[:, None] / 2).repeat(1, size.n)
    b[:, : size.m] = 0
    found = expected_loss(W, b, features(size.n, p[:, None].expand(-1, size.n), size.importance), output="linear")
    assert found.tolist() == pytest.approx(losses, rel=5e-4)


def test_counts_and_losses_of_the_digon_formula():
    counts = [demonstration.formula(SMALL, p)[1:] for p in (1.0, 0.3, 0.1, 0.03)]
    assert counts == [(5, 5), (7, 3), (9, 1), (10, 0)]
    counts = [demonstration.formula(LARGE, p)[1:] for p in (1.0, 0.3, 0.1, 0.03)]
    assert counts == [(20, 20), (27, 13), (34, 6), (40, 0)]
    found = [digons_loss(p, SMALL.importance, SMALL.m)[0] for p in (0.3, 0.1, 0.03, 0.01)]
    assert found == pytest.approx([3.41e-2, 7.73e-3, 1.380e-3, 3.567e-4], rel=1e-3)
    found = [digons_loss(p, LARGE.importance, LARGE.m)[0] for p in (0.3, 0.1, 0.03, 0.01)]
    assert found == pytest.approx([0.0743, 0.0169, 0.00290, 0.000646], rel=3e-3)


def network(seed, n=6, m=3):
    draw = torch.Generator().manual_seed(seed)
    W = 0.7 * torch.randn(n, m, generator=draw, dtype=torch.float64)
    return (
        W,
        0.2 * torch.randn(n, generator=draw, dtype=torch.float64),
        torch.rand(n, generator=draw, dtype=torch.float64),
    )


def test_one_active_feature_by_quadrature():
    W, b, importance = network(0)
    n, p = len(b), 0.1
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    G, one = gram(W), 0.0
    for i in range(n):
        for j in range(n):
            wanted = x if i == j else torch.zeros_like(x)
            one += float(importance[j] * (wanted - torch.relu(G[i, j] * x + b[j])).square().mean())
    silent = float((importance * torch.relu(b).square()).sum())
    none, single = (1 - p) ** n, p * (1 - p) ** (n - 1)
    wanted = (none * silent + single * one) / (none + n * single)
    assert demonstration.few_active_loss(W, b, p, importance) == pytest.approx(wanted, rel=1e-7)
    mean, error = demonstration.sampled_few_active(W, b, p, importance, 200_000, 1)
    assert abs(mean - wanted) < 4 * error


def test_few_active_loss_is_the_sparse_limit_of_the_whole_loss():
    W, b, importance = network(2)
    p = 1e-5
    whole = float(expected_loss(W[None], b[None], features(len(b), p, importance)))
    assert demonstration.few_active_loss(W, b, p, importance) == pytest.approx(whole, rel=1e-6)


def test_linear_loss_of_gaussian_features():
    W, _, importance = network(3)
    error = torch.eye(6, dtype=torch.float64) - gram(W)
    wanted = float((importance * error.square().sum(0)).sum())  # E of a quadratic form, column by column
    assert demonstration.gaussian_linear_loss(W, importance) == pytest.approx(wanted, rel=1e-12)


def test_merging_repeats_keeps_the_best():
    recipe = FitConfig(steps=100, batch=64, learning_rate=1e-2, seed=1)
    parts = demonstration.train(SMALL, (0.3, 0.03), 2, recipe, "relu", 3)
    whole = demonstration.merged(parts)
    assert whole.losses.shape == (2, 6)
    np.testing.assert_array_equal(whole.ratio, np.min([p.ratio for p in parts], 0))
    law = features(20, torch.tensor([[0.3], [0.03]], dtype=torch.float64).expand(-1, 20), SMALL.importance)
    torch.testing.assert_close(expected_loss(whole.best.W, whole.best.b, law), whole.best.loss)


def test_the_study():
    outcome = demonstration.run(StudyConfig(size="smoke"), lambda _: None)
    values = {name: m.value for name, m in outcome.values.items()}
    assert values["linear_worst_n20"] == pytest.approx(1, abs=0.01)
    assert values["linear_least_n20"] > 0.9999  # nothing is below the formula
    assert (values["represented_n20_1"], values["dedicated_n20_1"]) == (5, 5)
    assert values["represented_n20_01"] == pytest.approx(9, abs=1)
    assert values["ratio_n20_01"] == pytest.approx(0.45, abs=0.04)
    assert np.isfinite(list(values.values())).all()
    assert values["few_active_z"] < 3
    assert {f.id for f in outcome.figures} == {"E1-matrices-n20", "E1-norms-n20", "E1-losses-n20"}
