"""ReLU hidden units: known minima per density, the published codes, thresholds, the quadrature."""

import pytest
import torch

from digon import rng
from digon.errors import ConfigError
from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import privileged
from digon.studies.toys.paper.privileged import Best, law_of, settled
from digon.studies.toys.paper.privileged_codes import codes
from digon.studies.toys.paper.stacks import stack
from digon.studies.toys.quadrature import pattern_loss, polish, split_loss
from digon.worlds.features import features
from digon.worlds.population import expected_loss
from digon.worlds.toys import Activation, Toy, loss


def start(name: str, density: float) -> Best:
    W = codes()[name]
    return Best(density, W, torch.where(W.abs().sum(1) > 0, 0.0, density / 2), float("nan"))


@pytest.mark.parametrize(
    ("density", "code", "best", "regime"),
    [
        (1.0, "five alone", 0.060323, (5, 5)),
        (0.5, "five alone", 0.075400, (5, 5)),
        (0.4, "three in two", 0.065899, (3, 6)),
        (0.3, "three in two", 0.052102, (3, 6)),
        (0.25, "three in two", 0.044109, (3, 6)),
        (0.2, "three in two", 0.036023, (3, 6)),
        (0.15, "five in three", 0.026845, (2, 7)),
        (0.12, "six in four", 0.020457, (1, 7)),
        (0.08, "eight in five", 0.011874, (0, 8)),
        (0.05, "eight in five", 0.006246, (0, 8)),
        (0.03, "pairs", 0.002931, (0, 10)),
        (0.01, "pairs", 0.000459, (0, 10)),
    ],
    ids=lambda v: f"{v:g}" if isinstance(v, float) else "",
)
def test_table_of_minima(density, code, best, regime):
    """The code that the paper describes, settled on the expected loss: never above the best trained network known."""
    found = settled(start(code, density), density)
    assert found.loss <= 1.012 * best
    assert privileged.regime(found.W) == regime


def test_codes_are_recognized():
    found = settled(start("three in two", 0.3), 0.3)
    assert privileged.three_in_two(found.W)
    assert privileged.code_words(found.W) == {(1, 1), (1, -1), (-1, 1)}
    eight = settled(start("eight in five", 0.08), 0.08)
    assert privileged.marker_code(eight.W)
    assert not privileged.marker_code(found.W)
    assert privileged.pairs(start("pairs", 0.03).W) == (10, 10)
    twice = torch.zeros(10, 5)
    twice[:2, :2] = 0.8
    assert privileged.pairs(twice) == (2, 1)


def test_neurons_are_ordered_and_thresholds_hold():
    W = torch.zeros(10, 5)
    W[0, 3], W[1, 3] = 1.0, 0.149
    W[1, 1], W[2, 1] = 1.0, 0.151
    W[0, 4], W[1, 4], W[2, 4] = 1.0, 0.3, -7.0  # a large negative weight does not make the others small
    assert privileged.monosemantic(W).tolist() == [False, False, False, True, False]
    assert privileged.ordered(W)[:, 0].tolist() == W[:, 3].tolist()
    assert privileged.alignment(torch.eye(10)[:, :5]) == 1.0
    assert privileged.alignment(torch.ones(10, 5)) == pytest.approx(0.1)


def toy_of(hidden: Activation = "relu", **options) -> Toy:
    toy = Toy(5, 3, 2, hidden=hidden, seed=3, **options)
    with torch.no_grad():
        toy.b.normal_(0.0, 0.2, generator=rng.stream(0, "b"))
    return toy


def test_enumeration_is_the_exact_loss_of_a_linear_hidden_layer():
    toy, law = toy_of("linear"), features(5, 0.3, [1.0, 0.9, 0.7, 0.5, 0.2])
    exact = expected_loss(toy.W.detach(), toy.b.detach(), law)
    for i in range(2):
        assert pattern_loss(toy, law, i, 4096) == pytest.approx(float(exact[i]), rel=2e-4)


@pytest.mark.parametrize("options", [{}, {"tied": False, "target": "absolute"}], ids=["identity", "absolute"])
def test_three_ways_to_one_loss(options):
    """Enumeration, conditional sampling and plain sampling of the same network."""
    toy, values = toy_of(**options), "symmetric" if options else "uniform"
    law = features(5, 0.2, values=values)
    x = law.sample(400_000, rng.stream(0, "x"), 2)
    with torch.no_grad():
        plain = loss(toy(x), toy.target(x), law.importance)
    split = split_loss(toy, law, rng.stream(0, "split"), rows=60_000)
    for i in range(2):
        exact = pattern_loss(toy, law, i)
        assert float(plain[i]) == pytest.approx(exact, rel=0.01)
        assert float(split[i]) == pytest.approx(exact, rel=0.01)


def test_polish_ends_where_the_slope_is_zero():
    toy, law = toy_of(), features(5, 0.3)
    before = pattern_loss(toy, law, 0)
    after = polish(toy, law, 0)
    assert after < 0.9 * before
    for parameter, place in ((toy.W, (0, 2, 1)), (toy.b, (0, 3))):
        losses = []
        for step in (-0.02, 0.0, 0.02):
            with torch.no_grad():
                parameter[place] += step
                losses.append(pattern_loss(toy, law, 0))
                parameter[place] -= step
        assert losses[1] <= min(losses[0], losses[2]) + 1e-5


def test_too_many_features_are_refused():
    with pytest.raises(ConfigError, match="sets of active"):
        pattern_loss(Toy(15, 3), features(15, 0.1), 0)
    with pytest.raises(ConfigError, match="independent"):
        pattern_loss(Toy(3, 2), features(3, 0.1, values="half-normal"), 0)
    with pytest.raises(ConfigError, match="different densities"):
        split_loss(Toy(2, 1), features(2, [0.1, 0.2]), rng.stream(0, "x"))


def test_stacks_add_up():
    W = torch.tensor([[0.5, -0.2], [0.3, -0.1], [-0.4, 0.0]])
    panel = stack(W, "", torch.arange(3.0), "feature", (0.0, 2.0))
    tops = {s.name: s.y for s in panel.series}
    assert tops == {"feature 0": (0.5, -0.2), "feature 1": (0.8, -0.3), "feature 2": (-0.4, 0.0)}
    assert [s.name for s in panel.series] == ["feature 2", "feature 1", "feature 0"]  # the longest first


def test_five_features_alone_cost_the_variance_of_the_others():
    W, b = torch.eye(10)[:, :5], torch.tensor([0.0] * 5 + [0.5] * 5)
    toy = Toy(10, 5, hidden="relu")
    with torch.no_grad():
        toy.W[0], toy.b[0] = W, b
    assert pattern_loss(toy, law_of(1.0), 0) == pytest.approx(0.0603304, abs=1e-6)


def test_the_study():
    outcome = privileged.run(StudyConfig("smoke"), lambda _: None)
    assert outcome.exact["loss_p1"] == pytest.approx(0.06033, rel=2e-3)
    assert outcome.exact["loss_p0_3"] == pytest.approx(0.0521, rel=0.01)
    assert outcome.values["loss_p0_3"].value == pytest.approx(0.0521, rel=0.06)
    assert outcome.values["alignment_relu"].value > 0.5 > outcome.values["alignment_linear"].value
    assert outcome.values["on_with_bias"].value > 0.9
    assert all(v.value >= outcome.exact[k] - 1e-9 for k, v in outcome.values.items() if k.startswith("loss_p"))
    assert {f.id for f in outcome.figures} == {"E8-weights", "E8-regimes", "E8-energies", "E8-bases"}
