"""`digon exchange`: what goes out to another tool's files comes back, what cannot is said, and foreign files are not trusted."""

import gzip
import json

import pytest
import torch
from safetensors.torch import save_file

from digon.cli import main
from digon.records import Excerpt, Explanation, Measurement, Score, UnitCard
from digon.store.runs import Run
from digon.studies.explaining.settings import ExplainConfig, ExplainRun

SITES = ("layers.0.mlp.act", "layers.3.mlp.act")
TOKENS = (" to", "bytes:\\xe2", "<script>", " end")


def excerpt(document, values, stratum, guess):
    return Excerpt(document, 8, TOKENS, values, stratum, "test", {"words": guess})


def card(site, index, sign=1):
    rho = Measurement("rho_top_and_random", 0.25 + index / 100)
    said = Score(rho, Measurement("rho_random_only", 0.1), Measurement("rho_other_unit", 0.0))
    shown = (excerpt("a", (0.0, 1.5, 3.0, 0.0), "top", (0.0, 1.0, 2.5, 0.25)),
             excerpt("b", (0.5, 0.0, 0.0, 0.0), "random", (0.0, 0.0, 0.0, 0.0)))  # fmt: skip
    return UnitCard(
        f"toy/{site}#{index}", site, index, "neuron", (Measurement("density", 0.5), Measurement("mean", 0.75)), None, shown,
        (Explanation("token look-up", "fires on: “a”", 20.0, said), Explanation("words", f"unit {index} of {site}", 90.0, said)),
        sign=sign,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    found = Run.create(tmp_path / "run", ExplainRun(ExplainConfig("toy")))
    for site in SITES:
        found.write_json(f"cards/{site}/00000", [card(site, 2), card(site, 11), card(site, 11, -1)])
    return found.path


def cards_of(folder):
    paths = sorted(folder.glob("cards/*/*.json"))
    return [c for p in paths for c in Run(folder).read_json(str(p.relative_to(folder))[:-5], list[UnitCard])]


def there_and_back(run, tmp_path, kind, *words):
    out, back = tmp_path / kind, tmp_path / f"{kind}-back"
    assert main(["exchange", str(run), "--to", kind, "--out", str(out), *words]) == 0
    assert main(["exchange", str(out), "--out", str(back)]) == 0
    return out, back, cards_of(back)


def test_neuron_explainer_there_and_back(run, tmp_path, capsys):
    out, back, found = there_and_back(run, tmp_path, "openai")
    said = " ".join(capsys.readouterr().out.split())
    assert sorted(p.name for p in (out / "collated-activations" / "3").iterdir()) == ["11.json", "2.json"]
    for part in ("measurements density", "the name of the explainer; explanations: bits", "(4 units)", "2 cards about how far",
                 "layers.3.mlp.act: 2 units, 2 of them explained by neuron-explainer, neuron-explainer 2"):  # fmt: skip
        assert part in said, part
    assert [(c.site, c.index) for c in found] == [(site, index) for site in SITES for index in (2, 11)]
    for one in found:
        before = card(one.site, one.index)
        assert [e.text for e in one.explanations] == [e.text for e in before.explanations]
        assert [e.score.top_and_random.value for e in one.explanations] == [0.25 + one.index / 100] * 2
        assert [(e.tokens, e.activations, e.stratum, e.start) for e in one.exemplars] == [
            (e.tokens, e.activations, e.stratum, -1) for e in before.exemplars
        ]
        # only the words had simulated values: they are the second explanation of one name
        assert one.exemplars[0].simulated == {"neuron-explainer 2": before.exemplars[0].simulated["words"]}
    again = tmp_path / "again"
    assert main(["exchange", str(back), "--to", "openai", "--out", str(again)]) == 0
    for path in out.rglob("*.json*"):
        assert (again / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_neuronpedia_there_and_back(run, tmp_path, capsys):
    out, _, found = there_and_back(run, tmp_path, "neuronpedia", "--model", "gpt2-small")
    assert (out / "gpt2-small" / "3-mlp.act" / "features" / "batch-0.jsonl.gz").is_file()
    assert "explanations: bits, score" in " ".join(capsys.readouterr().out.split())
    assert [c.unit for c in found] == [f"gpt2-small/{site}#{index}" for site in SITES for index in (2, 11)]
    for one in found:
        before = card(one.site, one.index)
        assert [(e.explainer, e.text) for e in one.explanations] == [(e.explainer, e.text) for e in before.explanations]
        assert [(e.document, e.start, e.activations) for e in one.exemplars] == [
            (e.document, e.start, e.activations) for e in before.exemplars
        ]


def test_delphi_keeps_one_text_per_latent(run, tmp_path, capsys):
    _, _, found = there_and_back(run, tmp_path, "delphi", "--site", SITES[1])
    assert [(c.unit, c.explanations[0].text) for c in found] == [
        (f"network/{SITES[1]}#{index}", f"unit {index} of {SITES[1]}") for index in (2, 11)
    ]
    assert "all explanations but the one in words" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def delphi(tmp_path):
    """A cache of two hook points; latent 5 of the first is active on token 3, latent 0 never; texts and answers for 5."""
    folder, tokens = tmp_path / "theirs", torch.arange(40 * 16).reshape(40, 16) % 7
    on = (tokens == 3).nonzero()
    for site, size in (("layers.1.mlp", 6), ("layers.2.mlp", 80)):
        place = folder / "latents" / site
        place.mkdir(parents=True)
        where = torch.cat([on, torch.full((len(on), 1), 5)], 1)
        strength = 1 + torch.arange(len(on)) / 64
        save_file({"locations": where.int(), "activations": strength.half(), "tokens": tokens}, place / f"0_{size - 1}.safetensors")  # fmt: skip
        (place / "config.json").write_text('{"model_name": "someone/pythia"}')
    for kind in ("explanations", "scores/detection", "scores/fuzz"):
        (folder / kind).mkdir(parents=True)
    (folder / "explanations" / "layers.1.mlp_latent5.txt").write_text('"the third token"')
    rows = [(True, 1), (True, 0), (False, False), (False, None)]
    listed = [{"activating": truth, "prediction": said, "str_tokens": ["a"]} for truth, said in rows]
    (folder / "scores" / "detection" / "layers.1.mlp_latent5.txt").write_text(json.dumps(listed))
    return folder


def test_a_cache_of_delphi_becomes_cards(delphi, tmp_path, capsys):
    assert main(["exchange", str(delphi), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = cards_of(tmp_path / "out")
    assert [c.site for c in found] == ["layers.1.mlp"] + ["layers.2.mlp"] * 50  # explained ones, else a sample
    assert found[0].unit == "someone/pythia/layers.1.mlp#5"
    value = {m.name: m for m in found[0].measurements}
    assert value["density"].value == pytest.approx(91 / 640)
    assert value["max"].value == pytest.approx(1 + 90 / 64, abs=2e-3)
    top = found[0].exemplars[0]
    assert (top.stratum, top.tokens[top.activations.index(max(top.activations))]) == ("top", " <3>")
    assert found[0].explanations[0].text == "the third token"
    [score] = found[0].explanations[0].score.choices
    assert (score.name, score.value, score.low, score.high, score.n) == ("detection", 0.75, 0.5, 0.75, 3)
    assert "As delphi scored them: detection reads 0.75 in the mean over 1 unit (chance 0.5)." in said
    assert "numbers: name the network by --host" in said


def test_a_choice_of_units_and_a_tokenizer(delphi, tmp_path, tiny):
    words = ["exchange", str(delphi), "--units", "0,4:6", "--site", "layers.1.*", "--host", str(tiny)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    found = cards_of(tmp_path / "out")
    assert [c.index for c in found] == [0, 4, 5]
    assert max(found[0].exemplars[0].activations) == 0
    assert not found[0].exemplars[0].tokens[0].startswith(" <")
    assert [len(c.explanations) for c in found] == [0, 0, 1]


def test_what_cannot_be_done_is_refused_in_words(run, delphi, tmp_path, capsys):
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "mine").write_text("x")
    bare = Run.create(tmp_path / "bare", ExplainRun(ExplainConfig("bare"))).path
    (run / "cards" / "embed").mkdir()
    (run / "cards" / "more").mkdir()
    for site, place in (("embed", "embed"), ("layers.0.resid", "more")):
        (run / "cards" / place / "00000.json").write_text(
            (run / "cards" / SITES[0] / "00000.json").read_text().replace(SITES[0], site)
        )
    cases = [
        ([empty], "in no format that is known"), ([tmp_path / "none"], "is no folder"), ([run], "--to openai, neuronpedia, delphi"),
        ([run, "--to", "openai"], "embed is in no layer"), ([run, "--to", "openai", "--site", "layers.0.*"], "both in layer 0"),
        ([run, "--to", "delphi", "--site", "layers.9.*"], "a glob over embed"), ([bare, "--to", "openai"], "no cards of units"),
        ([empty, "--to", "openai"], "no run at"), ([delphi, "--units", "700:900"], "no unit of 700:900"),
        ([delphi, "--units", "top:3"], "needs numbers"), ([delphi, "--units", "few"], "no choice of units"),
        ([delphi, "--site", "x"], "a glob over layers.1.mlp"),
    ]  # fmt: skip
    for words, said in cases:
        assert main(["exchange", *map(str, words), "--out", str(tmp_path / "new")]) == 2
        assert said in capsys.readouterr().err, said
        assert not (tmp_path / "new").exists(), words
    assert main(["exchange", str(run), "--to", "delphi", "--out", str(full)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["exchange", str(delphi), "--out", str(full)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert sorted(p.name for p in full.iterdir()) == ["mine"]


def test_damaged_answers_are_named(delphi, tmp_path, capsys):
    path = delphi / "scores" / "detection" / "layers.1.mlp_latent5.txt"
    for text, said in (('{"a": 1}', "holds no rows"), ('[{"activating": "yes"}]', "row 0"), ("[1", "is damaged")):
        path.write_text(text)
        assert main(["exchange", str(delphi), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert path.name in error
    (delphi / "explanations" / "layers.1.mlp_latent5.txt").write_text("[]")
    assert main(["exchange", str(delphi), "--out", str(tmp_path / "out")]) == 1
    assert "holds no text" in capsys.readouterr().err


def test_names_of_others_lead_nowhere(tmp_path, capsys):
    evil, out = "../../evil", tmp_path / "a" / "b" / "run"
    unit = {"modelId": evil, "layer": evil, "index": "1", "hookName": evil}
    path = tmp_path / "theirs" / "features" / "batch-0.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps(unit).encode()))
    (path.parent.parent / "explanations").mkdir()
    said = json.dumps(unit | {"description": "words"})
    (path.parent.parent / "explanations" / "batch-0.jsonl").write_text(said)
    assert main(["exchange", str(path.parent.parent), "--out", str(out)]) == 0
    assert main(["exchange", str(out), "--to", "neuronpedia", "--out", str(tmp_path / "a" / "b" / "np")]) == 0
    assert main(["exchange", str(out), "--to", "delphi", "--out", str(tmp_path / "a" / "b" / "d")]) == 2
    assert "cannot be part of a file name" in capsys.readouterr().err
    assert not [p for p in tmp_path.rglob("*evil*") if not p.is_relative_to(tmp_path / "a" / "b" / "np")]
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["np", "run"]


def test_the_same_call_again_forgets_units_that_are_gone(delphi, tmp_path):
    words = ["exchange", str(delphi), "--site", "layers.2.mlp", "--units", "all", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert (len(cards_of(tmp_path / "out")), len(list((tmp_path / "out").glob("cards/*/*")))) == (80, 3)
    place = delphi / "latents" / "layers.2.mlp"
    (place / "0_79.safetensors").rename(place / "0_9.safetensors")
    assert main(words) == 0
    assert len(cards_of(tmp_path / "out")) == 10
