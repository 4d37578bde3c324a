"""Who is asked: one model or two behind a server, or one in this process; opened once, closed with their journal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import AccessError
from ...explain.llm import Budget, Capabilities, Client, Journal, Limits, Prices, Server, probe
from ...explain.llm.local_client import LocalClient
from ...hosts.load import load_host
from .settings import Spending, WordsConfig


@dataclass(frozen=True)
class Voices:
    """The model that explains, and the one that simulates and judges."""

    client: Client
    can: Capabilities
    judge: Client
    judge_can: Capabilities

    @property
    def simulator(self) -> tuple[Client, Capabilities]:
        """What `explain.llm.explainers` takes."""
        return self.judge, self.judge_can


@contextmanager
def opened(config: WordsConfig, spending: Spending, journal: Path, device: str) -> Iterator[Voices]:
    """Open journal and clients, and find out what the models can do.

    Raises: AccessError without a key; ServerError if the server cannot be reached or is none; ModelError for a model that
    writes nothing; RequestError; BudgetError; StorageError.
    """
    budget = Budget(spending.budget_usd, spending.budget_tokens, spending.budget_calls)
    if config.local is not None:
        host = load_host(config.local, device=device)
        with Journal(journal) as book:
            here = LocalClient(host, book, budget=budget)
            with here:
                yield Voices(here, here.can, here, here.can)
        return
    first, second = servers(config, spending)
    limits = Limits(concurrency=spending.concurrency, requests_per_minute=spending.per_minute, timeout=spending.timeout)
    prices = Prices(spending.usd_read, spending.usd_written)
    with Journal(journal) as book, Client(first, book, limits=limits, budget=budget, prices=prices) as client:
        other = client if second == first else client.beside(second)
        can = client.wait(probe(client))
        yield Voices(client, can, other, can if other is client else client.wait(probe(other)))


def servers(config: WordsConfig, spending: Spending) -> tuple[Server, Server]:
    """The servers of both models. Raises: AccessError without a key; ConfigError for a bad address."""
    assert config.llm is not None, "a server is asked"
    key = None
    if spending.key_env is not None:
        key = os.environ.get(spending.key_env)
        if not key:
            raise AccessError(f"the environment variable {spending.key_env} is not set", expected="a key in it")
    names = (config.explainer_model or config.model or "", config.simulator_model or config.model or "")
    first, second = (Server.of(name, config.llm, key) for name in names)
    return first, second
