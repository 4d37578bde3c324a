import pytest
import torch

from digon import rng
from digon.coders import sparse


@pytest.mark.parametrize(("width", "count"), [(7, 3), (64, 2), (1024, 5), (96, 96), (4096, 32), (24, 1)])
def test_rowwise_top_is_topk(width, count):
    z = torch.randn(33, width, generator=rng.stream(width, "z"))
    values, indices = sparse.rowwise_top(z, count)
    assert torch.equal(z.gather(1, indices), values)
    assert torch.equal(values.sort(descending=True).values, z.topk(count).values)


@pytest.mark.parametrize(("shape", "count"), [((7, 3), 5), ((64, 128), 64), ((50, 1024), 400), ((4, 4), 16)])
def test_overall_top_is_topk(shape, count):
    z = torch.randn(shape, generator=rng.stream(count, "z"))
    flat = sparse.overall_top(z, count)
    assert torch.equal(flat, z.view(-1).topk(count).indices.sort().values)


def test_top_of_ties_takes_distinct_entries():
    # A third of real pre-activation maps can be exactly equal (a dead model): the count must still hold.
    z = torch.zeros(8, 256)
    _, indices = sparse.rowwise_top(z, 6)
    assert all(len(set(row)) == 6 for row in indices.tolist())
    assert len(sparse.overall_top(z, 40).unique()) == 40


@pytest.fixture
def problem():
    n, width, d = 11, 9, 5
    draw = lambda name, *shape: torch.randn(*shape, generator=rng.stream(0, name), dtype=torch.float64)  # noqa: E731
    mask = draw("mask", n, width) > 0.6
    mask[3] = False  # a row with nothing, and a latent with nothing
    mask[:, 4] = False
    rows, latents = mask.nonzero(as_tuple=True)
    return draw("x", n, d), draw("w", width, d), draw("v", n, width) * mask, mask, rows, latents


def test_sums_are_the_dense_products(problem):
    x, w, dense, mask, rows, latents = problem
    support = sparse.Support.of(rows, latents, len(x), len(w))
    values = dense[mask]
    torch.testing.assert_close(support.sum_by_row(values, w), dense @ w)
    torch.testing.assert_close(support.sum_by_latent(values, x), dense.T @ x)
    torch.testing.assert_close(support.total_by_latent(values), dense.sum(0))


def test_gradients_are_those_of_dense_autograd(problem):
    x, w, _, mask, rows, latents = problem
    support = sparse.Support.of(rows, latents, len(x), len(w))
    atoms, w_enc = w.clone().requires_grad_(), (w + 0.3).requires_grad_()
    b_enc = torch.linspace(-1, 1, len(w), dtype=torch.float64).requires_grad_()
    b_dec = torch.linspace(0, 1, x.shape[1], dtype=torch.float64).requires_grad_()
    leaves = (atoms, w_enc, b_enc, b_dec)

    z = (x - b_dec) @ w_enc.T + b_enc
    wanted = torch.autograd.grad(((z.relu() * mask) @ atoms).pow(3).sum(), leaves)
    values = sparse.encode(z.detach()[mask], x - b_dec.detach(), (w_enc, b_enc, b_dec), support).relu()
    got = torch.autograd.grad(sparse.decode(values, atoms, support).pow(3).sum(), leaves)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
