import asyncio
import json
import sqlite3
import sys
import time
import zlib

import pytest
from faulty_server import FaultyServer, Pace, Traits, answer
from killed import kill_after

from digon.errors import (
    AccessError,
    BudgetError,
    ConfigError,
    ContextError,
    CorruptError,
    PathError,
    RequestError,
    RunError,
    ServerError,
)
from digon.explain.llm import Budget, Call, Client, Journal, Limits, Missing, Prices, Server, bar

FAST = Limits(base=0.01, cap=0.1, timeout=5.0, start=32)


def question(text, sample=0):
    return Call("chat", {"messages": [{"role": "user", "content": text}], "max_tokens": 8}, sample)


def questions(count):
    return [question(f"question {i}") for i in range(count)]


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "j.sqlite") as opened:
        yield opened


def client_of(server, journal, **settings):
    settings.setdefault("limits", FAST)
    where = server if isinstance(server, Server) else Server.of("m", server.url, key="none", label="test")
    return Client(where, journal, **settings)


def test_a_call_is_paid_once(journal):
    with FaultyServer() as server, client_of(server, journal) as client:
        first = client.wait(client.ask(question("a")))
        again = client.wait(client.ask(question("a")))
        other = client.wait(client.ask(question("a", sample=1)))
    assert first.text == again.text == other.text == answer("a")
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert server.log.requests == 2
    assert journal.totals().calls == 2
    assert server.log.last["headers"]["idempotency-key"]


def test_equal_calls_under_way_are_one(journal):
    async def many(client):
        return await asyncio.gather(*(client.ask(question("same")) for _ in range(50)))

    with FaultyServer(pace=Pace(latency=0.05)) as server, client_of(server, journal) as client:
        assert {reply.text for reply in client.wait(many(client))} == {answer("same")}
        assert (server.log.requests, client.counts.shared) == (1, 49)


def test_every_result_is_right_or_missing_under_faults(journal):
    pace = Pace(share=0.2, after=0.01, slow=30.0, seed=20)
    limits = Limits(base=0.005, cap=0.05, timeout=1.5, start=32, attempts=4)
    seen = []
    with FaultyServer(pace=pace) as server, client_of(server, journal, limits=limits) as client:
        found = client.wait(client.ask_all(questions(200), seen.append))
        log = server.log
    texts = [r.text if not isinstance(r, Missing) else None for r in found]
    assert all(t is None or t == answer(f"question {i}") for i, t in enumerate(texts))
    assert len(log.faults) == len(pace.kinds)  # every fault did occur
    assert sum(log.faults.values()) > 40
    assert sum(t is None for t in texts) < 20
    twice = sum(n - 1 for n in log.served.values())
    assert twice <= log.faults["slow"] + len(journal.doubtful())  # nothing that arrived was asked for again
    assert journal.totals().doubts >= log.faults["truncated"] + log.faults["no choices"]
    assert seen[-1].done == seen[-1].total == 200


def test_a_batch_resumes_where_it_was(journal):
    with FaultyServer() as server:
        with client_of(server, journal) as client:
            client.wait(client.ask_all(questions(30)))
        with client_of(server, journal) as client:
            found = client.wait(client.ask_all(questions(50)))
            assert client.counts.hits == 30
        assert server.log.requests == 50
    with client_of(Server("http://127.0.0.1:9", "m", label="test"), journal, offline=True) as client:
        again = client.wait(client.ask_all(questions(50)))
        assert [r.raw for r in again] == [r.raw for r in found]
        with pytest.raises(RunError, match="offline"):
            client.wait(client.ask(question("new")))


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_killed_run_pays_for_nothing_that_arrived_again(tmp_path, idempotent):
    path = tmp_path / "j.sqlite"
    with FaultyServer(Traits(idempotent=idempotent), Pace(latency=0.02)) as server:
        kill_after(60, server.url, path, 150)
        time.sleep(0.1)
        with Journal(path) as journal, client_of(server, journal) as client:
            kept = journal.totals()
            found = client.wait(client.ask_all(questions(150)))
            doubtful = journal.doubtful()
    assert [r.text for r in found] == [answer(f"question {i}") for i in range(150)]
    twice = sum(n - 1 for n in server.log.paid.values())
    assert kept.calls - kept.doubts >= 60  # what the killed runs got was kept
    assert twice == 0 or not idempotent
    assert twice <= len(doubtful) <= 16  # only what was under way at a kill, and all of that is on the bill


def test_a_budget_stops_within_one_call(journal):
    prices = Prices(read=1.0, written=2.0)
    with FaultyServer(Traits(most_out=8)) as server:
        for budget, limit in ((Budget(calls=10), 10), (Budget(tokens=350), 350), (Budget(usd=0.001), 0.001)):
            name = next(n for n in ("calls", "tokens", "usd") if getattr(budget, n) is not None)
            with client_of(server, journal, budget=budget, prices=prices) as client:
                with pytest.raises(BudgetError, match=f"budget is spent.*{name}"):
                    client.wait(client.ask_all(questions(80)))
                spent = getattr(journal.totals(), name)
                one = {"calls": 1, "tokens": 16 + 8 + 16, "usd": 60e-6}[name]
                assert limit - one <= spent <= limit
                assert spent == pytest.approx(getattr(client.ledger.spent, name))
        with client_of(server, journal) as client:
            found = client.wait(client.ask_all(questions(80)))
        assert [r.text for r in found] == [answer(f"question {i}") for i in range(80)]
        assert set(server.log.served.values()) == {1}


def test_a_budget_needs_prices_and_counts_what_is_in_doubt(journal):
    with pytest.raises(ConfigError, match="prices"):
        client_of(Server("http://127.0.0.1:9", "m"), journal, budget=Budget(usd=1.0))
    pace = Pace(share=1.0, kinds=("truncated",))
    with FaultyServer(pace=pace) as server, client_of(server, journal, budget=Budget(calls=2)) as client:
        with pytest.raises(BudgetError):
            client.wait(client.ask(question("a")))
        assert server.log.requests == 2
    assert journal.totals().doubts == 2


def test_64_calls_are_sustained(journal):
    with FaultyServer(pace=Pace(latency=1.0)) as server, client_of(server, journal) as client:
        client.throttle.limit = 64.0
        client.wait(client.ask_all(questions(96)))
        assert server.log.peak == 64
        assert client.throttle.peak == 64


def test_a_crowded_server_is_not_pushed(journal):
    limits = Limits(base=0.01, cap=0.1, start=8, attempts=30)
    with (
        FaultyServer(pace=Pace(latency=0.1, tolerates=6)) as server,
        client_of(server, journal, limits=limits) as client,
    ):
        found = client.wait(client.ask_all(questions(60)))
        assert not any(isinstance(r, Missing) for r in found)
        assert server.log.faults["429"] < 180  # as fast as it may, it would be ten times the calls


def test_keys_reach_no_file(tmp_path):
    key = "sk-very-secret-0123456789"
    path = tmp_path / "j.sqlite"
    with FaultyServer(Traits(key=key, reflect=True)) as server, Journal(path) as journal:
        where = Server(server.url, "m", key)
        with client_of(where, journal) as client:
            # the server sends all headers back, and the user writes the key into a prompt
            reply = client.wait(client.ask(question(f"my key is {key}")))
            assert key in json.dumps(reply.raw)
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        texts = [files]
        with sqlite3.connect(path) as db:
            for row in db.execute("select request, response from replies"):
                texts += [zlib.decompress(part) for part in row]
        db.close()
        assert not any(key.encode() in text for text in texts)
        assert key not in repr(where)
        assert b"my key is [key]" in b"".join(texts)


def test_an_address_is_kept_without_its_secrets():
    where = Server("https://user:pass-word@host.org:81/v1/?token=query-secret", "m", "sk-abcd")
    assert where.identity == "https://host.org:81/v1"
    assert set(where.secrets) == {"sk-abcd", "pass-word", "token=query-secret", "query-secret"}
    with pytest.raises(ConfigError) as caught:
        Server("ftp://user:pass-word@host/v1", "m")
    assert "pass-word" not in str(caught.value)


def test_a_wrong_key_is_told_once_and_without_the_key(journal):
    with FaultyServer(Traits(key="right")) as server:
        with client_of(Server(server.url, "m", "wrong-key-1234"), journal) as client:
            with pytest.raises(AccessError, match=r"refuses the key \(401\)") as caught:
                client.wait(client.ask_all(questions(100)))
            assert "wrong-key-1234" not in str(caught.value)
        assert server.log.requests <= FAST.concurrency
    assert journal.totals().calls == 0


def test_no_key_for_a_server_elsewhere(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AccessError, match="OPENAI_API_KEY"):
        Server.of("m")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert Server.of("m").key == "sk-x"
    # the key of one provider never goes to another
    monkeypatch.delenv("DIGON_API_KEY", raising=False)
    with pytest.raises(AccessError, match="DIGON_API_KEY"):
        Server.of("m", "https://api.example.org/v1")
    assert Server.of("m", "http://localhost:8000/v1").key == ""
    with pytest.raises(ConfigError, match="no address"):
        Server.of("m", "localhost:8000")


def test_an_unreachable_host_is_one_clear_error(journal):
    start = time.monotonic()
    with (
        client_of(Server("http://127.0.0.1:9/v1", "m"), journal) as client,
        pytest.raises(ServerError, match="cannot reach"),
    ):
        client.wait(client.ask_all(questions(50)))
    assert time.monotonic() - start < 5
    assert journal.totals().calls == 0


@pytest.mark.parametrize(
    ("traits", "path", "kind", "words"),
    [
        (Traits(chat=False), "", RequestError, "cannot chat"),
        (Traits(context=10), "", ContextError, "too long for 'm'"),
        (Traits(), "/nowhere", RequestError, "Unknown request URL"),
    ],
)
def test_what_cannot_work_is_not_tried_again(journal, traits, path, kind, words):
    with FaultyServer(traits) as server:
        with client_of(Server(server.url + path, "m"), journal) as client, pytest.raises(kind, match=words):
            client.wait(client.ask(question("a rather long question")))
        assert server.log.requests == 1


def test_a_web_page_is_one_clear_error(journal):
    with FaultyServer(pace=Pace(share=1.0, kinds=("page",))) as server, client_of(server, journal) as client:
        with pytest.raises(ServerError, match=r"web page.*Bad gateway") as caught:
            client.wait(client.ask_all(questions(10)))
        assert "base_url" in caught.value.hint
    assert journal.totals().calls == 0


def test_context_overflow_of_one_call_leaves_the_others(journal):
    calls = [*questions(5), question("x" * 500), *questions(9)[5:]]
    with FaultyServer(Traits(context=100)) as server, client_of(server, journal) as client:
        found = client.wait(client.ask_all(calls))
    assert [isinstance(r, Missing) for r in found] == [False] * 5 + [True] + [False] * 4
    assert isinstance(found[5].error, ContextError)


def test_null_content_is_no_text(journal):
    with FaultyServer(pace=Pace(share=1.0, kinds=("null",))) as server, client_of(server, journal) as client:
        reply = client.wait(client.ask(question("a")))
    assert reply.text is None
    assert reply.steps == ()


def test_a_slow_body_ends_at_the_timeout(journal):
    limits = Limits(timeout=0.2, attempts=1)
    start = time.monotonic()
    with (
        FaultyServer(pace=Pace(share=1.0, kinds=("slow",))) as server,
        client_of(server, journal, limits=limits) as client,
        pytest.raises(ServerError, match=r"no whole reply within 0\.2 s"),
    ):
        client.wait(client.ask(question("a")))
    assert time.monotonic() - start < 3
    assert journal.totals().doubts == 1  # the server did all the work


def test_what_is_late_three_times_is_not_tried_eight_times(journal):
    pace = Pace()
    limits = Limits(timeout=0.3, attempts=8, base=0.001)
    with FaultyServer(pace=pace) as server, client_of(server, journal, limits=limits) as client:
        client.wait(client.ask(question("a")))  # it does answer
        pace.share, pace.kinds = 1.0, ("slow",)
        with pytest.raises(ServerError, match="within"):
            client.wait(client.ask(question("b")))
        assert server.log.faults == {"slow": 3}


def test_retry_after_is_obeyed_by_everyone(journal):
    pace = Pace(share=1.0, kinds=("429 after",), after=0.5)
    limits = Limits(base=0.001, attempts=2, concurrency=4, start=4)
    with FaultyServer(pace=pace) as server, client_of(server, journal, limits=limits) as client:
        start = time.monotonic()
        with pytest.raises(ServerError, match="429"):
            client.wait(client.ask_all(questions(4)))
        assert 0.5 <= time.monotonic() - start < 3
        assert server.log.requests == 8


def test_hits_do_not_wait_for_rates_or_budget(journal):
    with FaultyServer() as server:
        with client_of(server, journal) as client:
            client.wait(client.ask_all(questions(40)))
        slow = Limits(requests_per_minute=1.0)
        with client_of(server, journal, limits=slow, budget=Budget(calls=0)) as client:
            start = time.monotonic()
            assert len(client.wait(client.ask_all(questions(40)))) == 40
            assert time.monotonic() - start < 30  # not 40 minutes


def test_rates_are_kept(journal):
    limits = Limits(requests_per_minute=240.0)  # four per second, twenty at once
    with FaultyServer() as server, client_of(server, journal, limits=limits) as client:
        start = time.monotonic()
        client.wait(client.ask_all(questions(23)))
        assert time.monotonic() - start >= 0.75


def test_a_server_that_does_not_say_is_taken_at_its_worst(journal):
    with FaultyServer(Traits(usage=False)) as server, client_of(server, journal) as client:
        reply = client.wait(client.ask(question("abcd")))
    assert reply.usage.tokens_out == 8
    assert journal.totals().tokens == reply.usage.tokens_in + 8 > 8


def test_a_journal_has_one_writer(tmp_path):
    path = tmp_path / "j.sqlite"
    with Journal(path):
        with pytest.raises(RunError, match="another process"):
            Journal(path)
        with Journal(path, read_only=True) as reader:
            assert reader.totals().calls == 0
    Journal(path).close()
    with pytest.raises(PathError, match="no journal"):
        Journal(tmp_path / "none", read_only=True)
    (tmp_path / "text").write_text("this is not a database, but it is long enough to be one" * 20)
    with pytest.raises(CorruptError, match="is no journal"):
        Journal(tmp_path / "text")


def test_an_interrupted_call_is_on_the_bill(journal):
    async def interrupted(client):
        await asyncio.wait_for(client.ask(question("a")), 0.3)

    with FaultyServer(pace=Pace(latency=5.0)) as server:
        with client_of(server, journal) as client, pytest.raises(TimeoutError):
            client.wait(interrupted(client))
        assert server.log.requests == 1
    assert journal.totals().doubts == 1


def test_the_bar_says_what_is_missing(journal, capsys):
    calls = [question("x" * 500), *questions(3), question("y" * 500)]
    with FaultyServer(Traits(context=100)) as server, client_of(server, journal) as client:
        client.wait(client.ask_all(questions(2)))
        with bar("asking") as watch:
            client.wait(client.ask_all(calls, watch))
    assert "asking  2 known, 2 missing" in capsys.readouterr().err


def test_without_the_sdk_the_hint_says_what_to_install(journal, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with client_of(Server("http://127.0.0.1:9", "m"), journal) as client, pytest.raises(ConfigError) as caught:
        client.wait(client.ask(question("a")))
    assert "digon[llm]" in caught.value.hint
    assert journal.totals().calls == 0


def test_inside_of_a_running_loop_it_says_what_to_do(journal):
    async def notebook(client):
        client.wait(client.ask(question("a")))

    with (
        client_of(Server.of("m", "http://127.0.0.1:9", key="none"), journal) as client,
        pytest.raises(RunError, match="event loop is running already"),
    ):
        asyncio.run(notebook(client))
