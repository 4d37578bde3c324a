"""A view through fewer dimensions keeps the cause and says what it looks like."""

import pytest
import torch

from digon.errors import ConfigError
from digon.worlds import causes

ROWS = 3000
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("kind", ["random", "pca", "neurons"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_rotated_code_looks_superposed(kind, seed):
    world = causes.rotated(ROWS, 8, seed)
    view = causes.projected(world, 4, seed, kind)
    assert view.activations.values.shape == (ROWS, 4)
    assert view.truth.cause == "rotated"
    assert view.truth.n_features == 8 > view.truth.rank == 4
    assert view.truth.alike == {"rotated", "superposition"}
    assert "4 of 8 dimensions" in view.activations.site
    torch.testing.assert_close(view.activations.values, view.truth.features @ view.truth.atoms, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(view.truth.atoms.norm(dim=1), torch.ones(8))
    assert torch.equal(view.activations.values, causes.projected(world, 4, seed, kind).activations.values)
    assert torch.equal(view.activations.tokens, world.activations.tokens)


@pytest.mark.parametrize("seed", SEEDS)
def test_some_views_lose_features_and_gain_nothing(seed):
    aligned = causes.projected(causes.monosemantic(ROWS, 8, seed), 5, seed, "neurons").truth
    assert (aligned.cause, aligned.n_features, aligned.rank) == ("monosemantic", 5, 5)
    assert not aligned.alike
    assert (aligned.atoms.max(1).values == 1).all()
    few = causes.projected(causes.rotated(ROWS, 8, seed, n=3), 4, seed).truth
    assert (few.cause, few.n_features, few.rank) == ("rotated", 3, 3)
    assert not few.alike
    nothing = causes.projected(causes.null(ROWS, 8, seed), 4, seed).truth
    assert (nothing.cause, nothing.n_features, nothing.rank) == ("none", 0, 4)


def test_principal_axes_keep_the_most_variance():
    world = causes.null(ROWS, 8, 0, "power law")
    kept = {
        kind: float(causes.projected(world, 3, 0, kind).activations.values.var(0).sum())
        for kind in ("random", "pca", "neurons")
    }
    assert max(kept, key=kept.get) == "pca"
    share = kept["pca"] / float(world.activations.values.var(0).sum())
    harmonic = sum(1 / k for k in range(1, 9))
    assert share == pytest.approx((1 + 1 / 2 + 1 / 3) / harmonic, abs=0.02)
    full = world.activations.values - world.activations.values.mean(0)
    best = torch.linalg.svdvals(full.double())[:3].square().sum() / (ROWS - 1)
    assert kept["pca"] == pytest.approx(float(best), rel=1e-4)


def test_other_causes_stay_what_they_are():
    for seed in SEEDS:
        over = causes.projected(causes.superposition(ROWS, 8, seed), 5, seed).truth
        assert (over.cause, over.n_features, over.rank) == ("superposition", 16, 5)
        circles = causes.projected(causes.manifold(ROWS, 8, seed), 5, seed).truth
        assert (circles.cause, circles.n_features, circles.rank) == ("manifold", 4, 5)
        assert "superposition" in circles.alike
        both = causes.mixed([causes.rotated(ROWS, 4, seed), causes.manifold(ROWS, 4, seed + 9)], seed)
        view = causes.projected(both, 6, seed).truth
        assert [block.basis.shape for block in view.blocks] == [(4, 6), (4, 6)]


@pytest.mark.parametrize(("d", "kind"), [(0, "random"), (8, "random"), (4, "umap")])
def test_refusals(d, kind):
    with pytest.raises(ConfigError):
        causes.projected(causes.rotated(10, 8, 0), d, 0, kind)
