"""What is a token, in words that everybody knows? Labels that need no model: classes of characters and of Python's syntax.

    of every text      digit, capital (begins with a capital letter), punctuation, word start (a letter that no letter precedes),
                       newline
    of Python source   keyword, name, number, operator, string, comment, by Python's own tokenizer

A token gets the syntax of its first character that is not a space. Only files that end in .py and that Python can read have a
syntax; the labels are those of this text, whatever tokenizer made the tokens.
"""

import io
import keyword
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .corpus import Document
from .tokens import Tokenizer

CHARACTERS = ("digit", "capital", "punctuation", "word start", "newline")
SYNTAX = ("keyword", "name", "number", "operator", "string", "comment")


@dataclass(frozen=True)
class Labels:
    """Concepts of every token of some documents."""

    names: tuple[str, ...]
    of: dict[str, np.ndarray]
    """Document id → [tokens, concepts], true where a token is one."""


def label(documents: Sequence[Document], tokenizer: Tokenizer) -> Labels:
    """Label the tokens of documents. If any of them is Python source, the others are left out, and syntax is labeled too."""
    read = {d.id: python_syntax(d.text) for d in documents if d.origin.endswith(".py")}
    syntax = {name: marks for name, marks in read.items() if marks is not None}
    chosen = [d for d in documents if d.id in syntax or not syntax]
    names = CHARACTERS + (SYNTAX if syntax else ())
    found: dict[str, np.ndarray] = {}
    for document, spans in zip(chosen, tokenizer.spans_batch([d.text for d in chosen]), strict=True):
        rows = np.zeros((len(spans), len(names)), dtype=bool)
        for row, (start, stop) in enumerate(spans):
            rows[row, : len(CHARACTERS)] = _characters(document.text, start, stop)
            if syntax:
                rows[row, len(CHARACTERS) :] = syntax[document.id][_first(document.text, start, stop)]
        found[document.id] = rows
    return Labels(names, found)


def python_syntax(text: str) -> np.ndarray | None:
    """[characters + 1, `SYNTAX`]: what every character belongs to; None if Python cannot read the text.

    >>> [SYNTAX[i] for i in python_syntax("if x: # why").argmax(1)[[0, 3, 4, 6]]]
    ['keyword', 'name', 'operator', 'comment']
    """
    # Lines as Python's tokenizer counts them: `splitlines` would also break them at form feeds.
    starts = np.cumsum([0, *(len(line) + 1 for line in text.split("\n"))])
    marks = np.zeros((len(text) + 1, len(SYNTAX)), dtype=bool)
    opened: list[int] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            first, last = (int(starts[line - 1]) + column for line, column in (token.start, token.end))
            name = tokenize.tok_name[token.type]
            if name in ("FSTRING_START", "TSTRING_START"):
                opened.append(first)
            elif name in ("FSTRING_END", "TSTRING_END"):
                marks[opened[-1] : last] = False  # what is computed inside is a part of the string
                marks[opened.pop() : last, SYNTAX.index("string")] = True
            kind = _kind(name, token.string)
            if kind is not None and not opened:
                marks[first:last, SYNTAX.index(kind)] = True
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return marks


def _kind(name: str, text: str) -> str | None:
    if name == "NAME":
        return "keyword" if keyword.iskeyword(text) else "name"
    return {"NUMBER": "number", "OP": "operator", "STRING": "string", "COMMENT": "comment"}.get(name)


def _first(text: str, start: int, stop: int) -> int:
    """The first character of a token that is not a space; where there is none, its first."""
    return next((i for i in range(start, stop) if not text[i].isspace()), start)


def _characters(text: str, start: int, stop: int) -> tuple[bool, ...]:
    piece = text[start:stop]
    at = _first(text, start, stop)
    first = text[at] if at < min(stop, len(text)) else " "
    inside = at > 0 and text[at - 1].isalnum()
    return (
        any(c.isdigit() for c in piece),
        first.isupper(),
        bool(piece.strip()) and not any(c.isalnum() or c.isspace() for c in piece.strip()),
        first.isalpha() and not inside,
        "\n" in piece,
    )
