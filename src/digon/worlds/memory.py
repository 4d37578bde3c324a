"""Will it fit? Memory is asked about before it is taken."""

import os
from pathlib import Path

from ..errors import ConfigError

SMALL = 2**26
"""Bytes below which nobody asks how much memory is free."""


def check_memory(need: int, what: str, hint: str) -> None:
    """Raises: ConfigError if `need` bytes are more than the machine has free."""
    if need < SMALL:
        return
    free = free_memory()
    if need > free:
        raise ConfigError(
            f"{what} would take {need / 2**30:.1f} GiB", expected=f"at most {free / 2**30:.1f} GiB, which are free", hint=hint
        )  # fmt: skip


def free_memory() -> int:
    """Bytes of main memory that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
        return 1024 * int(found[0])
    except (OSError, IndexError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
