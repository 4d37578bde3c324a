import math

import pytest
import torch

from digon import rng
from digon.measures import clusters
from digon.worlds import causes

N, OWNER = 20_000, torch.arange(20_000) // 20


def found(values, seed):
    return clusters.exemplar_clusters(values, OWNER, rng.stream(seed, "clusters"))


def sparse(g, count, p=0.03):
    """Independent features that are rarely active, at varying strength."""
    return (torch.rand(N, count, generator=g) < p) * (torch.rand(N, count, generator=g) + 0.2)


def unions(seed, features_per_unit, width=64):
    """Every unit adds up a few unrelated features; every feature is written to as many units."""
    g = rng.stream(seed, "union", features_per_unit)
    mix = sum(torch.eye(width)[torch.randperm(width, generator=g)] for _ in range(features_per_unit))
    return sparse(g, width) @ mix.clamp(max=1) + 0.02 * torch.randn(N, width, generator=g)


def readers(seed, features_per_unit):
    """40 features in random directions over 64 units, and 24 units that each read a few of them."""
    g = rng.stream(seed, "readers", features_per_unit)
    features = sparse(g, 40)
    directions = torch.nn.functional.normalize(torch.randn(40, 64, generator=g), dim=1)
    reads = torch.stack([torch.rand(40, generator=g).argsort() < features_per_unit for _ in range(24)]).float()
    layer = features @ directions + 0.03 * torch.randn(N, 64, generator=g)
    return torch.cat([layer, features @ reads.T + 0.02 * torch.randn(N, 24, generator=g)], 1)


def topics(seed, per_unit):
    """Rows belong to one of 12 topics, each with its pattern over 40 units; 12 more units fire on `per_unit` topics."""
    g = rng.stream(seed, "topics")
    topic = torch.randint(12, (N,), generator=g)
    layer = torch.randn(12, 40, generator=g)[topic] + 0.3 * torch.randn(N, 40, generator=g)
    reads = torch.stack([torch.rand(12, generator=g).argsort() < per_unit for _ in range(12)]).float()
    fires = (torch.rand(N, 12, generator=g) < 0.1) * torch.rand(N, 12, generator=g)
    return torch.cat([layer, reads.T[topic] * fires], 1)


def elongated(seed, width=64):
    """One long Gaussian cloud: every unit shares a dominant axis."""
    g = rng.stream(seed, "elongated")
    axis = torch.randn(1, width, generator=g)
    return torch.randn(N, width, generator=g) + 2 * torch.randn(N, 1, generator=g) * axis


def heavy_tailed(seed, width=64):
    """No structure but strength: rows of very different norm."""
    g = rng.stream(seed, "norms")
    return torch.randn(N, width, generator=g) * torch.randn(N, 1, generator=g).exp()


@pytest.mark.parametrize("seed", [20, 21])
@pytest.mark.parametrize("make", [causes.null, causes.monosemantic])
def test_silent_where_there_is_one_meaning_or_none(make, seed):
    flagged = found(make(N, 40, seed).activations.values, seed).polysemantic
    assert flagged.float().mean() <= 0.05


@pytest.mark.parametrize("seed", [20, 21])
@pytest.mark.parametrize("make", [elongated, heavy_tailed])
def test_a_single_cloud_is_silent_however_long(make, seed):
    assert found(make(seed), seed).polysemantic.float().mean() <= 0.05


@pytest.mark.parametrize("seed", [20, 21])
def test_units_of_one_feature_are_not_flagged_though_others_share_it(seed):
    assert found(readers(seed, 1), seed).polysemantic[64:].float().mean() <= 0.05
    assert found(topics(seed, 1), seed).polysemantic[40:].float().mean() <= 0.05


@pytest.mark.parametrize("seed", [20, 21])
@pytest.mark.parametrize("features", [2, 3])
def test_units_that_add_up_unrelated_features_are_found_with_their_number(seed, features):
    result = found(unions(seed, features), seed)
    assert result.polysemantic.float().mean() >= 0.8
    counted = result.senses[result.polysemantic]
    assert (counted == features).float().mean() >= 0.8
    assert counted.mean() == pytest.approx(features, abs=0.3)


@pytest.mark.parametrize("seed", [20, 21])
def test_balanced_features_have_balanced_shares(seed):
    result = found(readers(seed, 2), seed)
    assert result.polysemantic[64:].float().mean() >= 0.8
    two = result.shares[64:][result.senses[64:] == 2]
    torch.testing.assert_close(two.sum(1), torch.ones(len(two)))
    assert two[:, 0].mean() == pytest.approx(0.5, abs=0.12)
    assert (two[:, 0] >= two[:, 1]).all()


@pytest.mark.parametrize("meanings", [2, 3])
def test_units_of_a_few_exclusive_topics_are_found(meanings):
    assert found(topics(20, meanings), 20).polysemantic[40:].float().mean() >= 0.8


def test_fields_agree_with_each_other():
    result = found(torch.cat([unions(20, 2), torch.zeros(N, 1)], 1), 20)
    judged = result.p.isfinite()
    assert judged.tolist() == [True] * 64 + [False]
    assert (result.senses[judged & ~result.polysemantic] == 1).all()
    assert (result.shares[judged & ~result.polysemantic, 0] == 1).all()
    assert (result.gap[result.polysemantic] >= clusters.EFFECT).all()
    nearer = torch.minimum(result.chance, result.cloud)
    assert (result.index[result.polysemantic] < nearer[result.polysemantic]).all()


def test_readings_do_not_depend_on_the_scale_or_offset_of_units():
    values = unions(22, 2, width=16)
    scaled = values.double() * torch.logspace(-3, 3, 16) + 5 * torch.arange(16)
    one, two = found(values.double(), 0), found(scaled.double(), 0)
    torch.testing.assert_close(one.index, two.index, atol=1e-4, rtol=0)
    assert torch.equal(one.senses, two.senses)


def test_too_few_documents_is_missing_not_zero():
    values = torch.randn(400, 3, generator=rng.stream(0, "few"))
    result = clusters.exemplar_clusters(values, torch.zeros(400).long(), rng.stream(0, "few"))
    assert result.z.isnan().all()
    assert result.senses.isnan().all()
    assert result.shares.isnan().all()
    assert not result.polysemantic.any()


def test_exemplars_cover_the_tail_one_per_document():
    column = torch.rand(N, generator=rng.stream(0, "tail"))
    rows = clusters.tail_exemplars(column, OWNER, 64, rng.stream(0, "t"))
    assert len(OWNER[rows].unique()) == 64
    assert column[rows].min() > 0.97
    assert column[rows].min() < column[rows].max() - 0.015


def test_clouds_have_exactly_the_spectrum_and_the_moments_of_a_gaussian():
    g = rng.stream(0, "clouds")
    x = torch.randn(1, 64, 8, generator=g) * torch.arange(1, 9)
    x = clusters._leading(x)[0]
    clouds = clusters._clouds(x, g)
    torch.testing.assert_close(torch.linalg.svdvals(clouds[0, 3]), torch.linalg.svdvals(x)[0], rtol=1e-4, atol=0)
    assert clouds.mean(2).abs().max() < 1e-4
    standardized = clouds / clouds.std(2, keepdim=True)
    # fourth moment of a coordinate of a uniform direction in the 63 dimensions orthogonal to the constant
    assert standardized.pow(4).mean() == pytest.approx(3 * (63 / 64) ** 2 * 63 / 65, abs=0.1)


def test_the_cloud_null_is_exact_for_any_covariance():
    g = rng.stream(1, "exact")
    x = torch.randn(200, 64, 16, generator=g) * torch.linspace(5, 0.5, 16)
    x = clusters._leading(x)[0]
    index, null = clusters.cluster_index(x, 2), clusters.cluster_index(clusters._clouds(x, g), 2)
    rank = (null <= index[:, None]).float().mean(1)
    assert rank.mean() == pytest.approx(0.5, abs=0.07)
    assert (rank <= 0.1).float().mean() == pytest.approx(0.1, abs=0.06)


def test_cluster_index_equals_k_means_by_enumeration():
    x = torch.randn(8, 2, generator=rng.stream(3, "tiny"))
    centered = x - x.mean(0)
    best = math.inf
    for mask in range(1, 255):
        member = torch.tensor([bool(mask >> i & 1) for i in range(8)])
        within = sum((part - part.mean(0)).square().sum() for part in (x[member], x[~member]) if len(part))
        best = min(best, float(within / centered.square().sum()))
    assert float(clusters.cluster_index(x, 2)) == pytest.approx(best, rel=0.15)
    assert float(clusters.cluster_index(x, 2)) >= best - 1e-6
