"""Every activation finds planted features and hits its l0 when deployed."""

import json

import pytest

from digon.coders.base import evaluate
from digon.coders.sae import SAEConfig
from digon.coders.train import METRICS, TrainConfig, train

ALL = ("relu", "topk", "batchtopk", "jumprelu", "gated")


@pytest.fixture(scope="module", params=ALL)
def recovered(request, tmp_path_factory, Planted):
    out = tmp_path_factory.mktemp(request.param) / "sae"
    shape = SAEConfig(16, 64, 2, request.param, dead_after=20_000)
    sae = train(shape, Planted(density=2 / 32), TrainConfig(steps=1500, l0_start=4.0), out)
    return sae, Planted(density=2 / 32), [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def share_found(sae, planted) -> float:
    return float(((planted.directions @ sae.dictionary.atoms.T).max(1).values > 0.9).float().mean())


def test_planted_features_are_recovered(recovered):
    sae, planted, _ = recovered
    assert share_found(sae, planted) > 0.85


def test_deployed_l0_is_that_of_training_and_near_its_target(recovered):
    sae, planted, lines = recovered
    totals = evaluate(sae, [planted.draw(1024, "held out", i) for i in range(8)])
    assert totals.l0 == pytest.approx(2, rel=0.15)
    assert totals.l0 == pytest.approx(lines[-1]["l0"], rel=0.1)
    assert lines[-1]["deployed_l0"] == pytest.approx(totals.l0, rel=0.1)
    assert "warning" not in lines[-1]
