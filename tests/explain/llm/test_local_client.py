"""A model in this process behind the client's face: the same journal, the better way to simulate."""

import pytest
from faulty_server import FaultyServer
from host_networks import seeded
from test_local import TEXTS, gpt2, tinylm, word_pieces

from digon.errors import BudgetError, ContextError
from digon.explain.llm import Budget, Call, Journal, explainers, simulate
from digon.explain.llm.local import LocalSimulator
from digon.explain.llm.local_client import LocalClient
from digon.records import Excerpt


@pytest.fixture(params=[gpt2, tinylm])
def host(request):
    with seeded():
        return request.param(word_pieces())


def asked(text, temperature=0.0, sample=0, length=6):
    return Call("completions", {"prompt": text, "max_tokens": length, "temperature": temperature}, sample)


def test_writes_what_the_logits_say_and_remembers_it(host, tmp_path):
    with Journal(tmp_path / "j") as journal, LocalClient(host, journal) as client:
        reply = client.wait(client.ask(asked("old things the man")))
        again = client.wait(client.ask(asked("old things the man")))
        drawn = [client.wait(client.ask(asked("old things the man", 5.0, i))).text for i in range(6)]
        totals = journal.totals()
    assert again.cached
    assert again.text == reply.text
    assert len(set(drawn)) > 1  # samples differ
    assert totals.calls == 7
    assert totals.usd == 0
    import torch

    ids = host.tokenizer.encode_batch(["old things the man"])[0]
    for _ in range(reply.usage.tokens_out):  # token by token without memory: a second implementation
        ids.append(int(host.forward(torch.tensor([ids]))[0, -1].argmax()))
    assert reply.text == "".join(host.tokenizer.token_text(t) for t in ids[-reply.usage.tokens_out :])


def test_simulates_as_the_simulator_does_all_texts_together(host, tmp_path):
    with Journal(tmp_path / "j") as journal, LocalClient(host, journal) as client:
        read = []
        whole = client._simulator.simulate
        client._simulator.simulate = lambda text, texts: read.append(len(texts)) or whole(text, texts)
        excerpts = [
            Excerpt(f"d{i}", 0, tuple(t), tuple(float(j) for j in range(len(t))), "top")
            for i, t in enumerate(TEXTS[:2])
        ]
        judged = client.wait(explainers.judge(client, client.can, "old things", excerpts))
    expected = LocalSimulator(host).simulate("old things", TEXTS[:2])
    assert read == [2]
    assert [s.values for s in judged.simulations] == [s.values for s in expected]


def test_too_long_is_missing_and_budgets_hold(host, tmp_path):
    with Journal(tmp_path / "j") as journal, LocalClient(host, journal, budget=Budget(calls=1)) as client:
        found = client.wait(simulate(client, client.can, "old things", [" the"] * 2000))
        assert found.failures == 2000
        assert "more than the" in found.notes[0]
        with pytest.raises(ContextError, match="more than the"):
            client.wait(client.ask(asked("the " * 3000)))
        client.wait(client.ask(asked("old")))
        with pytest.raises(BudgetError):
            client.wait(client.ask(asked("man")))


def test_a_client_beside_another_shares_its_bill(tmp_path):
    from digon.explain.llm import Client, Server

    with FaultyServer() as server, Journal(tmp_path / "j") as journal:
        first = Server.of("a", server.url)
        with Client(first, journal, budget=Budget(calls=2)) as client:
            other = client.beside(Server.of("b", server.url))

            async def both():
                return [(await c.ask(asked("hello", sample=i))).text for i, c in enumerate((client, other))]

            client.wait(both())
            with pytest.raises(BudgetError):
                client.wait(other.ask(asked("more")))
        assert journal.totals().calls == 2
