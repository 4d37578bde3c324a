"""Fixtures shared by all tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Two threads, as on the smallest machine we promise; more of them fight under pytest-xdist."""
    torch.set_num_threads(2)
