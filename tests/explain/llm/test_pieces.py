"""The parts that need no server: identity, pacing, budget, bounds, prompts."""

import asyncio
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digon.errors import AccessError, BudgetError, ConfigError, ContextError, RequestError, ServerError
from digon.explain.llm import Call, Limits, Server, prompts, score
from digon.explain.llm.bounds import bounds, correlation
from digon.explain.llm.budget import Budget, Ledger, Prices
from digon.explain.llm.faults import of_status
from digon.explain.llm.journal import Totals
from digon.explain.llm.pacing import Allowance, Bucket, Throttle, asked_wait, backoff, exhausted_wait
from digon.explain.llm.wire import Reply, Usage, canonical, identity

SERVER = Server("http://localhost:1/v1", "m")
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=5), st.randoms())
def test_identity_ignores_the_order_of_keys(body, shuffle):
    items = list(body.items())
    shuffle.shuffle(items)
    assert identity(SERVER, Call("chat", body)) == identity(SERVER, Call("chat", dict(items)))


def test_identity_tells_apart_all_that_matters():
    body = {"messages": [{"role": "user", "content": "x"}], "temperature": 0.0}
    calls = [
        (SERVER, Call("chat", body)),
        (SERVER, Call("completions", body)),
        (SERVER, Call("chat", body, 1)),
        (SERVER, Call("chat", body | {"temperature": 1.0})),
        (SERVER, Call("chat", {**body, "messages": [{"role": "user", "content": "x" * 300 + "y" + "x" * 300}]})),
        (SERVER, Call("chat", {**body, "messages": [{"role": "user", "content": "x" * 300 + "z" + "x" * 300}]})),
        (Server("http://localhost:1/v1", "n"), Call("chat", body)),
        (Server("http://localhost:2/v1", "m"), Call("chat", body)),
    ]
    assert len({identity(server, call) for server, call in calls}) == len(calls)
    same = [
        (Server("http://localhost:1/v1/", "m", key="other"), Call("chat", body)),
        (SERVER, Call("chat", body | {"temperature": 0})),
    ]
    assert {identity(server, call) for server, call in same} == {identity(*calls[0])}
    moved = [Server(f"http://localhost:{port}/v1", "m", label="mine") for port in (1, 2)]
    assert len({identity(server, calls[0][1]) for server in moved}) == 1


def test_canonical_refuses_what_is_not_json():
    assert canonical({"z": 1.5, "a": [1.0, "é"]}) == '{"a":[1,"é"],"z":1.5}'
    for wrong in (math.nan, {1, 2}, object()):
        with pytest.raises(ConfigError, match="not JSON"):
            identity(SERVER, Call("chat", {"x": wrong}))


def test_echo_must_spell_the_prompt():
    def reply(tokens):
        listed = {"tokens": tokens, "token_logprobs": [None, *[-1.0] * (len(tokens) - 1)], "top_logprobs": None}
        return Reply({"choices": [{"text": "".join(tokens), "logprobs": listed}]}, Usage(1, 1))

    assert [s.token for s in reply(["ab", "c", "d"]).echoed("abc")] == ["ab", "c"]
    assert [s.token for s in reply(["<s>", "ab", "c"]).echoed("abc")] == ["ab", "c"]
    for tokens in (["d", "e"], ["ab"], ["ab", "x", "c"], []):
        assert reply(tokens).echoed("abc") == ()


def test_a_bucket_never_gives_more_than_its_rate_and_burst():
    bucket, clock, draw, used = Bucket(120.0), 0.0, random.Random(0), []
    for _ in range(500):
        clock += draw.expovariate(4)
        amount = draw.uniform(0.1, 3)
        used.append((clock + bucket.take(amount, clock), amount))
    ends = [at for at, _ in used]
    assert ends == sorted(ends)
    for (i, (start, _)), window in itertools.product(list(enumerate(used))[::25], (1.0, 10.0, 60.0)):
        taken = sum(a for at, a in used[i:] if at < start + window)
        assert taken <= 2 * window + bucket.burst + 3 + 1e-9
    assert sum(a for _, a in used) > 0.9 * 2 * ends[-1]  # and it does not waste either
    bucket = Bucket(60.0)
    bucket.take(5.0, 0.0)
    bucket.correct(3.0)
    assert [bucket.take(1.0, 0.0) for _ in range(4)] == pytest.approx([0, 0, 0, 1])


def throttled(share, rounds=4000, seed=0):
    throttle, draw = Throttle(64, 8.0), random.Random(seed)
    limits = []
    for _ in range(rounds):
        throttle.outcome(draw.random() < share)
        limits.append(throttle.limit)
    return sum(limits[rounds // 2 :]) / (rounds // 2)


def test_the_throttle_opens_fast_and_closes_in_proportion():
    throttle = Throttle(64, 8.0)
    for _ in range(8 + 16 + 32):
        throttle.outcome(False)
    assert throttle.limit == 64
    assert throttled(0.0) == 64
    assert throttled(0.2) > 40  # random faults do not starve it
    assert throttled(0.9) < 4  # a server on its knees is left alone
    assert throttled(0.05) > throttled(0.3) > throttled(0.6)


def test_waits_are_jittered_and_at_least_what_is_asked():
    limits, draw = Limits(base=1.0, cap=20.0), random.Random(0)
    for attempt, top in ((0, 1.0), (3, 8.0), (10, 20.0)):
        waits = [backoff(attempt, None, limits, draw) for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * top
        assert 0.9 * top < max(waits) <= top
        assert sum(waits) / 400 == pytest.approx(top / 2, rel=0.1)
    assert all(7 <= backoff(2, 7.0, limits, draw) <= 8 for _ in range(100))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 120.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, 0.0),
        ({"x-ratelimit-reset-requests": "1m2.5s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s", "x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "1h"}, 2.0),
    ],
)  # fmt: skip
def test_what_a_server_asks_for_is_read(headers, seconds):
    assert asked_wait(headers, 0.0) == seconds


def test_only_a_limit_told_to_be_used_up_stops_a_success():
    assert exhausted_wait({"x-ratelimit-reset-requests": "2s"}, told=True) is None
    assert exhausted_wait({"x-ratelimit-reset-requests": "2s", "x-ratelimit-remaining-requests": "0"}, told=True) == 2.0


def test_retries_of_all_calls_are_bounded():
    allowance = Allowance(constant=5, share=0.5, calls=10)
    assert sum(allowance.spend() for _ in range(100)) == 10


def test_a_ledger_waits_for_what_is_reserved_and_stops_at_what_is_spent():
    async def spend():
        ledger = Ledger(Budget(tokens=100), Prices(), Totals())
        await ledger.reserve("a", Usage(30, 30))
        waiting = asyncio.create_task(ledger.reserve("b", Usage(30, 30)))
        await asyncio.sleep(0)
        assert not waiting.done()  # 120 > 100, but "a" may turn out smaller
        await ledger.settle("a", Usage(10, 10))
        await waiting
        await ledger.settle("b", Usage(30, 25))
        with pytest.raises(BudgetError, match="75 of 100 tokens"):
            await ledger.reserve("c", Usage(20, 10))
        await ledger.reserve("d", Usage(20, 5))
        await ledger.settle("d", None)
        assert ledger.spent == Totals(2, 75)
        await ledger.reserve("e", Usage(20, 5))
        await ledger.settle("e", None, charged=True)
        assert ledger.spent == Totals(3, 100, 0.0, 1)

    asyncio.run(spend())


def test_tokens_per_byte_are_learned_and_never_forgotten():
    async def learn():
        ledger = Ledger(Budget(), Prices(), Totals())
        call = Call("chat", {"messages": [{"role": "user", "content": "x" * 1000}], "max_tokens": 7})
        assert ledger.estimate(call) == Usage(516, 7)
        for tokens_in, expected in ((216, 216), (316, 316), (116, 316)):
            await ledger.reserve("a", Usage(1, 1))
            await ledger.settle("a", Usage(tokens_in, 1), 1000)
            assert ledger.estimate(call).tokens_in == pytest.approx(expected, abs=1)

    asyncio.run(learn())


def brute(a, m, gone):
    """All corners and a fine grid of the missing values."""
    grid = np.linspace(0, 10, 41)
    mesh = np.stack(np.meshgrid(*[grid] * len(gone)), -1).reshape(-1, len(gone))
    found = np.repeat(m[None], len(mesh), 0)
    found[:, gone] = mesh
    a, found = a - a.mean(), found - found.mean(1, keepdims=True)
    norm = np.sqrt((a @ a) * (found**2).sum(1))
    return (found @ a)[norm > 1e-9] / norm[norm > 1e-9]


def test_bounds_hold_all_fillings_and_are_reached():
    draw = np.random.default_rng(0)
    for _ in range(60):
        n, k = draw.integers(4, 9), draw.integers(1, 3)
        a = draw.exponential(size=n) * (draw.random(n) < 0.6) + 0.01 * draw.random(n)
        m, gone = draw.integers(0, 11, n).astype(float), draw.choice(n, k, replace=False)
        m[gone] = np.nan
        low, high = bounds(a, m, 10.0)
        all_found = brute(a, m, gone)
        assert low <= all_found.min() + 1e-9
        assert high >= all_found.max() - 1e-9
        assert low == pytest.approx(all_found.min(), abs=0.02)
        assert high == pytest.approx(all_found.max(), abs=0.02)


def test_a_score_excludes_what_is_missing_and_says_how_much_it_could_matter():
    real, simulated = [0.0, 0.0, 1.0, 2.0, 0.0, 3.0], [0.0, 1.0, 4.0, 8.0, math.nan, math.nan]
    found = score(real, simulated, 10)
    assert found.value == pytest.approx(float(np.corrcoef(real[:4], simulated[:4])[0, 1]))
    a, m = np.array(real), np.array(simulated)
    fillings = brute(a, m, np.flatnonzero(np.isnan(m)))
    assert found.low == pytest.approx(fillings.min(), abs=0.01)
    assert found.high == pytest.approx(fillings.max(), abs=0.01)
    assert (found.n, "2 missing" in found.method) == (4, True)
    whole = score(real, [0.0, 1.0, 4.0, 8.0, 0.0, 9.0], 10)
    assert whole.low == whole.value == whole.high
    nothing = score(real, [math.nan] * 6, 10)
    assert math.isnan(nothing.value)
    assert nothing.high == pytest.approx(1.0)
    assert math.isnan(correlation(np.ones(3), np.arange(3.0)))
    assert math.isnan(correlation(np.full(3, 0.1), np.arange(3.0)))
    faint, rising = 1e-9 * np.arange(3.0), 1e-5 * np.arange(3.0)
    assert correlation(faint, rising) == pytest.approx(1.0)


def test_levels_by_hand():
    assert prompts.levels([-1.0, 0.0, 0.5, 1.99, 2.0], 2.0) == [0, 0, 2, 9, 10]
    assert prompts.levels([1.0, 2.0], 0.0) == [0, 0]
    assert prompts.levels([0.5, 2.0], 2.0, 9) == [2, 9]


def test_slots_are_where_the_prompt_says():
    prompt = prompts.all_at_once("old\tthings\n", [" the", "\n", "tab\t", "unknown"])
    assert len(prompt.places) == 4
    for place, token in zip(prompt.places, (" the", "↵", "tab⇥", "unknown"), strict=True):
        assert prompt.text[place:].startswith("unknown\n")
        assert prompt.text[:place].endswith(f"\n{token}\t")
    assert prompt.text.startswith(prompt.prefix)
    # no answer is given away behind a slot, and the examples do show numbers
    assert not any(c.isdigit() for c in prompt.text[prompt.places[0] :])
    assert "\t10\n" in prompt.prefix


def test_prompts_hold_what_they_must():
    quiet = prompts.Example([f" w{i}" for i in range(20)] + [" old"], [0] * 20 + [7])
    loud = prompts.Example([" sea", "\n"], [5, 6])
    text = prompts.as_text(prompts.explain([quiet, loud]))
    assert text.count(" old\t7") == 2  # few active tokens are shown once more
    assert text.count(" sea\t5") == 1
    assert "↵\t6" in text
    several = prompts.as_text(prompts.explain([loud], count=4))
    assert "up to 4" in several
    revised = prompts.as_text(prompts.revise("old things", [loud], [quiet]))
    assert revised.index("First description: old things") < revised.index("New texts:") < revised.index(" w0\t0")
    assert "old things" in prompts.as_text(prompts.counter_examples("old things", 10))
    listed = prompts.as_text(prompts.numbered("old things", ["a", "b"], 9, "list"))
    assert "exactly 2 whole numbers from 0 to 9" in listed
    assert "1\ta\n2\tb" in listed
    last = prompts.as_text(prompts.single("old things", ["a", "b"], 10))
    assert "Activation on token 2:" in last
    for made in (prompts.detect("old things", ["x", "y"]), prompts.fuzz("old things", ["«x»", "y"])):
        assert "old things" in made[1]["content"]
        assert "2\ty" in made[1]["content"]
        assert prompts.NONE in made[0]["content"]
    assert "old things" not in prompts.as_text(prompts.intruder(["x", "y"]))


@pytest.mark.parametrize(
    ("status", "text", "kind", "again"),
    [
        (429, "Rate limit reached for m. Add a payment method under account/billing to raise it.", ServerError, True),
        (429, '{"error": {"code": "insufficient_quota", "message": "check your plan"}}', AccessError, False),
        (402, "pay first", AccessError, False),
        (400, '{"error": {"code": "context_length_exceeded", "message": "too much"}}', ContextError, False),
        (400, '{"error": {"type": "exceed_context_size_error", "message": "request exceeds it"}}', ContextError, False),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", ContextError, False),
        (413, "", ContextError, False),
        (400, "unknown field 'grammar'", RequestError, False),
        (422, "max_tokens has to be at least 1", RequestError, False),
        (404, "model 'm' not found", RequestError, False),
        (404, "<html><title>nginx</title></html>", ServerError, False),
        (408, "", ServerError, True),
        (529, "overloaded", ServerError, True),
    ],
)
def test_every_refusal_has_its_error(status, text, kind, again):
    fault = of_status(status, text, {}, SERVER)
    assert type(fault.error) is kind
    assert (fault.again, fault.charged) == (again, False)
    assert fault.overload == (status in (408, 429, 529) and again)
