import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from digon import rng
from digon.errors import ConfigError
from digon.measures.similarity import monosemanticity


def slow(embeddings, r):
    """MS by its definition, over all pairs."""
    rows, r = F.normalize(embeddings.double(), dim=1), r.double()
    r = (r - r.min()) / (r.max() - r.min())
    above = torch.ones(len(r), len(r)).triu(1).bool()
    return float(((r[:, None] * r) * (rows @ rows.T))[above].sum() / (r[:, None] * r)[above].sum())


def draws(seed, n, d, units=1):
    g = rng.stream(seed, "similarity")
    return torch.randn(n, d, generator=g) + 0.5, torch.randn(n, units, generator=g)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 40), st.integers(1, 9))
def test_the_short_formula_equals_the_sum_over_pairs(seed, n, d):
    embeddings, values = draws(seed, n, d, 3)
    found = monosemanticity(embeddings, values)
    assert found.score.tolist() == pytest.approx([slow(embeddings, v) for v in values.T], abs=1e-9)


def test_mean_and_deviation_are_those_of_all_permutations():
    for seed in range(3):
        embeddings, values = draws(seed, 6, 3)
        found = monosemanticity(embeddings, values)
        every = torch.stack([values[list(order), 0] for order in permutations(range(6))], 1)
        scores = monosemanticity(embeddings, every).score
        assert float(found.null) == pytest.approx(float(scores.mean()), abs=1e-9)
        z = (found.score - scores.mean()) / scores.std(correction=0)
        assert float(found.z) == pytest.approx(float(z), rel=1e-6)
        rows = F.normalize(embeddings.double(), dim=1)
        assert float(found.null) == pytest.approx(float((rows.sum(0).square().sum() - 6) / 30))


def test_noise_is_silent_and_one_meaning_is_heard():
    z, planted = [], []
    for seed in range(3):
        embeddings, values = draws(seed, 2000, 8, 50)
        z.append(monosemanticity(embeddings, values.exp()).z)
        direction = F.normalize(embeddings, dim=1)[:, :1]
        planted.append(float(monosemanticity(embeddings, direction.clamp_min(0) ** 4).z))
    z = torch.cat(z)
    assert abs(float(z.mean())) < 0.35
    assert float(z.std()) == pytest.approx(1, abs=0.35)
    assert min(planted) > 5


def test_scale_and_offset_of_activations_do_not_matter():
    embeddings, values = draws(1, 50, 4, 2)
    a, b = monosemanticity(embeddings, values), monosemanticity(3 * embeddings, 1e-3 * values - 7)
    torch.testing.assert_close(a.z, b.z, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_judged():
    embeddings, values = draws(2, 10, 4)
    assert math.isnan(float(monosemanticity(embeddings, torch.zeros_like(values)).score))
    with pytest.raises(ConfigError, match="3 rows"):
        monosemanticity(embeddings[:3], values[:3])
