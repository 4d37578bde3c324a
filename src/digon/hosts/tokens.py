"""Text to token ids and back to what each token shows, with the ids that frame every context."""

import re
from collections.abc import Sequence

import tokenizers

_VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that byte-level tokenizers write as themselves; the others get characters from 256 up, in order."""
_BYTE_OF = {chr(b): b for b in _VISIBLE} | {
    chr(256 + i): b for i, b in enumerate(sorted(set(range(256)) - set(_VISIBLE)))
}


class Tokenizer:
    """A tokenizer that never cuts, pads or frames, and to which the name of a special token in a text is text."""

    def __init__(self, raw: tokenizers.Tokenizer, prefix: tuple[int, ...] = (), suffix: tuple[int, ...] = ()) -> None:
        self.prefix = prefix
        """Ids that go before every context."""
        self.suffix = suffix
        """Ids that go behind every context."""
        added = raw.get_added_tokens_decoder()
        self.special_ids = frozenset({*prefix, *suffix, *(i for i, token in added.items() if token.special)})
        self._raw = raw
        names = [t.content for t in added.values() if len(t.content.strip()) > 1]
        self._names = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
        self._byte_level = "ByteLevel" in str(raw.decoder)
        raw.no_truncation()
        raw.no_padding()
        raw.encode_special_tokens = True

    @classmethod
    def framed(cls, raw: tokenizers.Tokenizer) -> "Tokenizer":
        """Find out which ids the tokenizer itself puts around a text."""
        raw.no_truncation()
        raw.no_padding()
        bare, whole = (raw.encode("a", add_special_tokens=add).ids for add in (False, True))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return cls(raw, tuple(whole[:start]), tuple(whole[start + len(bare) :]))

    def __len__(self) -> int:
        return self._raw.get_vocab_size()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without frame."""
        return [encoding.ids for encoding in self._raw.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text in which even names of added tokens that are not special stay text: each is cut in two."""
        pieces, done = [], 0
        while self._names and (found := self._names.search(text, done)):
            pieces.append(text[done : found.start() + 1])
            done = found.start() + 1
        return [token for ids in self.encode_batch([*pieces, text[done:]]) for token in ids]

    def encode_frame(self, text: str) -> list[int]:
        """Token ids of what a model's own form puts around texts: names of special tokens in it are those tokens."""
        self._raw.encode_special_tokens = False
        try:
            return self._raw.encode(text, add_special_tokens=False).ids
        finally:
            self._raw.encode_special_tokens = True

    def spans_batch(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Characters of its text that each token of it covers, [start, stop), without frame."""
        return [encoding.offsets for encoding in self._raw.encode_batch(list(texts), add_special_tokens=False)]

    def token_text(self, token: int) -> str:
        """What one token shows: its text with its leading space; bytes that are no character as `\\xe2`."""
        text = self._raw.id_to_token(token)
        if text is None:
            return f"<{token}>"
        if self._byte_level and token not in self.special_ids:
            known = [_BYTE_OF.get(character) for character in text]
            if None not in known:
                return bytes(b for b in known if b is not None).decode("utf-8", "backslashreplace")
        return text.replace("▁", " ")
