import pytest
import torch

from digon import rng
from digon.coders.sae import SAEConfig
from digon.coders.sae.revival import auxiliary_loss, eligible, resample

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")


def test_auxiliary_loss_by_hand(perturbed):
    sae = perturbed("topk", d=8, width=32)
    x = torch.randn(20, 8, generator=rng.stream(5, "x"))
    residual = torch.randn(20, 8, generator=rng.stream(5, "r"))
    dead = torch.arange(3, 20)
    z = ((x - sae.b_dec) @ sae.W_enc.T + sae.b_enc)[:, 3:20].relu()
    z = z * (z >= z.topk(4, dim=1).values[:, -1:])  # d/2 = 4 of the 17 dead latents
    wanted = (z @ sae.W_dec[3:20] - residual).square().sum() / (residual - residual.mean(0)).square().sum()
    torch.testing.assert_close(auxiliary_loss(sae, x, residual, dead), wanted)
    gradient = torch.autograd.grad(auxiliary_loss(sae, x, residual, dead), sae.W_enc)[0]
    assert gradient[3:20].norm() > 0  # the dead learn
    assert gradient[:3].norm() == gradient[20:].norm() == 0  # and only they


@pytest.mark.parametrize("activation", ALL)
def test_the_auxiliary_loss_teaches_encoders_that_never_fire(activation, perturbed):
    sae = perturbed(activation)
    dead = torch.arange(6)
    with torch.no_grad():
        sae.b_enc[dead] = -100.0
    x = torch.randn(20, 8, generator=rng.stream(6, "x"))
    gradient = torch.autograd.grad(auxiliary_loss(sae, x, x, dead), sae.W_enc)[0]
    assert (gradient[dead].norm(dim=1) > 0).all()


@pytest.mark.parametrize("activation", ALL)
def test_forced_latents_fire_on_their_strongest_row(activation, perturbed):
    sae = perturbed(activation)
    x = torch.randn(64, 8, generator=rng.stream(7, "x"))
    with torch.no_grad():
        sae.b_enc[3] -= 1.0
        if activation == "jumprelu":
            sae.threshold[3] = 100.0
    turn = torch.zeros(32, dtype=torch.bool).index_fill(0, torch.tensor([3, 9]), True)
    result = sae(x, turn)
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    for latent in (3, 9):
        row = int(z[:, latent].argmax())
        at = (result.support.rows == row) & (result.support.latents == latent)
        assert int(at.sum()) == 1
        assert bool(result.pairs.active()[at])
        assert result.values[at] > 0 or float(z[row, latent]) <= 0
    if activation in ("topk", "batchtopk"):
        assert int(result.pairs.active().sum()) == 3 * 64


def test_everyone_gets_a_turn():
    config = SAEConfig(d_in=8, width=100, l0=2, revival="forced")
    turns = [eligible(config, step, 1000, 20, torch.device("cpu")) for step in range(4)]
    assert [int(t.sum()) for t in turns] == [25, 25, 25, 25]  # .7 · 2 · 20 = 28 slots: four turns
    assert torch.stack(turns).sum(0).tolist() == [1] * 100
    assert eligible(config, 950, 1000, 20, torch.device("cpu")) is None
    assert eligible(SAEConfig(8, 100, 2, "relu"), 0, 1000, 20, torch.device("cpu")) is None


@pytest.mark.parametrize("activation", ALL)
def test_resampled_latents_are_residuals_and_start_afresh(activation, perturbed):
    sae = perturbed(activation)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    x = torch.randn(500, 8, generator=rng.stream(8, "x"))
    result = sae(x)
    loss = (result.reconstruction - x).square().sum()
    penalty = sae.activation.penalty(sae, result.pairs, result.values)
    (loss if penalty is None else loss + penalty).backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    residual = torch.zeros(500, 8)
    residual[7], residual[9] = x[7], 3 * x[9]  # nothing else is left over
    dead = torch.tensor([2, 5, 11])
    resample(sae, optimizer, x, residual, dead, step=16)
    directions = torch.nn.functional.normalize(x[[7, 9]], dim=1)
    assert ((sae.W_dec[dead] @ directions.T).max(1).values > 1 - 1e-5).all()
    alive = torch.ones(32, dtype=torch.bool).index_fill(0, dead, False)
    for name, parameter in sae.named_parameters():
        if name != "b_dec":
            assert torch.equal(parameter[alive], before[name][alive]), name
            assert (optimizer.state[parameter]["exp_avg"][dead] == 0).all()
    density = (sae.encode(x).dense()[:, dead] > 0).float().mean(0)
    if activation in ("relu", "jumprelu", "gated"):
        assert (density > 0).all()
        assert (density < 0.3).all()
