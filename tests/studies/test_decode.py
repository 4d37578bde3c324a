"""`digon decode` on a planted store: autoencoders, transcoders and crosscoders."""

import json

import pytest
import torch

from digon import rng
from digon.cli import main
from digon.coders import formats
from digon.coders.base import evaluate_pairs
from digon.coders.sae import Target
from digon.coders.sae.sites import sharing
from digon.coders.train import TrainConfig, recommended, train_many
from digon.store import weights
from digon.store.shards import ActivationStore, HarvestPlan, Rows, ShardWriter
from digon.studies.sources import Latents


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Sites a (8 units), b (6) and c (4), all made of the same sparse features."""
    root = tmp_path_factory.mktemp("decode") / "store"
    sizes = {"a": 8, "b": 6, "c": 4}
    writer = ShardWriter(root, HarvestPlan(sizes, "float32", "model", "data", {}))
    rows = torch.arange(600)
    documents = [f"document {i}" for i in range(60)]
    codes = torch.rand(600, 12, generator=rng.stream(0, "on")).lt(0.12) * 1.0
    values = {name: codes @ torch.randn(12, d, generator=rng.stream(0, name)) for name, d in sizes.items()}
    writer.append(Rows(values, rows, rows // 10, rows % 10), documents, 1)
    writer.finish()
    return root


def run(shards, capsys, *words: str) -> dict:
    base = ["decode", str(shards), "--l0", "2", "--latents", "16", "--steps", "20", "--batch", "64", "--json"]
    code = main([*base, *words])
    captured = capsys.readouterr()
    return json.loads(captured.out or captured.err) | {"code": code}


def test_a_transcoder(shards, capsys):
    found = run(shards, capsys, "--site", "a", "--target-site", "b", "--skip")
    folder = shards / "sae/a-to-b-skip.batchtopk-16-l0-2"
    assert found["weights"] == str(folder)
    assert "SAELens" in found["use"]
    sae, store = formats.load(folder), ActivationStore.open(shards)
    assert sae.config.target == Target(6, skip=True)
    totals = evaluate_pairs(sae, [(store.values("a"), store.values("b"))])
    assert f"{100 * totals.fvu:.1f} % of the variance of b unexplained" in found["sentences"][-1]
    codes = Latents.load(folder / "codes.safetensors", "a.sae", 600)
    torch.testing.assert_close(codes.columns(0, 16), sae.encode(store.values("a")).dense())


def test_a_crosscoder(shards, capsys):
    found = run(shards, capsys, "--site", "a", "--cross-sites", "b", "c", "--activation", "topk")
    folder = shards / "sae/a+b+c.topk-16-l0-2"
    sae, store = formats.load(folder), ActivationStore.open(shards)
    assert sae.config.sites == (8, 6, 4)
    scales = [float((v - v.mean(0)).square().mean().sqrt()) for v in map(store.values, "abc")]
    assert sae.site_scale.tolist() == pytest.approx(scales, rel=0.1)
    kept = weights.read_tensors(folder / "sharing.safetensors")["share"]
    assert torch.equal(kept, sharing(sae).share)
    assert all(word in found["sentences"][-1] for word in ("belong to a alone", "variance of c", "are shared"))
    codes = Latents.load(folder / "codes.safetensors", "a+b+c.sae", 600)
    x = torch.cat([store.values(site) for site in "abc"], 1)
    torch.testing.assert_close(codes.columns(0, 16), sae.encode(x).dense())


def test_refinements_are_kept_and_other_tools_refuse_them(shards, capsys):
    found = run(shards, capsys, "--site", "a", "--refinements", "2")
    assert "SAELens" not in found["use"]
    folder = shards / "sae/a.recommended-refined2-16-l0-2"
    assert formats.load(folder).config.refinements == 2
    cfg = json.loads((folder / "cfg.json").read_text())
    assert cfg["architecture"] == "refined_jumprelu"


@pytest.mark.parametrize(
    ("words", "name", "nested"),
    [
        ((), "a.recommended-16-l0-2", True),
        (("--recipe", "flat"), "a.flat-16-l0-2", False),
        (("--recipe", "plain"), "a.batchtopk-16-l0-2", False),
        (("--activation", "gated"), "a.gated-16-l0-2", False),
        (("--prefixes", "4", "--seed", "3"), "a.batchtopk-nested-16-l0-2", True),
    ],
)
def test_the_recipe_is_the_recommended_one_unless_something_else_is_said(
    shards, capsys, monkeypatch, words, name, nested
):
    asked: list[TrainConfig] = []

    def spy(wanted, batches, training, **rest):
        asked.append(training)
        return train_many(wanted, batches, training, **rest)

    monkeypatch.setattr("digon.studies.decode.train_many", spy)
    found = run(shards, capsys, "--site", "a", "--precision", "bfloat16", *words)
    assert found["weights"] == str(shards / "sae" / name)
    sae = formats.load(shards / "sae" / name).config
    assert (sae.nested is not None) == nested
    how = TrainConfig(steps=20, batch=64, seed=sae.seed, device="cpu", precision="bfloat16")
    if name.startswith(("a.recommended", "a.flat")):
        wanted, how = recommended(8, 16, 2, how, sae.seed, flat=not nested)
        assert sae == wanted
    assert asked == [how]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--site", "a", "--target-site", "b", "--cross-sites", "c"], "together with"),
        (["--site", "a", "--skip"], "--skip without"),
        (["--site", "a", "--target-site", "a"], "same site twice"),
        (["--site", "a", "--target-site", "bb"], "no activations of site 'bb'"),
        (["--site", "a", "--cross-sites", "b", "b"], "same site twice"),
        (["--site", "a", "--target-site", "b", "--tied"], "tied weights"),
        (["--site", "a", "--refinements", "-1"], "refinements = -1"),
        (["--site", "a", "--recipe", "flat", "--activation", "topk"], "--recipe flat together with"),
    ],
)
def test_refusals(shards, capsys, words, problem):
    found = run(shards, capsys, *words)
    assert found["code"] == 2
    assert problem in found["error"]
    assert found["expected"]
