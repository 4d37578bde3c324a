import torch

from digon import rng
from digon.measures import sparsity
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
