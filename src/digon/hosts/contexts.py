"""In which pieces is a text read? Documents are cut into contexts, contexts are drawn, batched and numbered.

1. Every document becomes token ids, cut into consecutive contexts; none crosses a document.
2. Contexts are ordered by a hash of document, position and seed, and cut at the token budget, so that a budget samples
   all of the text and the choice of one context never depends on another document.
3. Within blocks of `SORTED` batches, contexts are sorted by length (less padding), and the batches of a block shuffled.
4. Documents are numbered as they appear.

All of it is a function of text, tokenizer and settings alone: a restart finds the same batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from .. import rng
from ..errors import CorpusError
from .corpus import Corpus
from .tokens import Tokenizer

SORTED = 64
"""Batches that are sorted by length together: enough to leave little padding, few enough to keep batches diverse."""
POOL = 24
"""Characters of text that are cut up per token wanted: about 6 times what is needed, and not all of a huge corpus."""
_TOGETHER = 256


@dataclass(frozen=True)
class Contexts:
    """Every context that will be read, and how contexts form batches."""

    tokens: np.ndarray
    """Ids of all cut documents, one after the other (int32: 4 bytes per token)."""
    starts: np.ndarray
    """Where each chosen context starts in `tokens`."""
    lengths: np.ndarray
    positions: np.ndarray
    """Position of each context's first token in its document."""
    documents: np.ndarray
    """Number of each context's document."""
    document_ids: list[str]
    """Document number → id, in order of appearance."""
    batches: list[np.ndarray]
    """Contexts of each batch."""

    @property
    def n_tokens(self) -> int:
        """Tokens to be read, frames not counted."""
        return int(self.lengths.sum())

    def ids(self, context: int | np.integer) -> np.ndarray:
        """Token ids of one context, without frame."""
        return self.tokens[self.starts[context] : self.starts[context] + self.lengths[context]]

    def new_documents(self, first: int, stop: int) -> list[str]:
        """Ids of the documents that appear for the first time in batches first ≤ i < stop."""
        seen = max((int(self.documents[batch].max()) for batch in self.batches[:first]), default=-1)
        last = max((int(self.documents[batch].max()) for batch in self.batches[:stop]), default=-1)
        return self.document_ids[seen + 1 : last + 1]


def cut(corpus: Corpus, tokenizer: Tokenizer, room: int, batch: int, max_tokens: int | None, seed: int) -> Contexts:
    """Cut a corpus into contexts of at most `room` tokens, draw `max_tokens` tokens of them and batch them.

    Raises: CorpusError if the text has no tokens.
    """
    chosen = _pool(corpus, max_tokens)
    parts: list[np.ndarray] = []
    rows: list[tuple[int, int, int, str]] = []  # start, length, position, document
    total = 0
    documents = (document for document in corpus if chosen(document.id))
    while some := list(islice(documents, _TOGETHER)):
        for document, ids in zip(some, tokenizer.encode_batch([d.text for d in some]), strict=True):
            rows += [(total + i, min(room, len(ids) - i), i, document.id) for i in range(0, len(ids), room)]
            parts.append(np.array(ids, dtype=np.int32))
            total += len(ids)
    if not rows:
        raise CorpusError(f"the tokenizer makes no tokens of the text in {corpus.name}: {corpus.report}")
    rows.sort(key=lambda row: rng.derive(seed, "context", row[3], row[2]))
    rows = _within(rows, max_tokens)
    starts, lengths, positions = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(3))
    batches = _batches(lengths, batch, seed)
    number: dict[str, int] = {}
    for context in np.concatenate(batches):
        number.setdefault(rows[context][3], len(number))
    numbers = np.array([number[row[3]] for row in rows], dtype=np.int64)
    return Contexts(np.concatenate(parts), starts, lengths, positions, numbers, list(number), batches)


def _pool(corpus: Corpus, max_tokens: int | None) -> Callable[[str], bool]:
    """Which documents are cut up at all: those with the smallest hashes, until there is plenty of text."""
    wanted = np.inf if max_tokens is None else POOL * max_tokens
    if sum(corpus.sizes.values()) <= wanted:
        return lambda _: True
    chosen: set[str] = set()
    for name in sorted(corpus.sizes):  # ids are hashes
        if wanted <= 0:
            break
        chosen.add(name)
        wanted -= corpus.sizes[name]
    return chosen.__contains__


def _within(rows: list[tuple[int, int, int, str]], max_tokens: int | None) -> list[tuple[int, int, int, str]]:
    if max_tokens is None:
        return rows
    kept: list[tuple[int, int, int, str]] = []
    left = max_tokens
    for start, length, position, document in rows:
        if left <= 0:
            break
        kept.append((start, min(length, left), position, document))
        left -= length
    return kept


def _batches(lengths: np.ndarray, batch: int, seed: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for block, start in enumerate(range(0, len(lengths), SORTED * batch)):
        inside = np.arange(start, min(start + SORTED * batch, len(lengths)))
        inside = inside[np.argsort(lengths[inside], kind="stable")]
        cuts = [inside[i : i + batch] for i in range(0, len(inside), batch)]
        found += [cuts[i] for i in rng.numpy_stream(seed, "batches", block).permutation(len(cuts))]
    return found
