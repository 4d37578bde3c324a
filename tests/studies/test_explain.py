"""`digon explain` without a language model: on networks, shards, latents and directions; on text that is too short."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from digon.cli import main
from digon.coders import formats
from digon.coders.sae import SAE, SAEConfig
from digon.errors import ConfigError, ModelError, NonFiniteError, PathError, SiteError
from digon.explain import split_of
from digon.hosts.load import load_host
from digon.records import Series, UnitCard
from digon.store.runs import Run
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from digon.studies.explaining.choice import choose
from digon.studies.explaining.desk import Desk, side_of
from digon.studies.explaining.settings import ExplainConfig, Spending, WordsConfig
from digon.studies.explaining.study import run_explain
from digon.studies.explaining.texts import acting
from digon.studies.sources import Directions, Latents, Neurons

SITE = "layers.1.mlp.act"
SOME = ("constant", "look-up of 5", "token look-up", "n-grams", "N2G+")


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
    assert main([*words, "--rungs", *SOME]) == 0
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
    explain(shards, copy, rungs=SOME, host=str(tiny), units="sample:5")
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert json.loads((copy / "stages.json").read_text())["explain layers.0.mlp.act/00000"] == stages["explain layers.0.mlp.act/00000"]  # fmt: skip


def test_processes_write_what_one_process_writes(explained, shards, tiny, tmp_path):
    config = ExplainConfig(target=str(shards), host=str(tiny), units="sample:5", rungs=SOME)
    run_explain(config, WordsConfig(), Spending(workers=2), tmp_path / "run", lambda line: None)
    for site in ("layers.0.mlp.act", SITE):
        name = f"{site}/00000.json"
        assert (tmp_path / "run" / "cards" / name).read_bytes() == (explained / "cards" / name).read_bytes()
        assert (tmp_path / "run" / "chosen" / name).read_bytes() == (explained / "chosen" / name).read_bytes()
    seconds = [stage["seconds"] for name, stage in Run.open(tmp_path / "run").stages().items() if "explain" in name]
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_fewer_than_no_processes_are_refused():
    with pytest.raises(ConfigError, match="-1 processes"):
        Spending(workers=-1)


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


def test_explained_units_are_counted_beside_chance(tmp_path):
    """Units that are a few tokens each, and as many that hardly are: the first are counted, and chance brings few."""
    n, g = 6000, torch.Generator().manual_seed(5)
    tokens = torch.arange(n) % 97
    planted = torch.stack([torch.isin(tokens, torch.tensor([u, u + 20, u + 45])).float() for u in range(4)], 1)
    faint = torch.rand(n, 4, generator=g) + 0.3 * (tokens[:, None] % 2)
    store = made_store(tmp_path / "shards", 60, torch.cat([planted, faint], 1), vocabulary=97)
    explain(store, tmp_path / "run", rungs=("token look-up",), units="all", coverage=False)
    table = Run(tmp_path / "run").read_table("measurements")
    value = {
        name: (table["value"][i], table["null"][i], table["n"][i]) for i, name in enumerate(table["name"].tolist())
    }
    assert value["units_above_0.8"][0] == 4
    assert value["units_above_0.8"][2] == 8
    assert value["units_above_0.8"][1] < 0.5
    assert value["false_discovery_0.8"][0] < 0.2
    said = " ".join(s["text"] for s in Run(tmp_path / "run").read_json("overview", dict)["sentences"])
    assert "4 of 8 units have an explanation in patterns with ρ ≥ 0.8" in said


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
    assert total.histogram.edges[-1] == pytest.approx(float(side_of(sums, total.sign).max()), rel=1e-5)
    sae = SAE(SAEConfig(width, 32, 4, activation="topk", seed=0))
    formats.save(sae, tmp_path / "sae")
    explain(shards, tmp_path / "l", host=str(tiny), site=SITE, units="top:3", latents=tmp_path / "sae")
    cards = cards_of(tmp_path / "l", f"{SITE}.sae")
    assert [card.kind for card in cards] == ["latent"] * 3
    with torch.inference_mode():
        codes = sae.encode(values)
    for card in cards:
        column = torch.where(codes.indices == card.index, codes.values, 0.0).sum(1)
        assert card.histogram.edges[-1] == pytest.approx(float(side_of(column, card.sign).max()), rel=1e-4)
    formats.save(SAE(SAEConfig(5, 8, 2)), tmp_path / "other")
    with pytest.raises(SiteError, match="trained on"):
        explain(shards, tmp_path / "m", host=str(tiny), site=SITE, latents=tmp_path / "other")


@pytest.fixture(scope="module")
def axes(tmp_path_factory, shards):
    """Folders with an autoencoder whose latents are the neurons, 50 higher, and with directions that are neurons 4 and 5."""
    out, width = tmp_path_factory.mktemp("axes"), ActivationStore.open(shards).sites[SITE]
    sae = SAE(SAEConfig(width, width, 4, activation="relu"))
    with torch.no_grad():
        for matrix in (sae.W_dec, sae.W_enc):
            matrix.copy_(torch.eye(width))
        sae.b_enc.fill_(50.0)
        sae.b_dec.zero_()
    formats.save(sae, out / "sae")
    save_file({"directions": torch.eye(width)[4:6].contiguous()}, out / "same.safetensors")
    return out


def test_latents_and_directions_are_ablated_as_the_neurons_that_they_are(axes, shards, tiny, tmp_path):
    def scored(name, site, **settings):
        explain(shards, tmp_path / name, host=str(tiny), site=SITE, ablation=True, **settings)
        return [
            next(e.score.ablation for e in card.explanations if e.explainer == "token look-up")
            for card in cards_of(tmp_path / name, site)
        ]

    neurons = scored("n", SITE, units="4:6")
    directions = scored("d", f"{SITE}.same", units="all", directions=axes / "same.safetensors")
    latents = scored("l", f"{SITE}.sae", units="4:6", latents=axes / "sae")
    for neuron, direction, latent in zip(neurons, directions, latents, strict=True):
        assert 0 < neuron.value < 1
        assert direction.value == pytest.approx(neuron.value, abs=1e-5)
        assert latent.value == pytest.approx(neuron.value, abs=0.01)
        assert "written by its atom" in latent.method


def test_latents_act_on_new_texts_as_on_harvested_ones(axes, shards, tiny, texts):
    host, store = load_host(str(tiny)), ActivationStore.open(shards)
    text = (texts / "000.txt").read_text()
    width = store.sites[SITE]
    coder = formats.load(axes / "sae")
    latents = Latents("sae", *(torch.zeros(0, dtype=torch.long), torch.zeros(0)), torch.zeros(width + 1, dtype=torch.long), 0,
                      torch.eye(width), place=SITE, coder=coder)  # fmt: skip
    neuron = acting(host, Neurons(store, SITE), 4, 1, 0.0)([text])[0]
    latent = acting(host, latents, 4, 1, 0.0)([text])[0]
    assert latent.tokens == neuron.tokens
    assert latent.activations == pytest.approx([a + 50 for a in neuron.activations], abs=1e-4)
    assert max(neuron.activations) > min(neuron.activations)
    assert acting(host, replace(latents, coder=None), 4, 1, 0.0) is None


def test_directions_with_what_they_write(shards, tmp_path):
    store = ActivationStore.open(shards)
    reads, writes = torch.eye(24)[:2], torch.eye(24)[:2] * 3 + torch.eye(24)[2:4]
    path = tmp_path / "directions.safetensors"
    save_file({"directions": reads, "writes": writes, "theta": torch.zeros(2, 7)}, path)
    handle = Directions.read(path, store, SITE).handle(1)
    assert torch.allclose(handle.write, writes[1] / 3)  # a step of 1 is one of what is read
    for wrong, said in ((torch.eye(24)[2:4], "leaves what it reads"), (torch.ones(2, 5), r"holds writes \[2, 5\]")):
        save_file({"directions": reads, "writes": wrong.contiguous()}, path)
        with pytest.raises(ConfigError, match=said):
            Directions.read(path, store, SITE)
    save_file({"directions": reads, "writes": writes * math.nan}, path)
    with pytest.raises(NonFiniteError):
        Directions.read(path, store, SITE)


def test_latents_of_another_site_are_refused_and_those_of_two_not_ablated(shards, tiny, tmp_path):
    here = tmp_path / "shards"
    shutil.copytree(shards, here)
    first = "layers.0.mlp.act"
    words = ["--site", first, "--target-site", SITE, "--l0", "3", "--latents", "32", "--steps", "5", "--batch", "64"]
    assert main(["decode", str(here), *words]) == 0
    folder = next(path.parent for path in here.rglob("about.json"))
    with pytest.raises(SiteError, match="does not read"):
        explain(here, tmp_path / "a", site=SITE, latents=folder)
    more = {"latents": folder, "ablation": True, "units": "0:3"}
    found = explain(here, tmp_path / "b", host=str(tiny), site=first, **more)
    assert any("is not ablated" in sentence for sentence in found["sentences"])
    assert all(e.score.ablation is None for card in cards_of(tmp_path / "b", "*") for e in card.explanations)


def test_choices_of_units():
    table = {
        "density": np.array([0.1, 0.0, 0.3, 0.2]),
        "eta2": np.array([0.1, 0.9, np.nan, 0.2]),
        "polysemantic": np.zeros(4, bool),
    }
    assert choose("top:2", 4, "s", 0, table, "density") == [2, 3]
    assert choose("top:9", 4, "s", 0, table, "eta2") == [0, 3]  # 1 never fires, 2 has no number
    assert choose("all", 3, "s", 0) == [0, 1, 2]
    assert choose("2,0:2,1", 4, "s", 0) == [0, 1, 2]
    assert len(choose("sample:3", 10, "s", 0)) == 3
    assert choose("sample:3", 10, "s", 0) == choose("sample:3", 10, "s", 0) != choose("sample:3", 10, "s", 1)
    for wrong in ("", "x", "top:0", "5:3", "1,99", "-1", "0:99999999999999", "top:x"):
        with pytest.raises(ConfigError):
            choose(wrong, 10, "s", 0, table, "density")
    with pytest.raises(ConfigError, match="no column 'densitty'"):
        choose("top:1", 4, "s", 0, table, "densitty")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"site": "layers.9.*"}, SiteError, "no harvested site fits"),
        ({"units": "9999"}, ConfigError, "unit 9999 is not in"),
        ({"units": "top:3", "by": "beauty"}, ConfigError, "no column 'beauty'"),
        ({"directions": "nowhere"}, SiteError, "2 sites"),
        ({"directions": "nowhere", "site": SITE}, PathError, "no directions at"),
        ({"host": "nowhere"}, ModelError, "nowhere"),
        ({"latents": "nowhere", "site": SITE}, PathError, "no SAE at"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(shards, tmp_path, settings, error, said):
    from pathlib import Path

    given = {k: Path(v) if k in ("directions", "latents") else v for k, v in settings.items()}
    with pytest.raises(error, match=said):
        explain(shards, tmp_path / "run", **given)


def test_bad_directions_and_another_place_for_results(shards, tmp_path):
    save_file({"a": torch.zeros(2, 5)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ConfigError, match=r"holds a \[2, 5\]"):
        explain(shards, tmp_path / "run", site=SITE, directions=tmp_path / "narrow.safetensors")
    save_file({"a": torch.full((1, 24), math.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(NonFiniteError):
        explain(shards, tmp_path / "run", site=SITE, directions=tmp_path / "nan.safetensors")
    with pytest.raises(ConfigError, match="together"):
        ExplainConfig(target="x", latents=tmp_path, directions=tmp_path)


def test_interrupted_anywhere_it_ends_as_if_it_had_not_been(explained, shards, tiny, tmp_path, monkeypatch):
    out, seen = tmp_path / "run", []
    whole = Desk.explain

    def interrupted(self, values, *rest, **more):
        seen.append(values.shape)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(self, values, *rest, **more)

    monkeypatch.setattr(Desk, "explain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain(shards, out, rungs=SOME, host=str(tiny), units="sample:5")
    explain(shards, out, rungs=SOME, host=str(tiny), units="sample:5")
    assert len(seen) == 3  # the first site was not explained again
    for name in ("cards", "chosen"):
        for path in (explained / name).rglob("*.json"):
            assert (out / path.relative_to(explained)).read_bytes() == path.read_bytes()
    for name in ("units.parquet", "explanations.parquet", "curves.json", "overview.json"):
        assert (out / name).read_bytes() == (explained / name).read_bytes()


def test_the_network_is_asked_what_a_unit_does(tiny, texts, tmp_path):
    config = ExplainConfig(
        str(tiny),
        site=SITE,
        units="0:3",
        data=str(texts),
        tokens=4000,
        ablation=True,
        rungs=("constant", "token look-up"),
    )
    found = run_explain(config, WordsConfig(), Spending(), tmp_path / "run", lambda line: None)
    cards = cards_of(tmp_path / "run")
    assert (tmp_path / "run" / "activations" / "manifest.json").is_file()
    assert found["failed"] == []
    for card in cards:
        assert card.promotions
        scores = {e.explainer: e.score.ablation for e in card.explanations}
        assert scores["constant"] is None  # it never varies: there is nothing to put in the unit's place but the mean
        assert 0 < scores["token look-up"].value <= 1
        assert "Jensen" in scores["token look-up"].method
    assert Run(tmp_path / "run").read_json("facts", dict)["model"]["path"] == str(tiny)
    kept = np.mean([e.score.ablation.value for c in cards for e in c.explanations if e.explainer == "token look-up"])
    assert any(f"the values of token look-up keep {kept:.3g}" in sentence for sentence in found["sentences"])
