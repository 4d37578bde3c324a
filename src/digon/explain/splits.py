"""Which documents may an explanation see? Splits by the hash of a document's text.

blake2(seed, document) mod 10: fit 0–4, select 5–6, calibrate 7, test 8–9. A document's identifier is the hash of its
text, so equal texts fall on the same side and no text is ever on two sides.
"""

import hashlib
from collections.abc import Collection, Iterable

from ..errors import RunError

SPLITS = ("fit", "fit", "fit", "fit", "fit", "select", "select", "calibrate", "test", "test")
NAMES = ("fit", "select", "calibrate", "test")
SHOWN = 5
"""Shared documents that the error names."""


def split_of(document_id: str, seed: int = 0) -> str:
    """The split of one document: fit, select, calibrate or test."""
    key = hashlib.blake2b(f"{seed}/{document_id}".encode(), digest_size=8).digest()
    return SPLITS[int.from_bytes(key, "big") % 10]


def assert_disjoint(fitted: Collection[str], scored: Iterable[str]) -> None:
    """Refuse to score on documents that an explanation has seen.

    Raises: RunError that names the shared documents.
    """
    known = fitted if isinstance(fitted, frozenset) else frozenset(fitted)
    shared = sorted(known.intersection(scored))
    if shared:
        raise RunError(
            f"{len(shared)} documents are both explained and scored, such as {', '.join(shared[:SHOWN])}",
            expected="disjoint documents",
            hint="assign splits with explain.splits.split_of",
        )
