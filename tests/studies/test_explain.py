"""`digon explain` without a language model: on networks, shards, latents and directions; on text that is too short."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from digon.cli import main
from digon.coders import formats
from digon.coders.sae import SAE, SAEConfig
from digon.errors import ConfigError, ModelError, NonFiniteError, PathError, SiteError
from digon.explain import split_of
from digon.records import Series, UnitCard
from digon.store.runs import Run
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from digon.studies.explaining.choice import choose
from digon.studies.explaining.desk import side_of
from digon.studies.explaining.settings import ExplainConfig, Spending, WordsConfig
from digon.studies.explaining.study import run_explain

SITE = "layers.1.mlp.act"


def explain(target, out, rungs=("token look-up", "n-grams"), **settings):
    config = ExplainConfig(target=str(target), rungs=rungs, **settings)
    return run_explain(config, WordsConfig(), Spending(), out, lambda line: None)


@pytest.fixture(scope="session")
def shards(tmp_path_factory, tiny, texts):
    out = tmp_path_factory.mktemp("shards") / "acts"
    words = ["harvest", str(tiny), "--data", str(texts), "--site", "layers.*.mlp.act", "--tokens", "6000"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def explained(tmp_path_factory, shards, tiny):
    out = tmp_path_factory.mktemp("explained") / "run"
    words = ["explain", str(shards), "--host", str(tiny), "--units", "sample:5", "--out", str(out)]
    assert main(words) == 0
    return out


def cards_of(folder, site=SITE):
    return [card for path in sorted(folder.glob(f"cards/{site}/*.json")) for card in Run(folder).read_json(str(path.relative_to(folder).with_suffix("")), list[UnitCard])]  # fmt: skip


def made_store(path, documents, values, vocabulary=7):
    """Shards of one site: every document has the same number of rows."""
    n, width = values.shape
    plan = HarvestPlan({"site": width}, "float32", "world", "text", {})
    writer = ShardWriter(path, plan)
    owner = torch.arange(n) * documents // n
    starts = torch.searchsorted(owner, torch.arange(documents))
    rows = Rows({"site": values}, torch.arange(n) % vocabulary, owner, torch.arange(n) - starts[owner])
    writer.append(rows, [f"document {i}" for i in range(documents)], 1)
    writer.finish()
    return path


def test_units_are_explained_from_some_documents_and_scored_on_others(explained):
    run, cards = Run.open(explained), cards_of(explained)
    assert len(cards) == 5
    for card in cards:
        assert card.explanations
        assert all(e.bits > 0 and e.text for e in card.explanations)
        for e in card.explanations:
            assert e.score is not None
            assert e.score.population is not None
        assert {e.split for e in card.exemplars} <= {"fit", "select", "calibrate", "test"}
        assert all(e.split == split_of(e.document) for e in card.exemplars)
    units = run.read_table("units")
    assert len(units["unit"]) == 10  # of two sites
    assert set(units["has_card"].tolist()) == {True}
    table = run.read_table("explanations")
    assert len(table["unit"]) == sum(
        len(c.explanations) for s in ("layers.0.mlp.act", SITE) for c in cards_of(explained, s)
    )
    assert (explained / "page.html").is_file()


def test_the_curve_rises_with_bits_in_the_mean_of_what_select_prefers(explained):
    curves = Run.open(explained).read_json("curves", list[Series])
    assert [c.name for c in curves] == ["layers.0.mlp.act", SITE]
    for curve in curves:
        assert curve.x == tuple(sorted(curve.x))
        assert all(0 <= y <= 1 for y in curve.y)
        assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))


def test_the_same_call_again_does_nothing_and_after_a_loss_the_same(explained, shards, tiny, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(explained, copy)
    before = {
        p.relative_to(copy): p.read_bytes() for p in copy.rglob("*.json") if p.name not in ("stages.json", "facts.json")
    }
    stages = json.loads((copy / "stages.json").read_text())
    del stages[f"explain {SITE}/00000"]
    (copy / "stages.json").write_text(json.dumps(stages))
    (copy / f"cards/{SITE}/00000.json").unlink()
    explain(shards, copy, rungs=(), host=str(tiny), units="sample:5")
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert json.loads((copy / "stages.json").read_text())["explain layers.0.mlp.act/00000"] == stages["explain layers.0.mlp.act/00000"]  # fmt: skip


def test_a_planted_unit_is_explained_and_noise_is_not(tmp_path):
    g = torch.Generator().manual_seed(0)
    n = 6000
    tokens = torch.arange(n) % 7
    values = torch.stack([(tokens == 3).float(), torch.randn(n, generator=g)], 1)
    explain(made_store(tmp_path / "s", 60, values), tmp_path / "run", units="all")
    planted, noise = cards_of(tmp_path / "run", "site")
    best = max(e.score.population.value for e in planted.explanations if math.isfinite(e.score.population.value))
    assert best == pytest.approx(1.0, abs=1e-3)
    for e in noise.explanations:
        assert not abs(e.score.population.value) > 0.1  # NaN where nothing is predicted
    assert planted.exemplars[0].tokens[0].startswith(" <")  # no network: numbers


def test_units_that_never_fire_and_texts_too_short_stay_in_the_run(tmp_path):
    values = torch.zeros(600, 3)
    values[::7, 1] = 1.0
    explain(made_store(tmp_path / "many", 40, values), tmp_path / "a", units="all")
    silent, firing, _ = cards_of(tmp_path / "a", "site")
    assert all(math.isnan(e.score.top_and_random.value) and e.score.flags for e in silent.explanations)
    assert any(e.score.top_and_random.value > 0.9 for e in firing.explanations)
    found = explain(made_store(tmp_path / "one", 1, values), tmp_path / "b", units="all")
    assert any("fit split" in sentence for sentence in found["sentences"])
    assert len(cards_of(tmp_path / "b", "site")) == 3
    assert main(["page", str(tmp_path / "b")]) == 0


def test_latents_and_directions_are_units_too(tmp_path, shards, tiny):
    store = ActivationStore.open(shards)
    width = store.sites[SITE]
    vectors = torch.zeros(2, width)
    vectors[0, 4] = 1.0
    vectors[1] = 1.0
    save_file({"directions": vectors}, tmp_path / "mine.safetensors")
    explain(shards, tmp_path / "d", host=str(tiny), site=SITE, units="all", directions=tmp_path / "mine.safetensors")
    axis, total = cards_of(tmp_path / "d", f"{SITE}.mine")
    assert axis.kind == "direction"
    values = store.values(SITE)
    assert axis.histogram.edges[-1] == pytest.approx(float(values[:, 4].max()), rel=1e-5)
    sums = values.sum(1)
    side = side_of(sums, total.sign)
