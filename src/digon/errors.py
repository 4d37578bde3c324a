"""What can go wrong, as one tree.

    DigonError                    anything digon refuses to do or could not finish
    ├── UsageError                the request cannot be carried out as written (exit code 2)
    │   ├── ConfigError           a setting is unknown, of the wrong type or out of range
    │   ├── PathError             a path is missing, empty or of the wrong kind
    │   ├── SiteError             no such place in the network
    │   ├── CorpusError           the text holds nothing that can be used
    │   ├── ModelError            the model cannot be loaded, or loading it would not be safe
    │   ├── AccessError           a server wants a key, or refuses the one that it gets
    │   └── RequestError          a server refuses a request as it is written
    │       └── ContextError      the text is longer than the model on the server can read
    └── RunError                  the request was fine, carrying it out failed (exit code 1)
        ├── CorruptError          a file of ours is damaged: its checksum or shape is wrong
        ├── NonFiniteError        NaN or infinity where numbers were expected
        ├── PeerError             another process of the same run has stopped
        ├── StorageError          the disk refused a write (full, read-only, no permission)
        ├── ServerError           a server cannot be reached, or answers in another language than its protocol
        └── BudgetError           the budget is spent; all that was paid for is kept

Every message says what is wrong with which value, what was expected, and how to fix it.
"""

import difflib
from collections.abc import Iterable


class DigonError(Exception):
    """Base of every error a user can act on.

    `problem` says what is wrong, `expected` what was expected, `hint` how to fix it.
    """

    exit_code = 1

    def __init__(self, problem: str, *, expected: str | None = None, hint: str | None = None) -> None:
        self.problem = problem
        self.expected = expected
        self.hint = hint
        lines = [problem]
        if expected:
            lines.append(f"Expected: {expected}")
        if hint:
            lines.append(f"Hint: {hint}")
        super().__init__("\n".join(lines))


class UsageError(DigonError):
    """The request cannot be carried out as written."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of range."""


class PathError(UsageError):
    """A path is missing, empty or of the wrong kind."""


class SiteError(UsageError):
    """No such place in the network."""


class CorpusError(UsageError):
    """The text holds nothing that can be used."""


class ModelError(UsageError):
    """The model cannot be loaded, or loading it would not be safe."""


class AccessError(UsageError):
    """A server wants a key, or refuses the one that it gets."""


class RequestError(UsageError):
    """A server refuses a request as it is written."""


class ContextError(RequestError):
    """The text is longer than the model on the server can read."""


class RunError(DigonError):
    """The request was fine; carrying it out failed."""


class CorruptError(RunError):
    """A file of ours is damaged."""


class NonFiniteError(RunError):
    """NaN or infinity where numbers were expected."""


class PeerError(RunError):
    """Another process of the same run has stopped."""


class StorageError(RunError):
    """The disk refused a write."""


class ServerError(RunError):
    """A server cannot be reached, or answers in another language than its protocol."""


class BudgetError(RunError):
    """The budget is spent; all that was paid for is kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint that lists the known names nearest to `name`, or None if nothing is near.

    >>> did_you_mean("layers.0.mlp.akt", ["layers.0.mlp.act", "embed"])
    'did you mean layers.0.mlp.act?'
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else None
