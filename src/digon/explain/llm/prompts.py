"""What we say to a language model. Every prompt is ours, short, and made of parts that can be tested.

Tokens are shown one per line; what would break the lines is made visible. Activations are whole numbers from 0 to the
scale. The all-at-once form ends every line of the target in the same word: at its place, before it is read, the model's
next-token probabilities are those of a number, and no guess is fed back into the next.

Source: the forms (one token per line, a placeholder in the simulator, counter-examples in the revision) after Bills et
al. 2023; all words are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SLOT = "unknown"
GAP = "\t"
NONE = "none"

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Example:
    """A text with the activation of a unit on each token, from 0 to the scale."""

    tokens: Sequence[str]
    levels: Sequence[int]


@dataclass(frozen=True)
class AllAtOnce:
    """The all-at-once prompt in pieces; every slot begins where its piece before it ends."""

    prefix: str
    """What all texts of one explanation share."""
    lines: tuple[str, ...]
    """For every token what stands before its slot."""
    after: str = SLOT + "\n"

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + "".join(line + self.after for line in self.lines)

    @property
    def places(self) -> list[int]:
        """Where each slot begins in the text, in characters."""
        found, at = [], len(self.prefix)
        for line in self.lines:
            found.append(at + len(line))
            at += len(line) + len(self.after)
        return found


_SHOTS = (
    ("names of colors", Example((" a", " red", " door", " and", " blue", " paint"), (0, 10, 0, 0, 9, 1))),
    ("the token after a number", Example((" 12", " men", " sat", " at", " 3", " tables"), (0, 10, 1, 0, 0, 9))),
)


def levels(activations: Sequence[float], largest: float, scale: int = 10, *, up: bool = False) -> list[int]:
    """Activations as whole numbers: floor(scale·a/largest), negative ones 0. All 0 if the largest is not positive.

    With `up`, rounded up, as delphi shows them: what is not silent is then never 0. Raises: ValueError for NaN.

    >>> levels([-1.0, 0.0, 0.5, 1.99, 2.0], 2.0)
    [0, 0, 2, 9, 10]
    >>> levels([-1.0, 0.0, 0.5, 1.99, 2.0], 2.0, up=True)
    [0, 0, 3, 10, 10]
    """
    if largest <= 0:
        return [0] * len(activations)
    whole = math.ceil if up else int
    return [min(scale, whole(scale * max(a, 0.0) / largest)) for a in activations]


def shown(token: str) -> str:
    """A token on a line of its own.

    >>> shown("a\\tb\\n")
    'a⇥b↵'
    """
    return token.replace("\n", "↵").replace("\r", "␍").replace("\t", "⇥")


def explain(examples: Sequence[Example], scale: int = 10, count: int = 1) -> Messages:
    """Ask what a unit responds to: for one meaning, or for up to `count` meanings, one per line."""
    task = "Say in at most 20 words what the unit responds to. Answer with that description alone."
    if count > 1:
        task = (
            f"The unit may have several unrelated meanings. List up to {count}, the most frequent first, each in at most "
            "12 words on a line of its own that begins with its share of the activation in percent, such as `60%: …`. "
            "Give one line if one meaning covers everything."
        )
    return _chat(f"{_unit(scale)} {task}", _listed(examples))


def revise(explanation: str, examples: Sequence[Example], wrong: Sequence[Example], scale: int = 10) -> Messages:
    """Ask for a better description, given texts that fit the old one and did something else."""
    task = (
        "A first description is given, with new texts that were written to fit it, and what the unit truly did on them. "
        "Where the unit stayed at 0 the description is too wide or wrong. Answer with a better description alone, in at "
        "most 20 words."
    )
    body = f"{_listed(examples)}\n\nFirst description: {_line(explanation)}\n\nNew texts:\n\n{_listed(wrong)}\n\nBetter description:"
    return _chat(f"{_unit(scale)} {task}", body)


def counter_examples(explanation: str, count: int) -> Messages:
    """Ask for sentences that a unit of this description would respond to."""
    task = f"Write {count} different sentences, one per line, without numbers or bullets before them."
    return _chat(task, f"Each sentence has to contain what is described here: {_line(explanation)}")


def all_at_once(explanation: str, tokens: Sequence[str], scale: int = 10) -> AllAtOnce:
    """The simulator's prompt for a server or a model that tells probabilities of the prompt's own tokens."""
    parts = [
        _unit(scale),
        f"Predict the activations from the description. Where they are {SLOT}, they are still whole numbers.",
    ]
    for description, example in _SHOTS:
        known = [min(level, scale) for level in example.levels]
        lines = [
            f"{shown(token)}{GAP}{SLOT if i == 0 else level}"
            for i, (token, level) in enumerate(zip(example.tokens, known, strict=True))
        ]
        parts.append(_target(description) + "\n".join(lines))
    prefix = "\n\n".join([*parts, _target(explanation)])
    return AllAtOnce(prefix, tuple(f"{shown(token)}{GAP}" for token in tokens))


def numbered(explanation: str, tokens: Sequence[str], scale: int, form: str) -> Messages:
    """The simulator's prompt for a server that only writes: `form` is "lines" or "list"."""
    answer = (
        f"Answer with one line per token: its number, a tab, its activation from 0 to {scale}. Nothing else."
        if form == "lines"
        else f"Answer with a JSON list of exactly {len(tokens)} whole numbers from 0 to {scale}, one per token. Nothing else."
    )
    return _chat(
        f"{_unit(scale)} Predict the activation on every token from the description. {answer}",
        _table(explanation, tokens),
    )


def single(explanation: str, tokens: Sequence[str], scale: int) -> Messages:
    """The simulator's prompt for the last of some tokens alone."""
    task = f"Predict the activation on the last token from the description. Answer with one whole number from 0 to {scale}."
    return _chat(f"{_unit(scale)} {task}", f"{_table(explanation, tokens)}\n\nActivation on token {len(tokens)}:")


def detect(explanation: str, texts: Sequence[str]) -> Messages:
    """Ask which texts a unit of this description responds to."""
    return _pick("Which of these texts contain what is described?", explanation, texts)


def fuzz(explanation: str, texts: Sequence[str]) -> Messages:
    """Ask in which texts the marked words are those that a unit of this description responds to."""
    return _pick("In which of these texts are the words between « and » what is described?", explanation, texts)


def intruder(texts: Sequence[str]) -> Messages:
    """Ask which text does not belong to the others; no description is given."""
    task = (
        "All of these texts but one share something, mostly where words stand between « and ». "
        "Answer with the number of the one that does not belong."
    )
    return _chat(task, "\n".join(f"{i}\t{shown(text)}" for i, text in enumerate(texts, 1)))


def as_text(messages: Messages) -> str:
    """The same for a model without chat."""
    return "\n\n".join(str(m["content"]) for m in messages) + "\n\nAnswer:\n"


def _pick(question: str, explanation: str, texts: Sequence[str]) -> Messages:
    task = f"{question} Answer with their numbers, separated by commas, or with `{NONE}`."
    listed = "\n".join(f"{i}\t{shown(text)}" for i, text in enumerate(texts, 1))
    return _chat(task, f"Description: {_line(explanation)}\n\nTexts:\n{listed}")


def _chat(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _unit(scale: int) -> str:
    return (
        "A unit of a neural network reads text token by token. Its activation on each token is given as a whole number "
        f"from 0 (it does not respond) to {scale} (it responds most)."
    )


def _target(explanation: str) -> str:
    return f"Description: {_line(explanation)}\nActivations:\n"


def _line(text: str) -> str:
    """A description on one line, whatever it was."""
    return " ".join(text.split())


def _table(explanation: str, tokens: Sequence[str]) -> str:
    lines = "\n".join(f"{i}{GAP}{shown(token)}" for i, token in enumerate(tokens, 1))
    return f"Description: {_line(explanation)}\n\nTokens:\n{lines}"


def _listed(examples: Sequence[Example]) -> str:
    """Texts line by line; where few tokens are active, those once more."""
    blocks = []
    for number, example in enumerate(examples, 1):
        pairs = [(shown(t), level) for t, level in zip(example.tokens, example.levels, strict=True)]
        lines = [f"Text {number}:", *(f"{token}{GAP}{level}" for token, level in pairs)]
        active = [f"{token}{GAP}{level}" for token, level in pairs if level > 0]
        if active and len(active) < 0.2 * len(pairs):
            lines += ["Active tokens of this text:", *active]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
