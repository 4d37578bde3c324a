"""`digon explain` with words, through the verb: a revision by what the network truly does, two models, meanings, prices."""

import json
import re

import pytest
import torch
from faulty_server import FaultyServer, Traits

from digon.cli import main
from digon.explain.llm import prompts
from digon.hosts.load import load_host
from digon.records import UnitCard
from digon.store.runs import Run
from digon.store.shards import ActivationStore

SITE, UNIT = "layers.1.mlp.act", 3


class Listening(FaultyServer):
    """Notes who is asked what."""

    def __init__(self, brain, **traits):
        super().__init__(Traits(brain=brain, **traits))
        self.heard = []

    def _reply(self, path, headers, body):
        said = body.get("prompt") or "\n".join(m["content"] for m in body["messages"])
        self.heard.append((body["model"], said))
        return super()._reply(path, headers, body)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tiny, texts):
    out = tmp_path_factory.mktemp("voices") / "acts"
    words = ["harvest", str(tiny), "--data", str(texts), "--site", SITE, "--tokens", "6000"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def truth(shards, tiny):
    """What the unit does on the mean on every token, from 0 to 10, by how a prompt shows the token."""
    store, tokenizer = ActivationStore.open(shards), load_host(tiny).tokenizer
    values = store.columns(SITE, UNIT, UNIT + 1)[:, 0]
    total = torch.zeros(len(tokenizer)).index_add_(0, store.tokens, values)
    mean = total / torch.bincount(store.tokens, minlength=len(tokenizer)).clamp_min(1)
    low, high = mean.min(), mean.max()
    levels = (10 * (mean - low) / (high - low)).round().int().tolist()
    return {prompts.shown(tokenizer.token_text(t)): level for t, level in enumerate(levels)}


def explain(shards, tiny, out, url, *words):
    few = ["--host", str(tiny), "--units", str(UNIT), "--rungs", "token look-up", "--no-coverage"]
    return main(["explain", str(shards), *few, "--llm", url, *words, "--out", str(out)])


def card_of(out):
    return Run(out).read_json(f"cards/{SITE}/00000", list[UnitCard])[0]


@pytest.mark.parametrize("improves", [True, False])
def test_a_revision_is_judged_on_other_documents_and_told(shards, tiny, truth, tmp_path, capsys, improves):
    right = "what truly fires it" if improves else "a first guess"
    tried = []

    def brain(prompt):
        if "different sentences" in prompt:
            return "import os sys\nreturn self value"
        if "Better description" in prompt:
            tried.append(prompt[prompt.index("New texts:") :])
            return "what truly fires it" if improves else "something worse"
        if "what the unit responds to" in prompt:
            return "a first guess"
        rows = re.findall(r"^(\d+)\t(.*)$", prompt.partition("\n\nTokens:\n")[2], re.MULTILINE)
        known = f"Description: {right}\n" in prompt
        return "\n".join(f"{i}\t{truth.get(t, 0) if known else int(i) % 3}" for i, t in rows) or "hello"

    with Listening(brain, thinks=True, logprobs=False, echo="ignored", constraint="") as server:
        assert explain(shards, tiny, tmp_path / "run", server.url, "--model", "m", "--revise") == 0
    said = " ".join(capsys.readouterr().out.split())
    found = next(e for e in card_of(tmp_path / "run").explanations if e.explainer == "words")
    assert found.text == right
    assert found.score.top_and_random.value > 0.5
    assert len(tried) == 1
    lines = re.findall(r"^(.*)\t(\d+)$", tried[0], re.MULTILINE)
    assert "".join(token for token, _ in lines).replace("Active tokens of this text:", "").count("self") >= 1
    assert any(int(level) > 0 for _, level in lines)  # what the network does on texts that were never harvested
    told = "1 × revised: better on the select split." if improves else "1 × revised, and the first description kept"
    assert told in said
    assert "simulated values come as numbers that it writes" in said
    assert "$" not in said  # no prices were given


def test_two_models_each_do_their_part(shards, tiny, tmp_path, capsys):
    def brain(prompt):
        if "several unrelated meanings" in prompt:
            return "60%: one thing\n40%: another"
        return "names of modules" if "what the unit responds to" in prompt else "none"

    words = ["--explainer-model", "big", "--simulator-model", "small", "--best-of", "2", "--meanings", "2", "--coverage",
             "--scorers", "simulation", "detection", "--usd-read", "1", "--usd-written", "2"]  # fmt: skip
    with Listening(brain) as server:
        assert explain(shards, tiny, tmp_path / "run", server.url, *words) == 0
        heard = server.heard
    said = " ".join(capsys.readouterr().out.split())
    assert {m for m, p in heard if "what the unit responds to" in p or "unrelated meanings" in p} == {"big"}
    assert {m for m, p in heard if "Description: names of modules" in p} == {"small"}
    card = card_of(tmp_path / "run")
    found = next(e for e in card.explanations if e.explainer == "words")
    assert found.provenance.model == "big, judged by small"
    # the language model's meanings stand beside the kinds of context that were told apart without it
    assert [(s.text, s.share) for s in card.senses if s.named_by == "big"] == [("one thing", 0.6), ("another", 0.4)]
    assert card.coverage is not None
    assert "big explains, small judges" in said
    assert f"{SITE}: detection reads 0.5 in the mean over 1 unit (chance 0.5)." in said
    facts = Run(tmp_path / "run").read_json("facts", dict)
    assert f"and ${float(dict(t[:2] for t in facts['language model']['tiles'])['dollars']):.4f}." in said
    command = facts["commands"][0].split()
    assert "--no-coverage" not in command
    assert command[command.index("--simulator-model") + 1] == "small"


def test_the_command_of_the_page_is_one_that_runs(shards, tiny, tmp_path, capsys):
    with Listening(lambda prompt: "none") as server:
        assert explain(shards, tiny, tmp_path / "run", server.url, "--model", "m", "--budget-calls", "9", "--json") == 1
        found = json.loads(capsys.readouterr().out)
        assert not [line for line in found["sentences"] if "tries them again" in line]  # the same budget would not
        assert found["failed"][0].startswith("The language model was not asked further: the budget is spent: 9 of 9")
        assert "Run the same command with a larger budget" in found["failed"][0]
        import shlex

        command = shlex.split(Run(tmp_path / "run").read_json("facts", dict)["commands"][0])
        assert "--no-coverage" in command
        assert main(command[1:]) == 0
