import pytest
import torch

from digon.errors import ConfigError
from digon.worlds import fit_exact
from digon.worlds.closed import linear_loss
from digon.worlds.features import FeatureSet, features
from digon.worlds.fit import FitConfig, best_of, fit
from digon.worlds.population import expected_loss
from digon.worlds.toys import Toy

EXACT = FitConfig(engine="exact")


def starts(law, n, m, count, **options):
    return fit(Toy(n, m, count, **options), law, EXACT)


FIVE = [(1.0, 0.182917), (0.2, 0.059883), (0.15, 0.040973), (0.1, 0.021403), (0.08, 0.015021), (0.05, 0.007255)]


def test_least_losses_of_five_features_in_two_dimensions():
    count = 40
    density = torch.tensor([p for p, _ in FIVE]).repeat_interleave(count)[:, None].expand(-1, 5)
    trained = starts(features(5, density, 0.9 ** torch.arange(5)), 5, 2, len(density))
    best = best_of(trained, count)
    # The table is good to about 1e-3: it came from quadrature with 1024 points.
    assert best.loss.tolist() == pytest.approx([loss for _, loss in FIVE], rel=3e-3)
    assert (best.share > 0.05).all()
    norms = trained.toy.W.detach()[best.index].norm(dim=-1)
    assert [int((row > 0.5).sum()) for row in norms] == [2, 4, 5, 5, 5, 5]


def test_pentagon_gives_way_to_two_digons():
    """Five features in two dimensions, one of them rarer or more frequent than the others (density 0.05)."""
    table = [
        (1.0, 8.9038e-3),
        (0.5, 7.3015e-3),
        (2.0, 1.12162e-2),
        (10.0, 2.3459e-2),
        (0.2, 4.9736e-3),
        (0.1, 3.3257e-3),
    ]
    count = 30
    density = torch.full((len(table) * count, 5), 0.05, dtype=torch.float64)
    density[:, 4] *= torch.tensor([r for r, _ in table], dtype=torch.float64).repeat_interleave(count)
    best = best_of(starts(features(5, density), 5, 2, len(density)), count)
    assert best.loss.tolist() == pytest.approx([loss for _, loss in table], rel=1e-2)


@pytest.mark.parametrize(
    ("n", "m", "density", "want"),
    [(2, 1, 0.5, 0.076282), (2, 1, 0.9, 0.097094), (3, 2, 0.7, 0.10220), (3, 2, 0.3, 0.02931)],
)
def test_least_losses_of_closed_forms(n, m, density, want):
    assert starts(features(n, density), n, m, 20).loss.min().item() == pytest.approx(want, rel=1e-4)


def test_sets():
    pairs = (FeatureSet((0, 1), "anticorrelated"), FeatureSet((2, 3), "anticorrelated"))
    assert starts(features(4, 0.05, sets=pairs), 4, 2, 10).loss.min().item() == pytest.approx(0, abs=1e-6)
    pairs = (FeatureSet((0, 1), "correlated"), FeatureSet((2, 3), "correlated"))
    assert starts(features(4, 0.2, sets=pairs), 4, 2, 10).loss.min().item() == pytest.approx(0.026091, rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_linear_output_finds_the_principal_components(tied):
    importance = 0.7 ** torch.arange(8, dtype=torch.float64)
    want = linear_loss(torch.tensor(0.3, dtype=torch.float64), importance, 3).item()
    trained = starts(features(8, 0.3, importance), 8, 3, 4, output="linear", tied=tied)
    assert trained.loss.tolist() == pytest.approx([want] * 4, rel=1e-6)
    assert trained.share == 1


def test_untied_weights_reach_at_least_as_low():
    law = features(5, 0.1, 0.9 ** torch.arange(5))
    tied, untied = (starts(law, 5, 2, 20, tied=t).loss.min().item() for t in (True, False))
    assert untied <= tied * 1.001


def test_every_instance_ends_at_a_stationary_point_with_its_own_loss():
    law = features(6, 0.2, torch.linspace(1, 2, 6))
    trained = starts(law, 6, 2, 6)
    W, b = (p.detach().double().requires_grad_() for p in (trained.toy.W, trained.toy.b))
    loss = expected_loss(W, b, law)
    torch.testing.assert_close(loss.detach(), trained.loss, rtol=1e-6, atol=0)
    loss.sum().backward()
    assert W.grad is not None
    assert W.grad.abs().max() < 2e-3
    again = fit_exact.descend(trained.toy, law, steps=500)
    assert ((trained.loss - again) / again).max() < 1e-5


def test_the_same_twice():
    law = features(6, 0.2)
    one, two = starts(law, 6, 2, 5), starts(law, 6, 2, 5)
    assert torch.equal(one.loss, two.loss)
    assert torch.equal(one.toy.W, two.toy.W)


def test_fixed_biases_stay():
    toy = Toy(2, 1, 10)
    toy.b.requires_grad_(False)
    trained = fit(toy, features(2, 0.7), EXACT)
    assert not toy.b.any()
    assert trained.loss.min().item() == pytest.approx(0.110833, abs=1e-5)


def test_torch_reaches_the_same_minima(monkeypatch):
    law = features(3, 0.2, sets=(FeatureSet((0, 1), "correlated"),))
    compiled = starts(law, 3, 1, 3)
    monkeypatch.setattr(fit_exact, "has_numba", lambda: False)
    plain = fit(Toy(3, 1, 3), law, FitConfig(engine="exact", steps=40))
    assert plain.loss.min().item() == pytest.approx(compiled.loss.min().item(), rel=1e-4)


def test_best_of_groups():
    trained = starts(features(2, 0.5), 2, 1, 6)
    groups = best_of(trained, 3)
    losses = trained.loss.view(2, 3)
    assert torch.equal(groups.loss, losses.min(1).values)
    assert torch.equal(trained.loss[groups.index], groups.loss)
    torch.testing.assert_close(groups.share, (losses <= 1.01 * groups.loss[:, None]).double().mean(1))
    with pytest.raises(ConfigError, match="groups of 4"):
        best_of(trained, 4)


@pytest.mark.parametrize(
    ("options", "law", "words"),
    [
        ({"output": "gelu"}, features(3, 0.5), "gelu"),
        ({"hidden": "relu"}, features(3, 0.5), "hidden='relu'"),
        ({"target": "absolute"}, features(3, 0.5), "absolute"),
        ({}, features(3, 0.5, values="lognormal"), "lognormal"),
        ({}, features(4, 0.5), "4 features"),
        ({}, features(3, torch.full((3, 3), 0.5)), "3, 3"),
    ],
)
def test_what_has_no_exact_loss_is_refused(options, law, words):
    toy = Toy(3, 2, 2, **options)
    before = toy.W.detach().clone()
    with pytest.raises(ConfigError, match=words) as caught:
        fit(toy, law, EXACT)
    assert torch.equal(toy.W, before)
    assert words in ("4 features", "3, 3") or "sampled" in str(caught.value)


def test_what_needs_samples_is_refused():
    for more in ({"snapshots": [0]}, {"penalty": lambda toy, h: h.sum((1, 2))}, {"until": 3}):
        with pytest.raises(ConfigError, match="need samples"):
            fit(Toy(3, 2), features(3, 0.5), EXACT, **more)
    broken = Toy(3, 2)
    with torch.no_grad():
        broken.W[0, 0, 0] = torch.nan
    with pytest.raises(ConfigError, match="not finite"):
        fit(broken, features(3, 0.5), EXACT)
