"""Two texts to put constructed units on: drawn documents about topics, and the source that every Python carries.

In drawn text a concept is a topic, whose words share their contexts. In Python's text it is a family of tokens that are one word
but for case and a leading space (" return", "Return"), frequent and in many files; what families share of their contexts nobody
planned.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ...explain.exemplars import Contexts, Excerpts
from ...explain.kinds import Surroundings
from ...hosts.corpus import python_corpus
from ...hosts.tinylm_tokens import encode, train_tokenizer
from ...hosts.tokens import Tokenizer
from ...worlds.units import Tokens, TopicConfig, topics

TextName = Literal["topics", "python"]
VOCABULARY = 4096
LENGTH = 512
"""Tokens of a file that are read: its beginning."""
CHARACTERS = 8 * LENGTH
LEAST_TOKENS, LEAST_FILES = 100, 40.0
"""How often a family must occur, and in how many files, counted as 1/Σ share²."""


@dataclass(frozen=True)
class Text:
    """Tokens with everything that their units share."""

    tokens: Tokens
    site: Surroundings
    excerpts: Excerpts
    contexts: Contexts


@lru_cache(maxsize=2)
def text(name: TextName, documents: int, seed: int) -> Text:
    """One of the two texts; the seed draws the documents of the one, and the splits of both."""
    tokens = topics(TopicConfig(documents=documents), seed) if name == "topics" else python(documents)
    rows = (tokens.ids, tokens.documents, tokens.positions)
    return Text(
        tokens,
        Surroundings.of(*rows, tokens.vocabulary, seed, tokens.texts),
        Excerpts.of(*rows[1:], tokens.document_ids, seed),
        Contexts.of(*rows, tokens.vocabulary),
    )


@lru_cache(maxsize=1)
def python(documents: int) -> Tokens:
    """Beginnings of so many files at most, in the tokens of a tokenizer trained on all of them."""
    texts = [document.text for document in python_corpus()][:documents]
    raw = train_tokenizer(texts, VOCABULARY)
    ids = [part[:LENGTH] for part in encode(raw, [t[:CHARACTERS] for t in texts])]
    tokenizer = Tokenizer(raw)
    names = [tokenizer.token_text(token) for token in range(len(tokenizer))]
    return Tokens.of(ids, names, families(ids, names))


def families(documents: Sequence[Int[Tensor, " _"]], texts: Sequence[str]) -> list[list[int]]:
    """Tokens that are one word but for case and space around it; families of a single token are left out."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for token, shown in enumerate(texts):
        word = shown.strip().casefold()
        if len(word) > 2 and word.isalpha():
            members[word].append(token)
    owner = torch.full((len(texts),), -1)
    kept = [family for family in members.values() if len(family) > 1]
    for i, family in enumerate(kept):
        owner[family] = i
    counts = torch.zeros(len(kept), len(documents))
    for d, ids in enumerate(documents):
        known = owner[ids][owner[ids] >= 0]
        counts[:, d] = torch.bincount(known, minlength=len(kept)).float()
    total = counts.sum(1)
    files = total.square() / counts.square().sum(1).clamp_min(1)
    return [f for f, n, wide in zip(kept, total, files, strict=True) if n >= LEAST_TOKENS and wide >= LEAST_FILES]
