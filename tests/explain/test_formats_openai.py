import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digon.errors import ConfigError, CorruptError, PathError
from digon.explain.formats import openai, reading
from digon.records import Excerpt, Explanation, Measurement, Promotion, Score, UnitCard


def activations(*values, tokens=None):
    return {"dataclass_name": "ActivationRecord", "tokens": tokens or [f" t{i}" for i in range(len(values))],
            "activations": list(values)}  # fmt: skip


def neuron():
    """As the public files are, in words and numbers of our own."""
    return {
        "dataclass_name": "NeuronRecord",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": 7, "neuron_index": 1203},
        "random_sample": [activations(0.0, -0.16, 3), activations(0.5, 1e-7, -2.5)],
        "random_sample_by_quantile": [[activations(1.25, 0.0)], [], [activations(0.25, 0.5), activations(0.1, 0.2)]],
        "quantile_boundaries": [0.0, 0.5, 0.99],
        "mean": 0.013,
        "variance": 0.4,
        "skewness": None,
        "kurtosis": 31.0,
        "most_positive_activation_records": [
            activations(9.5, 0.1, 0.2, tokens=["bytes:\\xe2\\x80", "bytes:\\x99", "s\n"]), activations(8.0, tokens=["‑\u0000"])
        ],
    }  # fmt: skip


def sequence(scale="neuron_activations", before=None):
    return {
        "dataclass_name": "SequenceSimulation", "tokens": ["a", "b"], "expected_activations": [0.5, 2.0],
        "activation_scale": scale, "distribution_values": [[0.0, 1.0], [2.0]],
        "distribution_probabilities": [[0.5, 0.5], [0.75]], "uncalibrated_simulation": before,
    }  # fmt: skip


def results():
    scored = {
        "dataclass_name": "ScoredSequenceSimulation",
        "simulation": sequence(before=sequence("simulated_normalized_activations")),
        "true_activations": [0.25, 3.0],
        "ev_correlation_score": 1.0,
        "rsquared_score": None,
        "absolute_dev_explained_score": 0.25,
    }
    return {
        "dataclass_name": "NeuronSimulationResults",
        "neuron_id": {"dataclass_name": "NeuronId", "layer_index": 7, "neuron_index": 1203},
        "scored_explanations": [
            {"dataclass_name": "ScoredExplanation", "explanation": "quotation marks ☺",
             "scored_simulation": {"dataclass_name": "ScoredSimulation", "scored_sequence_simulations": [scored],
                                   "ev_correlation_score": 0.5, "rsquared_score": -0.5,
                                   "absolute_dev_explained_score": None}},
        ],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "in" / openai.ACTIVATIONS / "7"
    place.mkdir(parents=True)
    (place / "1203.json").write_text(json.dumps(neuron()))
    place = tmp_path / "in" / openai.EXPLANATIONS / "7"
    place.mkdir(parents=True)
    (place / "1203.jsonl").write_text(json.dumps(results()) + "\n\n")
    return tmp_path / "in"


def test_files_of_theirs_come_back_equal(folder, tmp_path):
    [(card, notes)] = list(openai.read(folder, "gpt2-xl"))
    assert notes == ()
    assert (card.unit, card.kind) == ("gpt2-xl/layers.7.mlp.act#1203", "neuron")
    assert [e.stratum for e in card.exemplars] == ["top"] * 2 + ["random"] * 2 + ["quantile"] * 3
    assert [e.level for e in card.exemplars[-3:]] == [0, 2, 2]
    moments = {m.name: m.value for m in card.measurements}
    assert math.isnan(moments["skewness"])
    assert moments["kurtosis"] == 31
    assert card.explanations[0].score.top_and_random.value == 0.5
    assert card.explanations[0].simulations[0].distributions == (((0.0, 0.5), (1.0, 0.5)), ((2.0, 0.75),))
    assert openai.write(tmp_path / "out", [card]) == ()
    for name, expected in ((openai.ACTIVATIONS, neuron()), (openai.EXPLANATIONS, results())):
        [path] = (tmp_path / "out" / name / "7").iterdir()
        assert json.loads(path.read_text()) == expected
    [(again, _)] = list(openai.read(tmp_path / "out", "gpt2-xl"))
    assert repr(again) == repr(card)


def test_absent_fields_are_absent_and_nan_is_missing(tmp_path):
    path = tmp_path / "1.json"
    path.write_text('{"neuron_id": {"layer_index": 0, "neuron_index": 1}, "mean": NaN, "extra": [1], "other": null}')
    card, notes = openai.read_neuron(path, "m")
    assert card.exemplars == ()
    assert all(math.isnan(m.value) for m in card.measurements)
    assert notes == (f"{path}: extra is not understood",)
    openai.write_neuron(tmp_path / "2.json", card)
    assert json.loads((tmp_path / "2.json").read_text())["random_sample_by_quantile"] is None


def test_halves_of_characters_become_bytes_and_text_is_put_together(tmp_path):
    record = neuron()
    record["random_sample"] = [activations(0.5, tokens=["\ud83d"])]
    path = tmp_path / "1.json"
    path.write_text(json.dumps(record))
    card, _ = openai.read_neuron(path, "m")
    [half] = [e.tokens[0] for e in card.exemplars if e.stratum == "random"]
    assert half == "bytes:\\xed\\xa0\\xbd"
    assert reading.text_of(card.exemplars[0].tokens) == "’s\n"
    openai.write_neuron(tmp_path / "2.json", card)
    assert repr(openai.read_neuron(tmp_path / "2.json", "m")[0]) == repr(card)


@given(
    tokens=st.lists(st.text(max_size=4), min_size=1, max_size=5),
    values=st.lists(st.floats(allow_infinity=False, width=64), min_size=5, max_size=5),
    level=st.integers(0, 3),
    text=st.text(max_size=12),
)
@settings(max_examples=40, deadline=None)
def test_cards_come_back_equal(tmp_path_factory, tokens, values, level, text):
    folder = tmp_path_factory.mktemp("cards")
    document = reading.document_of(tokens)
    shown = tuple(
        Excerpt(document, -1, tuple(tokens), tuple(values[: len(tokens)]), stratum, openai.split_of(document), level=at)
        for stratum, at in (("top", None), ("random", None), ("quantile", level))
    )
    moments = tuple(Measurement(name, values[0], method="neuron-explainer") for name in openai.MOMENTS)
    bands = Measurement(openai.BANDS, float(level + 1), method="neuron-explainer")
    card = UnitCard("m/layers.2.mlp.act#5", "layers.2.mlp.act", 5, "neuron", (*moments, bands), exemplars=shown)
    assert openai.write(folder, [card]) == ()
    [(back, notes)] = list(openai.read(folder, "m"))
    assert (repr(back), notes) == (repr(card), ())


def test_what_the_format_does_not_hold_is_said(tmp_path):
    shown = (
        Excerpt("doc", 64, ("a",), (1.0,), "top", "test", {"look-up": (0.5,)}, 2.0, (7,)),
        Excerpt("doc", 0, ("a",), (1.0,), "near miss"),
        Excerpt("doc", 0, ("a",), (1.0,), "quantile"),
    )
    rho = Measurement("rho_top_and_random", 0.5, 0.4, 0.6)
    score = Score(rho, replace(rho, name="rho_random_only"), rho, flags=("x",), population=rho)
    card = UnitCard(
        "m/layers.2.resid#5", "layers.2.resid", 5, "latent", (Measurement("density", 0.5), Measurement("mean", 1.0, n=9)),
        exemplars=shown, explanations=(Explanation("look-up", "fires on a", 12.0, score),), sign=-1,
        promotions=(Promotion("x", 1.0),), corpus="digest",
    )  # fmt: skip
    notes = " | ".join(openai.write(tmp_path, [card, card]))
    for lost in (
        "sign is not held (2 units)", "promotions is not held", "corpus is not held", "a latent of layers.*.resid",
        "measurements density", "intervals and samples of moments", "near misses, and excerpts at no known quantile",
        "weight", "token_ids", "document, start and split", "name of the explainer", "bits are not held",
        "flags, population, rho_random_only", "come back as simulations",
    ):  # fmt: skip
        assert lost in notes, lost
    [(back, _)] = list(openai.read(tmp_path, "m"))
    assert back.explanations[0].simulations[0].values == (0.5,)
    with pytest.raises(ConfigError, match="in no layer"):
        openai.write(tmp_path, [replace(card, site="embed")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("neuron_id"), "'neuron_id' is missing"),
        (lambda r: r["neuron_id"].update(neuron_index=-1), "'neuron_index' is int -1"),
        (lambda r: r["neuron_id"].update(neuron_index=10**400), "'neuron_index' is int 1000"),
        (lambda r: r["neuron_id"].update(layer_index=True), "'layer_index' is bool True"),
        (lambda r: r.update(mean="0.5"), "'mean' is str"),
        (lambda r: r.update(mean=True), "'mean' is bool"),
        (lambda r: r.update(mean=10**400), "'mean' holds a number that is too large"),
        (lambda r: r.update(random_sample={}), "'random_sample' is dict"),
        (lambda r: r.update(random_sample_by_quantile=[1]), "'random_sample_by_quantile' is list"),
        (lambda r: r["random_sample"].append("x"), r"random_sample\[2\]: str 'x'"),
        (lambda r: r["random_sample"][1].update(activations=[1.0]), r"random_sample\[1\]: 'activations' has 1 entries"),
        (lambda r: r["random_sample"][1].update(tokens=[1, 2, 3]), r"random_sample\[1\]: 'tokens' is list"),
        (lambda r: r["random_sample"][0]["activations"].__setitem__(0, [1]), "'activations' is list"),
    ],
)
def test_wrong_fields_are_named(tmp_path, change, message):
    record = neuron()
    change(record)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptError, match=message) as error:
        openai.read_neuron(path, "m")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"mean": Infinity}',
        '{"mean": 1e999}',
        '{"mean": ' + "9" * 5000 + "}",
        b"\xff{}",
    ],
)
def test_damaged_files_are_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorruptError, match=r"x\.json"):
        openai.read_neuron(path, "m")
    with pytest.raises(PathError):
        openai.read_neuron(tmp_path / "none.json", "m")
    with pytest.raises(PathError):
        list(openai.read(tmp_path, "m"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["neuron_id"].update(neuron_index=2), "'neuron_id' is dict"),
        (lambda r: r["scored_explanations"][0].update(explanation=None), "'explanation' is NoneType"),
        (lambda s: simulation(s).update(activation_scale="volts"), "'activation_scale' is str 'volts'"),
        (lambda s: simulation(s).update(distribution_values=[[1.0]]), "'distribution_values' is list"),
        (lambda s: simulation(s).update(distribution_values=[[1.0], [2.0]]), "token 0 has 1 values"),
        (lambda s: simulation(s).update(expected_activations=[1.0]), "'expected_activations' has 1 entries"),
    ],
)
def test_wrong_explanations_are_named_with_their_line(folder, change, message):
    record = results()
    change(record)
    path = folder / openai.EXPLANATIONS / "7" / "1203.jsonl"
    path.write_text("\n" + json.dumps(record))
    with pytest.raises(CorruptError, match=message) as error:
        list(openai.read(folder, "m"))
    assert "1203.jsonl, line 2" in str(error.value)


def simulation(record):
    return record["scored_explanations"][0]["scored_simulation"]["scored_sequence_simulations"][0]["simulation"]


def test_nesting_without_end_is_refused(folder):
    deep = sequence()
    for _ in range(300):
        deep = sequence(before=deep)
    record = results()
    record["scored_explanations"][0]["scored_simulation"]["scored_sequence_simulations"][0]["simulation"] = deep
    (folder / openai.EXPLANATIONS / "7" / "1203.jsonl").write_text(json.dumps(record))
    with pytest.raises(CorruptError, match=r"1203\.jsonl"):
        list(openai.read(folder, "m"))
