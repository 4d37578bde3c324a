"""From text to token ids and back, without loss.

Byte-level BPE: every text is a sequence of bytes, and the pairs that occur most often become tokens until the
vocabulary is full. Token 0 is the end of a document; it stands between documents, and every document is read after it.

Sources: Sennrich et al. 2016, "Neural machine translation of rare words with subword units"; Radford et al. 2019.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ..errors import CorpusError, CorruptError

END, END_ID = "<|end|>", 0


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Byte-level BPE with the end token as number 0; every text can be encoded and decoded without loss.

    Raises: CorpusError if there is no text.
    """
    if not any(texts):
        raise CorpusError("there is no text to train a tokenizer on", expected="at least one document with text")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # the text "<|end|>" in a document is text
    return tokenizer


def encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], batch: int = 64) -> list[Tensor]:
    """Token ids of every text."""
    return [
        torch.tensor(encoding.ids, dtype=torch.int64)
        for start in range(0, len(texts), batch)
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + batch]))
    ]


def join(documents: Sequence[Tensor]) -> Int[Tensor, " t"]:
    """All documents in one row, an end token before each and after the last.

    >>> join([torch.tensor([5, 6]), torch.tensor([7])]).tolist()
    [0, 5, 6, 0, 7, 0]
    """
    end = torch.tensor([END_ID])
    return torch.cat([end, *(part for document in documents for part in (document, end))])


def previous(document: Int[Tensor, " t"]) -> Int[Tensor, " t"]:
    """The token before every token of a document; the end token comes before the first."""
    return torch.cat([document.new_full((min(len(document), 1),), END_ID), document[:-1]])


def load_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer; the text of the end token in a document is text, not the token. Raises: CorruptError."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise CorruptError(f"{path} is not a readable tokenizer: {error}") from None
    tokenizer.encode_special_tokens = True
    return tokenizer
