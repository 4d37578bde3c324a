"""What a dictionary is worth: on a network small enough to be trained here, and on worlds whose features are known."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from digon.coders.sae import SAE, SAEConfig
from digon.errors import ConfigError
from digon.hosts.corpus import read_corpus
from digon.hosts.load import load_host
from digon.records import Measurement
from digon.store.runs import Run
from digon.store.shards import ActivationStore
from digon.studies import dictionaries
from digon.studies.decode import decode_run
from digon.studies.dictionaries import host as network
from digon.studies.dictionaries import latents, probes, seeds, truth, worlds
from digon.studies.settings import DecodeConfig
from digon.studies.steps import harvest_to

SITE = "layers.1.mlp.act"


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Less text than a real run reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "TOKENS", 1200)
        patch.setattr(probes, "ROWS", 900)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny, texts):
    out = tmp_path_factory.mktemp("harvest") / "activations"
    harvest_to(out, model=str(tiny), data=texts, site=SITE, tokens=4000, seed=0, device="cpu")
    return ActivationStore.open(out)


@pytest.fixture(scope="module")
def host(tiny):
    return load_host(tiny)


@pytest.fixture(scope="module")
def text(host, texts, store):
    return network.fresh_text(host, read_corpus(texts), store, 0)


def named(path, name):
    return {m.name: m for m in Run(path).read_json(name, list[Measurement])}


def measured(host, text, **new):
    site = host.sites(SITE)[0]
    ends = {"zero": torch.zeros_like, "mean": lambda x: x.mean(0).expand_as(x), "random": torch.zeros_like}
    return network.measure(host, text, site, {**ends, **new})


def test_fresh_contexts_were_not_harvested(host, texts, store, text):
    room = int(store.plan.settings["context"]) - 1
    pairs = zip(store.documents.tolist(), store.positions.tolist(), strict=True)
    held = {(store.document_ids[document], position // room) for document, position in pairs}
    assert text.fresh
    assert len(text.ids) > 20
    assert not held & set(text.places)
    documents = {d.id: d.text for d in read_corpus(texts)}
    for ids, (document, number) in zip(text.ids, text.places, strict=True):
        whole = host.tokenizer.encode_batch([documents[document]])[0]
        assert ids[1:].tolist() == whole[number * room : (number + 1) * room]


def test_the_identity_loses_nothing_and_the_clean_loss_is_the_networks_own(host, text):
    sums, errors = measured(host, text, sae=lambda x: x)
    assert sums is not None
    tokens, clean, _, patched, moved = sums.sum(0)[:5].tolist()
    assert patched == pytest.approx(clean, rel=1e-12)
    assert moved == 0
    assert float(errors.sum(0)[0]) == 0
    own, count = 0.0, 0
    for ids in text.ids:
        logits = host.forward(torch.from_numpy(ids)[None])[0].double()
        own += float(F.cross_entropy(logits[1:-1], torch.from_numpy(ids[2:]), reduction="sum"))
        count += len(ids) - 2
    assert tokens == count
    assert clean == pytest.approx(own, rel=1e-5)


def test_only_text_is_replaced(host, text):
    rows: list[int] = []

    def count(x):
        rows.append(len(x))
        return x

    measured(host, text, sae=count)
    assert sum(rows) == sum(len(ids) - 1 for ids in text.ids)  # the frame stays as it is


def test_the_ablations_are_the_ends_of_the_scale(host, text):
    sums, errors = measured(host, text, sae=lambda x: x.mean(0).expand_as(x))
    assert sums is not None
    found = {m.name: m for m in network._measurements(sums, errors, text, torch.Generator().manual_seed(0))}
    assert found["ce_recovered_mean"].value in (pytest.approx(0, abs=1e-9), pytest.approx(math.nan, nan_ok=True))
    assert found["kl_recovered"].value == pytest.approx(0, abs=1e-9)
    assert found["fvu_fresh"].value == pytest.approx(1)
    exact, none = measured(host, text, sae=lambda x: x)
    assert exact is not None
    found = {m.name: m for m in network._measurements(exact, none, text, torch.Generator().manual_seed(0))}
    assert found["kl_recovered"].value == 1
    assert found["kl"].null > 0
    assert found["ce_rise"].value == pytest.approx(0, abs=1e-12)


def test_a_network_that_predicts_no_tokens_has_no_loss(host, text, store, texts, tmp_path):
    silent = dataclasses.replace(host, forward_fn=lambda ids, mask: host.model.stream(ids))
    assert measured(silent, text, sae=lambda x: x)[0] is None
    sae = SAE(SAEConfig(24, 32, 4)).requires_grad_(False)
    network.write_host(Run(tmp_path), sae, store, silent, read_corpus(texts), host.sites(SITE)[0], 0)
    assert named(tmp_path, "host") == {}


def test_all_contexts_harvested_is_said(host, texts, tiny, tmp_path):
    some, out = tmp_path / "some", tmp_path / "activations"
    some.mkdir()
    for number in range(3):
        (some / f"{number}.txt").write_text((texts / f"00{number}.txt").read_text())
    harvest_to(out, model=str(tiny), data=some, site=SITE, tokens=10**6, seed=0, device="cpu")
    found = network.fresh_text(host, read_corpus(some), ActivationStore.open(out), 0)
    assert not found.fresh
    assert found.ids


def test_decoding_with_a_network_writes_everything_once(tmp_path, tiny, texts, store):
    run = tmp_path / "run"
    run.mkdir()
    (run / "activations").symlink_to(store.root)
    config = DecodeConfig(run, SITE, (4,), 32, steps=6, batch=256, seeds=3, model=str(tiny), data=str(texts))
    result = decode_run(config)
    folder = run / f"sae/{SITE}.recommended-32-l0-4"
    names = {p.name for p in folder.iterdir()}
    assert {"about.json", "latents.parquet", "geometry.json", "measured.json", "host.json", "probes.parquet"} <= names
    assert {"stability.json", "probes.json"} <= names
    assert "truth.json" not in names
    assert [row["dictionary"] for row in result["dictionaries"]] == [
        f"{folder.name}{end}" for end in ("", "-seed-1", "-seed-2")
    ]
    assert {"fvu", "l0", "KL, nats", "stability"} <= set(result["dictionaries"][0])
    agreed = named(folder, "stability")["stability"]
    assert agreed.low <= agreed.value <= agreed.high
    concepts = set(Run(folder).read_table("probes")["concept"])
    assert {"digit", "word start"} <= concepts
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    stages = json.loads((folder / "stages.json").read_text())
    (folder / "stages.json").write_text(json.dumps({k: v for k, v in stages.items() if k != "probes"}))
    bytes_before = (folder / "probes.json").read_bytes()
    decode_run(config)
    same = {p.name for p, at in before.items() if p.stat().st_mtime_ns == at}
    assert {"measured.json", "host.json", "geometry.json"} <= same
    assert "probes.json" not in same
    assert (folder / "probes.json").read_bytes() == bytes_before


def test_without_the_right_network_it_says_so(tmp_path, store, texts, tiny):
    run = tmp_path / "run"
    run.mkdir()
    (run / "activations").symlink_to(store.root)
    config = DecodeConfig(run, SITE, (4,), 32, steps=2, batch=256)
    assert "give it by --model" in decode_run(config)["sentences"][0]
    assert not list(run.glob("sae/*/host.json"))
    (tmp_path / "other.txt").write_text("other text")
    with pytest.raises(ConfigError, match="not what was harvested"):
        decode_run(
            DecodeConfig(run, SITE, (4,), 32, steps=2, batch=256, model=str(tiny), data=str(tmp_path / "other.txt"))
        )
    with pytest.raises(ConfigError, match="0 seeds"):
        DecodeConfig(run, SITE, seeds=0)


NAME = "world:tree?features=12&d=24&roots=0&rank=0&most=0.2&least=0.05"


@pytest.fixture(scope="module")
def world_store(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "activations"
    worlds.harvest_world(out, NAME, 3000, 0)
    return ActivationStore.open(out)


def test_a_world_is_harvested_and_known_again(world_store, tmp_path):
    world = worlds.world_of(world_store)
    assert world is not None
    assert world.config.features == 12
    x = next(iter(world.samples(worlds.SHARD, 0))).x[:3000]
    assert torch.equal(world_store.values("world"), x)
    assert len(world_store.document_ids) == -(-3000 // worlds.DOCUMENT)
    assert worlds.judged_stream(world_store) == 1
    for wrong in ("world:forest", "world:tree?leaves=3", "world:tree?d=many"):
        with pytest.raises(ConfigError):
            worlds.harvest_world(tmp_path / "w", wrong, 10, 0)


def exact(world, atoms):
    """The dictionary that reads features off orthogonal directions."""
    sae = SAE(SAEConfig(atoms.shape[1], len(atoms), None, "relu"))
    with torch.no_grad():
        sae.W_dec.copy_(atoms)
        sae.W_enc.copy_(torch.linalg.pinv(world.dictionary.atoms).T.repeat(len(atoms) // 12, 1)[: len(atoms)])
        sae.b_enc.fill_(-1e-3)
        sae.b_dec.copy_(world.dictionary.bias)
    return sae.requires_grad_(False)


def test_the_right_dictionary_and_copies_against_the_truth(world_store, tmp_path):
    world = worlds.world_of(world_store)
    assert world is not None
    atoms = world.dictionary.atoms
    copies = exact(world, atoms[[0] * 12])
    with torch.no_grad():
        copies.W_enc.copy_(torch.linalg.pinv(atoms).T[[0] * 12])
    for name, sae, twins in (("right", exact(world, atoms), 0.0), ("copies", copies, 1.0)):
        run = Run(tmp_path / name)
        truth.write_truth(run, sae, world, 1)
        scores = named(run.path, "truth")
        assert scores["f1"].value == pytest.approx(1, abs=5e-3) if name == "right" else scores["f1"].value < 0.2
        assert scores["f1"].low <= scores["f1"].value <= scores["f1"].high
        codes = latents.Latents.encode(sae, world_store, "world", "cpu")
        latents.write_latents(run, sae, codes, world_store, "world", 0)
        found = named(run.path, "measured")
        assert found["twin_share"].value == twins
        suspects = found["absorption_suspects"]
        assert suspects.value == suspects.low == 0
        assert 0.1 < suspects.high < 0.35  # of twelve latents none
        assert np.isnan(scores["mcc"].low)  # directions alone: no rows enter
        if name == "right":
            assert found["fvu"].value < 1e-3
            assert set(run.read_table("truth")["label"]) == {"fine"}
            x = world_store.values("world")
            mine = float((x - sae.decode(sae.encode(x))).square().sum() / (x - x.mean(0)).square().sum())
            assert found["fvu"].value == pytest.approx(mine, rel=1e-3)
    chance = run.read_json("geometry", dict)["chance"]
    assert sum(chance["nearest"]) == pytest.approx(1)


def test_agreement_of_trainings(tmp_path):
    atoms = F.normalize(torch.randn(20, 30, generator=torch.Generator().manual_seed(0)), dim=1)
    runs = [Run(tmp_path / str(i)) for i in range(3)]
    seeds.write_stability(runs, [atoms, atoms.flip(0), atoms[torch.arange(20).roll(3)]], 0)
    same = named(runs[2].path, "stability")
    assert same["stability"].value == pytest.approx(1, abs=1e-5)
    assert same["stability_close"].value == 1
    assert same["stability"].null < 0.6
    others = [F.normalize(torch.randn(20, 30, generator=torch.Generator().manual_seed(i)), dim=1) for i in (1, 2)]
    seeds.write_stability(runs[:2], others, 0)
    apart = named(runs[0].path, "stability")["stability"]
    assert apart.value == pytest.approx(apart.null, abs=0.1)
    assert np.isnan(apart.low)


def test_a_folder_of_shards_becomes_a_run_with_a_page(tmp_path):
    from digon.page.build import build, collect

    worlds.harvest_world(tmp_path / "acts", NAME, 1000, 0)
    decode_run(DecodeConfig(tmp_path / "acts", "world", (2,), 16, steps=3, batch=128))
    data = collect(Run.open(tmp_path / "acts"))
    assert data["dictionaries"][0]["failures"]
    assert build(tmp_path / "acts").is_file()
    assert dictionaries.summary(tmp_path / "acts/sae/world.recommended-16-l0-2")["F1"]
