"""Fixtures shared by all tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread: tests run side by side under pytest-xdist, and two threads on a tiny problem spend their time waiting."""
    torch.set_num_threads(1)
