"""An SAE as one folder: `save_pretrained` and `from_pretrained`, in the manner of other model libraries.

How files look is known to `coders.formats`, which lies above and hands its functions over when it is imported (the package
`coders` does that), so that models need to know nothing of files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

Loaded = TypeVar("Loaded", bound="Pretrained")
Writer = Callable[[Any, Path, dict[str, Any]], None]
Reader = Callable[[str | Path, str], Any]


class Pretrained:
    """What can be written to a folder and read from one, or from the hub."""

    writer: ClassVar[Writer]
    reader: ClassVar[Reader]

    def save_pretrained(self, path: str | Path, **metadata: Any) -> None:
        """Write a folder in the layout of SAELens; `metadata` is kept in it and has to be JSON.

        Raises: StorageError if the disk refuses; CorruptError if what was read back does something else.
        """
        type(self).writer(self, Path(path), metadata)

    @classmethod
    def from_pretrained(cls: type[Loaded], source: str | Path, folder: str = "") -> Loaded:
        """Read from a folder or file in any layout of `coders.formats`, or from a repository of the hub (`user/name`).

        `folder` is the place in it, where it holds several. The hub is asked only if nothing on the disk is called so.
        Raises: PathError, ModelError, CorruptError, NonFiniteError.
        """
        return cls.reader(source, folder)
