"""Crosscoders: one code for several sites."""

import json
import math

import pytest
import torch
from torch import Tensor

from digon import rng
from digon.coders import formats
from digon.coders.base import evaluate
from digon.coders.sae import SAE, SAEConfig
from digon.coders.sae.sites import norms, sharing
from digon.coders.train import TrainConfig, beside, from_rows, from_stores, train
from digon.errors import ConfigError, NonFiniteError
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter

SITES = (10, 14)
KINDS = 7
"""Features of both sites, of the first alone and of the second alone: so many each."""


class TwoSites:
    """Sparse features that two sites share, and some that only one of them holds."""

    def __init__(self, scales: tuple[float, float] = (1.0, 1.0)) -> None:
        n, d = 3 * KINDS, sum(SITES)
        self.kind = torch.arange(n) // KINDS
        here = torch.zeros(n, d)
        here[self.kind != 2, : SITES[0]] = 1
        here[self.kind != 1, SITES[0] :] = 1
        draws = torch.randn(n, d, generator=rng.stream(0, "sites")) * here
        self.pieces = torch.cat([torch.nn.functional.normalize(p, dim=1) for p in draws.split(SITES, 1)], 1)
        self.units = torch.tensor(scales).repeat_interleave(torch.tensor(SITES))

    def draw(self, n: int, *names: str | int) -> Tensor:
        stream = rng.stream(0, "two", *names)
        on = torch.rand(n, len(self.kind), generator=stream) < 0.095
        return (on * (0.5 + torch.rand(on.shape, generator=stream)) @ self.pieces + 0.2) * self.units

    def __call__(self, start: int):
        step = start
        while True:
            yield self.draw(256, step)
            step += 1


def perturbed(activation: str) -> SAE:
    sae = SAE(SAEConfig(24, 32, 3, activation, sites=SITES))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            noise = torch.randn(tensor.shape, generator=rng.stream(0, name))
            if name != "site_scale":
                tensor.add_(0.3 * (noise.abs() if name == "threshold" else noise))
        sae.normalize_atoms()
    return sae


X = torch.randn(50, 24, generator=rng.stream(1, "x"))


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_the_scale_of_every_site_folds(activation, tmp_path):
    sae = perturbed(activation)
    raw = sae.scaled((4.0, 0.03))
    units = torch.tensor([4.0, 0.03]).repeat_interleave(torch.tensor(SITES))
    c = math.sqrt((10 * 4.0**2 + 14 * 0.03**2) / 24)
    codes = raw.encode(units * X)
    torch.testing.assert_close(codes.dense(), c * sae.encode(X).dense(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw.decode(codes) / units, sae.decode(sae.encode(X)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sharing(raw).share, sharing(sae).share)
    formats.save(raw, tmp_path)
    read = formats.load(tmp_path)
    assert torch.equal(read.site_scale, torch.tensor([4.0, 0.03]))
    assert torch.equal(sharing(read).share, sharing(raw).share)
    # For other tools it is an autoencoder on the rows side by side.
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | {"metadata": {}}))
    foreign = formats.load(tmp_path)
    assert foreign.config.sites == ()
    assert torch.equal(foreign.encode(units * X).dense(), codes.dense())


def test_sharing_by_hand():
    sae = SAE(SAEConfig(5, 3, 1, sites=(2, 3)))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[3.0, 0, 0, 0, 4], [0, 0, 0, 0, 2], [1, 1, 1, 1, 0]]))
    found = sharing(sae)
    torch.testing.assert_close(found.share, torch.tensor([[9 / 25, 16 / 25], [0, 1], [0.5, 0.5]]))
    torch.testing.assert_close(found.sites, torch.tensor([1 / (0.36**2 + 0.64**2), 1.0, 2.0]))
    torch.testing.assert_close(found.alone, torch.tensor([0, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("activation", ["relu", "gated"])
def test_a_penalty_pays_for_the_norm_in_every_site(activation):
    sae = perturbed(activation)
    result = sae(X)
    found = sae.activation.penalty(sae, result.pairs, result.values)
    assert found is not None
    z = ((X - sae.b_dec) @ sae.W_enc.T + sae.b_enc).relu()
    prices = sae.W_dec[:, :10].norm(dim=1) + sae.W_dec[:, 10:].norm(dim=1)
    wanted = (z * prices).sum() / len(X) / math.sqrt(24 * 3)
    torch.testing.assert_close(found, wanted)
    for name in ("W_dec", "W_enc", "b_enc"):
        leaf = getattr(sae, name)
        ours, theirs = (torch.autograd.grad(p, leaf, retain_graph=True)[0] for p in (found, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["batchtopk", "relu"])
def trained(request, tmp_path_factory):
    world = TwoSites((1.0, 300.0))
    folder = tmp_path_factory.mktemp("sites") / request.param
    shape = SAEConfig(24, 24, 2, request.param, sites=SITES, threshold_rate=0.05)
    return train(shape, world, TrainConfig(steps=400, lr=1e-2), folder), world


def test_features_of_both_sites_and_of_one_are_told_apart(trained):
    sae, world = trained
    pieces = (world.pieces / world.pieces.norm(dim=1, keepdim=True)) @ (sae.W_dec / world.units).T
    cosine = pieces / (sae.W_dec / world.units).norm(dim=1)
    best = cosine.max(1)
    assert (best.values > 0.9).float().mean() > 0.85, best.values
    found = best.values > 0.9
    share = sharing(sae).share[best.indices]
    shared = share[found & (world.kind == 0)]
    assert (shared.max(1).values < 0.8).float().mean() > 0.9, shared
    for kind in (1, 2):
        alone = share[found & (world.kind == kind)]
        assert len(alone) >= KINDS - 2
        assert (alone[:, kind - 1] > 0.9).all(), alone


def test_no_site_counts_for_its_scale(trained):
    sae, world = trained
    totals = evaluate(sae, [world.draw(4000, "held out")])
    first, second = totals.fvu_by_part(SITES)
    assert max(first, second) < 0.35, (first, second)
    assert totals.fvu == pytest.approx(second, rel=0.01)  # raw, the large site is nearly all of the variance
    assert (norms(sae) >= 0).all()


def test_refusals(tmp_path):
    for settings, match in (
        ({"sites": (4, 3)}, "sum to d_in"),
        ({"sites": (8,)}, "sum to d_in"),
        ({"sites": (8, 0)}, "sum to d_in"),
        ({"sites": (4, 4), "tied": True}, "tied"),
    ):
        with pytest.raises(ConfigError, match=match):
            SAE(SAEConfig(8, 16, 2, **settings))
    config = TrainConfig(steps=3, batch=8)
    rows = torch.randn(20, 4, generator=rng.stream(0, "rows"))
    uneven = [from_rows(rows, config), from_rows(rows, TrainConfig(batch=4))]
    with pytest.raises(ConfigError, match="8 and 4 rows"):
        train(SAEConfig(8, 16, 2, sites=(4, 4)), beside(uneven), config, tmp_path)
    with pytest.raises(ConfigError, match=r"4 \+ 5 units"):
        train(SAEConfig(9, 16, 2, sites=(4, 5)), beside([from_rows(rows, config)] * 2), config, tmp_path)
    flat = beside([from_rows(rows, config), from_rows(torch.ones(20, 4), config)])
    with pytest.raises(NonFiniteError, match="site 2 are constant"):
        train(SAEConfig(8, 16, 2, sites=(4, 4)), flat, config, tmp_path)


def store(root, tokens: Tensor) -> ActivationStore:
    writer = ShardWriter(root, HarvestPlan({"mlp": 4}, "float32", root.name, "data", {}))
    values = torch.randn(len(tokens), 4, generator=rng.stream(0, root.name))
    position = torch.arange(len(tokens))
    writer.append(Rows({"mlp": values}, tokens, position * 0, position), [], 1)
    return writer.finish()


def test_sites_of_different_stores_need_the_same_rows(tmp_path):
    config = TrainConfig(steps=3, batch=8)
    tokens = torch.arange(40)
    first, second, other, longer = (
        store(tmp_path / name, t)
        for name, t in (("a", tokens), ("b", tokens), ("c", tokens + 1), ("d", torch.arange(41)))
    )
    batch = next(from_stores([(first, "mlp"), (second, "mlp")], config)(0))
    rows = (first.values("mlp") - batch[:, None, :4]).abs().sum(2).argmin(1)
    assert torch.equal(batch, torch.cat([first.values("mlp", rows), second.values("mlp", rows)], 1))
    with pytest.raises(ConfigError, match="differ in tokens"):
        from_stores([(first, "mlp"), (other, "mlp")], config)
    with pytest.raises(ConfigError, match=r"40 rows and .* with 41"):
        from_stores([(first, "mlp"), (longer, "mlp")], config)
