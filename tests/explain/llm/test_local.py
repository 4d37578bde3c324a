"""The simulator inside this process and the one over the wire are two implementations of one thing."""

import asyncio

import pytest
import tokenizers
import torch
from faulty_server import FaultyServer, Traits
from host_networks import seeded
from tokenizers import models, pre_tokenizers

from digon.errors import ContextError, ModelError
from digon.explain.llm import Capabilities, Client, Journal, Limits, Server, prompts
from digon.explain.llm.local import LocalSimulator
from digon.explain.llm.simulate import by
from digon.hosts import Host
from digon.hosts.tinylm import TinyLM, TinyLMConfig
from digon.hosts.tokens import Tokenizer

TEXTS = [[" the", " old", "man"], [" sea", "\n", " 12", " the", "x"], []]


def word_pieces(ten=True):
    """Words, digits and blanks as tokens of their own, so that pieces and whole texts are cut alike."""
    known = ["?", *map(str, range(10)), "\t", "\n", " ", ":", ".", ",", "(", ")", "↵", *(["10"] if ten else [])]
    prompt = prompts.all_at_once("old things", [t for text in TEXTS for t in text])
    split = tokenizers.Regex(r"10|\d|[A-Za-z]+|\s|." if ten else r"\d|[A-Za-z]+|\s|.")
    cut = pre_tokenizers.Split(split, "isolated")
    words = {piece for piece, _ in cut.pre_tokenize_str(prompt.text)}
    vocabulary = {w: i for i, w in enumerate([*known, *sorted(words - set(known)), *(f"<{i}>" for i in range(200))])}
    raw = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    raw.pre_tokenizer = cut
    return Tokenizer(raw)


def gpt2(tokenizer, context=1024):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with seeded():
        model = GPT2LMHeadModel(config).eval()
    forward = lambda ids, mask: model(input_ids=ids, attention_mask=mask, use_cache=False)[0]  # noqa: E731
    return Host.from_module(model, "gpt2", tokenizer, forward, context)


def tinylm(tokenizer):
    model = TinyLM(TinyLMConfig(vocabulary=len(tokenizer), width=16, layers=2, heads=2, context=1024))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return Host.from_module(model, "tiny", tokenizer, model, 1024)


@pytest.fixture(params=["gpt2", "tinylm", "gpt2 without 10"])
def host(request):
    tokenizer = word_pieces(ten="without" not in request.param)
    return tinylm(tokenizer) if request.param == "tinylm" else gpt2(tokenizer)


def by_hand(host, tokens, scale):
    """Text → ids of the whole → one forward → softmax; one text at a time, nothing shared."""
    prompt = prompts.all_at_once("old things", tokens, scale)
    values = []
    for place in prompt.places:
        (ids,) = host.tokenizer.encode_batch([prompt.text[:place]])
        p = host.forward(torch.tensor([ids]))[0, -1].double().softmax(-1)
        digits = [host.tokenizer.encode_batch([str(d)])[0][0] for d in range(scale + 1)]
        values.append(float(sum(d * p[i] for d, i in enumerate(digits)) / p[digits].sum()))
    return values


def test_batches_behind_one_prefix_equal_one_text_at_a_time(host):
    simulator = LocalSimulator(host)
    assert simulator.scale == (9 if host.name == "gpt2" and len(host.tokenizer.encode_batch(["10"])[0]) == 2 else 10)
    found = simulator.simulate("old things", TEXTS)
    for tokens, simulation in zip(TEXTS, found, strict=True):
        assert simulation.values == pytest.approx(by_hand(host, tokens, simulator.scale), abs=1e-5)
        assert all(0 < m < 1 for m in simulation.mass)
    assert len({round(v, 3) for v in found[1].values}) > 1  # the model does tell tokens apart


def test_prompt_log_probabilities_over_the_wire_equal_the_local_logits(host, tmp_path):
    """The server tells log probabilities of the same network; the client has to find the same values in them."""
    simulator = LocalSimulator(host)

    class Server_(FaultyServer):
        def _told(self, prompt):
            (ids,) = host.tokenizer.encode_batch([prompt])
            p = host.forward(torch.tensor([ids]))[0].double().softmax(-1)
            pieces = [host.tokenizer.token_text(i) for i in ids]
            names = [host.tokenizer.token_text(i) for i in range(len(host.tokenizer))]
            told = [(pieces[0], None)]
            for i in range(1, len(ids)):
                told.append((pieces[i], dict(zip(names, p[i - 1].tolist(), strict=True))))
            return told

    async def all_texts(client, can):
        return await asyncio.gather(*(by("prompt", client, can, "old things", text) for text in TEXTS[:2]))

    limits, can = Limits(attempts=1), Capabilities(True, True, "echo", 20, "", simulator.scale == 10)
    with (
        Server_(Traits()) as server,
        Journal(tmp_path / "j") as journal,
        Client(Server.of("m", server.url), journal, limits=limits) as client,
    ):
        # all candidates are told, as one that was left out would be missing mass
        server._shape = widened(server._shape, len(host.tokenizer))
        found = client.wait(all_texts(client, can))
    for there, here in zip(found, simulator.simulate("old things", TEXTS), strict=False):
        assert there.notes == ()
        assert there.values == pytest.approx(here.values, abs=1e-5)
        assert there.mass == pytest.approx(here.mass, abs=1e-5)


def widened(shape, count):
    return lambda chat, text, steps, _, prompt: shape(chat, text, steps, count, prompt)


def test_too_long_and_unfit_models_are_clear_errors():
    tokenizer = word_pieces()
    with pytest.raises(ContextError, match="more than the 64"):
        LocalSimulator(gpt2(tokenizer, context=64)).simulate("old things", TEXTS)
    raw = tokenizers.Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    with pytest.raises(ModelError, match="every digit"):
        LocalSimulator(gpt2(Tokenizer(raw)))
    with pytest.raises(ModelError, match="no tokenizer"):
        LocalSimulator(Host.from_module(torch.nn.Linear(2, 2), "line"))
