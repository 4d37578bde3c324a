"""The hub of models, asked only for what a user names, and only for the files that the caller names."""

import re
from pathlib import Path

from ..errors import ModelError

NAME = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
"""What a repository may be called."""


def may_be_meant(source: str | Path) -> bool:
    """Whether something that is not on the disk can be the name of a repository rather than a path with a slip in it."""
    path = Path(source).expanduser()
    beside = path.parent != Path() and path.parent.is_dir()
    return isinstance(source, str) and bool(re.fullmatch(NAME, source)) and not beside


def download(name: str, files: tuple[str, ...]) -> Path:
    """The folder with a repository's files that fit one of the patterns, from the cache or from the hub.

    Raises: ModelError if the hub cannot be asked or does not deliver.
    """
    try:
        import huggingface_hub
    except ImportError:
        problem = "huggingface_hub, which would look on the hub, is not installed"
        raise ModelError(problem, hint="pip install 'digon[hf]'") from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # network, permission, offline mode, no such model
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"the hub did not deliver {name!r}: {reason[0]}") from None
