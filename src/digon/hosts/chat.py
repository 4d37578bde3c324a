"""A conversation as token ids, in the form that a chat model was trained on, with every word of it kept a word.

    1. render the template with marks where the texts belong
    2. what stands between the marks is the model's own form: its special tokens are meant
    3. what stands at the marks is text: the name of a token in it is cut, so that it never becomes that token

A template that wants no system message gets it in front of the first user message. One that drops, repeats or changes texts
is not used.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from .tokens import Tokenizer

Messages = Sequence[Mapping[str, str]]
Render = Callable[[list[dict[str, str]]], str]
"""Messages → the text that a model is to continue. May raise whatever a template raises."""
MARK = "digonmark{}end"


class ChatForm:
    """How one model wants to be talked to."""

    def __init__(self, tokenizer: Tokenizer, render: Render) -> None:
        self._tokenizer = tokenizer
        self._render = render

    @property
    def works(self) -> bool:
        """Whether a question comes out of the template as it went in."""
        return self.encode(_QUESTION) is not None

    def sample(self) -> str:
        """What the template makes of a question: tells one form from another."""
        return self._rendered([dict(m) for m in _QUESTION]) or ""

    def encode(self, messages: Messages) -> list[int] | None:
        """Token ids up to where the answer begins, with all that frames them; None if the template does not take them."""
        for form in (_as_they_are(messages), _without_system(messages)):
            marked = [{**m, "content": MARK.format(i)} for i, m in enumerate(form)]
            whole = self._rendered(marked)
            parts = re.split("|".join(re.escape(m["content"]) for m in marked), whole or "")
            order = re.findall(MARK.format(r"(\d+)"), whole or "")
            if whole is not None and order == [str(i) for i in range(len(form))]:
                ids = self._tokenizer.encode_frame(parts[0])
                for message, part in zip(form, parts[1:], strict=True):
                    ids += self._tokenizer.encode_text(message["content"]) + self._tokenizer.encode_frame(part)
                return ids
        return None

    def _rendered(self, messages: list[dict[str, str]]) -> str | None:
        try:
            return self._render(messages)
        except Exception:  # templates are programs of others: they raise whatever they like
            return None


_QUESTION = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})


def _as_they_are(messages: Messages) -> list[dict[str, str]]:
    return [dict(m) for m in messages]


def _without_system(messages: Messages) -> list[dict[str, str]]:
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [dict(m) for m in messages if m["role"] != "system"]
    if system and rest:
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest
