"""Fixtures shared by all tests."""

import asyncio
import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread: tests run side by side under pytest-xdist, and two threads on a tiny problem spend their time waiting."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread_after() -> Iterator[None]:
    """A test that asks for more threads leaves none to the next: sums differ in their last bits with the number."""
    yield
    torch.set_num_threads(1)


PARKED = pytest.StashKey[asyncio.AbstractEventLoop]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the browser leave their event loop parked in this thread; it is put aside for others, fixtures included."""
    loop = asyncio._get_running_loop()
    if loop is not None and item.get_closest_marker("browser") is None and item.path.parent.name != "page":
        item.stash[PARKED] = loop
        asyncio._set_running_loop(None)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """The browser gets its loop back, after fixtures of others are gone."""
    if PARKED in item.stash:
        asyncio._set_running_loop(item.stash[PARKED])
