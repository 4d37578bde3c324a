"""Sparse probes on rows whose concepts are single latents by construction."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from digon.errors import ConfigError
from digon.measures.probing import (
    Rows,
    balanced_accuracy_of,
    code_correlations,
    columns_of,
    correlations,
    sparse_probes,
    usable,
)
from digon.tensors import Codes

N, D, K = 3000, 16, 40


def world(seed=0):
    """Forty sparse features in sixteen dimensions; concepts: feature 3, features 5 or 6, and a coin."""
    g = torch.Generator().manual_seed(seed)
    features = (torch.rand(N, K, generator=g) < 0.06) * (1 + torch.rand(N, K, generator=g))
    atoms = torch.nn.functional.normalize(torch.randn(K, D, generator=g), dim=1)
    coin = torch.rand(N, generator=g) < 0.3
    labels = torch.stack([features[:, 3] > 0, (features[:, 5] > 0) | (features[:, 6] > 0), coin], 1)
    documents = torch.arange(N) // 30
    return Rows(features @ atoms, Codes(features, None, K), labels, documents, documents % 3 > 0)


def sparse(codes, size=12):
    values, indices = codes.values.topk(size, 1)
    return Codes(values, indices, codes.width)


@pytest.fixture(scope="module")
def found():
    probes = sparse_probes(world(), torch.Generator().manual_seed(0))
    return {(p.basis, p.members): p for p in probes}


def test_one_latent_is_enough_for_its_feature(found):
    one, two = found["latents", 1], found["latents", 2]
    assert float(one.value[0]) == 1.0
    assert float(two.value[1]) == 1.0
    assert float(one.value[1]) == pytest.approx(0.75, abs=0.05)  # one half of an "or" finds half of its rows


def test_nothing_reads_a_coin(found):
    for probe in found.values():
        assert abs(float(probe.value[2]) - 0.5) < 0.06
        assert float(probe.low[2]) < 0.53
        assert float(probe.high[2]) > 0.47


def test_latents_beat_every_control_where_they_are_the_features(found):
    for basis in ("directions", "random latents", "neurons"):
        assert float(found[basis, 1].value[0]) < 0.9
        assert found[basis, 1].mean_high < found["latents", 1].mean_low
    assert set(found) == {(b, k) for b in ("latents", "directions", "random latents", "neurons") for k in (1, 2, 5)} | {
        ("dense", D)
    }


def test_copies_and_width_add_nothing():
    rows = world()
    copied = Rows(rows.x, Codes(rows.codes.values.repeat(1, 4), None, 4 * K), rows.labels, rows.documents, rows.fit)
    probes = {(p.basis, p.members): p for p in sparse_probes(copied, torch.Generator().manual_seed(0))}
    assert float(probes["latents", 1].value[0]) == 1.0
    assert float(probes["latents", 2].value[1]) < 0.8  # its two best are copies of one


def test_sparse_codes_are_read_like_dense_ones():
    rows = world()
    codes = sparse(rows.codes)
    y = rows.labels.double()
    torch.testing.assert_close(code_correlations(codes, y), correlations(rows.codes.values, y))
    wanted = np.corrcoef(rows.codes.values[:, 7].numpy(), y[:, 1].numpy())[0, 1]
    assert float(code_correlations(codes, y)[1, 7]) == pytest.approx(abs(wanted))
    assert torch.equal(columns_of(codes, torch.tensor([3, 9])), rows.codes.values[:, [3, 9]])
    flat = Codes(torch.zeros(N, 2), torch.zeros(N, 2, dtype=torch.long), K)
    assert code_correlations(flat, y).abs().max() == 0


def test_balanced_accuracy_is_that_of_scikit_learn():
    g = np.random.default_rng(0)
    truth, said = g.random(200) < 0.2, g.random(200) < 0.4
    sums = torch.tensor([[(truth & said).sum()], [truth.sum()], [(~truth & ~said).sum()], [(~truth).sum()]])
    assert float(balanced_accuracy_of(sums.double())) == pytest.approx(balanced_accuracy_score(truth, said))


def test_rare_concepts_are_left_out_and_none_is_an_error():
    rows = world()
    labels = rows.labels.clone()
    labels[:, 1] = torch.arange(N) < 15
    rare = Rows(rows.x, rows.codes, labels, rows.documents, rows.fit)
    assert usable(rare).tolist() == [True, False, True]
    probe = sparse_probes(rare, torch.Generator().manual_seed(0), counts=(1,))[0]
    assert probe.value[1].isnan()
    assert probe.mean == pytest.approx(float(probe.value[[0, 2]].mean()))
    with pytest.raises(ConfigError, match="no concept"):
        sparse_probes(Rows(rows.x, rows.codes, labels[:, [1]], rows.documents, rows.fit), torch.Generator())
