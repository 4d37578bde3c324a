"""Ask a language model, many times at once, and pay for every answer once.

    1. equal calls under way are one call                 (single flight)
    2. what the journal holds is not asked again           before any waiting for rates or budget
    3. reserve in the budget, wait for a place and for the rates
    4. note the departure, send, parse
    5. keep the reply in the journal, then hand it out
    6. after a fault: give up, or wait as long as the server asks and with full jitter, and go to 3

A batch returns one result per call, in order: a reply, or `Missing` with the reason. It stops as a whole, with one error,
when going on makes no sense: the budget is spent, the key is refused, the disk is full, or no call ever succeeded.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import (
    AccessError,
    BudgetError,
    ConfigError,
    ContextError,
    DigonError,
    RequestError,
    RunError,
    ServerError,
    StorageError,
)
from .budget import Budget, Ledger, Prices
from .faults import Fault, of_exception, parsed
from .journal import Journal
from .pacing import Allowance, Bucket, Limits, Throttle, backoff, exhausted_wait
from .wire import Call, Reply, Server, Usage, identity, usage_of

T = TypeVar("T")
SimulatesHere = Callable[[str, Sequence[str]], Coroutine[Any, Any, Any]]
"""(description, tokens) → `simulate.Simulation`."""
LATE_ATTEMPTS = 3
"""Attempts of a call that run out of time: what is too long for the server once, mostly is again."""
FIRST_ATTEMPTS = 3
"""Attempts of a call as long as the server has answered none."""


@dataclass(frozen=True)
class Missing:
    """A call without an answer, and why."""

    error: DigonError


Result = Reply | Missing


@dataclass
class Counts:
    """What a client did since it was made."""

    hits: int = 0
    """Answered by the journal."""
    shared: int = 0
    """Answered together with an equal call."""
    replies: int = 0
    retries: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a batch stands."""

    done: int
    total: int
    hits: int
    missing: int
    usd: float


Watch = Callable[[Progress], None]


class Client:
    """A client for one server; with `offline` it answers from the journal alone.

    Use it in a `with` block. `wait` runs what is asynchronous from code that is not.
    Raises: ConfigError for settings that make no sense.
    """

    def __init__(
        self,
        server: Server,
        journal: Journal,
        *,
        limits: Limits | None = None,
        budget: Budget | None = None,
        prices: Prices | None = None,
        offline: bool = False,
    ) -> None:
        self.server = server
        self.journal = journal
        self.limits = limits or Limits()
        self.ledger = Ledger(budget or Budget(), prices or Prices(), journal.totals())
        self.throttle = Throttle(self.limits.concurrency, float(min(self.limits.start, self.limits.concurrency)))
        self.counts = Counts()
        self.offline = offline
        self.simulates_here: SimulatesHere | None = None
        """How a unit is simulated where the model itself is in this process."""
        self._requests = Bucket(self.limits.requests_per_minute)
        self._tokens = Bucket(self.limits.tokens_per_minute)
        self._allowance = Allowance()
        self._draw = random.Random()
        self._under_way: dict[str, asyncio.Task[Reply]] = {}
        self._quiet_until = 0.0
        self._answered = False
        self._runner: asyncio.Runner | None = None
        self._sdk: Any = None
        self._beside: list[Client] = []

    def beside(self, server: Server) -> "Client":
        """A client for another model that shares journal, budget and loop with this one, and is closed with it."""
        other = Client(server, self.journal, limits=self.limits, offline=self.offline)
        other.ledger = self.ledger
        self._beside.append(other)
        return other

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The journal stays open: it is not ours."""
        if self._runner is not None:
            for client in (self, *self._beside):
                if client._sdk is not None:
                    self._runner.run(client._sdk.close())
                    client._sdk = None
            self._runner.close()
            self._runner = None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run asynchronous work to its end; all work of a client runs in one loop, so that connections stay open.

        Raises: RunError where a loop runs already, as in a notebook: await the work there.
        """
        if _loop_is_running():
            work.close()
            raise RunError(
                "an event loop is running already, as in a notebook", expected="to be called outside of it",
                hint="await client.ask(...) and client.ask_all(...) directly",
            )  # fmt: skip
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    async def ask(self, call: Call) -> Reply:
        """The reply to one call.

        Raises: AccessError, RequestError, ContextError, ServerError or BudgetError; RunError if offline and unknown.
        """
        name = identity(self.server, call)
        task = self._under_way.get(name)
        if task is not None:
            self.counts.shared += 1
            return await asyncio.shield(task)
        known = self.journal.find(name)
        if known is not None:
            self.counts.hits += 1
            return known
        if self.offline:
            raise RunError(
                f"the journal {self.journal.path} holds no reply to this call, and the client is offline",
                expected="a call that was made before, to the letter", hint="run it with a server once",
            )  # fmt: skip
        task = asyncio.create_task(self._pay(name, call))
        self._under_way[name] = task
        task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return await asyncio.shield(task)

    async def ask_all(self, calls: Sequence[Call], watch: Watch | None = None) -> list[Result]:
        """Results of all calls, in their order.

        Raises: the error that makes going on senseless, after the calls under way have come home.
        """
        results: list[Result | None] = [None] * len(calls)
        queue = iter(range(len(calls)))
        fatal: list[DigonError] = []
        done = missing = hits = 0

        async def work() -> None:
            nonlocal done, missing, hits
            for index in queue:
                if fatal:
                    return
                try:
                    found: Result = await self.ask(calls[index])
                except DigonError as error:
                    if self._hopeless(error):
                        fatal.append(error)
                        return
                    found, missing = Missing(error), missing + 1
                    self.counts.missing += 1
                results[index] = found
                done, hits = done + 1, hits + (isinstance(found, Reply) and found.cached)
                if watch is not None:
                    watch(Progress(done, len(calls), hits, missing, self.ledger.spent.usd))

        workers = min(len(calls), max(self.limits.concurrency, 1))
        await asyncio.gather(*(work() for _ in range(workers)))
        if fatal:
            raise fatal[0]
        return [found for found in results if found is not None]

    def _hopeless(self, error: DigonError) -> bool:
        """Whether the next call would fail in the same way."""
        if isinstance(error, AccessError | BudgetError | StorageError):
            return True
        about_all = isinstance(error, ServerError) or (
            isinstance(error, RequestError) and not isinstance(error, ContextError)
        )
        return about_all and not self._answered

    async def _pay(self, name: str, call: Call) -> Reply:
        """Attempts until one succeeds."""
        self._allowance.calls += 1
        attempt = late = 0
        while True:
            try:
                return await self._attempt(name, call, attempt)
            except Fault as fault:
                attempt, late = attempt + 1, late + fault.late
                most = self.limits.attempts if self._answered else min(FIRST_ATTEMPTS, self.limits.attempts)
                asked = fault.wait or 0.0
                done = attempt >= most or late >= LATE_ATTEMPTS
                if not fault.again or done or asked > self.limits.patience or not self._allowance.spend():
                    raise fault.error from None
                self.counts.retries += 1
                pause = backoff(attempt - 1, fault.wait, self.limits, self._draw)
                if fault.everyone:
                    self._hush(asked)
                await asyncio.sleep(pause)

    async def _attempt(self, name: str, call: Call, attempt: int) -> Reply:
        sdk = self._connection()
        expected = self.ledger.estimate(call)
        tokens = expected.tokens_in + expected.tokens_out
        size = len(call.prompt.encode("utf-8", "replace"))
        await self.ledger.reserve(name, expected)
        usage, charged = None, True  # what ends in an unknown way may have been charged
        departed = False
        try:
            async with self.throttle.slot():
                await self._go_ahead(tokens)
                self.journal.depart(name, tokens, self.ledger.prices.usd(expected))
                departed = True
                reply = await self._send(sdk, name, call, attempt, expected)
                usage = reply.usage
                self.journal.arrive(name, self.server, call, reply)
            self.throttle.outcome(False)
            self._tokens.correct(float(tokens - usage.tokens_in - usage.tokens_out))
            self._answered = True
            self.counts.replies += 1
            return reply
        except Fault as fault:
            charged = fault.charged
            self.throttle.outcome(fault.overload)
            self.journal.lose(name, str(fault.error.problem), charged=charged)
            raise
        except BaseException as error:
            if departed:
                self.journal.lose(name, f"ended by {type(error).__name__}", charged=True)
            raise
        finally:
            await self.ledger.settle(name, usage, size, charged=charged and departed)

    async def _send(self, sdk: Any, name: str, call: Call, attempt: int, expected: Usage) -> Reply:
        """One request. Raises: Fault."""
        body = dict(call.body)
        first = "messages" if call.endpoint == "chat" else "prompt"
        named = {first: body.pop(first), "model": self.server.model}
        once = {"Idempotency-Key": name}  # a server that knows it does not charge for a repeat
        create = (sdk.chat.completions if call.endpoint == "chat" else sdk.completions).with_raw_response.create
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self.limits.timeout):
                response = await create(**named, extra_body=body, extra_headers=once)
                text, headers = response.text, response.headers
        except Exception as error:
            raise of_exception(error, self.server, self.limits.timeout) from None
        raw = parsed(text, headers, self.server)
        left = exhausted_wait(headers, told=True)
        if left is not None:
            self._hush(left)
        usage = usage_of(raw) or expected  # a server that does not say is taken at its worst
        return Reply(raw, usage, self.ledger.prices.usd(usage), time.perf_counter() - start, attempt + 1)

    async def _go_ahead(self, tokens: int) -> None:
        """Wait until the rates allow one more request, and no server asked for quiet."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        wait = max(self._requests.take(1.0, now), self._tokens.take(float(tokens), now))
        if wait > 0:
            await asyncio.sleep(wait)
        while (quiet := self._quiet_until - loop.time()) > 0:
            await asyncio.sleep(quiet)

    def _hush(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + min(seconds, self.limits.patience)
        self._quiet_until = max(self._quiet_until, until)

    def _connection(self) -> Any:
        if self._sdk is None:
            try:
                import openai
            except ImportError:
                raise ConfigError("asking a server needs the openai SDK", hint="pip install 'digon[llm]'") from None
            self._sdk = openai.AsyncOpenAI(
                api_key=self.server.key or "none",
                base_url=self.server.base_url,
                max_retries=0,  # retries are ours: they are counted, paced and paid
                timeout=self.limits.timeout,
            )
        return self._sdk


@contextmanager
def bar(title: str) -> Iterator[Watch]:
    """A line on the terminal that shows where a batch stands."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Line

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Line(*columns, console=Console(stderr=True)) as line:
        task = line.add_task(title)

        def watch(now: Progress) -> None:
            note = f"{title}  {now.hits} known, {now.missing} missing, ${now.usd:.4f}"
            line.update(task, total=now.total, completed=now.done, description=note)

        yield watch


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
