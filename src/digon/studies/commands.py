"""The command line of settings: what a run says to be made again."""

import shlex
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any


def command(verb: str, *settings: Any, out: str | Path) -> str:
    """A line that can be typed: what differs from the default is a flag, what has no default comes first.

    `settings` are configs, as many as the verb takes.
    """
    words = [word for config in settings for word in _words(config)]
    return shlex.join(["digon", verb, *words, "--out", str(out)])


def _words(config: Any) -> Iterator[str]:
    for number, entry in enumerate(fields(config)):
        value, usual = getattr(config, entry.name), _usual(entry)
        flag = entry.name.replace("_", "-")
        if number == 0 and usual is MISSING:
            yield str(value)
        elif isinstance(value, bool):
            yield from [f"--{flag}" if value else f"--no-{flag}"] * (value != usual)
        elif value != usual:
            yield from [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]


def _usual(entry: "Field[Any]") -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
