"""Token streams to put constructed units on: documents about topics, or any documents handed in.

A document of the topic world is about a few topics. Token by token it stays on its topic or draws another of them; a token is
a function word (Zipf's law, the same in all documents), the fixed companion of the token before it, or a word of the topic
(Zipf's law within the topic). So the words of one topic share their contexts, and words of different topics do not.

The text of a word names its topic and its rank there: `t3-0` is the most frequent word of topic 3, `the5` a function word.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ... import rng
from ...errors import ConfigError


@dataclass(frozen=True)
class Tokens:
    """Documents as one row of tokens, and sets of tokens that stand for one concept."""

    ids: Int[Tensor, " n"]
    documents: Int[Tensor, " n"]
    """Number of every row's document, in order."""
    positions: Int[Tensor, " n"]
    """Place in its document, from 0."""
    document_ids: tuple[str, ...]
    """Hash of every document's tokens."""
    texts: tuple[str, ...]
    """Text of every token of the vocabulary."""
    concepts: tuple[tuple[int, ...], ...]
    """Tokens that may stand for one concept, without overlap."""

    @classmethod
    def of(
        cls, documents: Sequence[Int[Tensor, " _"]], texts: Sequence[str], concepts: Sequence[Sequence[int]]
    ) -> "Tokens":
        """Join documents; those that are empty or were there before are left out.

        Raises: ConfigError for tokens outside the vocabulary, concepts that overlap, or no document.
        """
        names = [hashlib.blake2b(d.numpy().tobytes(), digest_size=16).hexdigest() for d in documents]
        kept = {name: d for name, d in zip(names, documents, strict=True) if len(d)}
        if not kept:
            raise ConfigError("no documents to put units on", expected="at least one with tokens")
        ids = torch.cat(list(kept.values())).long()
        members = [t for concept in concepts for t in concept]
        if int(ids.max()) >= len(texts) or int(ids.min()) < 0 or not set(members) <= set(range(len(texts))):
            raise ConfigError(
                f"a token outside the vocabulary of {len(texts)}", expected="tokens from 0 below its size"
            )
        if len(set(members)) < len(members):
            raise ConfigError("a token is in two concepts", expected="concepts without overlap")
        lengths = torch.tensor([len(d) for d in kept.values()])
        owners = torch.arange(len(kept)).repeat_interleave(lengths)
        places = torch.arange(len(ids)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        return cls(ids, owners, places, tuple(kept), tuple(texts), tuple(tuple(c) for c in concepts))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vocabulary(self) -> int:
        """Number of different tokens."""
        return len(self.texts)

    @cached_property
    def starts(self) -> Int[Tensor, " n"]:
        """Row in which every row's document begins."""
        return torch.arange(len(self)) - self.positions

    def is_in(self, members: Sequence[int]) -> Bool[Tensor, " n"]:
        """Rows whose token is one of these."""
        table = torch.zeros(self.vocabulary, dtype=torch.bool)
        table[list(members)] = True
        return table[self.ids]

    def since(self, members: Sequence[int]) -> Int[Tensor, " n"]:
        """How many tokens ago one of these last came in the same document, the token itself not counted; −1 if never."""
        row = torch.arange(len(self))
        last = torch.where(self.is_in(members), row, -1).cummax(0).values
        last = torch.cat([last.new_tensor([-1]), last[:-1]])
        return torch.where(last >= self.starts, row - last, -1)


@dataclass(frozen=True)
class TopicConfig:
    """The topic world. Raises: ConfigError for sizes that make no world."""

    documents: int = 2500
    length: int = 64
    """Tokens of a document."""
    topics: int = 24
    words: int = 20
    """Words of a topic."""
    function_words: int = 60
    about: int = 3
    """Topics of a document."""
    stay: float = 0.8
    """Probability of staying on the topic from one token to the next."""
    function: float = 0.35
    """Share of function words."""
    companion: float = 0.4
    """Probability that a word is followed by its companion, where no function word comes in between."""

    def __post_init__(self) -> None:
        for name, least in (("documents", 1), ("length", 1), ("words", 2), ("function_words", 1), ("about", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}", expected=f"at least {least}")
        if self.topics < self.about:
            raise ConfigError(f"{self.about} of {self.topics} topics in a document", expected="no more than there are")
        if not all(0 <= p <= 1 for p in (self.stay, self.function, self.companion)):
            raise ConfigError("a probability outside 0 to 1", expected="stay, function and companion in [0, 1]")


def topics(config: TopicConfig, seed: int) -> Tokens:
    """Draw documents of the topic world; its concepts are the topics.

    >>> topics(TopicConfig(documents=3, length=5), seed=0).positions.tolist()
    [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    """
    g = rng.stream(seed, "units", "topics")
    docs, words, first = config.documents, config.words, config.function_words
    about = torch.rand(docs, config.topics, generator=g).argsort(1)[:, : config.about]
    companion = torch.stack([torch.rand(words, generator=g).argsort() for _ in range(config.topics)])
    topic, word = about[:, 0], torch.full((docs,), -1)
    out = torch.empty(docs, config.length, dtype=torch.int64)
    for place in range(config.length):
        moves = torch.rand(docs, generator=g) >= config.stay
        other = about.gather(1, torch.randint(config.about, (docs, 1), generator=g))[:, 0]
        topic = torch.where(moves, other, topic)
        drawn = torch.multinomial(_zipf(words), docs, True, generator=g)
        follows = (torch.rand(docs, generator=g) < config.companion) & (word >= 0) & ~moves
        now = torch.where(follows, companion[topic, word.clamp_min(0)], drawn)
        function = torch.rand(docs, generator=g) < config.function
        out[:, place] = torch.where(
            function, torch.multinomial(_zipf(first), docs, True, generator=g), first + topic * words + now
        )
        word = torch.where(function, -1, now)
    texts = [f"the{i}" for i in range(first)] + [f"t{t}-{w}" for t in range(config.topics) for w in range(words)]
    concepts = [range(first + t * words, first + (t + 1) * words) for t in range(config.topics)]
    return Tokens.of(list(out), texts, concepts)


def _zipf(count: int) -> Float[Tensor, " count"]:
    return 1.0 / torch.arange(1, count + 1)
