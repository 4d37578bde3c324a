"""The search in blocks, compiled or not, finds what a look at the whole matrix finds."""

from threading import get_ident

import pytest
import torch

from digon import rng, threads
from digon.coders import sparse
from digon.coders.sparse import blocks, engine, kernel
from digon.coders.sparse.rules import scan

RULES = {
    "row": lambda k, n: sparse.PerRow(min(5, k)),
    "wide row": lambda k, n: sparse.PerRow(min(40, k)),
    "batch": lambda k, n: sparse.PerBatch(4 * n),
    "level": lambda k, n: sparse.Above(torch.tensor(0.7)),
    "levels": lambda k, n: sparse.Above(torch.linspace(-0.2, 2, k)),
}
SIZES = [(300, 64, 8), (70, 1000, 24), (33, 45, 19), (1100, 512, 40)]


def problem(n: int, k: int, d: int):
    draw = lambda name, *shape: torch.randn(*shape, generator=rng.stream(n, name))  # noqa: E731
    weights = draw("w", k, d) / d**0.5 * torch.linspace(0.2, 3, k)[:, None]
    return draw("x", n, d) * torch.linspace(0.5, 2, n)[:, None], weights, 0.3 * draw("b", k)


def dense(z: torch.Tensor, rule: sparse.Rule, eligible: torch.Tensor | None) -> torch.Tensor:
    """Mask of the pairs that a rule wants, from the whole matrix."""
    first = z.clone()
    if eligible is not None:
        first[z.argmax(0)[eligible], eligible.nonzero().squeeze(1)] = torch.inf
    if isinstance(rule, sparse.PerRow):
        return torch.zeros_like(z, dtype=torch.bool).scatter(1, first.topk(rule.count, dim=1).indices, True)
    if isinstance(rule, sparse.PerBatch):
        flat = first.view(-1).topk(rule.count).indices
        return torch.zeros(z.numel(), dtype=torch.bool).index_fill(0, flat, True).view_as(z)
    return first > rule.level


def mask(found: sparse.Found, shape: torch.Size) -> torch.Tensor:
    out = torch.zeros(shape, dtype=torch.bool)
    out[found.rows, found.latents] = True
    assert int(out.sum()) == len(found.rows), "a pair is there twice"
    assert (found.rows.diff() >= 0).all()
    return out


@pytest.fixture(params=["bfloat16 products", "float32 products", "torch"])
def way(request, monkeypatch):
    monkeypatch.setattr(blocks, "has_bfloat16", lambda: request.param == "bfloat16 products")
    monkeypatch.setattr(blocks, "FEWEST", 16)
    monkeypatch.setattr(blocks, "CACHE", 2**14)  # several blocks
    if request.param == "torch":
        monkeypatch.setattr(engine, "has_numba", lambda: False)
        monkeypatch.setattr("digon.coders.sparse.rules.BLOCK", 2**12)
    return request.param


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_the_search_is_a_look_at_the_whole_matrix(size, name, forced, way):
    n, k, _ = size
    x, weights, bias = problem(*size)
    eligible = torch.arange(k) % (k // 20) == 0 if forced else None
    rule = RULES[name](k, n)
    z = x @ weights.T + bias
    found = sparse.search(x, (weights, bias), rule, eligible)
    wanted = dense(z, rule, eligible)
    got = mask(found, z.shape)
    if isinstance(rule, sparse.PerRow) and forced:
        room = (z.argmax(0)[:, None] == torch.arange(n))[eligible].sum(0) <= rule.count
        assert room.float().mean() > 0.9
        got, wanted = got[room], wanted[room]
    assert torch.equal(got, wanted)
    torch.testing.assert_close(found.z, z[found.rows, found.latents], rtol=1e-4, atol=1e-5)
    if forced:
        peaks = torch.zeros_like(z, dtype=torch.bool)
        peaks[z.argmax(0)[eligible], eligible.nonzero().squeeze(1)] = True
        assert torch.equal(found.marked, peaks[found.rows, found.latents])


def test_a_row_that_is_the_peak_of_many_keeps_as_many_as_it_may(way):
    x, weights, bias = problem(60, 64, 8)
    x[7] *= 100  # nearly every latent with a positive product peaks here
    eligible = torch.ones(64, dtype=torch.bool)
    found = sparse.search(x, (weights, bias), sparse.PerRow(5), eligible)
    assert torch.bincount(found.rows).tolist() == [5] * 60
    assert bool(found.marked[found.rows == 7].all())


@pytest.mark.parametrize("many", [2, 3])
def test_threads_do_not_change_a_bit(many, monkeypatch):
    monkeypatch.setattr(blocks, "FEWEST", 16)
    monkeypatch.setattr(blocks, "CACHE", 2**14)
    x, weights, bias = problem(400, 512, 32)
    eligible = torch.arange(512) % 2 == 0
    before = torch.get_num_threads()
    results = []
    for count in (1, many):
        torch.set_num_threads(count)
        try:
            for name in RULES:
                found = sparse.search(x, (weights, bias), RULES[name](512, 400), eligible)
                support = sparse.Support.of(found.rows, found.latents, 400, 512)
                results.append((found.z, found.rows, found.latents, support.sum_by_latent(found.z, x)))
        finally:
            torch.set_num_threads(before)
    for one, other in zip(results[: len(RULES)], results[len(RULES) :], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_torch_is_alone_while_threads_share():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads.alone():
            assert (torch.get_num_threads(), threads.count()) == (1, 3)
            seen = threads.share(lambda i: (i, get_ident(), torch.get_num_threads()), range(20))
        assert [i for i, _, _ in seen] == list(range(20))
        assert {n for _, _, n in seen} == {1}
        assert get_ident() not in {who for _, who, _ in seen}
        assert (torch.get_num_threads(), threads.count()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_bfloat16_products_choose_nearly_the_same_and_give_float32_values():
    x, weights, bias = problem(1100, 512, 40)
    z = x @ weights.T + bias
    for found in (
        sparse.search(x, (weights, bias), sparse.PerRow(16), precision="bfloat16"),
        scan(x, weights, bias, sparse.PerRow(16), False, "bfloat16")[0],
    ):
        wanted = dense(z, sparse.PerRow(16), None)
        both = mask(found, z.shape) & wanted
        assert 0.98 < float(both.sum() / wanted.sum()) <= 1
        torch.testing.assert_close(found.z, z[found.rows, found.latents], rtol=1e-4, atol=1e-5)


def test_the_bound_on_coarse_products_holds_and_is_not_idle(monkeypatch):
    monkeypatch.setattr(blocks, "has_bfloat16", lambda: True)
    x, weights, bias = problem(200, 64, 40)
    encoder = blocks.Encoder(x, weights, bias, sparse.PerRow(4), "float32")
    block, stop = encoder.products(0)
    half = block.products.view("uint16").reshape(stop, -1, 16, 2)  # words of two numbers, sixteen places apart
    coarse = torch.from_numpy((half.astype("uint32") << 16).view("float32").swapaxes(2, 3).reshape(stop, -1).copy())
    exact = (x.double() @ weights.double().T)[:stop]
    gap = (coarse[:, :64] - exact).abs()
    bound = (
        encoder.slack * coarse[:, :64].abs() + torch.from_numpy(block.beta)[:, None] * torch.from_numpy(block.norm)[:64]
    )
    assert (gap <= bound).all()
    assert (gap > 0.1 * bound).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_does_not_hang_and_spares_other_rows(bad, way):
    x, weights, bias = problem(70, 96, 24)
    wanted = [sparse.search(x, (weights, bias), RULES[n](96, 70)) for n in ("row", "level")]
    x[3, 5] = bad
    for rule, good in zip(("row", "batch", "level"), (wanted[0], None, wanted[1]), strict=True):
        found = sparse.search(
            x, (weights, bias), RULES[rule](96, 70), torch.arange(96) % 40 == 0 if rule == "batch" else None
        )
        if good is not None:
            assert torch.equal(found.latents[found.rows != 3], good.latents[good.rows != 3])


def test_ties_take_as_many_as_are_wanted(way):
    x, weights, bias = torch.zeros(20, 8), torch.ones(64, 8), torch.zeros(64)
    assert torch.bincount(sparse.search(x, (weights, bias), sparse.PerRow(5)).rows).tolist() == [5] * 20
    assert len(sparse.search(x, (weights, bias), sparse.PerBatch(100)).rows) == 100


@pytest.mark.parametrize("length", [1, 2, 7, 100, 5000])
def test_quickselect_is_sorting(length):
    keys = torch.randint(-50, 50, (length,), generator=rng.stream(length, "keys"), dtype=torch.int32)
    ordered = keys.sort(descending=True).values
    for count in {1, (length + 1) // 2, length}:
        assert kernel.kth(keys.numpy().copy(), length, count) == int(ordered[count - 1])
