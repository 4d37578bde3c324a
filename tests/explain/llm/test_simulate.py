import math

import pytest
from faulty_server import FaultyServer, Pace, Traits, law, mean, mode

from digon.errors import BudgetError, ModelError
from digon.explain.llm import Budget, Capabilities, Client, Journal, Limits, Server, probe, simulate
from digon.explain.llm.simulate import by, expected, read_written
from digon.explain.llm.wire import Reply, Usage

TOKENS = [" the", " old", "man", " 12", "\n", "tab\t", " the", " sea"]
SHOWN = [" the", " old", "man", " 12", "↵", "tab⇥", " the", " sea"]
MEANS = [mean(token) for token in SHOWN]
MODES = [float(mode(token)) for token in SHOWN]


@pytest.fixture
def asking(tmp_path):
    opened = []

    def start(traits, pace=None, **settings):
        server = FaultyServer(traits, pace).__enter__()
        journal = Journal(tmp_path / f"{len(opened)}.sqlite")
        limits = Limits(base=0.001, cap=0.01, attempts=2, timeout=5.0)
        client = Client(Server.of("m", server.url, key="none"), journal, limits=limits, **settings)
        opened.append((client, journal, server))
        return client, server

    yield start
    for client, journal, server in opened:
        client.close()
        journal.close()
        server.__exit__()


TRUTH = {
    "a vllm": (Traits(), Capabilities(True, True, "echo", 20, "regex", True)),
    "its own field": (Traits(echo="vllm"), Capabilities(True, True, "prompt_logprobs", 20, "regex", True)),
    "llama.cpp": (Traits(echo="ignored", constraint="grammar"), Capabilities(True, True, "", 20, "grammar", True)),
    "zeros for an echo": (Traits(echo="zeros"), Capabilities(True, True, "", 20, "regex", True)),
    "openai": (
        Traits(completions=False, constraint="schema"), Capabilities(True, False, "", 20, "schema", True),
    ),
    "thinking": (
        Traits(completions=False, constraint="schema", logprobs=False, temperature=False, new_names=True, thinks=True),
        Capabilities(True, False, "", 0, "schema", False, False, "max_completion_tokens", True),
    ),
    "dropped log probabilities": (
        Traits(echo="refused", logprobs=False, constraint=""), Capabilities(True, True, "", 0, "", False),
    ),
    "no chat": (Traits(chat=False, most=5), Capabilities(False, True, "echo", 5, "regex", True)),
    "split ten": (Traits(ten=False), Capabilities(True, True, "echo", 20, "regex", False)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTH)
def test_the_probe_finds_what_is_there_and_simulation_its_closed_form(asking, name):
    traits, truth = TRUTH[name]
    client, server = asking(traits)
    can = client.wait(probe(client))
    assert can == truth
    before = server.log.requests
    assert client.wait(probe(client)) == can
    assert server.log.requests == before
    found = client.wait(simulate(client, can, "old things", TOKENS))
    assert found.method == can.methods[0]
    written = found.method in ("constrained", "free")
    assert found.values == pytest.approx(MODES if written else MEANS, abs=1e-6)
    assert found.missing_mass == pytest.approx(0.0 if written else 0.1, abs=1e-6)
    assert (found.coverage, found.failures, found.notes) == (1.0, 0, ())
    assert found.scale == (10 if written or can.ten else 9)


@pytest.mark.parametrize("method", ["prompt", "template", "single", "constrained", "free"])
@pytest.mark.parametrize("constraint", ["regex", "grammar", "schema"])
def test_every_way_finds_the_closed_form(asking, method, constraint):
    client, server = asking(Traits(constraint=constraint))
    can = Capabilities(True, True, "echo", 20, constraint, True)
    found = client.wait(by(method, client, can, "old things", TOKENS))
    assert found.values == pytest.approx(MODES if method in ("constrained", "free") else MEANS, abs=1e-6)
    assert server.log.requests == (len(TOKENS) if method == "single" else 1)


def test_a_server_that_lies_after_the_probe_falls_down_the_chain(asking):
    client, server = asking(Traits())
    can = client.wait(probe(client))
    server.traits.echo = "ignored"
    found = client.wait(simulate(client, can, "old things", TOKENS))
    assert (found.method, found.coverage) == ("template", 1.0)
    assert found.notes == ("prompt: numbers were seen on 0% of the tokens",)
    server.traits.logprobs = False
    found = client.wait(simulate(client, can, "new things", TOKENS))
    assert found.method == "constrained"
    assert [note.split(":")[0] for note in found.notes] == ["prompt", "template", "single"]


def test_null_content_gives_no_values_and_no_zeros(asking):
    client, _ = asking(Traits(), Pace(share=1.0, kinds=("null",)))
    found = client.wait(simulate(client, Capabilities(True, True, "echo", 20, "regex", True), "old", TOKENS))
    assert all(math.isnan(value) for value in found.values)
    assert (found.coverage, found.failures) == (0.0, len(TOKENS))
    assert math.isnan(found.missing_mass)


def test_failed_calls_of_single_tokens_are_missing_and_told(asking):
    client, server = asking(Traits(), Pace(share=0.6, kinds=("500", "truncated"), seed=1))
    client._answered = True
    found = client.wait(by("single", client, Capabilities(True, True, "", 20, "", True), "old", TOKENS))
    assert 0 < found.failures < len(TOKENS)
    right = [math.isnan(v) or v == pytest.approx(m) for v, m in zip(found.values, MEANS, strict=True)]
    assert all(right)
    assert f"{found.failures} of {len(TOKENS)} calls failed" in found.notes[0]
    assert server.log.faults["500"] + server.log.faults["truncated"] > found.failures


def test_a_spent_budget_is_no_failed_simulation(asking):
    client, _ = asking(Traits(), budget=Budget(calls=3))
    with pytest.raises(BudgetError):
        client.wait(by("single", client, Capabilities(True, True, "", 20, "", True), "old", TOKENS))


def test_a_server_without_any_model_is_one_clear_error(asking):
    client, _ = asking(Traits(chat=False, completions=False))
    with pytest.raises(ModelError, match=r"can neither chat nor complete.*not a chat model"):
        client.wait(probe(client))


def reply(text):
    return Reply({"choices": [{"message": {"content": text}}]}, Usage(1, 1))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1\t3\n2\t0\n3\t10", [3, 0, 10]),
        ("[3, 0, 10]", [3, 0, 10]),
        ('```json\n{"values": [3,0,10]}\n```', [3, 0, 10]),
        ("<think>[1, 1, 1] maybe</think>\n[3, 0, 10]", [3, 0, 10]),
        ("<think>1\t3\n2\t0\n", [None, None, None]),  # cut while it thought
        ("First [1, 2, 3], no: [3, 0, 10]", [3, 0, 10]),
        ("[3, 0]", [None, None, None]),  # two numbers for three tokens belong to nobody
        ("1: 3\n3: 10", [3, None, 10]),
        ("1\t3\n2\t11\n3\t-1\n4\t5", [3, None, None]),
        ("1\t3\n2\t2.5\n3\t7", [3, None, 7]),
        ("1.5\n2) the: 4\n3. 7", [None, 4, 7]),
        ("I cannot help with that.", [None, None, None]),
        (None, [None, None, None]),
    ],
)
def test_written_numbers_are_read_or_missing(text, values):
    found = read_written(reply(text), 3, 10)
    assert [None if math.isnan(v) else v for v, _ in found] == values
    assert [m for _, m in found] == [0.0 if v is None else 1.0 for v in values]


def test_expected_values_by_hand():
    p = {"0": 0.6, "5": 0.2, "10": 0.1, "unknown": 0.1}
    value, mass = expected({token: math.log(q) for token, q in p.items()}, 10)
    assert (value, mass) == (pytest.approx(2.0 / 0.9), pytest.approx(0.9))
    nothing = expected({"unknown": -0.1, "zero": -2.0, "１": -1.0}, 10)
    assert math.isnan(nothing[0])
    assert nothing[1] == 0
    assert math.isnan(expected(None, 10)[0])
    # on a scale to 9, "10" is no number; behind a tab, only what has the tab is one
    assert expected({"9": math.log(0.5), "10": math.log(0.5)}, 9) == (9.0, pytest.approx(0.5))
    assert expected({"\t3": math.log(0.5), "4": math.log(0.5)}, 9, "\t") == (3.0, pytest.approx(0.5))


def test_the_law_of_the_server_is_a_law():
    for token in SHOWN:
        assert sum(law(token).values()) == pytest.approx(0.9)
