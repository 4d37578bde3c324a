"""`digon explain` with a language model behind a server that lies and fails: what can be written is, nothing is paid twice."""

import json
import time

import pytest
import torch
from faulty_server import FaultyServer, Pace, Traits, mean

from digon.cli import main
from digon.explain.llm.explainers import Judged
from digon.records import Measurement, UnitCard
from digon.store.runs import Run
from digon.store.shards import HarvestPlan, Rows, ShardWriter
from digon.studies.explaining import words as words_stage
from digon.studies.explaining.said import Said
from digon.studies.explaining.settings import ExplainConfig, Spending, WordsConfig
from digon.studies.explaining.study import run_explain
from digon.studies.explaining.texts import Texts

VOCABULARY = 40
DOCUMENTS, ROWS = 40, 12


@pytest.fixture(scope="module")
def lawful(tmp_path_factory):
    """Shards with a unit that does on every token what the server's law simulates, one that is noise, one that never fires,
    and one that does the law in every other document."""
    g = torch.Generator().manual_seed(1)
    n = DOCUMENTS * ROWS
    tokens = torch.randint(VOCABULARY, (n,), generator=g)
    law = torch.tensor([mean(f" <{t}>") for t in range(VOCABULARY)])
    half = law[tokens] * (torch.arange(n) // ROWS % 2)
    values = torch.stack([law[tokens], torch.rand(n, generator=g), torch.zeros(n), half], 1)
    path = tmp_path_factory.mktemp("lawful") / "shards"
    writer = ShardWriter(path, HarvestPlan({"site": 4}, "float32", "world", "text", {}))
    rows = Rows({"site": values}, tokens, torch.arange(n) // ROWS, torch.arange(n) % ROWS)
    writer.append(rows, [f"document {i}" for i in range(DOCUMENTS)], 1)
    writer.finish()
    return path


def told(prompt):
    described = "what the unit responds to" in prompt or "several unrelated meanings" in prompt
    return "numbers that follow a law" if described else "none"


def ask(lawful, out, url, said=None, spending=None, units="all", **words):
    lines = said if said is not None else []
    config = ExplainConfig(str(lawful), units=units, rungs=("token look-up",), coverage=False)
    return run_explain(config, WordsConfig(llm=url, model="m", **words), spending or Spending(), out, lines.append)


def cards_of(out):
    return Run(out).read_json("cards/site/00000", list[UnitCard])


def words_of(card):
    return next((e for e in card.explanations if e.explainer == "words"), None)


def facts_of(out):
    return Run(out).read_json("facts", dict)["language model"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory, lawful):
    """A run with a server without faults."""
    out = tmp_path_factory.mktemp("clean") / "run"
    with FaultyServer(Traits(brain=told)) as server:
        found = ask(lawful, out, server.url)
        requests = server.log.requests
        assert ask(lawful, out, server.url)["failed"] == found["failed"] == []
        assert server.log.requests == requests  # what is done is not asked again
    return out


def test_a_true_description_scores_one_on_unseen_documents_and_noise_does_not(clean):
    lawful_one, noise, silent, _ = cards_of(clean)
    one = words_of(lawful_one)
    assert one.text == "numbers that follow a law"
    assert one.score.top_and_random.value == pytest.approx(1.0, abs=1e-6)
    assert one.score.simulated_share == 1.0
    assert one.score.baseline.method == "nothing to compare with"  # all units are said to be the same
    unseen = [e for e in lawful_one.exemplars if "words" in (e.simulated or {})]
    assert {e.split for e in unseen} == {"test"}
    assert (one.provenance.model, one.provenance.method) == ("m", "prompt")
    assert one.provenance.calls == 1 + len({(e.document, e.start) for e in unseen})
    shown = max(a for e in lawful_one.exemplars if e.split == "fit" for a in e.activations)
    for e in unseen:  # 10 stands for the largest activation that was shown
        expected = [a * shown / 10 for a in e.activations]
        assert e.simulated["words"] == pytest.approx(expected, abs=1e-3)
    assert not words_of(noise).score.top_and_random.value > 0.6
    assert words_of(silent) is None  # there is nothing to describe
    assert silent.explanations


def test_other_units_descriptions_are_the_baseline(lawful, tmp_path):
    names = iter(f"description {i}" for i in range(9))
    with FaultyServer(Traits(brain=lambda prompt: next(names))) as server:
        ask(lawful, tmp_path / "run", server.url, units="0,1")
    one = words_of(cards_of(tmp_path / "run")[0])
    assert one.score.baseline.value == pytest.approx(
        1.0, abs=1e-6
    )  # the law holds whatever is said: so does the baseline
    assert one.score.baseline.method.startswith("mean of 1 explanations")


def test_all_scorers_each_with_its_null(lawful, tmp_path):
    scorers = ("simulation", "detection", "fuzzing", "intruder", "neighbors")
    with FaultyServer(Traits(brain=told)) as server:
        ask(lawful, tmp_path / "run", server.url, scorers=scorers, meanings=2, best_of=2, units="3")
    card = cards_of(tmp_path / "run")[0]
    score = words_of(card).score
    found = {m.name: m for m in score.choices}
    assert set(found) == set(scorers) - {"simulation"}
    assert found["detection"].null == 0.5
    assert found["intruder"].null == 0.2
    assert found["detection"].value == 0.5  # who always says none gains nothing
    assert [s.text for s in card.senses] == ["numbers that follow a law"]
    chosen = Run(tmp_path / "run").read_json("chosen/site/00000", dict)
    assert (
        0.2 < chosen["3"]["words"] < 0.9
    )  # half of the documents follow the law; on the select split, where two descriptions were compared


def test_faults_lose_nothing_and_pay_nothing_twice(lawful, clean, tmp_path):
    out = tmp_path / "run"
    kinds = ("429", "500", "truncated", "null", "page", "disconnect")
    with FaultyServer(Traits(brain=told), Pace(0.2, kinds=kinds)) as server:
        for _ in range(3):
            if not ask(lawful, out, server.url)["failed"]:
                break
        assert server.log.faults.total() > 1
        assert max(server.log.served.values()) <= 2  # a null counts as served and is asked again
    for whole, faulty in zip(cards_of(clean), cards_of(out), strict=True):
        assert [e.explainer for e in whole.explanations] == [e.explainer for e in faulty.explanations]
        if words_of(whole):
            a, b = words_of(whole), words_of(faulty)
            assert b.score.top_and_random.value == pytest.approx(a.score.top_and_random.value, abs=1e-9) or b.score.simulated_share < 1  # fmt: skip


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Traits(key="right"), "refuses the key"),
        (Traits(chat=False, completions=False), "neither chat nor complete"),
        (Traits(context=10), "too long"),
    ],
)
def test_servers_that_refuse_leave_the_rest_written(lawful, tmp_path, server, said):
    lines = []
    with FaultyServer(server) as running:
        found = ask(lawful, tmp_path / "run", running.url, lines, Spending(key_env=None))
    assert said in found["failed"][0]
    assert said in " ".join(lines)
    assert all(card.explanations for card in cards_of(tmp_path / "run"))
    assert (tmp_path / "run" / "facts.json").is_file()


def test_no_host_no_key_an_html_page(lawful, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    found = ask(lawful, tmp_path / "a", "http://127.0.0.1:9/v1")
    assert "127.0.0.1:9" in found["failed"][0]
    found = ask(lawful, tmp_path / "b", "https://example.invalid/v1")
    assert "no key" in found["failed"][0]
    found = ask(lawful, tmp_path / "c", "https://example.invalid/v1", spending=Spending(key_env="NO_SUCH_KEY"))
    assert "NO_SUCH_KEY is not set" in found["failed"][0]
    with FaultyServer(Traits(), Pace(1.0, kinds=("page",))) as server:
        found = ask(lawful, tmp_path / "d", server.url)
    assert "page" in found["failed"][0].lower() or "HTML" in found["failed"][0]
    assert all(len(cards_of(tmp_path / name)) == 4 for name in "abcd")


def test_a_model_without_chat_is_asked_otherwise(lawful, tmp_path):
    with FaultyServer(Traits(chat=False, brain=told)) as server:
        assert ask(lawful, tmp_path / "run", server.url, units="0")["failed"] == []
    assert words_of(cards_of(tmp_path / "run")[0]).score.top_and_random.value == pytest.approx(1.0, abs=1e-6)


def test_a_budget_stops_the_run_and_a_larger_one_goes_on(lawful, tmp_path):
    out = tmp_path / "run"
    with FaultyServer(Traits(brain=told)) as server:
        found = ask(lawful, out, server.url, units="0,1", spending=Spending(budget_calls=10))
        assert "budget" in found["failed"][0]
        assert sum(server.log.paid.values()) <= 10
        assert ask(lawful, out, server.url, units="0,1", spending=Spending(budget_calls=500))["failed"] == []
        assert max(server.log.paid.values()) == 1
    assert words_of(cards_of(out)[0]).score.top_and_random.value == pytest.approx(1.0, abs=1e-6)


def test_too_long_for_the_model_is_trimmed_and_told(lawful, tmp_path):
    with FaultyServer(Traits(brain=told, context=640)) as server:
        ask(lawful, tmp_path / "run", server.url, units="0")
    one = words_of(cards_of(tmp_path / "run")[0])
    assert any("too long" in flag for flag in one.score.flags)


def test_the_key_never_reaches_the_run(lawful, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret-123")
    with FaultyServer(Traits(brain=told, key="sk-very-secret-123", reflect=True)) as server:
        assert ask(lawful, tmp_path / "run", server.url, units="0", spending=Spending(key_env="MY_KEY"))["failed"] == []
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"very-secret" not in path.read_bytes(), path


def test_the_verb_prints_one_document_and_exits_with_1_if_something_failed(lawful, tmp_path, capsys):
    fast = ["--units", "0", "--rungs", "token look-up", "--no-coverage"]
    words = ["explain", str(lawful), *fast, "--out", str(tmp_path / "run"), "--json"]
    assert main([*words, "--llm", "http://127.0.0.1:9/v1", "--model", "m"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"]
    assert (tmp_path / "run" / "page.html").is_file()
    assert main(["explain", str(lawful), "--llm", "http://127.0.0.1:9/v1"]) == 2
    assert "--model NAME" in capsys.readouterr().err


def test_a_body_that_trickles_ends_at_the_timeout_and_the_same_command_goes_on(lawful, tmp_path, capsys):
    pace = Pace(0.0, kinds=("slow",), slow=30.0)
    with FaultyServer(Traits(brain=told), pace) as server:
        words = [
            "explain",
            str(lawful),
            "--units",
            "0",
            "--rungs",
            "token look-up",
            "--no-coverage",
            "--llm",
            server.url,
        ]
        words += ["--model", "m", "--out", str(tmp_path / "run")]
        pace.share = 1.0
        start = time.monotonic()
        assert main([*words, "--timeout", "0.3"]) == 1
        assert time.monotonic() - start < 10
        error = capsys.readouterr().out
        assert "no whole reply within 0.3 s" in " ".join(error.split())
        assert "--timeout" in " ".join(error.split())
        pace.slow = 0.02  # it trickles, but ends
        assert main([*words, "--timeout", "20"]) == 0
    assert words_of(cards_of(tmp_path / "run")[0]).score.simulated_share == 1.0
    for wrong in (["--timeout", "0"], ["--concurrency", "0"], ["--per-minute", "0"], ["--timeout", "nan"]):
        assert main([*words, *wrong]) == 2
        assert "above 0" in capsys.readouterr().err


def test_killed_before_the_cards_are_written_nothing_is_paid_twice(lawful, clean, tmp_path, monkeypatch):
    out = tmp_path / "run"
    whole = words_stage.written.write

    def killed(*given):
        raise KeyboardInterrupt

    with FaultyServer(Traits(brain=told)) as server:
        monkeypatch.setattr(words_stage.written, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(lawful, out, server.url)
        monkeypatch.setattr(words_stage.written, "write", whole)
        assert ask(lawful, out, server.url)["failed"] == []
        assert max(server.log.paid.values()) == 1
    assert [words_of(c) and words_of(c).score for c in cards_of(out)] == [
        words_of(c) and words_of(c).score for c in cards_of(clean)
    ]


def test_a_model_in_this_process_explains_and_simulates(lawful, tmp_path):
    from test_local import gpt2, word_pieces

    folder = tmp_path / "model"
    host = gpt2(word_pieces())
    host.model.save_pretrained(folder)
    host.tokenizer._raw.save(str(folder / "tokenizer.json"))
    config = ExplainConfig(str(lawful), units="0,2", rungs=("token look-up",), coverage=False)
    found = run_explain(config, WordsConfig(local=str(folder)), Spending(), tmp_path / "run", lambda line: None)
    one = words_of(cards_of(tmp_path / "run")[0])
    assert found["failed"] == []
    assert one.provenance.method == "local"
    assert one.score.simulated_share == 1.0
    assert abs(one.score.top_and_random.value) < 0.9  # it has learned nothing
    assert "it is asked in plain text" in facts_of(tmp_path / "run")["who"]


def test_the_other_side_of_a_unit_is_no_other_unit():
    said = [
        Said(unit, sign, 0.0, f"{unit}", object.__new__(Texts), Judged(f"text {unit} {sign}", Measurement("rho", 1.0)))
        for unit, sign in ((3, 1), (3, -1), (4, 1), (5, 1))
    ]
    assert words_stage._others(said, said[0], 2) == ["text 4 1", "text 5 1"]
    assert words_stage._others(said, said[1], 5) == ["text 4 1", "text 5 1"]
    assert words_stage._others(said, said[2], 2) == ["text 5 1", "text 3 1"]
    assert words_stage._others(said[:2], said[0], 2) == []
