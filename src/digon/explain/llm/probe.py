"""What can this server do? Not what it says: servers accept what they ignore.

    echo          the tokens of the reply must spell the prompt; the first has no probability, the others have one; and a
                  word that the prompt itself makes certain must be likelier than one that it makes absurd (a server that
                  fills in zeros, or reports what it generated, fails)
    candidates    ask for 20 and count what comes
    constraint    ask to be greeted, under a constraint that allows three digits only
    ten           does "10" come as one token? If not, or unknown, the scale ends at 9
    settings      does it accept a temperature? is it max_tokens or max_completion_tokens?
    thinking      does the content come as null, with the tokens spent on thoughts?

A probe costs about ten short calls, once per server and model: they are journaled as any others, and so is what they found.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ...errors import ModelError, RequestError
from .client import Client
from .prompts import Messages, as_text
from .wire import Call, Endpoint, Reply, canonical

VERSION = 1
MOST = 20
"""Candidates that we ask for: more than the eleven numbers, and what most servers allow."""
ROOM = 1024
"""Tokens that a thinking model gets beyond its answer."""
Constraint = Literal["", "regex", "grammar", "schema"]
_CERTAIN, _ABSURD = "seven", "giraffe"
_LOOP = "five six seven, " * 6
ECHO_PROMPT = f"{_LOOP}five six {_CERTAIN}, five six {_ABSURD}"


@dataclass(frozen=True)
class Capabilities:
    """What one model behind one server can do."""

    chat: bool
    completions: bool
    echo: Literal["", "echo", "prompt_logprobs"] = ""
    """How it tells the probabilities of a prompt's own tokens, if it does."""
    candidates: int = 0
    """Candidates per generated token; 0: it tells no probabilities."""
    constraint: Constraint = ""
    ten: bool = False
    """Whether "10" is one token."""
    temperature: bool = True
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    thinks: bool = False

    @property
    def scale(self) -> int:
        """Largest activation that is one token."""
        return 10 if self.ten else 9

    @property
    def endpoint(self) -> Endpoint:
        """Where to write to it."""
        return "chat" if self.chat else "completions"

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways to simulate that it allows, best first; see `simulate`."""
        found = {
            "prompt": bool(self.echo),
            "template": self.candidates > 1 and bool(self.constraint),
            "single": self.candidates > 1,
            "constrained": bool(self.constraint),
            "free": True,
        }
        return tuple(name for name, possible in found.items() if possible)


def write(
    can: Capabilities,
    messages: Messages,
    length: int,
    *,
    temperature: float = 0.0,
    candidates: int = 0,
    constraint: Mapping[str, Any] | None = None,
    sample: int = 0,
) -> Call:
    """The call that asks for at most `length` tokens in the way that the server understands."""
    body: dict[str, Any] = {can.limit_name: length + (ROOM if can.thinks else 0), **(constraint or {})}
    if can.temperature:
        body["temperature"] = temperature
    if can.endpoint == "chat":
        body["messages"] = messages
        if candidates:
            body |= {"logprobs": True, "top_logprobs": candidates}
    else:
        body["prompt"] = as_text(messages)
        if candidates:
            body["logprobs"] = candidates
    return Call(can.endpoint, body, sample)


def digits(count: int, kind: Constraint) -> dict[str, Any]:
    """The settings that allow nothing but `count` digits."""
    return pattern(f"[0-9]{{{count}}}", f"root ::= {' '.join(['[0-9]'] * count)}", kind, count, 9)


def pattern(regex: str, grammar: str, kind: Constraint, count: int, scale: int) -> dict[str, Any]:
    """One constraint in the words of a kind of server: a regular expression, a grammar, or a list of `count` numbers."""
    if kind == "regex":
        return {"structured_outputs": {"regex": regex}, "guided_regex": regex}
    if kind == "grammar":
        return {"grammar": grammar}
    number = {"type": "integer", "enum": list(range(scale + 1))}
    values = {"type": "array", "items": number, "minItems": count, "maxItems": count}
    schema = {"type": "object", "properties": {"values": values}, "required": ["values"], "additionalProperties": False}
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "values", "strict": True, "schema": schema}}
    }


async def probe(client: Client) -> Capabilities:
    """What the server of a client can do; from the journal if it was found out before.

    Raises: ModelError if it can neither chat nor complete; AccessError, ServerError or BudgetError as any call does.
    """
    name = f"probe {VERSION} {client.server.identity} {client.server.model}"
    known = client.journal.fact(name)
    if known is not None:
        try:
            return TypeAdapter(Capabilities).validate_json(known)
        except ValidationError:
            pass  # noted by another version: find out again
    can = await _settings(client)
    if can.completions:
        can = replace(can, echo=await _echo(client))
    can = replace(can, constraint=await _constraint(client, can), ten=await _ten(client, can))
    client.journal.note(name, canonical(asdict(can)))
    return can


async def _settings(client: Client) -> Capabilities:
    """Endpoints, names of settings and candidates."""
    refused: list[str] = []
    chat = await _first(client, Capabilities(True, False), refused)
    plain = await _first(client, Capabilities(False, True), refused)
    found = chat or plain
    if found is None:
        raise ModelError(
            f"{client.server.model!r} behind {client.server.identity} can neither chat nor complete: {refused[0]}",
            expected="a language model", hint="check the name of the model",
        )  # fmt: skip
    return replace(found, completions=plain is not None)


async def _first(client: Client, can: Capabilities, refused: list[str]) -> Capabilities | None:
    """The settings with which the server writes a word; None if it never does, with the reasons in `refused`."""
    question: Messages = [{"role": "user", "content": "Write the digit 7 and nothing else."}]
    candidates, left = MOST, ["logprobs", "temperature", "max_tokens"]
    while True:
        try:
            reply = await client.ask(write(can, question, 8, candidates=candidates))
            return replace(can, candidates=_most(reply), thinks=reply.text is None or reply.thought)
        except RequestError as error:
            refused.append(error.problem)
            if not left:
                return None
            drop = next((name for name in left if name in error.problem), left[0])
            if drop == "logprobs" and candidates == MOST:
                candidates = 5  # the old limit of the protocol
                continue
            left.remove(drop)
            if drop == "logprobs":
                candidates = 0
            elif drop == "temperature":
                can = replace(can, temperature=False)
            else:
                can = replace(can, limit_name="max_completion_tokens")


def _most(reply: Reply) -> int:
    """Candidates of the first token, with the token itself if it stands among them; 1 tells nothing of the others."""
    return max((len(step.candidates or ()) for step in reply.steps), default=0)


async def _echo(client: Client) -> Literal["", "echo", "prompt_logprobs"]:
    """The first way in which the server tells the truth about a prompt."""
    base = {"prompt": ECHO_PROMPT, "max_tokens": 1, "temperature": 0}
    ways: dict[Literal["echo", "prompt_logprobs"], dict[str, Any]] = {
        "echo": {"echo": True, "logprobs": 5},
        "prompt_logprobs": {"prompt_logprobs": 5},
    }
    for name, extra in ways.items():
        try:
            if honest(await client.ask(Call("completions", base | extra))):
                return name
        except RequestError:
            continue
    return ""


def honest(reply: Reply) -> bool:
    """Whether a reply tells the probabilities of the tokens of `ECHO_PROMPT`."""
    steps = reply.echoed(ECHO_PROMPT)
    if not steps or any(step.candidates is None for step in steps[1:]):
        return False
    at, own = 0, []
    for step in steps:
        own.append((at, (step.candidates or {}).get(step.token)))
        at += len(step.token)
    certain = _at(own, len(_LOOP) + len("five six "))
    absurd = _at(own, len(ECHO_PROMPT) - len(_ABSURD))
    return certain is not None and absurd is not None and certain > absurd


def _at(own: list[tuple[int, float | None]], place: int) -> float | None:
    """Log probability of the token in which a place of the text, or the blank before it, begins."""
    return next((p for start, p in reversed(own) if start <= place), None)


async def _constraint(client: Client, can: Capabilities) -> Constraint:
    """The first constraint that is obeyed, not merely accepted."""
    question: Messages = [{"role": "user", "content": "Greet me in one friendly sentence."}]
    kinds: tuple[Constraint, ...] = ("regex", "grammar", "schema")
    for kind in kinds:
        try:
            reply = await client.ask(write(can, question, 32, constraint=digits(3, kind)))
        except RequestError:
            continue
        text = (reply.text or "").strip()
        obeyed = r'\{\s*"values"\s*:\s*\[\s*\d\s*,\s*\d\s*,\s*\d\s*\]\s*\}' if kind == "schema" else r"\d{3}"
        if re.fullmatch(obeyed, text):
            return kind
    return ""


async def _ten(client: Client, can: Capabilities) -> bool:
    """Whether "10" is one token, as far as the server lets us see tokens."""
    if can.echo:
        prompt = "a\t10\nb\t10\n"
        extra: dict[str, Any] = {"echo": True, "logprobs": 5} if can.echo == "echo" else {"prompt_logprobs": 5}
        reply = await client.ask(Call("completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0} | extra))
        return any(step.token.strip() == "10" for step in reply.echoed(prompt))
    if not can.candidates:
        return False
    question: Messages = [{"role": "user", "content": "Write the number 10 and nothing else."}]
    reply = await client.ask(write(can, question, 8, candidates=min(can.candidates, 5)))
    return any(step.token.strip() == "10" for step in reply.steps)
