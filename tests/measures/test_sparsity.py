import pytest
import torch

from digon import rng
from digon.measures import sparsity, stats
from digon.tensors import Codes


def codes():
    g = rng.stream(0, "codes")
    indices = torch.rand(200, 30, generator=g).topk(3).indices
    return Codes(torch.rand(200, 3, generator=g) + 0.1, indices, 30)


def test_sparse_and_dense_codes_read_alike():
    sparse = codes()
    dense = Codes(sparse.dense(), None, 30)
    assert torch.equal(sparsity.l0(sparse), sparsity.l0(dense))
    assert torch.equal(sparsity.code_density(sparse), sparsity.code_density(dense))
    assert sparsity.l0(sparse).mean() == 3
    torch.testing.assert_close(sparsity.code_density(sparse).sum(), torch.tensor(3.0).double())


def test_dead_and_dense():
    density = torch.tensor([0.0, 0.05, 0.5])
    assert sparsity.dead(density).tolist() == [True, False, False]
    assert sparsity.dense(density).tolist() == [False, False, True]
    assert sparsity.code_density(Codes(torch.zeros(0, 1), torch.zeros(0, 1).long(), 4)).isnan().all()


def test_fvu_is_one_minus_r_squared_of_least_squares():
    g = rng.stream(0, "fvu")
    x = torch.randn(500, 2, generator=g).double()
    y = (x @ torch.tensor([[1.0], [2.0]]).double() + torch.randn(500, 1, generator=g).double()).double()
    design = torch.cat([x, torch.ones(500, 1).double()], 1)
    fitted = design @ torch.linalg.lstsq(design, y).solution
    r_squared = torch.corrcoef(torch.cat([y, fitted], 1).T)[0, 1] ** 2
    torch.testing.assert_close(sparsity.fvu(y, fitted), 1 - r_squared)
    assert sparsity.fvu(torch.ones(3, 1), torch.ones(3, 1)).isnan()
    assert sparsity.fvu(y, torch.zeros_like(y), torch.zeros(1).double()) == 1


def test_dead_share_ignores_what_is_unknown():
    assert sparsity.dead_share(torch.tensor([0.0, 0.1, float("nan"), 0.2])) == pytest.approx(1 / 3)


def test_fvu_can_be_resampled_by_document():
    g = rng.stream(1, "fvu")
    x, documents = torch.randn(4000, 8, generator=g), torch.arange(4000) // 20
    # errors of a document share their size: true fvu is .25 · E[size²]
    size = torch.rand(200, 1, generator=g)[documents] * 2
    reconstruction = x + 0.5 * size * torch.randn(4000, 8, generator=g)
    sums = sparsity.fvu_sums(x, reconstruction, x.mean(0), documents, 200)
    torch.testing.assert_close(sparsity.fvu_of(sums.sum(0))[0].float(), sparsity.fvu(x, reconstruction))
    low, high = stats.bootstrap_interval(sums, sparsity.fvu_of, rng.stream(2, "fvu"))
    assert low < 1 / 3 < high
    # the size² of 200 documents alone has a standard error of 1.2/√200 · .25
    assert high - low == pytest.approx(4 * 0.25 * 1.19 / 200**0.5, rel=0.3)
