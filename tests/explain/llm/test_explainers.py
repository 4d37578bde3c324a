"""Explainers and scorers against a model whose every answer follows a rule."""

import math
import re

import pytest
from faulty_server import FaultyServer, Pace, Traits, law, mean

from digon.errors import RunError
from digon.explain.llm import Capabilities, Client, Journal, Limits, Server, explainers, scorers
from digon.records import Excerpt

CAN = Capabilities(True, True, "echo", 20, "regex", True)
WORDS = [" sea", " old", " man", " the", " 12", " wolf", " rain", " door"]


def excerpt(document, tokens, activations):
    return Excerpt(document, 0, tuple(tokens), tuple(map(float, activations)), "top")


def texts(prefix, count, fires):
    """Every text rotates the words; the unit does what the server's law says, or nothing."""
    made = []
    for i in range(count):
        tokens = WORDS[i % 8 :] + WORDS[: i % 8]
        made.append(excerpt(f"{prefix}{i}", tokens, [mean(t) if fires else 0.0 for t in tokens]))
    return made


@pytest.fixture
def asking(tmp_path):
    opened = []

    def start(brain, pace=None, **traits):
        server = FaultyServer(Traits(brain=brain, **traits), pace).__enter__()
        journal = Journal(tmp_path / "j")
        limits = Limits(attempts=2, base=0.001)
        client = Client(Server.of("m", server.url, key="none"), journal, limits=limits)
        opened.append((client, journal, server))
        return client, server

    yield start
    for client, journal, server in opened:
        client.close()
        journal.close()
        server.__exit__()


def test_the_true_description_scores_one_and_the_best_wins(asking):
    drawn = iter(["a lie", "the truth", "a lie", "another lie", "the truth"])
    client, server = asking(lambda prompt: next(drawn))
    honest = server._told
    # to a lie the simulator answers 5 on some tokens and 4 on others; to the truth it follows the law
    server._told = lambda prompt: honest(prompt) if "Description: the truth\n" in prompt else lied(honest(prompt))
    found = client.wait(explainers.best_of(client, CAN, texts("a", 3, True), texts("b", 3, True)))
    assert found[0].text == "the truth"
    assert sorted(j.text for j in found) == ["a lie", "another lie", "the truth"]  # equal ones once
    assert found[0].score.value == pytest.approx(1.0)
    assert found[0].score.low == found[0].score.high == found[0].score.value
    assert all(j.score.value < 0.9 for j in found[1:])
    assert len(found[0].simulations) == 3


def lied(told):
    return [
        (piece, {str(4 + i % 2): 0.9, "~": 0.1} if piece == "unknown" and told[i - 1][0] == "\t" else c)
        for i, (piece, c) in enumerate(told)
    ]


def test_documents_that_explain_do_not_judge(asking):
    client, server = asking(lambda prompt: "x")
    shown = texts("a", 3, True)
    with pytest.raises(RunError, match="both explained and scored, such as a2"):
        client.wait(explainers.best_of(client, CAN, shown, [*texts("b", 2, True), shown[2]]))
    assert server.log.requests == 0


@pytest.mark.parametrize("improves", [True, False])
def test_a_revision_is_kept_only_if_it_is_better(asking, improves):
    def brain(prompt):
        if "different sentences" in prompt:
            return "\n".join(f"A sentence of water {i}." for i in range(12))
        assert prompt.index("First description: water") < prompt.index("New texts:")
        assert prompt.count("Text ") == 3 + explainers.SENTENCES
        return "the truth" if improves else "a lie"

    client, server = asking(brain)
    honest = server._told
    server._told = lambda prompt: honest(prompt) if "Description: the truth\n" in prompt else lied(honest(prompt))
    acted = []

    def act(sentences):
        acted.extend(sentences)
        return [excerpt(f"s{i}", s.split(" "), [0] * len(s.split(" "))) for i, s in enumerate(sentences)]

    shown, select = texts("a", 3, True), texts("b", 3, True)
    first = client.wait(explainers.judge(client, CAN, "water", select))
    found = client.wait(explainers.revise(client, CAN, first, shown, select, act))
    assert len(acted) == explainers.SENTENCES
    assert found.text == ("the truth" if improves else "water")
    assert found.score.value >= first.score.value


def test_meanings_are_read_with_their_shares(asking):
    client, _ = asking(
        lambda prompt: "<think>hm</think>30%: colors\n- 50 % – ships at sea\n3) words in brackets\n\n20%: x\n1%: y"
    )
    found = client.wait(explainers.meanings(client, CAN, texts("a", 2, True), 4))
    assert [m.text for m in found] == ["ships at sea", "colors", "x", "words in brackets"]
    assert [m.share for m in found[:3]] == [0.5, 0.3, 0.2]
    assert math.isnan(found[3].share)


def test_no_description_is_an_error_not_an_empty_text(asking):
    client, _ = asking(lambda prompt: "<think>only thoughts")
    with pytest.raises(RunError, match="answered nothing"):
        client.wait(explainers.explain(client, CAN, texts("a", 2, True)))
    with pytest.raises(RunError, match="answered nothing"):
        client.wait(explainers.best_of(client, CAN, texts("a", 2, True), texts("b", 2, True)))


def test_examples_share_one_scale():
    loud, soft = excerpt("a", ["x", "y"], [8.0, 2.0]), excerpt("b", ["z"], [4.0])
    assert [e.levels for e in explainers.examples([loud, soft])] == [[10, 2], [5]]


def listed(prompt):
    return re.findall(r"^(\d+)\t(.*)$", prompt, re.MULTILINE)


def fires(text):
    return "sea" in text


def unit_texts(count, word):
    return [
        excerpt(f"{word}{i}", [f" a{i}", f" {word}", " b", " c"], [0, 5 if word == "sea" else 0, 0, 0])
        for i in range(count)
    ]


def test_detection_by_one_who_knows_one_who_says_none_and_one_who_says_all(asking):
    answers = {
        "knows": lambda prompt: ", ".join(n for n, t in listed(prompt) if fires(t)) or "none",
        "none": lambda prompt: "none",
        "all": lambda prompt: ", ".join(n for n, _ in listed(prompt)),
    }
    client, server = asking(None)
    for name, expected in (("knows", 1.0), ("none", 0.5), ("all", 0.5)):
        server.traits.brain = answers[name]
        work = scorers.detection(client, CAN, name, unit_texts(3, "sea"), unit_texts(9, "door"))
        found = client.wait(work)
        assert (found.value, found.low, found.high, found.n, found.null) == (expected, expected, expected, 12, 0.5)


def test_answers_that_cannot_be_read_are_left_out_and_bounded(asking):
    def brain(prompt):
        rows = listed(prompt)
        return ", ".join(n for n, t in rows if fires(t)) or "none" if len(rows) == 5 else "no idea"

    client, _ = asking(brain)
    found = client.wait(scorers.detection(client, CAN, "sea", unit_texts(4, "sea"), unit_texts(4, "door")))
    assert (found.value, found.n) == (1.0, 5)
    assert found.low < 1.0 == found.high
    assert "the 3 that cannot be read" in found.method


def test_failed_calls_are_missing_answers(asking):
    client, _ = asking(lambda prompt: "none", Pace(share=1.0, kinds=("500",)))
    found = client.wait(scorers.detection(client, CAN, "sea", unit_texts(3, "sea"), unit_texts(3, "door")))
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


def test_fuzzing_by_one_who_knows(asking):
    client, _ = asking(lambda prompt: ", ".join(n for n, t in listed(prompt) if "« sea»" in t) or "none")
    found = client.wait(scorers.fuzzing(client, CAN, "sea", unit_texts(12, "sea")))
    assert (found.value, found.n) == (1.0, 12)
    nothing = client.wait(scorers.fuzzing(client, CAN, "sea", unit_texts(12, "door")))
    assert math.isnan(nothing.value)


def test_intruders_by_one_who_knows_and_by_one_who_always_says_the_same(asking):
    client, server = asking(lambda prompt: next(n for n, t in listed(prompt) if "sea" not in t))
    found = client.wait(scorers.intruder(client, CAN, unit_texts(80, "sea"), unit_texts(20, "door")))
    assert (found.value, found.n, found.null) == (1.0, 20, 0.2)
    server.traits.brain = lambda prompt: "1"
    same = client.wait(scorers.intruder(client, CAN, unit_texts(80, "sea"), unit_texts(20, "door"), seed=1))
    assert same.value < 0.5


def test_the_law_tells_the_words_apart():
    assert len({round(mean(w), 2) for w in WORDS}) > 5
    assert all(law(w) for w in WORDS)
