import pytest
import torch

from digon import rng
from digon.coders.sae import Nested, SAEConfig
from digon.coders.sae.nested import Prefixes

X = torch.randn(40, 8, generator=rng.stream(0, "x"))
SILENT = torch.zeros(32)


def test_parts_and_sizes():
    config = SAEConfig(8, 6, 2, nested=Nested((1, 3)))
    fixed = Prefixes.of(config, 0, torch.zeros(6))
    assert fixed is not None
    assert (fixed.part.tolist(), fixed.parts) == ([0, 1, 1, 2, 2, 2], 3)
    config = SAEConfig(8, 6, 2, nested=Nested((1, 3), by_frequency=True))
    sorted_ = Prefixes.of(config, 0, torch.tensor([0.1, 0.5, 0.2, 0.0, 0.3, 0.1]))
    assert sorted_ is not None
    assert sorted_.part.tolist() == [2, 0, 1, 2, 1, 2]
    assert Prefixes.of(SAEConfig(8, 6, 2), 0, torch.zeros(6)) is None


def test_sampled_prefixes_change_and_repeat():
    config = SAEConfig(8, 1000, 2, nested=Nested(sampled=3))
    parts = [Prefixes.of(config, step, torch.zeros(1000)) for step in (4, 5, 4)]
    assert torch.equal(parts[0].part, parts[2].part)
    assert not torch.equal(parts[0].part, parts[1].part)
    ends = [int((Prefixes.of(config, s, torch.zeros(1000)).part == 0).sum()) for s in range(400)]
    smallest = torch.tensor(ends, dtype=torch.float64).log()
    # The smallest of three uniform draws has mean 1/4.
    assert float(smallest.mean()) == pytest.approx(0.25 * torch.tensor(1000.0).log().item(), rel=0.15)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu", "gated", "relu"])
@pytest.mark.parametrize("detached", [False, True])
def test_prefixes_are_the_dense_ones_with_their_gradients(activation, detached, perturbed):
    sae = perturbed(activation)
    part = torch.randint(0, 3, (32,), generator=rng.stream(0, "part"))
    result = sae(X, None, Prefixes(part, 3, detached))
    codes = torch.zeros(40, 32).index_put((result.support.rows, result.support.latents), result.values)
    assert torch.equal(result.nested[:, -1], result.reconstruction)
    torch.testing.assert_close(result.reconstruction, sae(X).reconstruction, rtol=1e-5, atol=1e-5)
    atoms = sae.W_dec.detach().clone().requires_grad_()
    codes = codes.detach().requires_grad_()
    total, wanted = torch.zeros(40, 8), []
    for p in range(3):
        inside = part == p
        total = (total.detach() if detached else total) + codes[:, inside] @ atoms[inside]
        wanted.append(total)
    stacked = torch.stack(wanted, 1) + sae.b_dec.detach()
    torch.testing.assert_close(result.nested, stacked, rtol=1e-5, atol=1e-5)
    to_atoms, to_codes = torch.autograd.grad((stacked - X[:, None]).square().sum(), [atoms, codes])
    loss = (result.nested - X[:, None]).square().sum()
    got_atoms, got_codes = torch.autograd.grad(loss, [sae.W_dec, result.values])
    torch.testing.assert_close(got_atoms, to_atoms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got_codes, to_codes[result.support.rows, result.support.latents], rtol=1e-4, atol=1e-4)
