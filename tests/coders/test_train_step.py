"""A training step is the step that dense products, autograd and torch's Adam make."""

import math

import pytest
import torch
from torch import Tensor

from digon import rng
from digon.coders.sae import SAE, Nested, SAEConfig
from digon.coders.sae.revival import eligible
from digon.coders.sparse import blocks, engine
from digon.coders.train import Calibration, TrainConfig, Trainer
from digon.coders.train.config import budget, learning_rate
from digon.errors import ConfigError

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")
CONFIG = TrainConfig(steps=100, lr=1e-2, l0_start=1.0, clip=0.5)
N, D, WIDTH, L0 = 150, 12, 96, 6


def learn(number: Tensor) -> Tensor:
    """Zero, with a gradient."""
    return number - number.detach()


class Dense:
    """Loss of an SAE from whole matrices; every gradient by autograd."""

    def __init__(self, sae: SAE, x: Tensor, turn: Tensor | None, weight: Tensor) -> None:
        self.sae, self.x, self.weight = sae, x, weight
        self.z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
        kind = sae.config.activation
        self.forced = torch.zeros_like(self.z, dtype=torch.bool)
        first = self.z.detach().clone()
        if turn is not None:
            self.forced[first.argmax(0)[turn], turn.nonzero().squeeze(1)] = True
            assert int(self.forced.sum(1).max()) <= L0
            first[self.forced] = torch.inf
        cut: Tensor = torch.zeros(())
        if kind == "topk":
            cut = first.topk(L0, dim=1).values[:, -1:]
        elif kind == "batchtopk":
            cut = first.flatten().topk(L0 * N).values[-1]
        elif kind == "jumprelu":
            cut = sae.threshold.detach()
        self.on = first >= cut if kind in ("topk", "batchtopk") else first > cut
        self.above = self.on & ~self.forced if kind in ("topk", "batchtopk") else self.z.detach() > cut
        self.forced &= self.z.detach() <= cut if kind not in ("topk", "batchtopk") else self.on

    def codes(self) -> Tensor:
        sae, z, kernel = self.sae, self.z, self.sae.config.kernel
        kind = sae.config.activation
        if kind in ("topk", "batchtopk"):
            return z.relu() * self.on
        if kind == "relu":
            return z.relu() + self.forced * learn(z)
        if kind == "jumprelu":
            near = ((z.detach() - sae.threshold.detach()).abs() < kernel / 2) | self.forced
            return z.relu() * (self.above | self.forced) - sae.threshold.detach() / kernel * near * learn(sae.threshold)
        return (sae.r_mag.exp() * (z - sae.b_enc) + sae.b_mag).relu() * (self.above | self.forced)

    def loss(self) -> Tensor:
        sae, z, kind = self.sae, self.z, self.sae.config.activation
        codes = self.codes()
        total = self.error(codes @ sae.W_dec + sae.b_dec)
        gates = z.relu() + self.forced * learn(z)
        if kind in ("relu", "gated"):
            total = total + self.weight * (codes if kind == "relu" else gates).sum() / (N * math.sqrt(D * L0))
        if kind == "gated":
            total = total + self.error(gates @ sae.W_dec.detach() + sae.b_dec.detach())
        if kind == "jumprelu":
            near = (z.detach() - sae.threshold.detach()).abs() < sae.config.kernel / 2
            count = (self.above.float() - near.float() / sae.config.kernel * learn(sae.threshold)).sum()
            total = total + self.weight * count / (N * L0)
        return total

    def error(self, reconstruction: Tensor) -> Tensor:
        return (reconstruction - self.x).square().mean()


def start(config: SAEConfig, train: TrainConfig = CONFIG) -> Trainer:
    x = batch(99)
    trainer = Trainer(config, train, Calibration(0.1 * x[0], (1.0,), "", x))
    with torch.no_grad():
        for name, tensor in trainer.sae.state_dict().items():
            noise = torch.randn(tensor.shape, generator=rng.stream(5, name))
            tensor.add_(0.2 * (noise.abs() if name == "threshold" else noise))
    trainer.sae.normalize_atoms()
    return trainer


def batch(step: int) -> Tensor:
    # Rows of equal norm: none is the strongest of more latents than it has places for, which would be a matter of taste.
    return 3 * torch.nn.functional.normalize(torch.randn(N, D, generator=rng.stream(4, step)), dim=1)


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(engine, "has_numba", lambda: False)
    else:
        monkeypatch.setattr(blocks, "CACHE", 2**14)
        monkeypatch.setattr(blocks, "FEWEST", 16)
    return request.param


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("revival", ["none", "forced"])
@pytest.mark.parametrize("activation", ALL)
def test_steps_are_those_of_dense_autograd(activation, revival, tied, way):
    config = SAEConfig(D, WIDTH, L0, activation, revival=revival, tied=tied)
    ours, theirs = start(config), start(config)
    sae = theirs.sae
    names = [name for name, _ in sae.named_parameters()]
    optimizer = torch.optim.Adam([{"params": [p], "pace": theirs._pace(n)} for n, p in sae.named_parameters()], lr=0.0)
    for step in range(3):
        x, weight = batch(step), ours.controller.weight
        turn = eligible(config, step, CONFIG.steps, N, x.device)
        assert (turn is not None) == (revival == "forced")
        loss = Dense(sae, x, turn, weight).loss()
        optimizer.zero_grad()
        loss.backward()
        sae.budget = ours.sae.budget = budget(step, L0, WIDTH, CONFIG)
        result = ours.sae(x, turn, None)
        torch.testing.assert_close(ours._loss(x, x, result), loss, rtol=1e-5, atol=1e-6)
        gradients = torch.autograd.grad(
            ours._loss(x, x, ours.sae(x, turn, None)), list(ours.sae.parameters()), allow_unused=True
        )
        for name, got, p in zip(names, gradients, sae.parameters(), strict=True):
            wanted = torch.zeros_like(p) if p.grad is None else p.grad
            scale = float(wanted.abs().max()) + 1e-6
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=2e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")
        sae.free_gradient()
        assert float(torch.nn.utils.clip_grad_norm_(sae.parameters(), CONFIG.clip)) > 0
        for group in optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate(step, WIDTH, CONFIG)
        optimizer.step()
        sae.constrain()
        ours.advance(x)
        for name, got, wanted in zip(names, ours.sae.parameters(), sae.parameters(), strict=True):
            # Adam divides by the size of the gradient: where that is rounding, so is the step.
            close = torch.isclose(got, wanted, rtol=1e-3, atol=1e-4)
            assert close.float().mean() > 0.995, f"{name} at step {step}: {(got - wanted).abs().max()}"
        sae.load_state_dict(ours.sae.state_dict())


@pytest.mark.parametrize("nested", [None, Nested((16, 48))])
@pytest.mark.parametrize("revival", ["auxiliary", "straight_through", "resample", "forced"])
@pytest.mark.parametrize("activation", ALL)
def test_compiled_steps_are_those_of_torch(activation, revival, nested, monkeypatch):
    config = SAEConfig(D, WIDTH, L0, activation, revival=revival, nested=nested, dead_after=200)
    got = start(config)
    for step in range(4):
        got.advance(batch(step))
    monkeypatch.setattr(engine, "has_numba", lambda: False)
    wanted = start(config)
    for step in range(4):
        wanted.advance(batch(step))
    for name, tensor in wanted.sae.state_dict().items():
        assert torch.isclose(got.sae.state_dict()[name], tensor, rtol=1e-3, atol=2e-4).float().mean() > 0.99, name
    assert got.sums.tolist() == pytest.approx(wanted.sums.tolist(), rel=1e-3)
    assert torch.equal(got.silent, wanted.silent)


def test_bfloat16_products_train_as_well(Planted):
    losses = []
    for precision in ("float32", "bfloat16"):
        planted = Planted(n=64, d=16)
        x = planted.draw(512, "first")
        data = Calibration(x.mean(0), (1.0,), "", x)
        train = TrainConfig(steps=150, lr=3e-3, precision=precision)
        trainer = Trainer(SAEConfig(16, 128, 3, "topk"), train, data)
        for step in range(150):
            if step == 120:
                trainer.sums.zero_()
            trainer.advance(planted.draw(512, step))
        losses.append(float(trainer.sums[0] / trainer.sums[1]))
    assert losses[0] < 0.5
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_refusals():
    bad = TrainConfig()
    object.__setattr__(bad, "precision", "bfloat61")  # as a caller without a type checker could
    with pytest.raises(ConfigError, match="did you mean bfloat16"):
        bad.check()
