import math

import pytest
import torch

from digon import rng
from digon.measures import clusters
from digon.worlds import causes

N, OWNER = 20_000, torch.arange(20_000) // 20


def found(values, seed):
    return clusters.exemplar_clusters(values, OWNER, rng.stream(seed, "clusters"))


def topics(seed, per_unit):
    """Rows belong to one of 12 topics, each with its own pattern over 40 units; 12 more units fire on `per_unit` topics."""
    g = rng.stream(seed, "topics")
    topic = torch.randint(12, (N,), generator=g)
    layer = torch.randn(12, 40, generator=g)[topic] + 0.3 * torch.randn(N, 40, generator=g)
    reads = torch.stack([torch.rand(12, generator=g).argsort() < per_unit for _ in range(12)]).float()
    fires = (torch.rand(N, 12, generator=g) < 0.1) * torch.rand(N, 12, generator=g)
    return torch.cat([layer, reads.T[topic] * fires], 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [causes.null, causes.monosemantic])
def test_silent_where_there_is_one_meaning_or_none(make, seed):
    flagged = found(make(N, 40, seed).activations.values, seed).polysemantic
    assert flagged.float().mean() <= 0.05


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("meanings", [2, 3])
def test_units_of_a_few_topics_are_found_with_their_number(seed, meanings):
    result = found(topics(seed, meanings), seed)
    planted = slice(40, 52)
    assert result.polysemantic[planted].float().mean() >= 0.8
    counted = result.senses[planted][result.polysemantic[planted]]
    assert (counted == meanings).float().mean() >= 0.6


@pytest.mark.parametrize("seed", range(3))
def test_units_of_one_topic_are_not_flagged(seed):
    result = found(topics(seed, 1), seed)
    assert result.polysemantic[40:].float().mean() <= 0.25
    assert (result.senses[40:][~result.polysemantic[40:]] == 1).all()


def test_too_few_documents_is_missing_not_zero():
    values = torch.randn(400, 3, generator=rng.stream(0, "few"))
    result = clusters.exemplar_clusters(values, torch.zeros(400).long(), rng.stream(0, "few"))
    assert result.z.isnan().all()
    assert result.senses.isnan().all()
    assert not result.polysemantic.any()


def test_exemplars_cover_the_tail_one_per_document():
    column = torch.rand(N, generator=rng.stream(0, "tail"))
    rows = clusters.tail_exemplars(column, OWNER, 64, rng.stream(0, "t"))
    assert len(OWNER[rows].unique()) == 64
    assert column[rows].min() > 0.97
    assert column[rows].min() < column[rows].max() - 0.015


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


def test_a_long_single_cloud_is_not_two():
    g = rng.stream(0, "cloud")
    x = torch.nn.functional.normalize(torch.randn(1, 64, 8, generator=g) * torch.tensor([3.0] + [1.0] * 7) + 4, dim=-1)
    random = torch.nn.functional.normalize(torch.randn(40, 64, 8, generator=g), dim=-1)
    assert clusters._judge(x, random, g)[2] < clusters.EFFECT
