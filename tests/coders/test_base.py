import math

import pytest
import torch

from digon import rng
from digon.coders import classic
from digon.coders.base import evaluate
from digon.coders.sae import SAE, SAEConfig


def test_totals_of_a_coder_that_knows_half():
    # x ~ N(1000, 1) in 4 units; an orthonormal pair of atoms keeps half of the variance around the bias.
    x = 1000 + torch.randn(4000, 4, generator=rng.stream(0, "x"))
    totals = evaluate(classic.pca(x, 2, 0), x.split(333))
    assert totals.rows == 4000
    assert totals.spread == pytest.approx(float((x.double() - x.double().mean(0)).square().sum()), rel=1e-6)
    assert totals.fvu == pytest.approx(0.5, abs=0.02)


def test_spread_does_not_depend_on_the_batches():
    x = torch.randn(1000, 3, generator=rng.stream(1, "x")) + torch.arange(1000)[:, None] / 100
    whole, pieces = (evaluate(classic.identity(3), x.split(size)) for size in (1000, 37))
    assert whole.spread == pytest.approx(pieces.spread, rel=1e-12)
    assert whole.fvu == 0


def test_firing_counts():
    sae = SAE(SAEConfig(d_in=3, width=16, l0=1))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[2, 0], sae.W_enc[5, 1] = 1.0, 1.0
    x = torch.tensor([[1.0, 0, 0], [2.0, 1.0, 0], [0, 3.0, 0], [-1.0, -1.0, 0]])
    totals = evaluate(sae, x.split(3))
    assert totals.fires.tolist() == [0, 0, 2, 0, 0, 1] + [0] * 10
    assert totals.l0 == 0.75
    assert totals.dead_share == 14 / 16
    assert totals.density[2] == 0.5


def test_nothing_seen_is_nan():
    totals = evaluate(classic.identity(2), [])
    assert math.isnan(totals.fvu)
    assert math.isnan(totals.l0)
    assert math.isnan(totals.dead_share)
    assert totals.density.isnan().all()
