"""Absolute values in superposition: baseline, classes of neurons, the motif's detector, the study in small."""

import pytest
import torch

from digon.studies.toys.base import StudyConfig
from digon.studies.toys.paper import absolute
from digon.studies.toys.paper.absolute import motifs, naive_loss, neuron_classes, scaled, second_weights
from digon.studies.toys.quadrature import pattern_loss
from digon.worlds.features import features
from digon.worlds.toys import Toy

IMPORTANCE = 0.8 ** torch.arange(100, dtype=torch.float64)


@pytest.mark.parametrize(
    ("density", "loss"),
    [(1.0, 0.004804), (0.3, 0.004468), (0.1, 0.001777), (0.03, 5.635e-4), (0.01, 1.907e-4), (0.003, 5.752e-5)],
)
def test_baseline(density, loss):
    assert naive_loss(100, 40, density, IMPORTANCE) == pytest.approx(loss, rel=2e-3)


def one_by_one(n: int, m: int, density: float) -> Toy:
    """One neuron per signed feature, the rest guessed."""
    toy = Toy(n, m, hidden="relu", tied=False, target="absolute")
    with torch.no_grad():
        toy.V.zero_()
        toy.W.zero_()
        for k in range(m):
            toy.V[0, k // 2, k], toy.W[0, k // 2, k] = (2.0, 0.5) if k % 2 else (-1.0, 1.0)
        toy.b[0, m // 2 :] = density / 2
    return toy


def test_the_baseline_is_the_loss_of_one_neuron_per_signed_feature():
    law = features(8, 0.3, IMPORTANCE[:8], values="symmetric")
    found = pattern_loss(one_by_one(8, 10, 0.3), law, 0)
    assert found == pytest.approx(naive_loss(8, 10, 0.3, IMPORTANCE[:8]), rel=1e-4)
    assert naive_loss(6, 10, 0.3, torch.ones(6)) == pytest.approx(0.0775)


def test_scaling_neurons_changes_nothing():
    toy = one_by_one(3, 6, 0.5)
    x = features(3, 0.5, values="symmetric").sample(200, torch.Generator().manual_seed(0))
    before = toy(x)
    with torch.no_grad():
        toy.V[0], toy.W[0] = scaled(toy.V[0], toy.W[0])
    assert toy.V.abs().max() == 1
    assert toy(x).detach().numpy() == pytest.approx(before.detach().numpy(), abs=1e-6)
    assert toy(x).detach().numpy() == pytest.approx(x.abs().numpy(), abs=1e-6)


def test_classes_of_neurons():
    V = torch.tensor([[2.0, -1.0, 1.0, 0.0], [0.19, 0.3, -1.0, 0.5], [0.0, 0.1, 0.1, 0.0]])[None]
    assert second_weights(V)[0].numpy() == pytest.approx([0.095, 0.3, 1.0, 0.0], abs=1e-6)
    assert neuron_classes(V)[0].tolist() == [2, 1, 1]


def test_the_motif_of_the_paper_is_found():
    """Input (2, −1/2), output (1/2, 2), and an inhibitor that the large feature fires."""
    V, W = torch.zeros(3, 4), torch.zeros(3, 4)
    V[:2, 0], W[:2, 0] = torch.tensor([2.0, -0.5]), torch.tensor([0.5, 2.0])
    V[0, 1], W[1, 1] = 1.5, -3.0
    V[2, 2], W[2, 2] = 1.0, 1.0
    V[0, 3], W[1, 3] = -1.5, -3.0  # fired by the other sign: stops nothing
    (found,) = motifs(V, W)
    assert (found.neuron, found.large, found.small, found.inhibitors) == (0, 0, 1, (1,))
    assert found.ratio == pytest.approx(4)
    W[1, 1] = -1.0  # too weak: undoes 1.5 of 4
    assert motifs(V, W)[0].inhibitors == ()
    V[1, 0] = -1.1
    assert motifs(V, W) == []  # less than twofold


def test_the_study():
    outcome = absolute.run(StudyConfig("smoke"), lambda _: None)
    values = {k: v.value for k, v in outcome.values.items()}
    assert values["solved_loss"] < 1e-4
    assert values["signed_neurons"] == 6
    assert values["product_error"] < 0.02
    assert values["best_ratio_p0_3"] == pytest.approx(1, abs=0.02)
    assert values["mono_p0_01"] + values["slight_p0_01"] + values["high_p0_01"] == pytest.approx(8)
    assert {f.id for f in outcome.figures} == {"E9-solved", "E9-stacks", "E9-counts", "E9-motif"}
