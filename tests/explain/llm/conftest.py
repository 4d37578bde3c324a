"""Tests of the browser that ran before in the same process leave their event loop parked in this thread."""

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_loop_of_others() -> Iterator[None]:
    parked = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(parked)
