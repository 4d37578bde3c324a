import gzip
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from digon import rng
from digon.errors import ConfigError, CorruptError, PathError
from digon.explain import scorers
from digon.explain.formats import LatentCache, neuronpedia
from digon.explain.splits import split_of
from digon.records import (
    Excerpt,
    Explanation,
    Histogram,
    Measurement,
    Neighbor,
    Promotion,
    Provenance,
    UnitCard,
    to_json,
)

ORIGIN = neuronpedia.Origin("gpt2-small", "6-res-jb", "a-release", creator="me", url="https://example.org")


def excerpt(document, start, stratum, level=None):
    values = (0.5, math.nan, 2.0)
    return Excerpt(document, start, (" a", "bytes:\\xe2", "☺"), values, stratum, split_of(document), level=level)


def card(index=3):
    return UnitCard(
        f"gpt2-small/layers.6.resid#{index}", "layers.6.resid", index, "latent",
        (Measurement("density", 0.0125, method="Neuronpedia"), Measurement("max", 2.0, method="Neuronpedia")),
        Histogram((0.0, 0.5, 1.0, 1.5, 2.0), (9, 4, 0, 1)),
        (excerpt("d1", 64, "top"), excerpt("d2", 0, "random"), excerpt("d3", 128, "quantile", 0), excerpt("d4", 0, "quantile", 1)),
        (Explanation("an llm", "a description", math.nan, provenance=Provenance("gpt", "", "", 0)),),
        neighbors=(Neighbor("gpt2-small/layers.6.resid#9", 0.75),),
        promotions=(Promotion(" the", 0.5), Promotion(" a", -0.25)),
        corpus="some-corpus", levels=(0.99, 0.5),
    )  # fmt: skip


def test_cards_come_back_equal_and_equal_cards_give_equal_files(tmp_path, monkeypatch):
    monkeypatch.setattr(neuronpedia, "BATCH", 2)
    cards = [card(i) for i in range(5)]
    assert neuronpedia.write(tmp_path / "a", cards, ORIGIN) == ()
    folder = tmp_path / "a" / "gpt2-small" / "6-res-jb"
    found = list(neuronpedia.read(folder))
    assert [len(some) for some, _ in found] == [2, 2, 1]
    assert [notes for _, notes in found] == [(), (), ()]
    assert [to_json(c) for some, _ in found for c in some] == [to_json(c) for c in cards]
    neuronpedia.write(tmp_path / "b", cards, ORIGIN)
    for path in folder.rglob("*.jsonl*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    row = json.loads(gzip.decompress((folder / "activations" / "batch-0.jsonl.gz").read_bytes()).splitlines()[0])
    assert (row["layer"], row["maxValue"], row["maxValueTokenIndex"], row["values"][1]) == ("6-res-jb", 2.0, 2, None)
    assert json.loads((folder / "source.jsonl").read_text())["setName"] == "res-jb"


def test_what_the_format_does_not_hold_is_said(tmp_path):
    full = replace(
        card(), kind="direction", sign=-1, measurements=(Measurement("eta2", 0.5), Measurement("density", 0.1, 0.0, 0.2, 9)),
        exemplars=(replace(excerpt("d", 0, "random"), weight=3.0, split="elsewhere"), excerpt("d", 0, "near miss")),
        explanations=(Explanation("look-up", "x", 12.0, provenance=Provenance("m", "address", "digest", 3)),),
        neighbors=(Neighbor("gpt2-small/embed#1", 0.5),), histogram=Histogram((0.0, 1.0, 5.0), (1, 2)),
    )  # fmt: skip
    notes = " | ".join(neuronpedia.write(tmp_path, [full], ORIGIN))
    for lost in ("sign", "a direction", "measurements eta2", "sample of the density", "near misses", "weight", "another seed",
                 "explanations: bits", "only the model", "neighbors at other sites", "unequal edges"):  # fmt: skip
        assert lost in notes, lost


def rows(folder, kind, values, name="batch-0.jsonl.gz"):
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(v) + "\n" for v in values).encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return path


def test_rows_as_the_dashboard_writes_them(tmp_path):
    unit = {"modelId": "gemma", "layer": "5-sae", "index": "17"}
    histogram = {"freq_hist_data_bar_heights": [3, 1.5], "freq_hist_data_bar_values": [0.5, 1.5]}
    rows(tmp_path, "features", [unit | histogram | {"frac_nonzero": 0.01, "decoder_weights_dist": [0.1], "vector": []}])
    bins = [(-1, 9.5, -1), (4.0, 9.0, 0.2), (4.0, 9.0, 0.2), (0.0, 4.0, 0.5), (0, 0, 0), (None, None, None)]
    rows(tmp_path, "activations", [
        unit | {"tokens": ["x"], "values": [1], "binMin": low, "binMax": high, "binContains": share} for low, high, share in bins
    ] + [unit | {"index": 99, "tokens": [], "values": []}], "batch-0.jsonl.gz")  # fmt: skip
    rows(tmp_path, "explanations", [unit | {"description": "latin words", "typeName": "oai_token-act-pair"}])
    [(cards, notes)] = list(neuronpedia.read(tmp_path))
    [found] = cards
    assert found.unit == "gemma/5-sae#17"
    assert [(e.stratum, e.level) for e in found.exemplars] == [
        ("top", None), ("quantile", 0), ("quantile", 0), ("quantile", 1), ("random", None), ("random", None)
    ]  # fmt: skip
    assert found.levels == (4.0, 0.0)
    assert found.histogram is None
    assert found.explanations[0].text == "latin words"
    assert math.isnan({m.name: m.value for m in found.measurements}["max"])
    said = " | ".join(notes)
    assert "decoder_weights_dist is not understood" in said
    assert "the upper end of bands is not understood" in said
    assert "activations of 1 units without a feature" in said


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("features", {"index": "x"}, "'index' is str 'x'"),
        ("features", {"modelId": None}, "'modelId' is NoneType"),
        ("features", {"frac_nonzero": "1%"}, "'frac_nonzero' is str"),
        ("features", {"pos_str": ["a"], "pos_values": []}, "'pos_values' has 0 entries"),
        ("features", {"freq_hist_data_bar_heights": [1]}, "1 heights of bars at 0 values"),
        ("activations", {"tokens": ["a"], "values": [1, 2]}, "'values' has 2 entries"),
        ("activations", {"tokens": ["a"], "values": [False]}, "'values' is list"),
        ("explanations", {"description": 3}, "'description' is int"),
    ],
)
def test_wrong_rows_are_named_with_their_line(tmp_path, kind, row, message):
    unit = {"modelId": "m", "layer": "l", "index": 1}
    rows(tmp_path, "features", [unit])
    good = {
        "features": unit,
        "activations": unit | {"tokens": [], "values": []},
        "explanations": unit | {"description": ""},
    }
    rows(tmp_path, kind, [good[kind], good[kind] | row])
    with pytest.raises(CorruptError, match=message) as error:
        list(neuronpedia.read(tmp_path))
    assert f"{kind}/batch-0.jsonl.gz, line 2" in str(error.value)


def test_cut_and_foreign_files_are_named(tmp_path):
    with pytest.raises(PathError, match="no features"):
        list(neuronpedia.read(tmp_path))
    unit = {"modelId": "m", "layer": "l", "index": 1}
    path = rows(tmp_path, "features", [unit | {"hookName": str(i) * 50} for i in range(200)])
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], b"plain text\n", whole[:40] + b"\x00\xff" + whole[42:]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"batch-0\.jsonl\.gz, line \d+"):
            list(neuronpedia.read(tmp_path))


@pytest.fixture
def cache(tmp_path):
    """Two shards with float16 activations and small integers, as delphi writes them, and what they hold as a matrix."""
    dense = torch.randn(6, 20, 10, generator=rng.stream(0, "d")).half()
    dense[torch.rand(6, 20, 10, generator=rng.stream(0, "z")) < 0.8] = 0
    tokens = torch.randint(1000, (6, 20), generator=rng.stream(0, "t"))
    for first, last in ((0, 3), (4, 9)):
        places = dense[..., first : last + 1].nonzero().contiguous()
        save_file(
            {"locations": places.to(torch.int32), "activations": dense[..., first : last + 1][tuple(places.T)],
             "tokens": tokens}, tmp_path / f"{first}_{last}.safetensors",
        )  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_name": "pythia", "ctx_len": 20}')
    return tmp_path, dense, tokens


def test_shards_are_read_into_rows(cache):
    folder, dense, tokens = cache
    found = LatentCache.open(folder)
    assert (found.latents, found.model) == (range(10), "pythia")
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.values(0, 10), dense.reshape(120, 10).float())
    assert torch.equal(found.values(2, 6), dense.reshape(120, 10)[:, 2:6].float())
    excerpts = found.excerpts(length=8)
    assert excerpts.lengths.tolist() == [8, 8, 4] * 6
    assert len(set(found.document_ids)) == 6
    record = scorers.score_units(found.values(0, 2), {"itself": found.values(0, 2)}, excerpts)["itself"].records[0]
    assert record.population.value == pytest.approx(1) or "documents in the test split" in record.population.method
    with pytest.raises(ConfigError, match="no latents 5 to 10"):
        found.values(5, 11)


def test_unsigned_shards_are_read(cache):
    folder, dense, tokens = cache
    for first, last in ((0, 3), (4, 9)):
        places = dense[..., first : last + 1].nonzero().contiguous()
        save_file({"locations": places.to(torch.uint16), "activations": dense[..., first : last + 1][tuple(places.T)],
                   "tokens": tokens}, folder / f"{first}_{last}.safetensors")  # fmt: skip
    assert torch.equal(LatentCache.open(folder).values(0, 10), dense.reshape(120, 10).float())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"activations": torch.ones(1)}, "lacks 'locations'"),
        ({"locations": torch.zeros(2, 3).int(), "activations": torch.ones(1)}, r"\(2, 3\) beside activations \(1,\)"),
        ({"locations": torch.zeros(1, 3), "activations": torch.ones(1)}, r"locations \(1, 3\)"),
        ({"locations": torch.tensor([[6, 0, 0]]), "activations": torch.ones(1)}, "a location outside"),
        ({"locations": torch.tensor([[0, 0, 4]]), "activations": torch.ones(1)}, "a location outside"),
        ({"locations": torch.tensor([[0, 0, 0]]), "activations": torch.tensor([torch.inf])}, "not finite"),
    ],
)
def test_damaged_shards_are_named(cache, tensors, message):
    folder, _, tokens = cache
    save_file(tensors | {"tokens": tokens}, folder / "0_3.safetensors")
    with pytest.raises(CorruptError, match=message):
        LatentCache.open(folder).values(0, 4)


def test_shards_that_do_not_join_and_folders_without_any_are_refused(cache, tmp_path_factory):
    folder, _, _ = cache
    (folder / "0_3.safetensors").rename(folder / "0_2.safetensors")
    with pytest.raises(CorruptError, match="do not join"):
        LatentCache.open(folder)
    with pytest.raises(PathError, match="no shards"):
        LatentCache.open(tmp_path_factory.mktemp("empty"))
    other = tmp_path_factory.mktemp("bare")
    save_file({"locations": torch.zeros(0, 3).int(), "activations": torch.zeros(0)}, other / "0_3.safetensors")
    with pytest.raises(CorruptError, match="no tokens"):
        LatentCache.open(other)
    (other / "0_3.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptError):
        LatentCache.open(other)
